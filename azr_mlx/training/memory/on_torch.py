"""The memory plan for the torch backend: the formulas of MLX, with torch's weights and torch's GPU.

How many arrays are in memory at once was measured on MLX only, so the figures decide
``ppo.grad_checkpoint: auto``, and nothing is refused because of them.
"""

from __future__ import annotations

from azr_mlx.config import Config
from azr_mlx.training.memory.estimate import FLOAT16, FLOAT32, Planner

QUANTIZED = (4, 8)  # the numbers of bits that bitsandbytes has: NF4 and int8
GROUP = 64  # weights that share one float32 factor in NF4


class TorchPlanner(Planner):
    """A planner for "gpu", which means CUDA, or for "cpu", which means float32."""

    __slots__ = ()

    def weights(self, c: Config) -> int:
        """On CUDA bitsandbytes packs the linear layers of the blocks, and nothing else."""
        s = self.shape
        if self.device == "cpu" or c.quantization.bits not in QUANTIZED:
            return self.width * (s.matrices() + s.vectors())
        linears = s.layers * sum(inputs * outputs for inputs, outputs in s.linears().values())
        factors = FLOAT32 / GROUP if c.quantization.bits == 4 else 0
        packed = linears * (c.quantization.bits / 8 + factors)
        return int(packed) + FLOAT16 * (s.matrices() - linears + s.vectors())

    def merged(self, c: Config) -> int:
        """On CUDA rollouts use a copy of the adapters in 16 bits."""
        if self.device == "gpu":
            return FLOAT16 * self.shape.lora_parameters(c.lora)
        return Planner.merged(self, c)


def torch_device() -> str:
    """What torch computes on here: "gpu" for CUDA, otherwise "cpu"."""
    import torch

    return "gpu" if torch.cuda.is_available() else "cpu"


def free_memory() -> int:
    """Bytes that are free on the GPU that this process uses."""
    import torch

    return int(torch.cuda.mem_get_info()[0])
