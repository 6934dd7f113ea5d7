"""pass@k, unbiased; intervals of means over tasks; and whether two results on the same tasks differ
by more than chance.

One HumanEval task is 0.61 points, and the interval of a greedy run is about 15 points wide. The
difference of two runs on the same tasks is known much better than either, since what makes a task
hard makes it hard for both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from azr_mlx.errors import UsageError

Z95 = 1.959963984540054  # the normal distribution's 0.975 quantile
RESAMPLES = 10_000  # resamples of the bootstrap
_AT_ONCE = 1_000  # resamples in memory together


def pass_at_k(n: int, c: int, k: int) -> float:
    """1 - C(n-c, k) / C(n, k): the chance that k of n samples, c of them right, hold a right one.

    The unbiased estimator of Chen et al. (arXiv 2107.03374), equation 1, in exact integers.

    Raises:
        UsageError: k > n or k < 1. (The reference gives 1.0 for k > n, even with c = 0.)
        ValueError: c is not in [0, n].
    """
    check_k(k, n)
    if not 0 <= c <= n:
        raise ValueError(f"c = {c} right samples of n = {n}")
    every = math.comb(n, k)
    return (every - math.comb(n - c, k)) / every


def check_k(k: int, n: int) -> None:
    """Raise UsageError if pass@k cannot be estimated from n samples."""
    if k < 1:
        raise UsageError(f"--k {k}: must be at least 1")
    if k > n:
        raise UsageError(
            f"--k {k}: needs {k} samples per task or more, there are {n}; --num-samples {k}"
        )


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over tasks and its 95 % interval."""

    value: float
    low: float
    high: float


def estimate(scores: Sequence[float], samples: int) -> Estimate:
    """Mean and 95 % interval of task scores in [0, 1], the tasks being drawn from a larger lot.

    Wilson's score interval (1927) with the effective sample size N p (1-p) / s^2 of Korn and
    Graubard (1998), where s^2 is the variance of the N scores. With one sample per task that is
    Wilson's interval for N tasks. Scores between 0 and 1 vary less and count for more, but for no
    more than ``samples``, the number of verdicts in all. At 0 and 1 the interval keeps a width.

    Raises:
        ValueError: there are no scores.
    """
    size = len(scores)
    if not size:
        raise ValueError("no task scores")
    mean = math.fsum(scores) / size
    variance = math.fsum((s - mean) ** 2 for s in scores) / size
    spread = mean * (1.0 - mean)
    effective = float(size)
    if spread > 0.0:
        effective = min(size * spread / variance, samples) if variance > 0.0 else float(samples)
    low, high = wilson(mean, max(effective, size))
    return Estimate(mean, low, high)


def wilson(share: float, n: float) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share observed over ``n`` trials."""
    z2 = Z95 * Z95 / n
    centre = (share + z2 / 2.0) / (1.0 + z2)
    half = Z95 * math.sqrt(share * (1.0 - share) / n + z2 / (4.0 * n)) / (1.0 + z2)
    # Exact at the ends, where rounding would leave 1e-17, and never outside of them.
    low = centre - half if share > 0.0 else 0.0
    return max(low, 0.0), min(centre + half, 1.0) if share < 1.0 else 1.0


def difference(
    before: Sequence[float], after: Sequence[float], draw: np.random.Generator
) -> Estimate:
    """Mean of ``after`` - ``before`` over tasks, with its 95 % interval by a paired bootstrap.

    The percentile interval (Efron 1979) over 10,000 resamples of the tasks: both scores of a task
    are drawn together. If all tasks differ alike, a bootstrap knows of none that could differ
    otherwise: then half a task that is lost and half a task that is gained are drawn as well, as
    Agresti and Min (2005) add halves to counts of pairs.

    Raises:
        ValueError: the lengths differ, or there is no task.
    """
    if len(before) != len(after) or not len(before):
        raise ValueError(f"{len(before)} scores before, {len(after)} after")
    gaps = np.asarray(after, float) - np.asarray(before, float)
    # A resample's mean depends on how often each distinct gap is drawn, and on nothing else.
    values, counts = np.unique(gaps, return_counts=True)
    if len(values) == 1:
        values, counts = np.array([-1.0, values[0], 1.0]), np.array([0.5, counts[0], 0.5])
    means = [
        draw.multinomial(len(gaps), counts / counts.sum(), _AT_ONCE) @ values / len(gaps)
        for _ in range(RESAMPLES // _AT_ONCE)
    ]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Estimate(math.fsum(gaps) / len(gaps), float(low), float(high))


def mcnemar(gained: int, lost: int) -> float:
    """The p-value of McNemar's exact test (1947), two-sided, for one sample per task.

    ``gained`` tasks pass only after, ``lost`` ones only before; if nothing has changed, each of
    them is a toss of a fair coin.

    Raises:
        ValueError: a count is negative.
    """
    if gained < 0 or lost < 0:
        raise ValueError(f"{gained} gained, {lost} lost")
    n = gained + lost
    tail = sum(math.comb(n, i) for i in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / (1 << n))
