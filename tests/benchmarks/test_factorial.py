"""Half of all combinations of changes: what they add comes out of runs in which it is known."""

from __future__ import annotations

import random

import pytest

from tests.conftest import benchmark_script

pytestmark = pytest.mark.pure
CHANGES = ["ema", "kl", "proposer.reward=frontier,solver.binary_reward=true", "rloo", "share"]
ADDS = dict(zip(CHANGES, [0.02, 0.0, -0.01, 0.005, 0.03], strict=True))


@pytest.fixture(scope="module")
def bench():
    with benchmark_script("factorial") as script:
        yield script


def runs_of(bench, noise, seeds=2):
    draw = random.Random(0)
    out = []
    for seed in range(seeds):
        for variant in bench.design(CHANGES):
            gain = 0.05 + 0.04 * seed + sum(v for k, v in ADDS.items() if k in variant)
            lines = {"0.2": {"mean": {"gain": gain + draw.gauss(0, noise)}}}
            out.append({"variant": variant, "seed": seed, "greedy": lines, "sampled": lines,
                        "proposer": {"valid": gain, "all": gain / 2}})  # fmt: skip
    return out


def test_each_change_and_each_pair_is_balanced(bench):
    made = bench.design(CHANGES)
    assert len(made) == len(set(made)) == 16 and made[0] == "base"
    for one in CHANGES:
        assert sum(one in v for v in made) == 8
        for other in set(CHANGES) - {one}:
            assert sum(one in v and other in v for v in made) == 4


def test_effects_are_found_exactly_if_there_is_no_noise(bench):
    found = bench.effects(runs_of(bench, 0.0))
    for measure in ("greedy/0.2", "greedy/all", "sampled/all", "p(1-p) of valid"):
        told = {name: row["effect"] for name, row in found[measure].items()}
        assert told == {name: pytest.approx(100 * adds, abs=0.01) for name, adds in ADDS.items()}
    assert found["p(1-p) of all"]["ema"]["effect"] == pytest.approx(1.0)


def test_the_interval_is_that_of_two_means(bench):
    """Of a balanced design: the standard error is 2 s / sqrt(n)."""
    runs = runs_of(bench, 0.01, seeds=4)
    row = bench.effects(runs)["greedy/0.2"]["ema"]
    gains = [run["greedy"]["0.2"]["mean"]["gain"] for run in runs]
    on = ["ema" in run["variant"] for run in runs]
    means = [sum(g for g, o in zip(gains, on, strict=True) if o is w) / 32 for w in (True, False)]
    assert row["effect"] == pytest.approx(100 * (means[0] - means[1]), abs=0.01)
    assert row["low"] < 2 < row["high"]
    assert row["high"] - row["low"] == pytest.approx(2 * 2.26 * 2 * 1.0 / 8, rel=0.25)


def test_changes_that_are_never_apart_are_one_and_too_few_runs_are_refused(bench):
    assert list(bench.columns([["base"], ["a", "b"], ["c"], ["a", "b", "c"]])) == ["a,b", "c"]
    with pytest.raises(ValueError, match="too few runs"):
        bench.effects(runs_of(bench, 0.0)[:5])
