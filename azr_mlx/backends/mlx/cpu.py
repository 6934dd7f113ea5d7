"""Faster versions, for a CPU, of functions that mlx-lm's models compute slowly there.

On a CPU, MLX's exponential takes 12 ns per element and its power function (from libm) 5 ns. MLX's
attention and SwiGLU also compute their exponentials a second time in the backward pass; the
functions here keep them instead. In self-play this costs more of an update's time than the matrix
products. Results agree up to float32 rounding. Other devices use MLX's own functions.
"""

from __future__ import annotations

import math
import sys
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models import activations
from mlx_lm.models import base as library
from mlx_lm.tuner.lora import LoRALinear

MASKED = -1e30  # score of a slot that a query does not see; its weight is then set to 0
FEW = 8192  # entries; with fewer, one slow operation is faster than four fast ones
_LIBRARY = {
    "scaled_dot_product_attention": library.scaled_dot_product_attention,
    "swiglu": activations.swiglu,
}


def install(model: nn.Module) -> None:
    """Make the Python modules that define this model's layers use the functions below, and make its
    LoRA layers ``FusedLoRALinear``. Other models from the same Python modules are affected too."""
    replacing = {"scaled_dot_product_attention": attention, "swiglu": swiglu}
    for name in {type(module).__module__ for module in model.modules()}:
        namespace = vars(sys.modules[name])
        for key, function in _LIBRARY.items():
            if namespace.get(key) is function:
                namespace[key] = replacing[key]
    for module in model.modules():
        if type(module) is LoRALinear:
            module.__class__ = FusedLoRALinear


class FusedLoRALinear(LoRALinear):
    """mlx-lm's LoRA layer, with its last product and the sum in one operation."""

    def __call__(self, x: mx.array) -> mx.array:
        y = self.linear(x)
        if y.dtype != self.lora_a.dtype:
            return super().__call__(x)
        return mx.addmm(y, self.dropout(x) @ self.lora_a, self.scale * self.lora_b)


def exp(x: mx.array) -> mx.array:
    """e^x for x <= 0, but at least e^-60, which is negligible next to 1. Numbers that underflow
    take a hundred times as long, here and in every product that uses them."""
    return mx.power(math.e, mx.maximum(x, -60.0))


@mx.custom_function
def _swiglu(gate: mx.array, x: mx.array) -> tuple[mx.array, mx.array]:
    return _swiglu_forward(gate, x)


@_swiglu.vjp
def _swiglu_vjp(primals: Any, cotangents: Any, outputs: Any) -> tuple[mx.array, mx.array]:
    return _swiglu_backward(*primals, cotangents[0], outputs[1])


@partial(mx.compile, shapeless=True)
def _swiglu_forward(gate: mx.array, x: mx.array) -> tuple[mx.array, mx.array]:
    sigmoid = 1.0 / (1.0 + mx.power(math.e, mx.clip(-gate, -60.0, 60.0)))
    return gate * sigmoid * x, sigmoid


@partial(mx.compile, shapeless=True)
def _swiglu_backward(
    gate: mx.array, x: mx.array, g: mx.array, sigmoid: mx.array
) -> tuple[mx.array, mx.array]:
    silu = gate * sigmoid
    return g * x * (sigmoid + silu * (1.0 - sigmoid)), g * silu


@partial(mx.compile, shapeless=True)
def _shifted_exp(scores: mx.array, top: mx.array) -> mx.array:
    return exp(scores - top)


@partial(mx.compile, shapeless=True)
def _softmax_backward(d: mx.array, weights: mx.array, mean: mx.array, scale: mx.array) -> mx.array:
    return weights * (d - mean) * scale


def swiglu(gate: mx.array, x: mx.array) -> mx.array:
    """silu(gate) * x (Shazeer, arXiv 2002.05202)."""
    if gate.dtype != mx.float32:
        return _LIBRARY["swiglu"](gate, x)
    return _swiglu(gate, x)[0]


