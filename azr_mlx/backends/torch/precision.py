"""The number formats in which the torch backend computes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

Tensor = torch.Tensor
HALVES = (torch.bfloat16, torch.float16)


def allow_tf32(device: torch.device) -> None:
    """On CUDA, compute float32 products with TF32, whose mantissa has 10 bits: those of the value
    head, and of a model in float32. The setting is global, so other devices keep theirs."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")


def autocast(head: Tensor) -> AbstractContextManager[object]:
    """Within the block, products of float32 adapters are computed in the 16 bits of the model that
    ``head`` belongs to. A model in float32 is left as it is."""
    return torch.autocast(head.device.type, head.dtype, enabled=head.dtype in HALVES)


class Rounded:
    """Adapters in the model's 16 bits, for rollouts: nothing has to be converted in each step.

    The copies stay at the same addresses, which CUDA graphs need."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], dtype: torch.dtype):
        self.parameters = list(parameters)
        self.dtype = dtype
        self.copies: list[Tensor] = []

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the parameters hold the rounded numbers."""
        kept = [parameter.data for parameter in self.parameters]
        if not self.copies:
            self.copies = [torch.empty_like(data, dtype=self.dtype) for data in kept]
        try:  # from here on, since Ctrl-C may come at any time, and what is saved then is exact
            for parameter, copy, data in zip(self.parameters, self.copies, kept, strict=True):
                parameter.data = copy.copy_(data)
            yield
        finally:
            for parameter, data in zip(self.parameters, kept, strict=True):
                parameter.data = data
