"""Communication between the ranks that ``torchrun`` starts, with ``torch.distributed``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist

from azr_mlx.backends.ranks import RankError

Tensor = torch.Tensor


class TorchWorld:
    """Implements ``ranks.World`` on the default process group: gloo, or NCCL if each rank has a
    GPU."""

    def __init__(self, device: torch.device):
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.device = device if dist.get_backend() == "nccl" else torch.device("cpu")

    def gather_bytes(self, data: bytes) -> list[bytes]:
        lengths = self._gather(torch.tensor([len(data)]))
        padded = np.zeros(max(1, *(int(n) for n in lengths)), np.uint8)
        padded[: len(data)] = np.frombuffer(data, np.uint8)
        rows = self._gather(torch.from_numpy(padded))
        return [row.numpy()[: int(n)].tobytes() for row, n in zip(rows, lengths, strict=True)]

    def _gather(self, array: Tensor) -> list[Tensor]:
        array = array.to(self.device)
        out = [torch.zeros_like(array) for _ in range(self.size)]
        with self._named():
            dist.all_gather(out, array)
            return [one.cpu() for one in out]  # NCCL's errors appear only when its result is read

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as e:
            raise RankError(self.rank, str(e).splitlines()[0]) from e

    def sum(self, arrays: Sequence[Tensor]) -> list[Tensor]:
        """Sum over the ranks, in one message, as float32."""
        if not arrays:
            return []
        flat = torch.cat([a.detach().float().reshape(-1) for a in arrays]).to(self.device)
        with self._named():
            dist.all_reduce(flat)
        parts = torch.split(flat, [a.numel() for a in arrays])
        return [p.reshape(a.shape).to(a) for p, a in zip(parts, arrays, strict=True)]
