"""Log-probability, entropy and their gradients of rows of logits: one Triton program a row.

Torch in, torch out; the same outputs as ``logprob.metal`` and ``logprob.cu``. On a CPU it runs
under ``TRITON_INTERPRET=1``.
"""

import torch
import triton
import triton.language as tl


@triton.jit
def _logprob_kernel(
    logits,
    targets,
    inv_temperature,
    logp,
    entropy,
    delta,
    entropy_delta,
    size,
    GRADIENT: tl.constexpr,
    ENTROPY_GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0)
    start = row.to(tl.int64) * size  # N * V may pass 2^31
    target = tl.load(targets + row)
    scale = tl.load(inv_temperature)
    # Before the row is overwritten: delta may be the logits themselves.
    chosen = tl.load(logits + start + target).to(tl.float32)

    m = tl.full((), -1.7e38, tl.float32)  # finite, so that a difference never is inf - inf
    s = tl.full((), 0.0, tl.float32)
    weighted = tl.full((), 0.0, tl.float32)  # sum e^z z, z = (logit - m) * scale
    for first in range(0, size, BLOCK):
        v = first + tl.arange(0, BLOCK)
        x = tl.load(logits + start + v, mask=v < size, other=-float("inf")).to(tl.float32)
        top = tl.maximum(m, tl.max(x, axis=0))
        shift = (m - top) * scale
        shrink = tl.exp(shift)
        z = (x - top) * scale
        e = tl.exp(z)
        weighted = (weighted + tl.where(shrink > 0, shift, 0.0) * s) * shrink
        weighted += tl.sum(e * tl.where(e > 0, z, 0.0), axis=0)
        s = s * shrink + tl.sum(e, axis=0)
        m = top

    log_s = tl.log(s)
    h = log_s - weighted / s
    tl.store(logp + row, (chosen - m) * scale - log_s)
    tl.store(entropy + row, h)
    if GRADIENT or ENTROPY_GRADIENT:
        for first in range(0, size, BLOCK):
            v = first + tl.arange(0, BLOCK)
            x = tl.load(logits + start + v, mask=v < size, other=-float("inf")).to(tl.float32)
            z = (x - m) * scale
            p = tl.exp(z) / s
            if GRADIENT:
                d = tl.where(v == target, p - 1.0, p)
                tl.store(delta + start + v, d.to(delta.dtype.element_ty), mask=v < size)
            if ENTROPY_GRADIENT:
                d = -p * (tl.where(p > 0, z - log_s, 0.0) + h)
                tl.store(
                    entropy_delta + start + v, d.to(entropy_delta.dtype.element_ty), mask=v < size
                )


def row_logprob(
    logits: torch.Tensor,
    targets: torch.Tensor,
    inv_temperature: float | torch.Tensor,
    gradient: bool,
    entropy_gradient: bool,
    in_place: bool = False,
    block: int = 2048,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """(logp [N], entropy [N], delta [N, V] or None, entropy_delta [N, V] or None) of contiguous
    logits [N, V]; see ``logprob.metal``. ``in_place`` writes delta over the logits. ``block``, a
    power of 2, is how many entries one step reads.
    """
    rows, size = logits.shape
    logits = logits.contiguous()
    if isinstance(inv_temperature, torch.Tensor):
        scale = inv_temperature.to(torch.float32).reshape(1)
    else:  # filled in there: a copy to a GPU would wait for all that is queued
        scale = torch.full((1,), inv_temperature, dtype=torch.float32, device=logits.device)
    logp = torch.empty(rows, dtype=torch.float32, device=logits.device)
    entropy = torch.empty_like(logp)
    delta = (logits if in_place else torch.empty_like(logits)) if gradient else None
    entropy_delta = torch.empty_like(logits) if entropy_gradient else None
    if rows:
        _logprob_kernel[(rows,)](
            logits,
            targets.to(torch.int32).contiguous(),
            scale,
            logp,
            entropy,
            logits if delta is None else delta,
            logits if entropy_delta is None else entropy_delta,
            size,
            GRADIENT=gradient,
            ENTROPY_GRADIENT=entropy_gradient,
            BLOCK=min(block, triton.next_power_of_2(size)),
        )
    return logp, entropy, delta, entropy_delta
