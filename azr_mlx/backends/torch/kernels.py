"""Row reductions over logits in torch: by Triton kernels on a GPU, otherwise in plain torch.

These are the same two functions as in ``azr_mlx.backends.mlx.kernels``, and the same keys give the
same tokens. ``AZR_MLX_KERNELS=off`` chooses plain torch, which also computes if Triton cannot build
a kernel here.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import warnings
from collections import Counter
from types import ModuleType
from typing import Any

import torch

from azr_mlx.config.shipped import triton_kernel
from azr_mlx.errors import first_line, pass_on

# How often each (kernel name, path) has been called in this process.
ENGAGED: Counter[tuple[str, str]] = Counter()
_FUNCTIONS = {"logprob": "row_logprob", "sample": "sample_rows"}
_broken: list[str] = []  # why Triton cannot be used here

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def path(logits: torch.Tensor) -> str:
    """Which implementation a call with these logits would use now: "triton" or "torch"."""
    off = _broken or os.environ.get("AZR_MLX_KERNELS", "").strip().lower() == "off"
    if off or not logits.is_cuda or importlib.util.find_spec("triton") is None:
        return "torch"
    return "triton"


def row_logprob(
    logits: torch.Tensor,
    targets: torch.Tensor,
    inv_temperature: float | torch.Tensor,
    gradient: bool,
    entropy_gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """(logp [N], entropy [N], delta [N, V] or None, entropy_delta [N, V] or None).

    See ``azr_mlx.backends.mlx.kernels.row_logprob``. The result cannot be differentiated.
    """
    given = logits, targets, inv_temperature, gradient, entropy_gradient
    if (out := _by_triton("logprob", *given)) is not None:
        return out[0], out[1], out[2], out[3]
    return row_logprob_torch(*given)


@torch.no_grad()
def row_logprob_torch(
    logits: torch.Tensor,
    targets: torch.Tensor,
    inv_temperature: float | torch.Tensor,
    gradient: bool,
    entropy_gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """``row_logprob`` in plain torch."""
    z = logits.float()
    z = (z - z.amax(-1, keepdim=True)) * inv_temperature
    logs = torch.log_softmax(z, -1)
    p = logs.exp()
    terms = torch.where(p > 0, p * logs, 0)  # 0 log 0 is 0
    entropy = -terms.sum(-1)
    rows = torch.arange(len(z), device=z.device)
    targets = targets.long()
    delta = entropy_delta = None
    if entropy_gradient:
        entropy_delta = (-terms - p * entropy[:, None]).to(logits.dtype)
    if gradient:
        p[rows, targets] -= 1
        delta = p.to(logits.dtype)
    return logs[rows, targets], entropy, delta, entropy_delta


def sample_rows(
    logits: torch.Tensor, temperature: torch.Tensor, keys: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens int32 [B], logp float32 [B]). Keys [B, 2] are uint32, or int32 with the same bits.

    See ``azr_mlx.backends.mlx.kernels.sample_rows``.
    """
    if (out := _by_triton("sample", logits, temperature, keys)) is not None:
        return out[0], out[1]
    return sample_rows_torch(logits, temperature, keys)


@torch.no_grad()
def sample_rows_torch(
    logits: torch.Tensor, temperature: torch.Tensor, keys: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """``sample_rows`` in plain torch."""
    greedy = temperature <= 0
    x = logits.float()
    # Before dividing by the temperature, so that large logits are not rounded.
    x = x - x.amax(-1, keepdim=True)
    logs = torch.log_softmax(x / torch.where(greedy, 1, temperature)[:, None], -1)
    bits = random_bits(keys, logits.shape[1])
    # u = 1 - v, and v - (1 - u) is the rounding error of 1 - v.
    v = (bits.float() * 2.0**-32).clamp(2.0**-33, 1 - 2.0**-24)
    u = 1 - v
    e = torch.maximum((v - (1 - u)) - u.log(), v)
    tokens = torch.where(greedy, x.argmax(-1), (logs - e.log()).argmax(-1))
    return tokens.int(), logs.gather(-1, tokens[:, None])[:, 0]


def random_bits(keys: torch.Tensor, size: int) -> torch.Tensor:
    """int64 [B, size] in [0, 2^32): the random words of ``mx.random`` for keys [B, 2].

    They come from threefry2x32 with 20 rounds (Salmon et al. 2011). With h = ceil(size / 2), words
    i and h + i are the block of counter (i, h + i); for an odd size the last counter is (h - 1, 0).
    """
    half = (size + 1) // 2
    # int32 overflows as uint32 does; only right shifts must correct for the sign.
    k0, k1 = (k[:, None] for k in keys.contiguous().view(torch.int32).unbind(-1))
    schedule = (k0, k1, k0 ^ k1 ^ _PARITY)
    first = torch.arange(half, dtype=torch.int32, device=keys.device)[None]
    second = first + half
    x, y = first + k0, second.where(second < size, torch.zeros_like(second)) + k1
    for i in range(5):
        for r in _ROTATIONS[i % 2]:
            x = x + y
            y = ((y << r) | ((y >> (32 - r)) & ((1 << r) - 1))) ^ x
        x = x + schedule[(i + 1) % 3]
        y = y + (schedule[(i + 2) % 3] + (i + 1))
    return torch.cat([x, y], -1)[:, :size].long() & 0xFFFFFFFF


def _by_triton(name: str, logits: torch.Tensor, *given: Any) -> tuple[Any, ...] | None:
    """What the Triton kernel gives; None if plain torch has to compute.

    Triton builds a kernel, and C code that launches it, when the kernel is first called. Many
    machines have no compiler or no headers for that.
    """
    chosen = path(logits)
    if chosen == "triton":
        try:
            out: tuple[Any, ...] = getattr(_triton(name), _FUNCTIONS[name])(logits, *given)
        except Exception as e:  # of a compiler, of its output, or of a cache that is not writable
            pass_on(e)
            if ENGAGED[name, chosen]:  # it has been built
                raise
            _leave_triton(e)
            chosen = "torch"
    ENGAGED[name, chosen] += 1
    return None if chosen == "torch" else out


def _leave_triton(error: Exception) -> None:
    why = first_line(error)[:160]
    _broken.append(why)
    warnings.warn(
        f"Triton cannot build its kernels here ({why}), so plain torch computes, which takes more "
        "memory and time; Triton needs a C compiler and Python's headers (on Debian and Ubuntu "
        "the packages gcc and python3-dev)",
        RuntimeWarning,
        stacklevel=2,
    )


@functools.cache
def _triton(name: str) -> ModuleType:
    return triton_kernel(name)
