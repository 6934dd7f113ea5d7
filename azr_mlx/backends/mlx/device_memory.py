"""How much of a GPU's memory MLX may hold, no more than was planned for, and how much is wired."""

from __future__ import annotations

import mlx.core as mx

# What is not wired, so that there is room for the system and for other programs: wired pages are
# neither compressed nor swapped.
LEFT_BYTES, LEFT_SHARE = 6 << 30, 0.35
CACHE_SHARE = 1 / 8  # of the limit: the most that freed buffers may take until they are used again


def bound(limit: int) -> None:
    """Let MLX hold at most ``limit`` bytes (0: as many as the GPU's working set), of which at most
    an eighth in freed buffers.

    On Metal memory is wired, so that the system does not move weights out between two steps (as in
    ``mlx_lm.generate.wired_limit``), up to what leaves enough to everything else. On a CPU nothing
    changes: its memory is the system's.
    """
    if mx.default_device() != mx.gpu:
        return
    info = mx.device_info()
    working_set = int(info.get("max_recommended_working_set_size", 0))
    limit = min(limit, working_set) if limit and working_set else limit or working_set
    if not limit:
        return
    mx.set_memory_limit(limit)
    mx.set_cache_limit(int(CACHE_SHARE * limit))
    if mx.metal.is_available():
        mx.set_wired_limit(wired(limit, int(info.get("memory_size", 0))))


def wired(limit: int, memory: int) -> int:
    """How many of at most ``limit`` bytes are wired on a Mac with so much memory (0: unknown)."""
    if not memory:
        return limit
    return max(0, min(limit, memory - max(LEFT_BYTES, int(LEFT_SHARE * memory))))
