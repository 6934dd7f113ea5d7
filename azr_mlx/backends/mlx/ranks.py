"""Communication between the ranks that ``mlx.launch`` starts, with ``mx.distributed``."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from azr_mlx.backends.ranks import RankError


class MlxWorld:
    """Implements ``ranks.World``. MLX chooses the stream of an exchange: the CPU stream for a ring,
    the GPU stream for NCCL."""

    def __init__(self, group: mx.distributed.Group):
        self.group, self.rank, self.size = group, group.rank(), group.size()

    def gather_bytes(self, data: bytes) -> list[bytes]:
        lengths = self._gather(mx.array([len(data)], mx.int32)).tolist()
        padded = np.zeros((1, max(1, *lengths)), np.uint8)  # an empty array cannot be gathered
        padded[0, : len(data)] = np.frombuffer(data, np.uint8)
        rows = np.array(self._gather(mx.array(padded)))
        return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]

    def _gather(self, array: mx.array) -> mx.array:
        return self._done(mx.distributed.all_gather(array, group=self.group))

    def _done(self, array: mx.array) -> mx.array:
        try:
            mx.eval(array)
        except RuntimeError as e:
            raise RankError(self.rank, e) from e
        return array

    def sum(self, arrays: Sequence[mx.array]) -> list[mx.array]:
        """Sum over the ranks, in one message, as float32."""
        if not arrays:
            return []
        flat = mx.concatenate([a.astype(mx.float32).reshape(-1) for a in arrays])
        total = self._done(mx.distributed.all_sum(flat, group=self.group))
        ends = np.cumsum([a.size for a in arrays])
        parts = mx.split(total, ends[:-1].tolist())
        return [p.reshape(a.shape).astype(a.dtype) for p, a in zip(parts, arrays, strict=True)]