def attention(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    cache: Any,
    scale: float,
    mask: Any,
    sinks: mx.array | None = None,
) -> mx.array:
    """Replaces mlx-lm's ``scaled_dot_product_attention``. Queries are [B, H, N, d], keys and values
    [B, K, S, d]; ``mask`` is None, "causal", or bool [N, S] or [B, 1, N, S]."""
    other = isinstance(mask, mx.array) and mask.dtype != mx.bool_
    if other or sinks is not None or hasattr(cache, "bits") or queries.dtype != mx.float32:
        original = _LIBRARY["scaled_dot_product_attention"]
        return original(queries, keys, values, cache, scale=scale, mask=mask, sinks=sinks)
    batch, heads, length, width = queries.shape
    if length == 1:
        return _attention_of_one(queries, keys, values, scale, mask)
    shared = keys.shape[1]
    grouped = (batch, shared, heads // shared * length, width)
    apart = (batch, shared, heads // shared, length, keys.shape[2])
    seen = _seen(mask, length, keys.shape[2], shared)

    # Passes over the scores, [B, K, H / K * N, S], are what takes the time: nothing is divided by
    # the rows' sums or summed up there that can be among the results, [B, K, H / K * N, d].
    def forward(q: mx.array, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        scores = (q * scale) @ k.swapaxes(-1, -2)
        if seen is not None:
            scores = (scores.reshape(apart) + (1.0 - seen) * MASKED).reshape(scores.shape)
        weights = _shifted_exp(scores, scores.max(axis=-1, keepdims=True))
        if seen is not None:
            weights = (weights.reshape(apart) * seen).reshape(scores.shape)
        total = weights.sum(axis=-1, keepdims=True)
        return (weights @ v) / total, weights, total

    def backward(primals: Any, cotangents: Any, outputs: Any) -> tuple[mx.array, ...]:
        (q, k, v), (result, weights, total) = primals, outputs
        g = cotangents[0] / total
        mean = (g * result).sum(axis=-1, keepdims=True)  # as in FlashAttention, arXiv 2205.14135
        d = _softmax_backward(g @ v.swapaxes(-1, -2), weights, mean, mx.array(scale))
        return d @ k, d.swapaxes(-1, -2) @ q, weights.swapaxes(-1, -2) @ g

    q = queries.reshape(grouped)
    function = mx.custom_function(forward)
    function.vjp(backward)
    return function(q, keys, values)[0].reshape(queries.shape[:3] + values.shape[3:])


def _attention_of_one(
    queries: mx.array, keys: mx.array, values: mx.array, scale: float, mask: Any
) -> mx.array:
    """Attention while decoding: one query per row, and no gradient."""
    batch, heads, _, width = queries.shape
    q = queries.reshape(batch, keys.shape[1], -1, width)
    scores = (q * scale) @ keys.swapaxes(-1, -2)
    if mask is not None and not isinstance(mask, str):
        if mask.ndim == 4 and mask.shape[1] > 1:  # a mask for each head
            mask = mask.reshape(-1, *scores.shape[1:3], mask.shape[-1])
        scores = mx.where(mask, scores, MASKED)
    if scores.size < FEW:
        weights = mx.softmax(scores, axis=-1)
    else:
        weights = _shifted_exp(scores, scores.max(axis=-1, keepdims=True))
        weights = weights / weights.sum(axis=-1, keepdims=True)
    return (weights @ values).reshape(batch, heads, 1, values.shape[3])


def _seen(mask: Any, length: int, slots: int, shared: int) -> mx.array | None:
    """1 where a query sees a slot, 0 elsewhere, to be broadcast to [B, K, H / K, N, S]. None if
    every query sees every slot."""
    if mask is None:
        return None
    if isinstance(mask, str):
        mask = mx.arange(slots - length, slots)[:, None] >= mx.arange(slots)
    seen = mask.astype(mx.float32)
    if seen.ndim == 4:  # [B, 1, N, S], or [B, H, N, S] with a mask for each head
        groups = shared if seen.shape[1] > 1 else 1
        seen = seen.reshape(seen.shape[0], groups, -1, *seen.shape[2:])
    return seen
