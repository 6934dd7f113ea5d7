"""Nano: the small model that the package carries. ``lessons`` is what it learned from, ``pretrain``
makes it anew; ``model`` holds it, as a Hugging Face folder that mlx-lm loads as it is."""

from pathlib import Path

FOLDER = Path(__file__).parent / "model"
