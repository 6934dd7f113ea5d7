"""Copies between host and device that do not wait for the work that the device has queued."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

Tensor = torch.Tensor


def upload(values: np.ndarray, device: torch.device) -> Tensor:
    """The values on the device. A copy from ordinary memory would wait for a GPU's whole queue; one
    from pinned memory takes its turn in it."""
    array = torch.from_numpy(np.ascontiguousarray(values))
    if device.type == "cuda":
        return array.pin_memory().to(device, non_blocking=True)
    return array.to(device)


def on_its_way(array: Tensor) -> Any:
    """An array whose numbers the host will want later: itself, or ``Arriving`` on CUDA."""
    return Arriving(array) if array.is_cuda else array


class Arriving:
    """An array on a GPU, and its copy to the host, which is queued behind the array's computation.
    To read it waits for that copy, and not for what was queued afterwards."""

    def __init__(self, array: Tensor):
        self.array = array
        self.host = torch.empty(array.shape, dtype=array.dtype, pin_memory=True)
        self.host.copy_(array, non_blocking=True)
        event: Any = torch.cuda.Event  # PyTorch does not type it
        self.arrived = event()
        self.arrived.record()

    def tolist(self) -> list[Any]:
        self.arrived.synchronize()
        found: list[Any] = self.host.tolist()
        return found

    def __getitem__(self, index: Tensor) -> Arriving:
        return Arriving(self.array[index])
