"""The backend on PyTorch: CUDA, and the CPU where MLX is not to be had."""

from azr_mlx.backends.torch.backend import TorchBackend

__all__ = ["TorchBackend"]
