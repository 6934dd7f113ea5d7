"""The row kernels: Metal and CUDA sources run by the shim, Triton in its interpreter, plain MLX and
torch, all against float64 numpy; planted mistakes must show; the glue runs what it says it runs.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core", reason="mlx is not installed")

from azr_mlx.backends.mlx import kernels  # noqa: E402
from azr_mlx.config import shipped  # noqa: E402
from azr_mlx.errors import UsageError  # noqa: E402
from tests.kernels.shim import build, oracle  # noqa: E402
from tests.kernels.shim.mutants import mutants  # noqa: E402

pytestmark = pytest.mark.backend
needs_shim = pytest.mark.skipif(bool(build.missing()), reason=build.missing() or "-")

SUFFIX = {"metal": ".metal", "cuda": ".cu"}
SIZES = (1, 7, 31, 128, 257, 1000, 4099)
THREADS = (32, 64, 96, 256, 1024)
DTYPES = ("float32", "bfloat16", "float16")
STEP = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}  # half a unit, relative

# What runs a kernel: (logits as float32 values, their dtype, ...) -> numpy.
Logprob = Callable[..., tuple]
Sample = Callable[..., tuple]


def rounded(x: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        return build.from_storage(build.to_storage(x, dtype), dtype)


def close(what: str, got: np.ndarray, want: np.ndarray, relative: float, absolute: float) -> None:
    infinite = np.isinf(want)
    assert np.array_equal(got[infinite], want[infinite]), f"{what}: infinities differ"
    error = np.abs(got[~infinite] - want[~infinite])
    bound = absolute + relative * np.abs(want[~infinite])
    assert (error <= bound).all(), f"{what}: off by {error.max()}"


def check_logprob(
    run: Logprob, size: int, dtype: str, flags=(True, True), seed: int = 0, step: float = 0
) -> None:
    """``run(x, dtype, targets, inv_temperature, *flags)`` on rows that find weak spots; ``step`` is
    the relative error of a stored gradient, if not rounding to nearest's.
    """
    x, targets = oracle.logprob_rows(size, seed)
    x = rounded(x, dtype)
    scale = (1.0, 1.0 / 0.7, 0.4)[(size + seed) % 3]
    logp, entropy, delta, entropy_delta = run(x, dtype, targets, scale, *flags)
    want = oracle.row_logprob(x, targets, np.float32(scale))
    close("logp", logp, want[0], 1e-5, 1e-5)
    close("entropy", entropy, want[1], 1e-5, 1e-5)
    for on, name, got, expected in (
        (flags[0], "delta", delta, want[2]),
        (flags[1], "entropy_delta", entropy_delta, want[3]),
    ):
        assert (got is not None) == on, f"{name} is there without its flag, or missing with it"
        if on:
            close(name, got, expected, 1e-5 + (step or STEP[dtype]), 2e-6)


def check_sample(run: Sample, size: int, dtype: str, seed: int = 0) -> None:
    """``run(x, dtype, temperature, keys)`` picks numpy's tokens, but for what rounding may turn."""
    x, temperature, keys = oracle.sample_rows(size, seed)
    x = rounded(x, dtype)
    tokens, logp = run(x, dtype, temperature, keys)
    score = oracle.scores(x, temperature, keys)
    want = score.argmax(axis=-1)
    greedy, rows = temperature <= 0, np.arange(len(x))
    assert np.array_equal(tokens[greedy], want[greedy]), "greedy is not the first largest logit"
    lost = score.max(axis=-1) - score[rows, tokens]
    z = x.astype(np.float64) / np.where(greedy, 1, temperature)[:, None]
    rounding = 4 * 2.0**-24 * np.abs(np.where(np.isinf(z), 0, z)).max(axis=-1) + 1e-5
    assert (lost <= rounding).all(), f"token {tokens[lost.argmax()]} is not the arg max"
    assert (tokens != want).sum() <= 1, "more near ties than chance gives"
    close("logp", logp, oracle.log_softmax(z)[rows, tokens], 1e-5, 1e-5)


