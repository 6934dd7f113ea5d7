"""The memory planner: its figures against measured peaks, and what it refuses and names instead."""

from __future__ import annotations

import gc
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

mx = pytest.importorskip("mlx.core", reason="mlx is not installed")

from azr_mlx.backends import microbatch  # noqa: E402
from azr_mlx.commands import train  # noqa: E402
from azr_mlx.config import THOUGHT_TOKENS, Config, Lora, load  # noqa: E402
from azr_mlx.errors import UsageError  # noqa: E402
from azr_mlx.tasks.prompts import chosen_form, render  # noqa: E402
from azr_mlx.training import memory  # noqa: E402
from azr_mlx.training.memory import estimate, limit, prompts  # noqa: E402
from azr_mlx.training.memory.shape import Shape, UnknownModel  # noqa: E402
from azr_mlx.types import TaskKind  # noqa: E402
from tests.conftest import benchmark_script  # noqa: E402
from tests.tiny import tiny_folder  # noqa: E402

pytestmark = pytest.mark.backend

SHAPE = Shape(4, 256, 768, 8, 4, 32, 8192, True)


@pytest.fixture(scope="module")
def bench():
    with benchmark_script("memory") as script:
        yield script


@pytest.fixture
def folder(tmp_path):
    tiny_folder(tmp_path / "tiny")
    return str(tmp_path / "tiny")


def planner(**changed):
    return estimate.Planner(replace(SHAPE, **changed), "cpu", 320, 320)


# -- the figures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(6))
def test_predicted_peaks_are_near_the_measured_ones(bench, number):
    name = bench.QUICK[number]
    row = bench.compared(next(one for one in bench.CASES if one.name == name))
    wrong = {phase: row[phase] for phase in bench.PHASES if not row[phase]["holds"]}
    assert not wrong, (
        f"{name}: a coefficient no longer says what is alive: what runs has changed; "
        f"python benchmarks/memory_derive.py 120 measures them anew: {wrong}"
    )


def test_parts_add_up_and_every_feature_is_shown():
    p = planner()
    for _, peak in p.peaks(Config()).items():
        assert abs(peak.total - sum(peak.parts.values())) <= len(peak.parts)
        assert peak.parts["weights"] == p.weights(Config())


def test_a_layout_is_what_micro_batches_come_to(bench):
    """The planned stages are those that ``microbatch.split`` makes of such a batch."""
    c = load(
        None,
        [
            "ppo.micro_batch_tokens=512",
            "rollout.max_prompt_tokens=64",
            *bench.long(32),
            "rollout.group_size=4",
        ],
    )
    p = estimate.Planner(SHAPE, "cpu", 64, 64)
    for stages in p.layouts(c, 40):
        batch = bench.batch_of(stages, c, p, stages[-1].rows)
        (made,) = microbatch.split(batch, 512)
        assert [s.tokens.shape for s in made.stages] == [s[:2] for s in stages]
        assert made.cost <= 512


def test_less_is_planned_where_less_is_asked():
    limits = [f"rollout.max_{name}_tokens=512" for name in ("propose", "solve")]
    p, c = planner(), load(None, ["rollout.max_prompt_tokens=320", *limits])
    before = p.peaks(c)
    fewer = replace(c, rollout=replace(c.rollout, max_batch=4))
    smaller = replace(c, ppo=replace(c.ppo, micro_batch_tokens=900))
    again = replace(c, ppo=replace(c.ppo, grad_checkpoint="true"))
    assert p.rollout(fewer).total < before.rollout.total
    assert p.update(smaller).total < before.update.total
    assert p.update(again).total < before.update.total
    larger = replace(c, lora=Lora(rank=64))
    assert p.adapters(larger) == pytest.approx(4 * p.adapters(c), rel=0.01)


def test_an_entropy_floor_is_planned_as_the_bonus_that_it_may_become():
    p = planner(vocabulary=49152)  # the head is what takes the most, then
    given = [*SHORT, "ppo.micro_batch_tokens=512"]
    plain, floor, bonus = (
        p.update(load(None, [*given, *more])).total
        for more in ([], ["ppo.entropy_floor=0.3"], ["ppo.entropy_coef=0.1"])
    )
    assert floor == bonus > plain


