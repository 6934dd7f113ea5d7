"""Log-probabilities and entropies of chosen tokens, with the logits of only a chunk at a time.

As in ``azr_mlx.backends.mlx.logprobs``, where the formulas are, the factors of the gradient [N, D]
are computed in the forward pass, while a chunk's logits are in memory. The head is frozen. If it is
more than a matrix (logits that are capped or scaled, a bias), PyTorch differentiates it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from transformers.modeling_outputs import MoeModelOutputWithPast

from azr_mlx.backends import limits
from azr_mlx.backends.torch import kernels
from azr_mlx.backends.torch.model import trunk_of

Tensor = torch.Tensor
PROBE = [[1, 2, 3]]
LOUD = 100.0  # more than the logits of any model


class Head(NamedTuple):
    """The map from hidden states to logits. ``logits`` is [n, D] -> [n, V]; ``pull`` turns a
    gradient [n, V] of the logits of h [n, D] into one of h. With ``plain`` the map is h W^T."""

    logits: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor, Tensor], Tensor]
    plain: bool


@torch.no_grad()
def head_of(lm: Any) -> Head:
    """The head of a model. Raises ValueError if its logits do not follow from its hidden states."""
    weight, trunk = lm.get_output_embeddings().weight, trunk_of(lm)
    probe = torch.tensor(PROBE, device=weight.device)
    hidden = trunk(input_ids=probe, use_cache=False).last_hidden_state[0]
    whole = lm(input_ids=probe, use_cache=False).logits[0]
    loud = hidden * (LOUD / whole.abs().max().clamp(min=1e-3))
    for states, logits in ((hidden, whole), (loud, _after_trunk(lm, loud))):
        if not torch.allclose(logits, states @ weight.T, rtol=1e-3, atol=1e-3):
            break
    else:
        return Head(lambda h: h @ weight.T, lambda delta, h: delta @ weight, plain=True)
    logits_of = partial(_after_trunk, lm)
    if not torch.allclose(whole, logits_of(hidden), rtol=1e-3, atol=1e-3):
        raise ValueError("its logits do not follow from its last hidden states")
    return Head(logits_of, partial(_pull_any, logits_of), plain=False)


def reading_off(lm: Any) -> Callable[[Tensor], Tensor]:
    """How a decode step gets logits [B, V] from hidden states [B, D]."""
    head = head_of(lm)
    of_model: Callable[[Tensor], Tensor] = lm.get_output_embeddings()
    return of_model if head.plain else head.logits


def _after_trunk(lm: Any, hidden: Tensor) -> Tensor:
    """The model's logits [n, V] for ``hidden`` [n, D], after all that it does to them."""
    trunk = trunk_of(lm)
    given = MoeModelOutputWithPast(last_hidden_state=hidden[None])
    own = vars(trunk).get("forward")
    trunk.forward = lambda *_, **__: given
    # Made on the device: a CUDA graph cannot repeat a copy of a number from the host.
    unread = torch.ones((1, 1), dtype=torch.long, device=hidden.device)
    try:
        logits: Tensor = lm(input_ids=unread).logits
        return logits[0]
    finally:
        del trunk.forward
        if own is not None:
            trunk.forward = own


def _pull_any(logits: Callable[[Tensor], Tensor], delta: Tensor, h: Tensor) -> Tensor:
    with torch.enable_grad():
        h = h.detach().requires_grad_()
        return torch.autograd.grad(logits(h), h, delta)[0]


def chunk_rows(vocabulary: int, device: torch.device) -> int:
    """How many rows of logits the head computes at a time on this device."""
    return limits.chunk_rows(vocabulary, "gpu" if device.type in ("cuda", "mps") else "cpu")


def selected_logprob(
    head: Head,
    hidden: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    *,
    rows: int,
    gradient: bool = True,
    entropy_gradient: bool = False,
) -> tuple[Tensor, Tensor]:
    """(logp, entropy), each float32 [N]: the log-probability of ``targets`` [N] under
    softmax(head(hidden) / temperature), and the entropy of that distribution.

    ``hidden`` is [N, D]; ``rows`` rows of it go through the head at a time.
    Without ``gradient`` the gradient of logp is zero, without ``entropy_gradient`` that of the
    entropy.
    """
    flags = gradient, entropy_gradient
    selected: Any = _Selected.apply  # PyTorch does not type it
    logp, entropy = selected(hidden, head, targets, 1.0 / temperature, rows, *flags)
    return logp, entropy


class _Selected(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Head,
        targets: Tensor,
        inverse: float,
        rows: int,
        gradient: bool,
        entropy_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        starts = range(0, len(hidden), rows)
        parts = [(hidden[i : i + rows], targets[i : i + rows]) for i in starts]
        chunks = [_chunk(head, h, y, inverse, gradient, entropy_gradient) for h, y in parts]
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
    head: Head, h: Tensor, y: Tensor, inverse: float, gradient: bool, entropy_gradient: bool
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """logp and entropy [n] of one chunk, and if asked for (p - onehot) W and -(p (log p + H)) W,
    each [n, D]."""
    z = head.logits(h)
    logp, entropy, *deltas = kernels.row_logprob(z, y, inverse, gradient, entropy_gradient)
    pulled: list[Tensor] = [head.pull(delta, h) for delta in deltas if delta is not None]
    return logp, entropy, pulled
