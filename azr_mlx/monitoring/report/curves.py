"""Smooths curves, and averages them in buckets so that they have no more points than can be
seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from azr_mlx.types import Float64Array

POINTS = 240  # most points of a curve: about two for each pixel of a phone
NOISY = 4.0  # a curve is noisy if its ups and downs add up to this many times its range
SHORT = 12  # fewer values than this are shown as they are


def is_noisy(values: Float64Array) -> bool:
    if len(values) < SHORT:
        return False
    spread = float(values.max() - values.min())
    return spread > 0 and float(np.abs(np.diff(values)).sum()) > NOISY * spread


def window(count: int) -> int:
    """How many of ``count`` values one smoothed value averages: a twentieth, at least 5, and
    odd."""
    return max(5, count // 20) | 1


def smooth(values: Float64Array) -> Float64Array:
    """The centred moving mean. At both ends it averages fewer values. No mean is outside of the
    values, also if they are of so many magnitudes that sums lose the small ones."""
    half = window(len(values)) // 2
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    means: Float64Array = (total[high] - total[low]) / (high - low)
    return np.clip(means, values.min(initial=np.inf), values.max(initial=-np.inf))


def _starts(count: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, count, min(count, POINTS), endpoint=False).astype(np.int64))


def thinned(values: Float64Array) -> Float64Array:
    """The mean of each bucket; the values themselves if there are at most ``POINTS``."""
    starts = _starts(len(values))
    sizes = np.diff(np.append(starts, len(values)))
    return np.add.reduceat(values, starts) / sizes


def envelope(values: Float64Array) -> tuple[Float64Array, Float64Array]:
    """The lowest and the highest value of each bucket."""
    starts = _starts(len(values))
    return np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)


def ends(values: Float64Array) -> tuple[float, float]:
    """The means of the first and of the last tenth of the values."""
    part = max(1, len(values) // 10)
    return float(values[:part].mean()), float(values[-part:].mean())