def test_the_share_of_metal_is_what_macs_report():
    """In GB of 10^9 bytes: 10.9 to 12.7 of 16 GiB, 21.3 GiB of 32, and three quarters of more."""
    share = {size: limit.metal_share(size * 2**30) / 1e9 for size in (16, 32, 36, 64)}
    assert 10.9 < share[16] < 12.7
    assert share[32] == pytest.approx(2 / 3 * 32 * 2**30 / 1e9, abs=0.01)
    assert share[36] == pytest.approx(27 * 2**30 / 1e9, abs=0.01)
    assert share[64] == pytest.approx(48 * 2**30 / 1e9, abs=0.01)


def test_a_gpu_is_planned_with_packed_weights():
    stored = planner(quantized=(4, 64))
    on_gpu = replace(stored, device="gpu")
    assert on_gpu.weights(Config()) < stored.weights(Config()) / 6


# -- the keys and values' budget -------------------------------------------------------------------


def test_the_kv_budget_reaches_the_engine(folder):
    given = [f"model_id={folder}", "rollout.kv_budget_mb=1"]
    c = load(None, given)
    per_token = 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, their size, bytes
    if mx.default_device() != mx.cpu:
        per_token //= 2
    assert memory.kv_tokens_of(c) == 10**6 // per_token
    backend = train.backend_for(memory.fitting(c))
    assert backend.engine.kv_tokens == 10**6 // per_token, "the budget is not handed on"
    assert memory.kv_tokens_of(load(None, given[:1])) == 0


@pytest.mark.parametrize(("on", "width"), [("cpu", 4), ("gpu", 2)])
def test_an_evaluation_gives_a_quarter_of_the_memory_to_keys_and_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on: str, width: int
) -> None:
    """A small model had as much as a large one, and answered 25 questions at once, not 128."""
    row = {"model_type": "qwen2", "num_hidden_layers": 24, "hidden_size": 896, "vocab_size": 9}
    row |= {"num_attention_heads": 14, "num_key_value_heads": 2, "intermediate_size": 64}
    (tmp_path / "config.json").write_text(json.dumps(row))
    monkeypatch.setattr(memory, "device", lambda: on)
    monkeypatch.setattr(memory, "machine_memory", lambda device: 16 << 30 if device == on else 0)
    per_token = 2 * 24 * 2 * 64 * width
    assert memory.kv_room(tmp_path, "mlx") == (4 << 30) // per_token
    (tmp_path / "config.json").write_text(json.dumps(row | {"model_type": "unheard_of"}))
    assert memory.kv_room(tmp_path, "mlx") == 0


def test_the_kv_budget_bounds_the_plan():
    c = load(None, ["rollout.kv_budget_mb=20"])
    p = planner()
    rows, answer = estimate.calls(c)[1]
    places, buffer = p.buffer(c, rows, p.prompt_tokens + answer - 1)
    assert places * buffer * 2 * 4 * 128 * 4 <= 20e6 and places < c.rollout.max_batch
    assert p.rollout(c).total < p.rollout(Config()).total


# -- refusing --------------------------------------------------------------------------------------


def nearest(c, p, bytes_):
    other = limit.nearest(c, p, bytes_)
    return None if other is None else limit.overrides(c, other)


SHORT = (
    "rollout.max_prompt_tokens=320",
    "ppo.grad_checkpoint=false",
    "rollout.max_prompt_tokens=320",
    "rollout.max_solve_tokens=128",
    "rollout.max_propose_tokens=128",
)


def test_the_nearest_configuration_fits_and_nothing_nearer_does():
    c = load(None, SHORT)
    p = planner()
    peaks = p.peaks(c)
    bound = int(0.8 * min(peaks.rollout.total, peaks.update.total))
    other = limit.nearest(c, p, bound)
    assert limit.fits(p.peaks(other), bound), "what is suggested does not fit either"
    changed = limit.overrides(c, other)
    keys = [one.partition("=")[0] for one in changed]
    assert keys == ["rollout.max_batch", "ppo.micro_batch_tokens"], changed
    assert load(None, [*SHORT, *changed]) == other, "it cannot be pasted"
    one_more = replace(other.rollout, max_batch=other.rollout.max_batch + 1)
    assert p.rollout(replace(other, rollout=one_more)).total > bound, "a larger batch fits, too"
    tokens = replace(other.ppo, micro_batch_tokens=other.ppo.micro_batch_tokens + limit.STEP)
    assert p.update(replace(other, ppo=tokens)).total > bound, "larger micro-batches fit, too"


