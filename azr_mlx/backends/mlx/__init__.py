"""The MLX backend: rollouts, scores and PPO updates in unified memory."""

from azr_mlx.backends.mlx.backend import MlxBackend

__all__ = ["MlxBackend"]