# --- the shim -------------------------------------------------------------------------------------


def instance(label, kernel, dtype, header, body, flags=(True, True)) -> build.Instance:
    """The kernel with the names that the glue gives MLX."""
    inputs, outputs = kernels._ARGUMENTS[kernel]
    kinds = {"logits": dtype, "delta": dtype, "entropy_delta": dtype, "targets": "int32"}
    kinds |= {"keys": "uint32", "tokens": "int32"}
    template = {"T": dtype}
    if kernel == "logprob":
        template |= {"GRADIENT": flags[0], "ENTROPY_GRADIENT": flags[1]}
    return build.Instance(
        label,
        header,
        body,
        {name: kinds.get(name, "float32") for name in inputs},
        {name: kinds.get(name, "float32") for name in outputs},
        template,
    )


def shim_logprob(library: build.Library, label: str, threads: int, descending=False) -> Logprob:
    def run(x, dtype, targets, scale, gradient, entropy_gradient):
        full, rows = x.shape, len(x)
        shapes = [(rows,), (rows,), full if gradient else (1,), full if entropy_gradient else (1,)]
        inputs = [build.to_storage(x, dtype), targets, np.array([scale], np.float32)]
        out = library.run(label, inputs, shapes, rows, threads, descending)
        for on, stub in ((gradient, out[2]), (entropy_gradient, out[3])):
            assert on or stub[0] == build.UNTOUCHED, "an output without its flag was written"
        delta, entropy_delta = (build.from_storage(o, dtype) for o in out[2:])
        return *out[:2], delta if gradient else None, entropy_delta if entropy_gradient else None

    return run


def shim_sample(library: build.Library, label: str, threads: int, descending=False) -> Sample:
    def run(x, dtype, temperature, keys):
        inputs = [build.to_storage(x, dtype), temperature, keys]
        shapes = [(len(x),), (len(x),)]
        return library.run(label, inputs, shapes, len(x), threads, descending)

    return run