def test_layers_are_recomputed_before_tokens_are_cut():
    # Few beginnings of prompts are kept: the update, not the rollout, is what does not fit.
    c = load(None, [*SHORT, "task_types=deduction", "solver.strategies=direct"])
    p = planner(layers=16)
    least = replace(c, ppo=replace(c.ppo, micro_batch_tokens=448))
    changed = nearest(c, p, int(0.9 * p.update(least).total))  # one row's activations are too many
    assert "ppo.grad_checkpoint=true" in changed
    assert not any("max_solve_tokens" in one for one in changed)
    half = [f"rollout.max_{role}_tokens=64" for role in ("solve", "propose")]
    tight = ["rollout.max_batch=1", "ppo.micro_batch_tokens=384", "ppo.grad_checkpoint=true"]
    few = ["task_types=deduction", "solver.strategies=direct", "rollout.max_prompt_tokens=320"]
    most = max(peak.total for _, peak in p.peaks(load(None, [*half, *tight, *few])).items())
    changed = nearest(c, p, most)
    assert any("max_solve_tokens" in one for one in changed), changed


THINKING = (
    "rollout.thinking=on",
    "rollout.max_solve_tokens=8192",
    "rollout.max_propose_tokens=3000",
)


@pytest.mark.parametrize("given", [(), THINKING, ("rollout.overlong_buffer=300",)])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.35, 0.3, 0.25, 0.2, 0.1])
def test_what_is_suggested_is_accepted(given, share):
    """By every check of the configuration, at every size of memory."""
    given = ["rollout.form=chat", "ppo.micro_batch_tokens=4096", *given]
    c, p = load(None, given), planner()
    bound = int(share * max(peak.total for _, peak in p.peaks(c).items()))
    changed = nearest(c, p, bound)
    if changed is not None:
        assert limit.fits(p.peaks(load(None, [*given, *changed])), bound), changed


def test_the_limits_of_a_thought_are_kept_and_prompts_shortened():
    c, p = load(None, ["rollout.form=chat", *THINKING]), planner()
    *_, last = limit._shorter(c)
    r = last.rollout
    assert r.max_solve_tokens == r.max_propose_tokens == THOUGHT_TOKENS
    assert r.max_prompt_tokens == limit.LEAST_PROMPT
    short = ["rollout.max_solve_tokens=2048", "rollout.max_propose_tokens=2048"]
    short += ["rollout.max_batch=1", "ppo.grad_checkpoint=true", "rollout.max_prompt_tokens=768"]
    least = load(None, ["rollout.form=chat", *THINKING, *short])
    bound = max(peak.total for _, peak in p.peaks(least).items())
    assert any("max_solve_tokens=" in one for one in nearest(c, p, bound))


def test_what_is_measured_is_planned_as_well():
    small = ["rollout.max_solve_tokens=40", "rollout.max_batch=600"]
    few, p = [*small, "batch_size=0", "proposer.templates_per_step=1"], planner()
    plain, held, evaluated = (
        load(None, [*few, *more]) for more in ([], ["held_out.tasks=50"], ["evaluation_interval=5"])
    )
    assert p.generated(held)[-1] == (3 * 2 * 50 * 4, p.prompt_tokens, 40)
    assert p.generated(evaluated)[-1] == (25, estimate.BENCHMARK_PROMPT, 512)
    for one in (held, evaluated):
        assert p.rollout(one).total > p.rollout(plain).total, "more rows, or longer ones"


def test_without_proposals_none_are_planned():
    """Their prompts and completions are the longest."""
    given = ["rollout.max_propose_tokens=2048", "rollout.max_solve_tokens=64"]
    c, p = load(None, [*given, "batch_size=0", "proposer.templates_per_step=8"]), planner()
    assert estimate.answer_tokens(c) == 64
    assert p.generated(c) == [(64, p.prompt_tokens, 64)]
    assert all(stages[-1].span <= 320 + 64 for stages in p.layouts(c, 40))
    assert estimate.beginnings(c) == 3 * 2, "the solver's"
    with_some = load(None, [*given, "batch_size=1", "proposer.templates_per_step=7"])
    assert p.rollout(c).total < p.rollout(with_some).total
    assert p.update(c).total < p.update(with_some).total
    resampled = replace(c, rollout=replace(c.rollout, resample=2))
    assert estimate.round_rollouts(resampled) == (0, (8 + 2 * 8) * 8)
    assert not any("for a proposal" in line for line in memory.memory_lines(c, p))


