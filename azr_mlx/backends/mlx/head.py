"""Log-probabilities and entropies of chosen tokens, without the logits of all of them at once.

A policy-gradient loss sees the logits only through the chosen token's log-probability and the
entropy, so the factors of its gradient are known while a chunk's logits are live. With hidden state
h, head W, target y, temperature t, p = softmax(W h / t) and entropy H:

    d logp / dh = (W[y] - p W) / t            dH / dh = -(p * (log p + H)) W / t

They are formed in the forward pass and kept, [N, D]; the backward pass is one multiplication. Two
products with the head in all, none done twice. The head is frozen: it gets no gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from azr_mlx.backends.mlx import kernels

CHUNK_BYTES = {"cpu": 12 << 20, "gpu": 64 << 20}  # of float32 logits that are live at once
MIN_CHUNK = 16  # rows below which a product is bound by reading the head


class Head(NamedTuple):
    """The last linear map: ``logits`` is [n, D] -> [n, V], ``pull`` its transpose [n, V] -> [n, D]."""

    logits: Callable[[mx.array], mx.array]
    pull: Callable[[mx.array], mx.array]


def head_of(lm: nn.Module) -> Head | None:
    """The head of an mlx-lm model, dense or quantised, tied or not; None where it is of another
    kind."""
    layer = lm.lm_head if "lm_head" in lm else lm.model.embed_tokens
    tied = isinstance(layer, nn.Embedding | nn.QuantizedEmbedding)
    forward = layer.as_linear if tied else layer
    if type(layer) in (nn.Linear, nn.Embedding):
        return Head(forward, lambda d: d @ layer.weight)
    if type(layer) in (nn.QuantizedLinear, nn.QuantizedEmbedding):
        return Head(forward, lambda d: _pull_quantized(layer, d))
    return None


def _pull_quantized(layer: Any, delta: mx.array) -> mx.array:
    return mx.quantized_matmul(
        delta,
        layer.weight,
        scales=layer.scales,
        biases=layer.get("biases"),
        transpose=False,
        group_size=layer.group_size,
        bits=layer.bits,
        mode=layer.mode,
    )


def chunk_rows(vocabulary: int, budget: int | None = None) -> int:
    """Rows of logits that are live at once: as many as fit into ``budget`` bytes of float32."""
    device = "cpu" if mx.default_device() == mx.cpu else "gpu"
    return max(MIN_CHUNK, (budget or CHUNK_BYTES[device]) // (4 * vocabulary))


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
    """(logp, entropy), each float32 [N]: of ``targets`` [N], under softmax(head(hidden) /
    temperature).

    ``hidden`` is [N, D]; ``rows`` of it go through the head at a time. With ``gradient`` the
    log-probability can be differentiated with respect to ``hidden``, with ``entropy_gradient`` the
    entropy, too (a residual of its own); what is left out has the gradient zero.
    """
    inverse = 1.0 / temperature
    parts = range(0, hidden.shape[0], rows)

    def forward(hidden: mx.array) -> list[mx.array]:
        done: list[list[mx.array]] = []
        for start in parts:
            h, y = hidden[start : start + rows], targets[start : start + rows]
            if done:
                h = mx.depends([h], done[-1])[0]  # else all chunks' logits would be live at once
            logp, entropy, *deltas = kernels.row_logprob(
                head.logits(h), y, inverse, gradient=gradient, entropy_gradient=entropy_gradient
            )
            pulled = [head.pull(d).astype(h.dtype) for d in deltas if d is not None]
            done.append([logp, entropy, *pulled])
        return [mx.concatenate(column) for column in zip(*done, strict=True)]

    function = mx.custom_function(forward)

    @function.vjp
    def backward(primals: Any, cotangents: Any, outputs: Any) -> mx.array:
        (for_logp, for_entropy, *_), (_, _, *residuals) = cotangents, outputs
        factor = mx.zeros_like(primals)
        if gradient:  # the kept delta is p - onehot: minus the gradient's
            factor = factor - (inverse * for_logp)[:, None] * residuals[0]
        if entropy_gradient:
            factor = factor + (inverse * for_entropy)[:, None] * residuals[-1]
        return factor.astype(primals.dtype)

    logp, entropy, *_ = function(hidden)
    return logp, entropy
