"""The PPO loss in float64 numpy, with every statistic and the gradients worked out by hand.

The backends are held to this file: same terms, same order, same names. All arrays are [B, T].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from azr_mlx.backends.base import Hyper
from azr_mlx.types import Batch

Array = NDArray[np.float64]
Grads = dict[str, Array]


@dataclass(frozen=True)
class Distill:
    """The supervised batch: log-probabilities and mask, [b, t]."""

    logp: NDArray
    mask: NDArray


def ppo_loss(
    logp: NDArray,
    entropy: NDArray,
    values: NDArray | None,
    batch: Batch,
    hyper: Hyper,
    *,
    tokens: float | None = None,
    distill: Distill | None = None,
) -> tuple[float, dict[str, float], Grads]:
    """(loss, stats, gradients w.r.t. ``logp``, ``entropy``, ``values`` and ``distill_logp``).

    With w the batch's weights, m its mask and M = sum(m), r = exp(logp - old) and A the advantages:

        policy = -sum w tis min(r A, clip(r, 1 - low, 1 + high) A); A < 0: at least c A (dual clip)
        value = sum m max((v - R)^2, (v_old + clip(v - v_old, -d, d) - R)^2) / 2M
        loss = policy + value_coef value - entropy_coef sum w H
               + kl_coef sum w k3 + distill_coef nll

    ``tokens`` is M of the whole minibatch where ``batch`` is one of its micro-batches (by default
    sum(m)). Stats carry the names of ``UpdateStats``. Entries off the mask may hold anything and
    have gradient 0.
    """
    m = np.asarray(batch.mask, np.float64)
    total = max(m.sum() if tokens is None else tokens, 1.0)
    lp, ent, w = _on(logp, m), _on(entropy, m), _on(batch.weights, m)
    policy, d_policy, stats = _policy(lp, w, m, total, batch, hyper)
    value, d_values = _value(values, m, total, batch, hyper)
    kl, d_kl, kl_ref = _reference_kl(lp, w, m, total, batch, hyper)
    nll, d_distill = _distill(distill)
    loss = policy + hyper.value_coef * value - hyper.entropy_coef * (w * ent).sum()
    loss += hyper.kl_coef * kl + hyper.distill_coef * nll
    stats |= {"loss": float(loss), "value_loss": value, "kl_ref": kl_ref, "distill_loss": nll}
    stats |= {"entropy": float((m * ent).sum() / total), "tokens": float(m.sum())}
    grads = {
        "logp": d_policy + hyper.kl_coef * d_kl,
        "entropy": -hyper.entropy_coef * w,
        "values": hyper.value_coef * d_values,
        "distill_logp": hyper.distill_coef * d_distill,
    }
    return float(loss), stats, grads


def _on(x: NDArray | None, m: Array) -> Array:
    """float64, with 0 wherever the mask is 0 (even over NaN)."""
    assert x is not None
    return np.where(m > 0, np.asarray(x, np.float64), 0.0)


def _policy(
    lp: Array, w: Array, m: Array, total: float, batch: Batch, hyper: Hyper
) -> tuple[float, Array, dict[str, float]]:
    old = lp if batch.old_logp is None else _on(batch.old_logp, m)
    adv = _on(batch.advantages, m)
    log_ratio = lp - old
    ratio = np.exp(log_ratio)
    low, high = 1.0 - hyper.clip_low, 1.0 + hyper.clip_high
    plain, clipped = ratio * adv, np.clip(ratio, low, high) * adv
    surrogate = np.minimum(plain, clipped)
    slope = np.where(plain <= clipped, adv * ratio, 0.0)  # d ratio / d logp = ratio
    if hyper.dual_clip > 0:
        floor = hyper.dual_clip * adv
        bounded = (adv < 0) & (surrogate < floor)
        surrogate, slope = np.where(bounded, floor, surrogate), np.where(bounded, 0.0, slope)
    gap = np.zeros_like(lp) if batch.sampler_logp is None else old - _on(batch.sampler_logp, m)
    corrected = hyper.tis_cap > 0 and batch.sampler_logp is not None
    tis = np.minimum(np.exp(gap), hyper.tis_cap) if corrected else np.ones_like(lp)
    outside = (ratio < low) | (ratio > high)
    loss = float(-(w * tis * surrogate).sum())
    stats = {
        "policy_loss": loss,
        "approx_kl": float((m * (ratio - 1.0 - log_ratio)).sum() / total),
        "clip_frac": float((m * outside).sum() / total),
        "ratio_max": float((m * ratio).max(initial=0.0)),
        "mismatch_mean": float((m * np.abs(gap)).sum() / total),
        "mismatch_max": float((m * np.abs(gap)).max(initial=0.0)),
    }
    return loss, -w * tis * slope, stats


def _value(
    values: NDArray | None, m: Array, total: float, batch: Batch, hyper: Hyper
) -> tuple[float, Array]:
    if values is None or batch.returns is None:
        return 0.0, np.zeros_like(m)
    v = _on(values, m)
    error = v - _on(batch.returns, m)
    slope = error
    squared = error**2
    if hyper.value_clip > 0 and batch.values is not None:
        old = _on(batch.values, m)
        moved = v - old
        held = old + np.clip(moved, -hyper.value_clip, hyper.value_clip) - _on(batch.returns, m)
        slope = np.where(held**2 > squared, held * (np.abs(moved) <= hyper.value_clip), error)
        squared = np.maximum(squared, held**2)
    return float(0.5 * (m * squared).sum() / total), m * slope / total


def _reference_kl(
    lp: Array, w: Array, m: Array, total: float, batch: Batch, hyper: Hyper
) -> tuple[float, Array, float]:
    """(k3 in the loss, its gradient, the k1 statistic)."""
    if batch.ref_logp is None:
        return 0.0, np.zeros_like(lp), 0.0
    gap = _on(batch.ref_logp, m) - lp
    kl_ref = float(-(m * gap).sum() / total)
    if hyper.kl_coef <= 0:
        return 0.0, np.zeros_like(lp), kl_ref
    return float((w * (np.exp(gap) - gap - 1.0)).sum()), w * (1.0 - np.exp(gap)), kl_ref


def _distill(distill: Distill | None) -> tuple[float, Array]:
    if distill is None:
        return 0.0, np.zeros((0, 0))
    m = np.asarray(distill.mask, np.float64)
    total = max(m.sum(), 1.0)
    return float(-_on(distill.logp, m).sum() / total), -m / total