def test_auto_recomputes_only_where_the_update_would_not_fit_without():
    p, c = planner(layers=16), load(None, [])
    assert c.ppo.grad_checkpoint == "auto"
    without = p.update(replace(c, ppo=replace(c.ppo, grad_checkpoint="false"))).total

    def chosen(bound, config=c):
        return limit.resolve_checkpointing(config, p, bound).ppo.grad_checkpoint

    assert chosen(without) == "false", "checkpointing costs a third of the update for nothing"
    assert chosen(without - 1) == "true"
    assert chosen(0) == "false"
    assert chosen(10**15, load(None, ["ppo.grad_checkpoint=true"])) == "true"


def test_train_refuses_in_one_line_before_the_weights(folder, tmp_path, monkeypatch, cli):
    done = cli("train", "--model", folder, "memory_limit_gb=0.2")
    assert done.returncode == 2, done.stderr
    (line,) = [one for one in done.stderr.splitlines() if "error:" in one]
    assert (
        "phase needs" in line
        and "but memory_limit_gb=0.2 allows 200 MB" in line
        and "this fits: " in line
    )
    assert not (tmp_path / "runs").exists(), "something was made before it was refused"
    named = line.partition("this fits: ")[2].partition(" (or")[0].split()
    c = load(None, [f"model_id={folder}", "memory_limit_gb=0.2", *named])
    assert memory.fitting(c), "what is suggested is refused, too"


def test_what_is_far_beyond_the_machine_is_not_offered_to_run_anyway():
    p, c = planner(layers=16), load(None, [])
    need = max(phase.total for _, phase in p.peaks(c).items())

    def told(bound: float, config=c) -> str:
        with pytest.raises(UsageError) as error:
            limit.refuse_what_does_not_fit(config, p, int(bound), lambda device, size: "")
        return str(error.value)

    assert "but there is " in told(0.9 * need) and "to run it anyway" in told(0.9 * need)
    assert "to run it anyway" not in told(0.3 * need)
    own = load(None, ["memory_limit_gb=0.002"])
    assert "but memory_limit_gb=0.002 allows 2 MB; " in told(2e6, own)
    assert "or a larger limit (or give memory_limit_gb=" in told(2e6, own)


def test_the_limit_is_read_and_a_higher_one_goes_on(folder):
    low = load(None, [f"model_id={folder}", "memory_limit_gb=0.001"])
    with pytest.raises(UsageError, match=r"memory: the \w+ phase needs .* model alone|this fits"):
        memory.fitting(low)
    high = load(None, [f"model_id={folder}", "memory_limit_gb=1000"])
    assert memory.fitting(high).ppo.grad_checkpoint == "false"


@pytest.mark.parametrize(
    "row",
    [
        {"model_type": "llama", "hidden_size": 8},
        {"model_type": "mixtral"},
        {},
        {"model_type": "llama", "num_attention_heads": "?"},
    ],
)
def test_a_model_of_unknown_sizes_is_not_refused(row, monkeypatch):
    with pytest.raises(UnknownModel):
        Shape.from_config(row)
    monkeypatch.setattr(memory, "model_config", lambda model_id: row)
    c = load(None, ["memory_limit_gb=0.001"])
    assert memory.fitting(c).ppo.grad_checkpoint == "false"
    assert memory.kv_tokens_of(c) == 0
    with pytest.raises(UsageError, match=r"kv_budget_mb: 1: what a token .* is not known .*; give"):
        memory.kv_tokens_of(load(None, ["rollout.kv_budget_mb=1"]))
    assert "# memory: unknown: " in memory.describe(c)


# -- the machine -----------------------------------------------------------------------------------


