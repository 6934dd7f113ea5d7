"""The PyTorch backend, for CUDA, and for the CPU if MLX is not available."""

from azr_mlx.backends.torch.backend import TorchBackend

__all__ = ["TorchBackend"]
