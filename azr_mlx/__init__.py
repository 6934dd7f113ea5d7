"""azr-mlx: a small language model teaches itself to reason about code, on the owner's own
machine."""

__version__ = "0.1.0"
