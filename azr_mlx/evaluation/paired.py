"""Two results on the same tasks: is the difference more than chance?

One HumanEval task is 0.61 points, and the interval of a greedy run is about 15 points wide; a
difference of two runs on the same tasks is known much better than either, since what makes a task
hard makes it hard for both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from azr_mlx.evaluation.passk import Estimate

RESAMPLES = 10_000
_AT_ONCE = 1_000  # resamples in memory together


def difference(
    before: Sequence[float], after: Sequence[float], draw: np.random.Generator
) -> Estimate:
    """Mean of ``after`` - ``before`` over tasks, with its 95 % interval by a paired bootstrap.

    The percentile interval (Efron 1979) over 10,000 resamples of the tasks: both scores of a task
    are drawn together. Where no task differs the interval is empty, as the bootstrap knows of no
    task that could.

    Raises:
        ValueError: the lengths differ, or there is no task.
    """
    if len(before) != len(after) or not len(before):
        raise ValueError(f"{len(before)} scores before, {len(after)} after")
    gaps = np.asarray(after, float) - np.asarray(before, float)
    # A resample's mean depends on how often each distinct gap is drawn, and on nothing else.
    values, counts = np.unique(gaps, return_counts=True)
    means = [
        draw.multinomial(len(gaps), counts / len(gaps), _AT_ONCE) @ values / len(gaps)
        for _ in range(RESAMPLES // _AT_ONCE)
    ]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Estimate(math.fsum(gaps) / len(gaps), float(low), float(high))


def mcnemar(gained: int, lost: int) -> float:
    """The p-value of McNemar's exact test (1947), two-sided, for one sample a task.

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
