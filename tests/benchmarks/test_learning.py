"""The learning benchmark's own arithmetic: controls, curves, pairing by seed."""

from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace

import pytest

from azr_mlx.config import load
from azr_mlx.types import Role
from tests.conftest import benchmark_script
from tests.experiences import experience

pytestmark = pytest.mark.pure


@pytest.fixture(scope="module")
def bench():
    with benchmark_script("learning") as script:
        yield script


def test_every_variant_is_a_configuration(bench):
    for overrides in bench.VARIANTS.values():
        load("quickstart", list(overrides))


def test_what_was_computed_is_not_computed_again(bench, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        bench, "child", lambda row, core: {"seed": asked.append(row) or row["seed"]}
    )
    file, row = str(tmp_path / "kept.jsonl"), {"variant": "base", "seed": 0, "known": None}
    rows = [row, {**row, "known": {"tasks": 1}}, {**row, "seed": 1, "known": {"tasks": 1}}]
    first = [bench.kept(file, one, 0) for one in rows]
    assert first == [bench.kept(file, one, 0) for one in rows] and asked == rows
    bench.kept("", row, 0)
    assert len(asked) == 4


def test_shuffled_rewards_are_the_same_ones_within_a_role(bench):
    rows = [experience(reward=float(i), group=i % 3) for i in range(40)]
    rows += [experience(role=Role.PROPOSE, reward=-float(i), group=7) for i in range(20)]
    out = bench.shuffled(rows, 4, 0)
    for role in Role:
        before = [e.reward.total for e in rows if e.role is role]
        after = [e.reward.total for e in out if e.role is role]
        assert Counter(before) == Counter(after)
        assert sum(a != b for a, b in zip(before, after, strict=True)) > len(before) / 2
    assert [e.group for e in out] == [e.group for e in rows]
    assert bench.shuffled(rows, 4, 0) == out != bench.shuffled(rows, 5, 0)


def test_curves_are_means_over_stretches(bench):
    rows = [{"step": i, "entropy": float(i), "other": 1.0} for i in range(10)]
    assert bench.curves(rows) == {"entropy": [0.5, 2.5, 4.5, 6.5, 8.5]}


def test_a_proposal_that_is_not_valid_tells_nothing(bench):
    first = {"propose/variance/deduction": 0.2, "propose/valid_rate/deduction": 0.5, "entropy": 1.0}
    second = {"propose/variance/induction": 0.1, "propose/valid_rate/induction": 1.0}
    none = {"propose/valid_rate/abduction": 0.0}
    assert bench.proposer([first, second, none]) == {"valid": 0.15, "all": 0.0667}


def test_variants_are_paired_with_base_by_seed(bench):
    def run(variant, seed, gain):
        table = {"in_range": {"mean": {"gain": gain}}}
        figures = {"steps": 3, "seconds": 1.0, "proposer": {"valid": 0.1 + gain, "all": 0.05}}
        return {"variant": variant, "seed": seed, "greedy": table, "sampled": table, "curves": {},
                **figures}  # fmt: skip

    noise = [0.3, -0.2, 0.1, 0.0, 0.25]
    runs = [run("base", s, n) for s, n in enumerate(noise)]
    runs += [run("rloo", s, n + 0.05) for s, n in enumerate(noise)]
    row = bench.summary("rloo", runs)["greedy/in_range/against_base"]
    assert row["mean"] == pytest.approx(0.05) and row["low"] == pytest.approx(0.05)
    apart = bench.summary("rloo", runs)["p(1-p) of valid proposals/against_base"]
    assert apart["low"] == pytest.approx(0.05)
    alone = bench.summary("rloo", runs)["greedy/in_range"]
    assert alone["high"] - alone["low"] > 0.3


def test_a_fixed_set_has_as_many_tasks_as_there_are_shapes(bench):
    """The templates have four shapes here, and five tasks are wanted."""
    held, rounds = [0], []

    def admit(drafts):
        rounds.append(drafts)
        held[0] = min(4, held[0] + 3)

    memory = SimpleNamespace(
        kinds=["deduction"],
        tasks=SimpleNamespace(count=lambda kind: held[0]),
        levels=lambda step: {"deduction": 0.1},
    )
    proposer = SimpleNamespace(
        gate=SimpleNamespace(admit=admit), templates=lambda r, wanted: wanted
    )
    selfplay = SimpleNamespace(memory=memory, proposer=proposer, config=SimpleNamespace(seed=0))
    bench.fill(selfplay, 5)
    assert held == [4] and len(rounds) == 3, "it looked on after a round that found none"
    bench.fill(selfplay, 4)
    assert len(rounds) == 3, "there were enough"


