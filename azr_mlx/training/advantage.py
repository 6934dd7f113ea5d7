"""Advantage estimators: one function each, over numpy arrays, float64 inside and float32 out.

A *cell* is the label of one pair (role, kind), such as "solve/deduction": the paper keeps six
baselines, one per cell. A *score* is the scalar return of a row, and a *group* is the set of
rollouts that share a baseline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from azr_mlx.types import Float64Array, FloatArray

ESTIMATORS = ("gae", "rloo", "grpo", "dr_grpo", "trr++", "ema")
UNSCALED = frozenset({"rloo", "dr_grpo"})  # their advantages are on the scale of the rewards
EPS = 1e-6
GRPO_EPS = 1e-4  # as in TRL


@dataclass(frozen=True, slots=True)
class Advantages:
    """float32 [B, T], 0 outside the mask. ``returns`` are the targets of the value head, None if it
    is not used."""

    advantages: FloatArray
    returns: FloatArray | None


@dataclass(slots=True)
class EmaBaselines:
    """A running mean and variance per cell, for batches that are too small to give their own.

    Samples are forgotten exponentially: each ``update`` multiplies the weight of all earlier scores
    of a cell by ``decay``, then adds the new scores with weight 1 each. So a cell is unbiased from
    its first batch on, large batches count for more than small ones, and a cell that is not in the
    batch keeps its values. ``state`` maps a cell to [weight, mean, sum of squared deviations].
    """

    decay: float = 0.9
    state: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0.0 <= self.decay <= 1.0:
            raise ValueError(f"ppo.ema_decay {self.decay}: not in [0, 1]")

    def update(self, scores: ArrayLike, cells: Sequence[str]) -> None:
        """Decay the old weights, then merge a batch of scores [B] and their cells [B] (Chan, Golub
        and LeVeque 1983)."""
        values = np.asarray(scores, np.float64)
        for cell, rows in _members(cells).items():
            new = values[rows]
            weight, mean, squares = self.state.get(cell, [0.0, 0.0, 0.0])
            weight, squares = weight * self.decay, squares * self.decay
            total, delta = weight + len(new), float(new.mean()) - mean
            squares += float(((new - new.mean()) ** 2).sum()) + delta**2 * weight * len(new) / total
            self.state[cell] = [total, mean + delta * len(new) / total, squares]

    def mean(self, cell: str) -> float:
        return self.state[cell][1]

    def std(self, cell: str) -> float:
        weight, _, squares = self.state[cell]
        return float(np.sqrt(squares / weight))

    def to_json(self) -> dict[str, Any]:
        return {"decay": self.decay, "state": {k: list(v) for k, v in sorted(self.state.items())}}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> EmaBaselines:
        return cls(row["decay"], {k: [float(x) for x in v] for k, v in row["state"].items()})


def gae(
    rewards: ArrayLike, values: ArrayLike, mask: ArrayLike, gamma: float, lam: float
) -> tuple[FloatArray, FloatArray]:
    """(advantages, returns) [B, T] by generalised advantage estimation (arXiv 1506.02438, Eq. 16).

        delta_t = r_t + gamma V_{t+1} - V_t;   A_t = delta_t + gamma lam A_{t+1};   returns = A + V

    The episode of a row is its masked tokens; tokens between them are skipped. ``values[b, t]`` is
    V before token t; after the last masked token both V and A are 0. All arrays are [B, T]; a row
    may have an empty mask.
    """
    r, v = np.asarray(rewards, np.float64), np.asarray(values, np.float64)
    kept = np.asarray(mask) > 0
    advantages = np.zeros(r.shape)
    next_value, next_advantage = np.zeros(len(r)), np.zeros(len(r))
    for t in range(r.shape[1] - 1, -1, -1):
        delta = r[:, t] + gamma * next_value - v[:, t]
        now = delta + gamma * lam * next_advantage
        next_advantage = np.where(kept[:, t], now, next_advantage)
        next_value = np.where(kept[:, t], v[:, t], next_value)
        advantages[:, t] = np.where(kept[:, t], now, 0.0)
    returns = np.where(kept, advantages + v, 0.0)
    return advantages.astype(np.float32), returns.astype(np.float32)


def rloo(scores: ArrayLike, groups: ArrayLike) -> FloatArray:
    """[B] score minus the mean score of the *other* rollouts of its group (arXiv 2402.14740).

    A group of one gets 0, as there is nothing to compare it with.
    """
    r, (mean, size) = np.asarray(scores, np.float64), _group_means(scores, groups)
    return ((r - mean) * size / np.maximum(size - 1, 1)).astype(np.float32)


def grpo(scores: ArrayLike, groups: ArrayLike, eps: float = GRPO_EPS) -> FloatArray:
    """[B] (score - group mean) / (group deviation + eps) (arXiv 2402.03300, section 4.1.2).

    The deviation is that of a sample (n - 1), as in TRL and verl; a group of one gets 0.
    """
    r, (mean, size) = np.asarray(scores, np.float64), _group_means(scores, groups)
    squares, _ = _group_means((r - mean) ** 2, groups)
    deviation = np.sqrt(squares * size / np.maximum(size - 1, 1))
    return ((r - mean) / (deviation + eps)).astype(np.float32)


def dr_grpo(scores: ArrayLike, groups: ArrayLike) -> FloatArray:
    """[B] score - group mean, with no division by the deviation (arXiv 2503.20783)."""
    mean, _ = _group_means(scores, groups)
    return (np.asarray(scores, np.float64) - mean).astype(np.float32)


def trr(
    scores: ArrayLike, cells: Sequence[str], lengths: ArrayLike | None = None, eps: float = EPS
) -> FloatArray:
    """[B] Task-Relative REINFORCE++ (arXiv 2505.03335, Eq. 8): (score - mean) / std of the cell.

    Every row counts once in the mean and (population) deviation, as in the equation. With
    ``lengths`` [B] it counts once per token, as if rewards were broadcast to tokens and then
    whitened. A cell with one row, or with equal scores, gets 0, as it has no signal.
    """
    r = np.asarray(scores, np.float64)
    weights = np.ones(len(r)) if lengths is None else np.asarray(lengths, np.float64)
    out = np.zeros(len(r))
    for rows in _members(cells).values():
        if weights[rows].sum() > 0:
            mean, deviation = _moments(r[rows], weights[rows])
            out[rows] = (r[rows] - mean) / (deviation + eps)
    return out.astype(np.float32)


def ema_advantage(
    scores: ArrayLike,
    cells: Sequence[str],
    baselines: EmaBaselines,
    *,
    scaled: bool = True,
    eps: float = EPS,
) -> FloatArray:
    """[B] (score - running mean) / running deviation of the cell, including this batch. If not
    ``scaled``, without the division.

    ``baselines`` are updated first. That bounds the result if the past had no variance, and the
    first batch needs no special treatment. A row's own score then moves its baseline by 1 / weight.
    This scales the expected gradient but does not change its direction (as with ``dr_grpo``
    compared to ``rloo``).
    """
    r = np.asarray(scores, np.float64)
    baselines.update(r, cells)
    out = np.zeros(len(r))
    for cell, rows in _members(cells).items():
        scale = baselines.std(cell) + eps if scaled else 1.0
        out[rows] = (r[rows] - baselines.mean(cell)) / scale
    return out.astype(np.float32)


def whiten(adv: ArrayLike, mask: ArrayLike, cells: Sequence[str], eps: float = EPS) -> FloatArray:
    """[B, T] with mean 0 and (population) deviation 1 over the masked tokens of each cell.

    Meant for ``gae``: ``grpo``, ``trr++`` and ``ema`` normalise their results already. Outside the
    mask it is 0. A cell with fewer than two tokens, or with equal tokens only, is left as it is: it
    has no deviation to divide by, and subtracting the mean would erase its only information, the
    difference from a baseline that does not come from this batch.
    """
    x, kept = np.asarray(adv, np.float64), np.asarray(mask) > 0
    out = np.where(kept, x, 0.0)
    for rows in _members(cells).values():
        chosen = np.zeros(kept.shape, bool)
        chosen[rows] = kept[rows]
        tokens = x[chosen]
        if len(tokens) < 2 or np.ptp(tokens) <= EPS * np.abs(tokens).max():
            continue
        mean, deviation = _moments(tokens, np.ones(len(tokens)))
        out[chosen] = (tokens - mean) / (deviation + eps)
    return out.astype(np.float32)


def estimate(
    name: str,
    *,
    rewards: ArrayLike,
    scores: ArrayLike,
    groups: ArrayLike,
    cells: Sequence[str],
    mask: ArrayLike,
    values: ArrayLike | None = None,
    gamma: float = 1.0,
    lam: float = 0.95,
    ema: EmaBaselines | None = None,
    token_weighted: bool = False,
    scaled: bool = True,
) -> Advantages:
    """Advantages [B, T] by the estimator ``name``, one of ``ESTIMATORS``; they are not whitened.

    ``rewards`` [B, T] are the token rewards (``batch.token_rewards``), ``scores`` [B] the task
    rewards, ``groups`` [B] and ``cells`` [B] as above, ``values`` [B, T] the outputs of the value
    head (``gae`` only).

    The estimators without a critic give one number per row, which each of its masked tokens gets.
    They use the return of a row, the undiscounted sum of its token rewards, so a KL term in these
    is part of it. A row without a masked token has no token rewards; it counts in the baselines
    with its score. ``ema`` updates its baselines, and is only divided by deviations if ``scaled``.

    Raises ValueError if the name is unknown, if ``gae`` gets no values, or ``ema`` no baselines.
    """
    kept = np.asarray(mask) > 0
    if name == "gae":
        if values is None:
            raise ValueError("ppo.advantage gae: needs values, but the backend returned none")
        return Advantages(*gae(rewards, values, mask, gamma, lam))
    total = np.where(kept, np.asarray(rewards, np.float64), 0.0).sum(axis=1)
    # The rewards are float32. Scores are rounded in the same way, so that equal ones stay equal.
    total = np.where(kept.any(axis=1), total, np.asarray(scores, np.float32))
    if name == "ema":
        if ema is None:
            raise ValueError("ppo.advantage ema: needs its running baselines (EmaBaselines)")
        scalar = ema_advantage(total, cells, ema, scaled=scaled)
    elif name == "trr++":
        scalar = trr(total, cells, kept.sum(axis=1) if token_weighted else None)
    elif name in _GROUPED:
        scalar = _GROUPED[name](total, groups)
    else:
        raise ValueError(f"ppo.advantage {name!r}: unknown; use one of {', '.join(ESTIMATORS)}")
    return Advantages(np.where(kept, scalar[:, None], np.float32(0.0)), None)


def explained_variance(values: ArrayLike, returns: ArrayLike, mask: ArrayLike) -> float:
    """1 - Var(returns - values) / Var(returns) over the masked tokens.

    1 is a perfect critic, 0 a constant one. It is also 0 if the returns do not vary, as there is
    nothing to explain.
    """
    kept = np.asarray(mask) > 0
    target = np.asarray(returns, np.float64)[kept]
    error = target - np.asarray(values, np.float64)[kept]
    spread = float(target.var()) if target.size else 0.0
    return 1.0 - float(error.var()) / spread if spread > 0.0 else 0.0


def _members(cells: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """The row indices of each cell; cells in order of appearance."""
    labels = np.asarray(cells, dtype=str)
    return {str(c): np.flatnonzero(labels == c) for c in dict.fromkeys(labels.tolist())}


def _moments(x: Float64Array, weights: Float64Array) -> tuple[float, float]:
    """Weighted mean and population deviation."""
    mean = float(np.average(x, weights=weights))
    return mean, float(np.sqrt(np.average((x - mean) ** 2, weights=weights)))


def _group_means(scores: ArrayLike, groups: ArrayLike) -> tuple[Float64Array, Float64Array]:
    """For each row, the mean of its group and the size of its group, [B] each."""
    r = np.asarray(scores, np.float64)
    _, inverse, counts = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    sums = np.bincount(inverse, weights=r, minlength=len(counts))
    return (sums / counts)[inverse], counts[inverse].astype(np.float64)


_GROUPED = {"rloo": rloo, "dr_grpo": dr_grpo, "grpo": grpo}
