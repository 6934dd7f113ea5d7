"""The gated delta rule in chunks, for training: exact, and with few large matrix products.

A layer keeps a state S [Dv, Dk], which each token lets fade and then corrects (Yang et al., arXiv
2412.06464; with a gate for each channel, Kimi Linear, arXiv 2510.26692):

    d_t = b_t (v_t - S_{t-1} diag(g_t) k_t)    S_t = S_{t-1} diag(g_t) + d_t k_t^T    y_t = S_t q_t

mlx-lm's operations take one token at a time, and the backward pass keeps a state for each of them.
Here the corrections d of a chunk are the solution of a triangular system. With the decay
D_ts = g_{s+1} ... g_t between two tokens of the chunk, and S the state before it,

    (I + A) d = b (v - S (D_t0 k_t))      A_ts = b_t k_t^T D_ts k_s,  s < t

so one state per chunk is kept. No exponential of a positive number is taken, and no difference of
sums of gates, so neither strong nor weak gates lose digits.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models import gated_delta as library

CHUNK = 64  # tokens
FEW = 4  # tokens; with fewer, one step for each is faster
BASE = 4  # rows of the blocks that are inverted as a power series, which would be inexact for more
FAINT = 1e-35  # gates below are as good as 0, and would have no logarithm

_step_by_step = library.gated_delta_ops


def install(model: nn.Module) -> None:
    """Make mlx-lm compute the gated delta rule in chunks wherever it does so without a kernel, if
    this model uses mlx-lm's function, and chunks give what that gives. Other models in the process
    are affected too."""
    namespaces = [vars(sys.modules[type(module).__module__]) for module in model.modules()]
    known = library.gated_delta_update
    if any(names.get("gated_delta_update") is known for names in namespaces) and _agrees():
        library.gated_delta_ops = gated_delta


@cache
def _agrees() -> bool:
    """Whether the installed mlx-lm computes, step by step, what is computed here."""
    keys = mx.random.split(mx.random.key(0), 6)
    shapes = [(1, 9, 1, 4), (1, 9, 1, 4), (1, 9, 2, 3), (1, 9, 2), (1, 9, 2), (1, 2, 3, 4)]
    given = [
        mx.random.uniform(shape=shape, key=key) for shape, key in zip(shapes, keys, strict=True)
    ]
    pairs = zip(gated_delta(*given), _step_by_step(*given), strict=True)
    return all(bool(mx.allclose(new, old, atol=1e-4).item()) for new, old in pairs)


def gated_delta(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    g: mx.array,
    beta: mx.array,
    state: mx.array | None = None,
    mask: mx.array | None = None,
) -> tuple[mx.array, mx.array]:
    """Replaces mlx-lm's ``gated_delta_ops``. Returns (y [B, T, Hv, Dv], state [B, Hv, Dv, Dk]).

    ``q`` and ``k`` are [B, T, Hk, Dk], ``v`` [B, T, Hv, Dv], the gates ``g`` [B, T, Hv] or
    [B, T, Hv, Dk], ``beta`` [B, T, Hv]. Tokens outside of ``mask`` [B, T] do not change the state;
    their y means nothing.
    """
    if q.shape[1] < FEW:
        return _step_by_step(q, k, v, g, beta, state, mask)
    batch, length, shared, _ = k.shape
    heads, width = v.shape[2:]
    if state is None:
        state = mx.zeros((batch, heads, width, k.shape[-1]))
    fade = mx.log(mx.maximum(g.astype(mx.float32), FAINT))
    if mask is not None:
        beta = mx.where(mask[..., None], beta, 0)
        fade = mx.where(mask.reshape(*mask.shape, *[1] * (fade.ndim - 2)), fade, 0)
    size = min(CHUNK, 1 << (length - 1).bit_length())
    chunks = [_chunks(array, shared, size) for array in (q, k, v, fade, beta[..., None])]
    y, last = _pass(*chunks, state.reshape(batch, shared, heads // shared, *state.shape[2:]))
    y = y.reshape(batch, heads, -1, width)[:, :, :length].swapaxes(1, 2)
    return y.astype(q.dtype), last.reshape(state.shape).astype(state.dtype)


def _chunks(array: mx.array, shared: int, size: int) -> mx.array:
    """[B, T, H, D] as float32 [B, Hk, H / Hk, N, C, D]; [B, T, H] has D = 1. What is added to T is
    0."""
    batch, length, heads = array.shape[:3]
    array = array.astype(mx.float32).reshape(batch, length, shared, heads // shared, -1)
    array = mx.pad(array, [(0, 0), (0, -length % size), (0, 0), (0, 0), (0, 0)])
    return mx.unflatten(array.transpose(0, 2, 3, 1, 4), 3, (-1, size))


def _pass(
    q: mx.array, k: mx.array, v: mx.array, fade: mx.array, beta: mx.array, state: mx.array
) -> tuple[mx.array, mx.array]:
    """(y [..., N, C, Dv], the last state) of chunks. ``fade`` [..., N, C, 1 or Dk] are the gates'
    logarithms."""
    each = _by_scalars if fade.shape[-1] == 1 else _by_channels
    weights, scores = each(q, k, fade)
    solved = _inverse(mx.tril(beta * weights, -1))
    since, until = mx.exp(mx.cumsum(fade, -2)), mx.exp(_after(fade))
    own, from_state = solved @ (beta * v), solved @ (beta * since * k)
    asked, kept, whole = q * since, k * until, since[..., -1:, :]
    ys = []
    for n in range(v.shape[3]):
        at = (slice(None),) * 3 + (n,)
        before = state.swapaxes(-1, -2)
        delta = own[at] - from_state[at] @ before
        ys.append(asked[at] @ before + scores[at] @ delta)
        state = state * whole[at] + delta.swapaxes(-1, -2) @ kept[at]
    return mx.stack(ys, 3), state


def _by_scalars(q: mx.array, k: mx.array, fade: mx.array) -> tuple[mx.array, mx.array]:
    """k_t^T D_ts k_s and q_t^T D_ts k_s for s <= t, [..., N, C, C] each. One gate per token."""
    square = (*fade.shape[:-1], fade.shape[-2])
    # Each is a sum over the tokens after s and up to t. A difference of two sums from the chunk's
    # beginning would lose digits.
    upto = mx.tril(mx.broadcast_to(fade.swapaxes(-1, -2), square))
    decay = mx.tril(mx.exp(upto @ mx.tril(mx.ones(square[-2:]), -1)))
    turned = k.swapaxes(-1, -2)
    return decay * (k @ turned), decay * (q @ turned)


def _by_channels(q: mx.array, k: mx.array, fade: mx.array) -> tuple[mx.array, mx.array]:
    """As ``_by_scalars``, with a gate per token and channel. Two halves of a block are related
    through the border between them: what remains of s there, times what remains of that at t."""
    q, k = mx.broadcast_to(q, fade.shape), mx.broadcast_to(k, fade.shape)
    weights, scores = (mx.sum(x * k, -1)[..., None, None] for x in (k, q))
    size = 1
    while size < fade.shape[-2]:
        early, late = _halves(fade, size)
        (k_early, k_late), (_, q_late) = _halves(k, size), _halves(q, size)
        remains = mx.exp(mx.cumsum(late, -2))
        border = (k_early * mx.exp(_after(early))).swapaxes(-1, -2)
        weights = _joined(weights, (k_late * remains) @ border)
        scores = _joined(scores, (q_late * remains) @ border)
        size *= 2
    return weights.squeeze(-3), scores.squeeze(-3)


def _after(fade: mx.array) -> mx.array:
    """For each token [..., T, D] the sum over the later ones."""
    return mx.cumsum(fade, -2, reverse=True, inclusive=False)


def _halves(array: mx.array, size: int) -> tuple[mx.array, mx.array]:
    """The first and the second halves [..., C / (2 size), size, D] of blocks of tokens."""
    pairs = mx.unflatten(array, -2, (-1, 2, size))
    return pairs[..., 0, :, :], pairs[..., 1, :, :]


def _joined(blocks: mx.array, below: mx.array) -> mx.array:
    """Lower triangular blocks [..., n, s, s] in pairs, with ``below`` [..., n / 2, s, s] in the
    corner that a pair leaves: [..., n / 2, 2 s, 2 s]."""
    first, second = blocks[..., 0::2, :, :], blocks[..., 1::2, :, :]
    top = mx.concatenate([first, mx.zeros_like(first)], -1)
    return mx.concatenate([top, mx.concatenate([below, second], -1)], -2)


@mx.custom_function
def _inverse(lower: mx.array) -> mx.array:
    """(I + A)^-1 for strictly lower triangular ``lower`` A [..., C, C], with C a power of two."""
    size, length = BASE, lower.shape[-1]
    one = mx.eye(BASE)
    block = _diagonal(mx.unflatten(mx.unflatten(lower, -1, (-1, BASE)), -3, (-1, BASE)))
    found = (one - block) @ (one + block @ block)
    while size < length:
        halves = mx.unflatten(mx.unflatten(lower, -1, (-1, 2, size)), -4, (-1, 2, size))
        below = _diagonal(halves[..., :, 1, :, :, 0, :])
        first, second = found[..., 0::2, :, :], found[..., 1::2, :, :]
        found = _joined(found, -(second @ below @ first))
        size *= 2
    return found.squeeze(-3)


@_inverse.vjp
def _inverse_vjp(primals: Any, cotangent: mx.array, output: mx.array) -> mx.array:
    turned = output.swapaxes(-1, -2)
    return -(turned @ cotangent @ turned)


def _diagonal(blocks: mx.array) -> mx.array:
    """The blocks [..., n, s, s] on the diagonal of [..., n, s, n, s]."""
    return mx.moveaxis(mx.diagonal(blocks, axis1=-4, axis2=-2), -1, -3)