def test_the_gain_over_all_that_was_measured_is_a_mean_of_means(bench):
    found = {"0.2": {"mean": {"gain": 0.1}}, "0.3": {"mean": {"gain": 0.3}}}
    assert bench.gained(found, "0.3") == 0.3
    assert bench.gained(found, "all") == pytest.approx(0.2)


def test_a_run_without_proposals_is_summed_up_like_any_other(bench):
    assert bench.proposer([{"step": 1, "entropy": 0.5}]) is None
    lines = {"in range": {"mean": {"gain": 0.1}}}
    run = {"variant": "fresh", "steps": 2, "seconds": 1.0, "greedy": lines, "sampled": lines}
    runs = [{**run, "seed": seed, "proposer": None} for seed in (0, 1)]
    row = bench.summary("fresh", runs)
    assert row["greedy/in range"]["mean"] == 0.1 and "fresh" in bench.shown(row)
    assert not [key for key in row if "proposals" in key]


def test_a_variant_has_parts_and_may_name_the_seed(bench, tmp_path):
    pool = tmp_path / "base-3.jsonl"
    pool.write_text("{}\n")
    variant = f"fixed,proposer.seed_tasks={tmp_path}/base-{{seed}}.jsonl"
    assert bench.overrides(variant, 3) == [f"proposer.seed_tasks={pool}"]
    before = bench.tasks_of(variant, 3)
    pool.write_text("{} \n")
    assert bench.tasks_of(variant, 2) == {} != before != bench.tasks_of(variant, 3)
    assert bench.parts("ema,shuffled") == ["ema", "shuffled"]
    assert [bench.is_variant(part) for part in ("ema", "seed=1", "none")] == [True, True, False]


def test_the_solver_s_answers_are_all_that_was_written_but_the_proposals(bench):
    rows = [{"rollouts": 324, "propose/count": 36, "propose/valid": 24}, {"rollouts": 384}]
    assert bench.answers(rows) == 288 + 384


def test_a_run_ends_by_answers_or_by_seconds(bench, monkeypatch, capsys):
    monkeypatch.setattr(bench.sys, "argv", ["learning.py", "--seconds", "3", "--answers", "9"])
    with pytest.raises(SystemExit):
        bench.main()
    assert "not allowed with" in capsys.readouterr().err


def test_the_rate_goes_by_what_is_left_of_a_budget(bench):
    """Ten dear steps, then cheap ones: the end moves away as it is found out."""
    spent = [30.0 * n for n in range(1, 11)] + [300.0 + 10 * n for n in range(1, 31)]
    ends = [bench.steps_in(600, made, one) for made, one in enumerate(spent, 1)]
    assert ends[0] == ends[9] == 20 and ends[-1] == 40
    assert all(end >= made for made, end in enumerate(ends, 1)), "no step after the end"


def test_a_pool_has_the_last_third_and_the_model_s_own_if_there_are_any(bench, tmp_path):
    def row(number, step, origin, kind="deduction"):
        return {"id": str(number), "step": step, "origin": origin, "kind": kind}

    file = tmp_path / "pools" / "base-0.jsonl"
    rows = [row(0, 6, "model"), row(1, 7, "model"), row(2, 9, "template")]
    rows += [row(10 + n, 9, "model", "induction") for n in range(200)]
    bench.write_last_tasks(rows, 9, 0, file)
    kept = [json.loads(line) for line in file.read_text().splitlines()]
    assert [r["id"] for r in kept if r["kind"] == "deduction"] == ["1"]
    assert sum(r["kind"] == "induction" for r in kept) == bench.POOL
    bench.write_last_tasks(rows[2:3], 9, 0, file)
    assert [json.loads(line)["id"] for line in file.read_text().splitlines()] == ["2"]
    file.unlink()
    bench.write_last_tasks(rows[:1], 9, 0, file)
    assert not file.exists(), "a pool of nothing"


def test_another_variant_than_base_can_be_the_one_to_pair_with(bench):
    def run(variant, gain):
        lines = {"0.2": {"mean": {"gain": gain}}}
        return {"variant": variant, "seed": 0, "steps": 1, "seconds": 1.0, "proposer": None,
                "greedy": lines, "sampled": lines}  # fmt: skip

    runs = [run("fresh", 0.1), run("frozen", 0.4), run("base", 0.9)]
    row = bench.summary("frozen", runs, "fresh")
    assert row["greedy/0.2/against_fresh"]["mean"] == pytest.approx(0.3)
    assert not [key for key in row if "against_base" in key]
    assert not [key for key in bench.summary("fresh", runs, "fresh") if "against" in key]
