"""Log-probabilities and entropies of chosen tokens, with the logits of only a chunk at a time.

A policy-gradient loss depends on the logits only through the chosen token's log-probability and the
entropy. The factors of its gradient can therefore be computed while a chunk's logits are in memory.
With hidden state h, head W, target y, temperature t, p = softmax(W h / t) and entropy H:

    d logp / dh = (W[y] - p W) / t            dH / dh = -(p * (log p + H)) W / t

These factors [N, D] are computed in the forward pass and kept, so the backward pass is one
multiplication. There are two products with the head, and neither is computed twice. The head is
frozen and gets no gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from azr_mlx.backends import limits
from azr_mlx.backends.mlx import cpu, kernels
from azr_mlx.backends.mlx.anatomy import Anatomy


class Head(NamedTuple):
    """The map from hidden states to logits. ``logits`` is [n, D] -> [n, V]; ``pull`` turns a
    gradient [n, V] of the logits of h [n, D] into one of h. If the map is linear, h W^T, then
    ``row`` is W[y], [n] -> [n, D]; otherwise it is None."""

    logits: Callable[[mx.array], mx.array]
    pull: Callable[[mx.array, mx.array], mx.array]
    row: Callable[[mx.array], mx.array] | None


def head_of(model: Anatomy) -> Head:
    """The head of a model: linear if it is a layer of a known kind and the model changes nothing
    after it. Others, for example with scaled or capped logits, are differentiated by MLX."""
    return (model.plain and linear_head(model.head, model.kind)) or Head(
        model.logits, partial(_pull_any, model.logits), None
    )


def linear_head(layer: Any, kind: type) -> Head | None:
    """The head that consists of this layer. None if ``kind``, the layer's class, is neither a dense
    nor a quantised linear layer or embedding."""
    if kind not in (nn.Linear, nn.Embedding, nn.QuantizedLinear, nn.QuantizedEmbedding):
        return None
    forward = partial(getattr(kind, "as_linear", kind.__call__), layer)
    if kind in (nn.Linear, nn.Embedding):
        return Head(forward, lambda d, h: d @ layer.weight, lambda y: layer.weight[y])
    return Head(forward, partial(_pull_quantized, layer), partial(_row_quantized, layer))


def _pull_any(logits: Callable[[mx.array], mx.array], delta: mx.array, h: mx.array) -> mx.array:
    return mx.vjp(logits, [h], [delta])[1][0]


def _pull_quantized(layer: Any, delta: mx.array, h: mx.array) -> mx.array:
    packed = layer.weight, layer.scales, layer.get("biases")
    kind = {"group_size": layer.group_size, "bits": layer.bits, "mode": layer.mode}
    return mx.quantized_matmul(delta, *packed, transpose=False, **kind)


def _row_quantized(layer: Any, y: mx.array) -> mx.array:
    biases = layer.get("biases")
    packed = layer.weight[y], layer.scales[y], None if biases is None else biases[y]
    kind = {"group_size": layer.group_size, "bits": layer.bits, "mode": layer.mode}
    return mx.dequantize(*packed, **kind)


def chunk_rows(vocabulary: int) -> int:
    """How many rows of logits the head computes at a time on this machine."""
    return limits.chunk_rows(vocabulary, "cpu" if mx.default_device() == mx.cpu else "gpu")


def selected_logprob(
    head: Head,
    hidden: mx.array,
    targets: mx.array,
    temperature: float = 1.0,
    *,
    rows: int,
    gradient: bool = True,
    entropy_gradient: bool = False,
) -> tuple[mx.array, mx.array]:
    """(logp, entropy), each float32 [N]: the log-probability of ``targets`` [N] under
    softmax(head(hidden) / temperature), and the entropy of that distribution.

    ``hidden`` is [N, D]; ``rows`` rows of it go through the head at a time. With ``gradient`` the
    log-probability can be differentiated with respect to ``hidden``, and with ``entropy_gradient``
    the entropy, for which another array [N, D] is kept. Otherwise the gradient is zero.
    """
    inverse = mx.array(1.0 / temperature)
    parts = range(0, hidden.shape[0], rows)

    def forward(hidden: mx.array) -> list[mx.array]:
        done: list[list[mx.array]] = []
        for start in parts:
            h, y = hidden[start : start + rows], targets[start : start + rows]
            if done:
                h = mx.depends([h], done[-1])[0]  # or all chunks would be in memory at once
            done.append(_chunk(head, h, y, inverse, gradient, entropy_gradient))
        return [mx.concatenate(column) for column in zip(*done, strict=True)]

    function = mx.custom_function(forward)

    @function.vjp
    def backward(primals: Any, cotangents: Any, outputs: Any) -> mx.array:
        (for_logp, for_entropy, *_), (_, _, *residuals) = cotangents, outputs
        factor = mx.zeros_like(primals)
        if gradient:  # minus, because what is kept comes from p - onehot(y)
            factor = factor - (inverse * for_logp)[:, None] * residuals[0]
        if entropy_gradient:
            factor = factor + (inverse * for_entropy)[:, None] * residuals[-1]
        return factor.astype(primals.dtype)

    logp, entropy, *_ = function(hidden)
    return logp, entropy


def _chunk(
    head: Head, h: mx.array, y: mx.array, inverse: mx.array, gradient: bool, entropy_gradient: bool
) -> list[mx.array]:
    """logp and entropy [n] of one chunk, and if asked for (p - onehot) W and -(p (log p + H)) W,
    each [n, D]."""
    z = head.logits(h)
    if kernels.path() == "mlx" and z.dtype == mx.float32 and head.row is not None:
        return _chunk_on_cpu(head, h, z, y, inverse, gradient, entropy_gradient)
    logp, entropy, *deltas = kernels.row_logprob(z, y, inverse, gradient, entropy_gradient)
    pulled = [head.pull(d, h).astype(h.dtype) for d in deltas if d is not None]
    return [logp, entropy, *pulled]


def _chunk_on_cpu(
    head: Head, h: mx.array, z: mx.array, y: mx.array, inverse: mx.array, *gradients: bool
) -> list[mx.array]:
    """As ``_chunk`` for a linear head, but with only two arrays of the logits' size: not p is
    normalised, but its product with W.

    MLX queues operations ahead, and allocates the output of an operation when it is queued. So
    the number of such arrays in a chunk matters, not the number in use at a time.
    """
    top = z.max(axis=-1, keepdims=True)
    mass = _mass(z, top, inverse)
    total = mass.sum(axis=-1, keepdims=True)
    lse = top * inverse + mx.log(total)
    logp = inverse * mx.take_along_axis(z, y[:, None], axis=-1) - lse
    mean = inverse * (mass[:, None, :] @ z[:, :, None])[:, 0] / total
    entropy = lse - mean
    out = [logp[:, 0], entropy[:, 0]]
    gradient, entropy_gradient = gradients
    if gradient:
        assert head.row is not None
        out.append(head.pull(mass, h) / total - head.row(y))
    if entropy_gradient:
        out.append(head.pull(_entropy_mass(mass, z, mean, inverse), h) / total)
    return out


@partial(mx.compile, shapeless=True)
def _mass(z: mx.array, top: mx.array, inverse: mx.array) -> mx.array:
    return cpu.exp((z - top) * inverse)


@partial(mx.compile, shapeless=True)
def _entropy_mass(mass: mx.array, z: mx.array, mean: mx.array, inverse: mx.array) -> mx.array:
    """-p (log p + H), times the sum of ``mass``, where log p + H = z * inverse - mean."""
    return mass * (mean - z * inverse)
