"""Paired statistics against brute force and known values."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from azr_mlx import rng
from azr_mlx.evaluation.paired import difference, mcnemar

pytestmark = pytest.mark.pure


def draw(seed: int = 0) -> np.random.Generator:
    return rng.generator(seed, "test", 0)


def by_enumeration(gained: int, lost: int) -> float:
    """The share of all outcomes of fair coins that are at least as lopsided."""
    n = gained + lost
    outcomes = list(product((0, 1), repeat=n))
    far = abs(gained - lost)
    return float(Fraction(sum(abs(2 * sum(o) - n) >= far for o in outcomes), len(outcomes)))


def test_mcnemar_equals_the_enumeration_of_all_outcomes():
    for gained in range(7):
        for lost in range(7):
            assert mcnemar(gained, lost) == pytest.approx(by_enumeration(gained, lost), abs=1e-15)


def test_mcnemar_s_known_values():
    assert mcnemar(0, 0) == 1.0 and mcnemar(3, 3) == 1.0
    assert mcnemar(5, 0) == pytest.approx(0.0625) and mcnemar(0, 6) == pytest.approx(0.03125)
    # both tails of 18 coins beyond 4: 1 + 18 + 153 + 816 + 3060 outcomes each
    assert mcnemar(14, 4) == pytest.approx(2 * 4048 / 2**18, abs=1e-15)
    assert 0.0 < mcnemar(2000, 1000) < 1e-70
    with pytest.raises(ValueError, match="-1 lost"):
        mcnemar(1, -1)


def resampled(before, after, seed: int, times: int = 4000) -> tuple[float, float]:
    """The same interval by drawing tasks one by one."""
    gaps, numbers = np.subtract(after, before), np.random.default_rng(seed)
    means = [gaps[numbers.integers(0, len(gaps), len(gaps))].mean() for _ in range(times)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


@pytest.mark.parametrize("kind", ["one sample", "several"])
def test_the_bootstrap_equals_drawing_tasks_one_by_one(kind):
    numbers = np.random.default_rng(5)
    if kind == "one sample":
        before, after = (numbers.random(164) < 0.4).astype(float), (numbers.random(164) < 0.5) * 1.0
    else:
        before, after = numbers.random(164), numbers.random(164) * 0.7
    got = difference(before, after, draw())
    low, high = resampled(before, after, 1)
    assert got.value == pytest.approx(float(np.mean(after - before)), abs=1e-12)
    assert got.low == pytest.approx(low, abs=0.012) and got.high == pytest.approx(high, abs=0.012)
    assert got.low < got.value < got.high


def test_pairing_narrows_the_interval():
    """Equal hardness cancels: two results that agree on most tasks differ by little."""
    numbers = np.random.default_rng(7)
    before = (numbers.random(200) < 0.5).astype(float)
    after = before.copy()
    after[:6] = 1 - after[:6]
    paired = difference(before, after, draw())
    shuffled = difference(before, numbers.permutation(after), draw())
    assert paired.high - paired.low < 0.5 * (shuffled.high - shuffled.low)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    hits, numbers = 0, np.random.default_rng(11)
    for i in range(200):
        hardness = numbers.random(120)
        before = (numbers.random(120) < hardness).astype(float)
        after = (numbers.random(120) < np.minimum(hardness + 0.1, 1)).astype(float)
        truth = float(np.mean(np.minimum(hardness + 0.1, 1) - hardness))
        got = difference(before, after, draw(i))
        hits += got.low <= truth <= got.high
    assert 0.90 <= hits / 200 <= 0.99


def test_equal_results_differ_by_nothing():
    got = difference([0.0, 1.0, 0.5], [0.0, 1.0, 0.5], draw())
    assert (got.value, got.low, got.high) == (0.0, 0.0, 0.0)


def test_the_same_key_gives_the_same_interval_and_another_another():
    before, after = [0.0, 1.0, 0.0, 1.0, 0.3] * 9, [1.0, 1.0, 0.0, 0.2, 0.7] * 9
    assert difference(before, after, draw(3)) == difference(before, after, draw(3))
    assert difference(before, after, draw(3)) != difference(before, after, draw(4))


def test_unequal_lengths_are_refused():
    for before, after in (([1.0], [1.0, 0.0]), ([], [])):
        with pytest.raises(ValueError, match="scores before"):
            difference(before, after, draw())
