"""How much of a GPU's memory MLX may hold: no more than was planned for, and kept in place."""

from __future__ import annotations

import mlx.core as mx

CACHE_SHARE = 1 / 8  # of the limit: the most that freed buffers may take until they are used again


def bound(limit: int) -> None:
    """Let MLX hold at most ``limit`` bytes (0: as many as the GPU's working set), of which at most
    an eighth in freed buffers.

    On Metal the memory is wired, so that the system does not move weights out between two steps
    (as in ``mlx_lm.generate.wired_limit``). On a CPU nothing changes: its memory is the system's.
    """
    if mx.default_device() != mx.gpu:
        return
    working_set = int(mx.device_info().get("max_recommended_working_set_size", 0))
    limit = min(limit, working_set) if limit and working_set else limit or working_set
    if not limit:
        return
    mx.set_memory_limit(limit)
    mx.set_cache_limit(int(CACHE_SHARE * limit))
    if mx.metal.is_available():
        mx.set_wired_limit(limit)
