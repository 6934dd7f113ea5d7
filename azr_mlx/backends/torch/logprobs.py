"""Log-probabilities and entropies of chosen tokens, with the logits of only a chunk at a time.

As in ``azr_mlx.backends.mlx.logprobs``, where the formulas are, the factors of the gradient [N, D]
are computed in the forward pass, while a chunk's logits are in memory. The head is frozen.
"""

from __future__ import annotations

from typing import Any

import torch

from azr_mlx.backends import limits
from azr_mlx.backends.torch import kernels

Tensor = torch.Tensor


def chunk_rows(vocabulary: int, device: torch.device) -> int:
    """How many rows of logits the head computes at a time on this device."""
    return limits.chunk_rows(vocabulary, "gpu" if device.type in ("cuda", "mps") else "cpu")


def selected_logprob(
    weight: Tensor,
    hidden: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    *,
    rows: int,
    gradient: bool = True,
    entropy_gradient: bool = False,
) -> tuple[Tensor, Tensor]:
    """(logp, entropy), each float32 [N]: the log-probability of ``targets`` [N] under
    softmax(hidden W^T / temperature), and the entropy of that distribution.

    ``weight`` is W [V, D], ``hidden`` is [N, D]; ``rows`` rows of it go through the head at a time.
    Without ``gradient`` the gradient of logp is zero, without ``entropy_gradient`` that of the
    entropy.
    """
    flags = gradient, entropy_gradient
    selected: Any = _Selected.apply  # PyTorch does not type it
    logp, entropy = selected(hidden, weight, targets, 1.0 / temperature, rows, *flags)
    return logp, entropy


class _Selected(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        inverse: float,
        rows: int,
        gradient: bool,
        entropy_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        starts = range(0, len(hidden), rows)
        parts = [(hidden[i : i + rows], targets[i : i + rows]) for i in starts]
        chunks = [_chunk(weight, h, y, inverse, gradient, entropy_gradient) for h, y in parts]
        logp, entropy = torch.cat([c[0] for c in chunks]), torch.cat([c[1] for c in chunks])
        kept = [torch.cat(part) for part in zip(*(c[2] for c in chunks), strict=True)]
        ctx.save_for_backward(*kept)
        ctx.options = inverse, gradient, entropy_gradient, hidden.dtype
        return logp, entropy

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        inverse, gradient, entropy_gradient, dtype = ctx.options
        for_logp, for_entropy = cotangents
        kept, factor = ctx.saved_tensors, None
        if gradient:  # minus, because what is kept comes from p - onehot(y)
            factor = -(inverse * for_logp)[:, None] * kept[0]
        if entropy_gradient:
            extra = (inverse * for_entropy)[:, None] * kept[-1]
            factor = extra if factor is None else factor + extra
        return (None if factor is None else factor.to(dtype), *[None] * 6)


def _chunk(
    weight: Tensor, h: Tensor, y: Tensor, inverse: float, gradient: bool, entropy_gradient: bool
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """logp and entropy [n] of one chunk, and if asked for (p - onehot) W and -(p (log p + H)) W,
    each [n, D]."""
    z = h @ weight.T
    logp, entropy, *deltas = kernels.row_logprob(z, y, inverse, gradient, entropy_gradient)
    pulled: list[Tensor] = [delta @ weight for delta in deltas if delta is not None]
    return logp, entropy, pulled
