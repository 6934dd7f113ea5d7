"""Which backend a command runs on, and the model for it: ``--backend auto|mlx|torch``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from azr_mlx.config import Lora, Quantization
from azr_mlx.errors import UsageError
from azr_mlx.models import ResolvedModel, resolve


def choose(asked: str) -> tuple[str, str]:
    """(name, why). Raises UsageError where the backend that was asked for is not to be had."""
    if asked not in ("auto", "mlx", "torch"):
        raise UsageError(f"backend: {asked}: unknown; use auto, mlx or torch")
    missing = {"mlx": _missing("mlx.core"), "torch": _missing("torch") or _missing("peft")}
    if asked == "auto":
        name = "torch" if missing["mlx"] and not missing["torch"] else "mlx"
        why = "auto: MLX imports" if name == "mlx" else f"auto: {missing['mlx']}"
    else:
        name, why = asked, "asked for"
    if missing[name]:
        extra = "[torch]" if name == "torch" else "" if sys.platform == "darwin" else "[cpu]"
        raise UsageError(f"backend: {asked}: {missing[name]}; pip install 'azr-mlx{extra}'")
    return name, why


def _missing(module: str) -> str:
    """Why it cannot be imported; empty if it can."""
    try:
        importlib.import_module(module)
    except ImportError as e:
        return f"{'MLX' if module == 'mlx.core' else module} does not import ({e})"
    return ""


def resolve_model(
    name: str, model_id: str, quantization: Quantization, cache_dir: Path
) -> ResolvedModel:
    """The folder that this backend loads. Torch takes a model's own weights, and quantises them
    when it loads them."""
    if name == "mlx":
        return resolve(model_id, quantization=quantization, cache_dir=cache_dir)
    try:
        return resolve(model_id, quantization=Quantization(bits=0), cache_dir=cache_dir)
    except ImportError as e:
        raise UsageError(
            f"model_id: {model_id}: a GGUF file is read by MLX, which does not import ({e}); name "
            "the model that it was made from"
        ) from e


def open_backend(
    name: str, folder: Path, lora: Lora, quantization: Quantization, **options: Any
) -> Any:
    """The backend with fresh adapters; ``options`` are its constructor's."""
    if name == "mlx":
        from azr_mlx.backends.mlx import MlxBackend

        return MlxBackend.from_folder(folder, lora, **options)
    from azr_mlx.backends.torch import TorchBackend

    options.pop("compile", None)  # MLX's
    return TorchBackend.from_folder(folder, lora, quantization, **options)