def test_the_least_of_free_memory_and_cgroup_limits_holds(tmp_path):
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (cgroup / "a" / "b").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    (proc / "self" / "cgroup").write_text("0::/a/b\n")
    found = limit.machine_memory("cpu", proc, cgroup)
    assert found == (8000 * 1024 if sys.platform != "darwin" else found)
    (cgroup / "a" / "b" / "memory.max").write_text("max\n")
    (cgroup / "a" / "memory.max").write_text("5000000\n")
    (cgroup / "a" / "memory.current").write_text("1000000\n")
    if sys.platform != "darwin":
        assert limit.machine_memory("cpu", proc, cgroup) == 4000000, "the parent's limit holds, too"
        assert limit.machine_memory("cpu", tmp_path / "none", cgroup) == 0


def test_a_dry_run_names_each_phase_its_parts_and_the_machine(folder):
    text = memory.describe(Config(model_id=folder))
    for phase in ("rollout", "score", "update"):
        assert f"# memory, {phase}:" in text
    assert "keys and values" in text and "activations kept" in text
    last = text.splitlines()[-1]
    assert last.startswith("# memory: needs ") and last.endswith(": fits"), "read first on a screen"
    assert json.dumps(text)  # plain text


def test_a_dry_run_of_what_does_not_fit_ends_with_what_does(folder):
    text = memory.describe(load(None, [f"model_id={folder}", "memory_limit_gb=0.2"]))
    verdict, instead = text.splitlines()[-2:]
    assert verdict.endswith(" of 200 MB: DOES NOT FIT") and instead.startswith("# instead: ")


def test_a_rollouts_keys_and_values_are_freed_at_its_end(bench):
    """Not only when Python's cyclic collector comes by: the peak would be that of two rollouts."""
    one = bench.case("freed", 40, vocab_size=256)
    c = load(None, one.overrides)
    p = estimate.Planner(Shape.from_config(one.sizes), "cpu", one.prompt, one.prompt)
    backend = bench.backend_of(bench.model_of(one.sizes), c, p)
    prompts = bench.prompts_of(8, one.prompt, 0, 256)
    sampling = [bench.Sampling(8)] * len(prompts)

    def roll():
        backend.generate(prompts, sampling, list(range(len(prompts))))

    roll()
    gc.collect()
    gc.disable()
    try:
        before = mx.get_active_memory()
        roll()
        assert mx.get_active_memory() <= before + 10_000, "buffers of a finished rollout live on"
    finally:
        gc.enable()


# -- prompts ---------------------------------------------------------------------------------------

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)


@pytest.fixture(scope="module")
def qwen():
    """Qwen's tokenizer, from the GGUF file that AZR_MLX_TEST_GGUF_QWEN names."""
    transformers = pytest.importorskip("transformers")
    named = os.environ.get("AZR_MLX_TEST_GGUF_QWEN")
    if not named:
        pytest.skip("AZR_MLX_TEST_GGUF_QWEN does not name the file of Qwen2.5-Coder-0.5B-Instruct")
    path = Path(named)
    return transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


@pytest.mark.parametrize("name", ["azr_config", "azr_paper", "qwen2.5-coder-0.5b"])
@pytest.mark.parametrize("level", LEVELS)
def test_counted_tokens_of_prompts_are_near_those_of_a_real_tokenizer(name, level, qwen):
    c = load(name)
    form = chosen_form(None, c)
    for kind in TaskKind:
        found = list(prompts.proposals(c, form, kind, level))
        real = sum(len(render(one, qwen).token_ids) for one in found)
        assert abs(sum(map(prompts.tokens_of, found)) / real - 1) < 0.05, kind


def test_prompts_are_planned_as_long_as_they_may_be():
    c = load("azr_config")
    solved, alone = prompts.planned_prompts(c)
    p = estimate.Planner(SHAPE, "gpu", solved, alone)
    assert p.prompts(c) == (c.rollout.max_prompt_tokens, solved) and alone < 550 < solved
    none = replace(c, proposer=replace(c.proposer, references=0))
    assert p.prompts(none) == (alone, solved)
    begun = replace(c, proposer=replace(c.proposer, references=0, extended=0.5))
    assert p.prompts(begun) == p.prompts(c)  # the program that is gone on from is as long as any
    easy = replace(c, initial_difficulty=0.1, final_difficulty=0.1)
    assert prompts.planned_prompts(easy)[0] < solved
    short = replace(c, rollout=replace(c.rollout, max_prompt_tokens=768))
    for phase, peak in p.peaks(short).items():
        assert peak.total < getattr(p.peaks(c), phase).total or phase == "rollout"