FLAGS = {"full": (True, True), "delta": (True, False), "none": (False, False)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shim")


@pytest.fixture(scope="module", params=SUFFIX)
def shim(request: pytest.FixtureRequest, folder: Path) -> SimpleNamespace:
    """The shipped sources of one language, compiled for every dtype."""
    instances = []
    for kernel in ("logprob", "sample"):
        header, body = shipped.kernel_source(kernel + SUFFIX[request.param])
        for dtype in DTYPES:
            variants = FLAGS if kernel == "logprob" else {"full": (True, True)}
            for name, flags in variants.items():
                label = f"{kernel}_{dtype}_{name}"
                instances.append(instance(label, kernel, dtype, header, body, flags))
    library = build.Library(request.param, instances, folder, f"shipped_{request.param}")
    return SimpleNamespace(language=request.param, library=library)


@needs_shim
@pytest.mark.parametrize("threads", THREADS)
def test_logprob_source_agrees_with_numpy(shim, threads):
    for i, size in enumerate(SIZES):
        for dtype in DTYPES:
            run = shim_logprob(shim.library, f"logprob_{dtype}_full", threads, bool(i % 2))
            check_logprob(run, size, dtype)


@needs_shim
def test_logprob_source_leaves_out_what_its_flags_leave_out(shim):
    for name, flags in FLAGS.items():
        run = shim_logprob(shim.library, f"logprob_bfloat16_{name}", 64)
        check_logprob(run, 257, "bfloat16", flags)


@needs_shim
@pytest.mark.parametrize("threads", THREADS)
def test_sample_source_picks_the_tokens_of_numpy(shim, threads):
    for i, size in enumerate(SIZES if threads < 1024 else SIZES[1:-1:2]):
        for dtype in DTYPES:
            run = shim_sample(shim.library, f"sample_{dtype}_full", threads, bool(i % 2))
            check_sample(run, size, dtype)


@needs_shim
@pytest.mark.parametrize("kernel", ["logprob", "sample"])
@pytest.mark.parametrize("language", SUFFIX)
def test_planted_mistakes_show(language, kernel, folder):
    header, body = shipped.kernel_source(kernel + SUFFIX[language])
    planted = mutants(language, kernel)
    assert len(planted) >= 8, "too few mistakes to say that the checks can fail"
    instances = []
    for i, (why, old, new) in enumerate(planted):
        changed = header.replace(old, new), body.replace(old, new)
        assert changed != (header, body), f"nothing was planted for: {why} ({old!r} is not there)"
        instances.append(instance(f"mutant_{i}", kernel, "float32", *changed))
    instances.append(instance("mutant_none", kernel, "float32", header, body))
    library = build.Library(language, instances, folder, f"mutants_{language}_{kernel}")
    assert passes(kernel, library, "none"), "the cases fail without any mistake"
    missed = [why for i, (why, _, _) in enumerate(planted) if passes(kernel, library, str(i))]
    assert not missed, f"the checks do not notice: {missed}"


def passes(kernel: str, library: build.Library, number: str) -> bool:
    """Whether a mutant gets through small cases, thread groups and both sweeping orders."""
    make, check = {
        "logprob": (shim_logprob, check_logprob),
        "sample": (shim_sample, check_sample),
    }[kernel]
    cases = [(7, 32), (31, 64), (257, 96), (1000, 256)]
    try:
        for size, threads in cases:
            for seed in (0, 1):
                run = make(library, f"mutant_{number}", threads, bool(seed))
                with np.errstate(invalid="ignore"):
                    check(run, size, "float32", seed=seed)
    except (AssertionError, RuntimeError, IndexError):
        return False
    return True


@needs_shim
def test_threads_that_part_ways_are_found(folder):
    header, body = shipped.kernel_source("logprob.metal")
    early = "  if (index < 32) return;\n  threadgroup_barrier(mem_flags::mem_device);\n"
    body = body.replace("  const float h =", early + "  const float h =")
    library = build.Library(
        "metal", [instance("parted", "logprob", "float32", header, body)], folder, "parted"
    )
    with pytest.raises(RuntimeError, match="parted ways"):
        check_logprob(shim_logprob(library, "parted", 64), 31, "float32")


def test_threefry_gives_the_published_words():
    """Random123's known answers: the oracle cannot share a mistake with the kernels."""
    ones, pi = 0xFFFFFFFF, (0x13198A2E, 0x03707344, 0x243F6A88, 0x85A308D3)
    known = {
        (0, 0, 0, 0): (0x6B200159, 0x99BA4EFE),
        (ones, ones, ones, ones): (0x1CB996FC, 0xBB002BE7),
        pi: (0xC4923A9C, 0x483DF7A0),
    }
    for words, want in known.items():
        assert tuple(int(w) for w in oracle.threefry(*words)) == want


# --- the CUDA source under NVIDIA's compiler ----------------------------------------------------

NVCC_PRELUDE = """
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda/std/array>
using Shape = cuda::std::array<int32_t, 10>;
"""


@pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not installed")
def test_cuda_sources_compile_with_nvcc(folder):
    text = NVCC_PRELUDE
    for kernel in ("logprob", "sample"):
        header, body = shipped.kernel_source(f"{kernel}.cu")
        for dtype in DTYPES:
            k = instance(f"{kernel}_{dtype}", kernel, dtype, header, body)
            text += f"namespace {k.label} {{\n{build.function('cuda', k)}}}\n"
    code = folder / "kernels.cu"
    code.write_text(text, encoding="utf-8")
    command = ["nvcc", "-std=c++17", "-arch=sm_80", "-ptx", "-o", str(folder / "kernels.ptx")]
    done = subprocess.run([*command, str(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (folder / "kernels.ptx").read_text().count(".visible .entry") == 6


# --- plain MLX ------------------------------------------------------------------------------------


def to_mx(x: np.ndarray, dtype: str) -> mx.array:
    return mx.array(x).astype(getattr(mx, dtype))


def from_mx(x: mx.array | None) -> np.ndarray | None:
    return None if x is None else np.array(x.astype(mx.float32))


def mlx_logprob(function: Callable) -> Logprob:
    def run(x, dtype, targets, scale, gradient, entropy_gradient):
        out = function(to_mx(x, dtype), mx.array(targets), scale, gradient, entropy_gradient)
        assert all(o is None or o.dtype == getattr(mx, dtype) for o in out[2:])
        return tuple(map(from_mx, out))

    return run


def mlx_sample(function: Callable) -> Sample:
    def run(x, dtype, temperature, keys):
        tokens, logp = function(to_mx(x, dtype), mx.array(temperature), mx.array(keys))
        assert tokens.dtype == mx.int32 and logp.dtype == mx.float32
        return np.array(tokens), np.array(logp)

    return run


@pytest.mark.parametrize("dtype", DTYPES)
def test_plain_mlx_agrees_with_numpy(dtype):
    for size in SIZES:
        for flags in ((True, True), (True, False), (False, True), (False, False)):
            check_logprob(mlx_logprob(kernels.row_logprob_mlx), size, dtype, flags)
        check_sample(mlx_sample(kernels.sample_rows_mlx), size, dtype)


def test_mlx_draws_the_words_that_the_kernels_compute():
    """The CPU path takes its bits from mx.random: another layout there would part the paths."""
    keys = np.array([[1, 2], [0xFFFFFFFF, 7], [5, 0]], np.uint32)
    for size in SIZES:
        draw = mx.vmap(lambda key, n=size: mx.random.uniform(shape=(n,), key=key))(mx.array(keys))
        want = oracle.random_bits(keys, size).astype(np.float32) * np.float32(2.0**-32)
        assert np.array_equal(np.array(draw), np.minimum(want, np.float32(1 - 2.0**-24)))


def test_delta_is_the_gradient_that_mlx_computes():
    x, targets = oracle.logprob_rows(31, 3)
    x, targets = mx.array(x[:1]), mx.array(targets[:1])

    def both(z):
        logs = z * 0.8 - mx.logsumexp(z * 0.8, axis=-1, keepdims=True)
        return logs[0, targets[0]], -(mx.exp(logs) * logs).sum()

    _, _, delta, entropy_delta = kernels.row_logprob_mlx(x, targets, 0.8, True, True)
    close("delta", from_mx(-0.8 * delta), from_mx(mx.grad(lambda z: both(z)[0])(x)), 1e-4, 1e-6)
    close(
        "entropy",
        from_mx(0.8 * entropy_delta),
        from_mx(mx.grad(lambda z: both(z)[1])(x)),
        1e-4,
        1e-6,
    )


def test_samples_follow_the_softmax():
    """Chi-square over 20,000 keys: a biased hash, noise or arg max shifts the frequencies."""
    rows = 20_000
    logits = np.array([2.0, 1.0, 0.0, -np.inf, 0.5, -1.0, 1.5, -2.0, 0.0, -4.0], np.float32)
    keys = np.stack([np.arange(rows), np.full(rows, 12345)], axis=1).astype(np.uint32)
    tokens = many(np.tile(logits, (rows, 1)), keys, temperature=0.8)
    p = np.exp(oracle.log_softmax(logits[None].astype(np.float64) / 0.8))[0]
    counts = np.bincount(tokens, minlength=len(p))
    assert counts[3] == 0, "-inf was sampled"
    live = p > 0
    chi = (((counts - rows * p)[live]) ** 2 / (rows * p[live])).sum()
    assert chi < 27.9, f"chi-square {chi:.1f} of 8 degrees of freedom (0.05 % is 27.9)"


@pytest.mark.parametrize("word", [0, 1], ids=["key", "position"])
def test_neighbouring_keys_are_independent(word):
    """Streams that echo each other would show in the table of consecutive tokens."""
    rows = 20_000
    keys = np.full((rows, 2), 7, np.uint32)
    keys[:, word] = np.arange(rows)
    tokens = many(np.zeros((rows, 4), np.float32), keys)
    table = np.zeros((4, 4))
    np.add.at(table, (tokens[:-1], tokens[1:]), 1)
    expected = np.outer(table.sum(1), table.sum(0)) / table.sum()
    chi = ((table - expected) ** 2 / expected).sum()
    assert chi < 29.7, f"chi-square {chi:.1f} of 9 degrees of freedom (0.05 % is 29.7)"


def test_rare_tokens_are_drawn_at_their_rate():
    """Noise whose resolution ends at 2^-24 near the winners would starve a large vocabulary's
    tail; here 400 tokens share a mass of 2 %."""
    rows = 20_000
    logits = np.full(401, np.log(0.02 / 400 / 0.98), np.float32)
    logits[400] = 0
    keys = np.stack([np.arange(rows), np.arange(rows) * 3], axis=1).astype(np.uint32)
    rare = (many(np.tile(logits, (rows, 1)), keys) != 400).sum()
    assert abs(rare - 400) < 70, f"{rare} of 400 expected (a standard deviation is 20)"


def many(logits: np.ndarray, keys: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    t = mx.full((len(logits),), temperature)
    return np.array(kernels.sample_rows_mlx(mx.array(logits), t, mx.array(keys))[0])


def test_a_row_depends_on_nothing_but_itself():
    x, temperature, keys = (mx.array(a) for a in oracle.sample_rows(257, 5))
    tokens, logp = kernels.sample_rows_mlx(x, temperature, keys)
    some = mx.array([23, 6, 14])
    again = kernels.sample_rows_mlx(x[some], temperature[some], keys[some])
    assert again[0].tolist() == tokens[some].tolist()
    assert again[1].tolist() == logp[some].tolist()


# --- the glue -------------------------------------------------------------------------------------


def test_a_cpu_runs_plain_mlx_and_says_so(monkeypatch):
    monkeypatch.delenv(kernels.SWITCH, raising=False)
    monkeypatch.setattr(kernels, "ENGAGED", type(kernels.ENGAGED)())
    with mx.stream(mx.cpu):
        assert kernels.path() == "mlx"
        check_logprob(mlx_logprob(kernels.row_logprob), 31, "float32")
        check_sample(mlx_sample(kernels.sample_rows), 31, "float32")
    assert kernels.ENGAGED == {("logprob", "mlx"): 1, ("sample", "mlx"): 1}


def test_no_rows_give_no_rows():
    none = mx.zeros((0, 5)), mx.zeros((0,), mx.int32)
    shapes = [o.shape for o in kernels.row_logprob(*none, 1.0, True, True)]
    assert shapes == [(0,), (0,), (0, 5), (0, 5)]
    tokens, logp = kernels.sample_rows(none[0], mx.zeros((0,)), mx.zeros((0, 2), mx.uint32))
    assert (tokens.shape, logp.shape) == ((0,), (0,))


def test_what_does_not_fit_is_refused():
    x, keys = mx.zeros((3, 5)), mx.zeros((3, 2), mx.uint32)
    for call in (
        lambda: kernels.row_logprob(x.astype(mx.int32), mx.zeros((3,), mx.int32), 1.0, 0, 0),
        lambda: kernels.row_logprob(x, mx.zeros((2,), mx.int32), 1.0, False, False),
        lambda: kernels.row_logprob(x[:, :0], mx.zeros((3,), mx.int32), 1.0, False, False),
        lambda: kernels.sample_rows(x, mx.ones((3,)), keys.astype(mx.int32)),
        lambda: kernels.sample_rows(x, mx.ones((2,)), keys),
        lambda: kernels.sample_rows(x, mx.ones((3,)), keys[:2]),
    ):
        with pytest.raises(ValueError, match=r"^\w+: [^\n]+$"):
            call()


class ShimKernel:
    """Stands for what mx.fast.metal_kernel or cuda_kernel returns: compiles what the glue hands
    over with g++, and runs it. It checks the launch as MLX's documentation gives it.
    """

    def __init__(self, language: str, folder: Path, launches: list, **given):
        self.language, self.folder, self.launches, self.given = language, folder, launches, given

    def __call__(self, *, inputs, template, grid, threadgroup, output_shapes, output_dtypes):
        kinds = [[str(d).rpartition(".")[2] for d in dtypes] for dtypes in (
            [x.dtype for x in inputs], output_dtypes)]  # fmt: skip
        values = {
            name: value if isinstance(value, bool) else str(value).rpartition(".")[2]
            for name, value in template
        }
        stem = f"glue_{self.language}_{len(self.launches)}"
        one = build.Instance(
            "glue",
            self.given["header"],
            self.given["source"],
            dict(zip(self.given["input_names"], kinds[0], strict=True)),
            dict(zip(self.given["output_names"], kinds[1], strict=True)),
            values,
        )
        library = build.Library(self.language, [one], self.folder, stem)
        assert grid[0] % threadgroup[0] == 0 and grid[1:] == threadgroup[1:] == (1, 1)
        arrays = [
            build.to_storage(np.array(x.astype(mx.float32)), kind)
            if kind in DTYPES
            else np.array(x)
            for x, kind in zip(inputs, kinds[0], strict=True)
        ]
        groups = grid[0] // threadgroup[0]
        out = library.run("glue", arrays, output_shapes, groups, threadgroup[0])
        self.launches.append((self.given["name"], threadgroup[0], tuple(output_shapes)))
        return [
            to_mx(build.from_storage(o, kind), kind) if kind in DTYPES else mx.array(o)
            for o, kind in zip(out, kinds[1], strict=True)
        ]


@pytest.fixture(params=SUFFIX)
def gpu(request, monkeypatch, folder):
    """A machine that says it has a GPU of one kind, whose kernels the shim runs."""
    launches: list = []
    built: list = []

    def make(**given):
        built.append(given["name"])
        return ShimKernel(request.param, folder, launches, **given)

    monkeypatch.delenv(kernels.SWITCH, raising=False)
    monkeypatch.setattr(mx, "default_device", lambda: SimpleNamespace(type=mx.gpu))
    for name in SUFFIX:
        there = SimpleNamespace(is_available=lambda name=name: name == request.param)
        monkeypatch.setattr(mx, name, there, raising=False)
    monkeypatch.setattr(mx.fast, f"{request.param}_kernel", make)
    monkeypatch.setattr(kernels, "_built", {})
    monkeypatch.setattr(kernels, "ENGAGED", type(kernels.ENGAGED)())
    return SimpleNamespace(name=request.param, launches=launches, built=built)


@needs_shim
def test_a_gpu_runs_its_kernels_through_the_glue(gpu):
    """Names, dtypes, shapes, template and launch as the glue gives them fit the sources."""
    assert kernels.path() == gpu.name
    check_logprob(mlx_logprob(kernels.row_logprob), 1000, "bfloat16", (True, False))
    check_logprob(mlx_logprob(kernels.row_logprob), 257, "float32", (True, True))
    check_logprob(mlx_logprob(kernels.row_logprob), 31, "float32", (False, False))
    check_sample(mlx_sample(kernels.sample_rows), 1000, "float16")
    check_sample(mlx_sample(kernels.sample_rows), 4099, "float16")
    assert dict(kernels.ENGAGED) == {("logprob", gpu.name): 3, ("sample", gpu.name): 2}
    assert len(gpu.launches) == 5 and len(gpu.built) == 4, "one kernel object for each template"
    assert gpu.launches[0][2] == ((8,), (8,), (8, 1000), (1,)), "an unwanted output is not stubbed"
    assert all(threads % 32 == 0 and threads <= 1024 for _, threads, _ in gpu.launches)


def test_the_switch_turns_the_kernels_off(gpu, monkeypatch):
    monkeypatch.setenv(kernels.SWITCH, "off")
    assert kernels.path() == "mlx"
    check_sample(mlx_sample(kernels.sample_rows), 31, "float32")
    assert kernels.ENGAGED == {("sample", "mlx"): 1} and not gpu.launches
    monkeypatch.setenv(kernels.SWITCH, "maybe")
    with pytest.raises(UsageError, match="set it to off"):
        kernels.path()


def test_a_gpu_without_either_back_end_runs_plain_mlx(gpu, monkeypatch):
    for name in SUFFIX:
        monkeypatch.delattr(mx, name)
    assert kernels.path() == "mlx"


@pytest.mark.gpu
@pytest.mark.skipif(kernels.path() == "mlx", reason="MLX has no GPU here")
def test_a_real_gpu_agrees_with_numpy():
    for size in SIZES:
        for dtype in DTYPES:
            for flags in FLAGS.values():
                check_logprob(mlx_logprob(kernels.row_logprob), size, dtype, flags)
            check_sample(mlx_sample(kernels.sample_rows), size, dtype)


# --- torch and Triton -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch() -> ModuleType:
    return pytest.importorskip("torch", reason="torch is not installed")


@pytest.fixture(scope="module")
def triton(torch) -> Iterator[SimpleNamespace]:
    """The two Triton modules, interpreted where there is no GPU for them."""
    with pytest.MonkeyPatch.context() as patch:
        if not torch.cuda.is_available():
            patch.setenv("TRITON_INTERPRET", "1")  # before triton and the kernels are imported
        pytest.importorskip("triton", reason="triton is not installed")
        names = ("logprob", "sample")
        yield SimpleNamespace(**{name: shipped.triton_kernel(name) for name in names})


def torch_logprob(torch: ModuleType, function: Callable, **options) -> Logprob:
    def run(x, dtype, targets, scale, gradient, entropy_gradient):
        logits = torch.from_numpy(x.copy()).to(getattr(torch, dtype)).to(place(torch))
        targets = torch.from_numpy(targets).to(logits.device)
        out = function(logits, targets, scale, gradient, entropy_gradient, **options)
        assert all(o is None or o.dtype == logits.dtype for o in out[2:])
        if options.get("in_place"):
            assert out[2].data_ptr() == logits.data_ptr(), "delta is not in place"
        return tuple(None if o is None else o.float().cpu().numpy() for o in out)

    return run


def torch_sample(torch: ModuleType, function: Callable, **options) -> Sample:
    def run(x, dtype, temperature, keys):
        logits = torch.from_numpy(x).to(getattr(torch, dtype)).to(place(torch))
        rest = (torch.from_numpy(a).to(logits.device) for a in (temperature, keys.view(np.int32)))
        tokens, logp = function(logits, *rest, **options)
        assert tokens.dtype == torch.int32
        return tokens.cpu().numpy(), logp.cpu().numpy()

    return run


def place(torch: ModuleType) -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("dtype", DTYPES)
def test_plain_torch_agrees_with_numpy(torch, dtype, monkeypatch):
    from azr_mlx.backends.torch import kernels as torch_kernels

    monkeypatch.setenv("AZR_MLX_KERNELS", "off")
    monkeypatch.setattr(torch_kernels, "ENGAGED", type(torch_kernels.ENGAGED)())
    for size in SIZES:
        for flags in FLAGS.values():
            check_logprob(torch_logprob(torch, torch_kernels.row_logprob), size, dtype, flags)
        check_sample(torch_sample(torch, torch_kernels.sample_rows), size, dtype)
    assert set(torch_kernels.ENGAGED) == {("logprob", "torch"), ("sample", "torch")}


@pytest.fixture
def unbuilt(torch, monkeypatch):
    """Torch's kernels on a GPU where Triton raises the error that is given."""
    from azr_mlx.backends.torch import kernels as torch_kernels

    def on_a_gpu(logits):
        return "torch" if torch_kernels._broken else "triton"

    def failing(error):
        def fail(*given):
            raise error

        made = SimpleNamespace(row_logprob=fail, sample_rows=fail)
        monkeypatch.setattr(torch_kernels, "_triton", lambda name: made)
        return torch_kernels

    monkeypatch.setattr(torch_kernels, "path", on_a_gpu)
    monkeypatch.setattr(torch_kernels, "_broken", [])
    monkeypatch.setattr(torch_kernels, "ENGAGED", type(torch_kernels.ENGAGED)())
    return failing


NO_COMPILER = (
    RuntimeError("Failed to find C compiler. Please specify via CC environment variable."),
    subprocess.CalledProcessError(1, ["gcc", "main.c", "-I" + "x" * 500]),
    PermissionError(13, "Permission denied", "/root/.triton"),
)


@pytest.mark.parametrize("error", NO_COMPILER)
def test_plain_torch_computes_where_triton_cannot_build(torch, unbuilt, error):
    kernels = unbuilt(error)
    with pytest.warns(RuntimeWarning, match=r"cannot build .*python3-dev") as said:
        for _ in range(2):
            check_logprob(torch_logprob(torch, kernels.row_logprob), 31, "float32")
            check_sample(torch_sample(torch, kernels.sample_rows), 31, "float32")
    assert len(said) == 1 and len(str(said[0].message)) < 500
    assert set(kernels.ENGAGED) == {("logprob", "torch"), ("sample", "torch")}


@pytest.mark.parametrize(
    ("error", "built"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."), False),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), False),
        (RuntimeError("the rows are not contiguous"), True),
    ],
)
def test_other_errors_of_triton_are_not_hidden(torch, unbuilt, error, built):
    kernels = unbuilt(error)
    kernels.ENGAGED["sample", "triton"] = int(built)
    with pytest.raises(RuntimeError, match=str(error)[:9]):
        check_sample(torch_sample(torch, kernels.sample_rows), 31, "float32")


def test_triton_agrees_with_numpy(torch, triton):
    for size, dtype in ((1, "float32"), (31, "float16"), (257, "bfloat16"), (1000, "float32")):
        for flags in ((True, True), (True, False), (False, True), (False, False)):
            for in_place in {False, flags[0]}:
                options = {"in_place": in_place, "block": 128}
                run = torch_logprob(torch, triton.logprob.row_logprob, **options)
                # The interpreter cuts a bfloat16 off where a GPU rounds it.
                check_logprob(run, size, dtype, flags, step=2 * STEP[dtype])
        check_sample(torch_sample(torch, triton.sample.sample_rows, block=64), size, dtype)


# --- all of them ----------------------------------------------------------------------------------


@needs_shim
def test_every_path_draws_the_same_tokens(shim, torch, request):
    """One key, one token, wherever it is drawn."""
    from azr_mlx.backends.torch import kernels as torch_kernels

    x, temperature, keys = oracle.sample_rows(1000, 11, rows=40)
    x[3:5] = x[11:13]  # logits of 1e4 leave the noise 1e-3 of resolution: near ties, paths differ
    runs = {
        "mlx": mlx_sample(kernels.sample_rows_mlx),
        "torch": torch_sample(torch, torch_kernels.sample_rows_torch),
        shim.language: shim_sample(shim.library, "sample_float32_full", 256),
    }
    try:
        triton = request.getfixturevalue("triton")
    except pytest.skip.Exception:
        triton = None
    if triton:
        runs["triton"] = torch_sample(torch, triton.sample.sample_rows)
    want = oracle.scores(x, temperature, keys).argmax(axis=-1)
    for name, run in runs.items():
        tokens, _ = run(x, "float32", temperature, keys)
        assert np.array_equal(tokens, want), f"{name} draws other tokens than numpy"
