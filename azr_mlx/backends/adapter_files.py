"""The files of a trained model that are the same on every backend, in mlx-lm's format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from azr_mlx.config import Lora


def describe(lora: Lora, depth: int) -> dict[str, Any]:
    """The adapter_config.json of adapters on a model of ``depth`` layers."""
    parameters: dict[str, Any] = {"rank": lora.rank, "scale": lora.scale, "dropout": lora.dropout}
    if lora.keys:
        parameters["keys"] = list(lora.keys)
    count = depth if lora.num_layers < 0 else min(lora.num_layers, depth)
    return {"fine_tune_type": "lora", "num_layers": count, "lora_parameters": parameters}


def write_arrays(file: Path, arrays: Mapping[str, Any]) -> None:
    """Write a safetensors file whose bytes depend on the arrays alone: MLX's own writer orders
    them by chance.

    Raises:
        OSError: the file cannot be written.
    """
    try:
        save_file({k: np.array(v) for k, v in arrays.items()}, file, metadata={"format": "mlx"})
    except SafetensorError as e:  # for example a full disk
        raise OSError(str(e)) from e


def require_fit(file: Path, found: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Compare the arrays that ``file`` holds with those of the model's own adapters, by name and
    shape.

    Raises:
        ValueError: an array is missing, unexpected, or of another shape; the first two are named.
    """
    there, expected = ({k: tuple(v.shape) for k, v in arrays.items()} for arrays in (found, own))
    wrong = [f"{k}: missing" for k in expected if k not in there]
    wrong += [f"{k}: unexpected" for k in there if k not in expected]
    wrong += [
        f"{k}: shape {there[k]}, expected {shape}"
        for k, shape in expected.items()
        if k in there and there[k] != shape
    ]
    if wrong:
        shown = "; ".join(wrong[:2]) + (f"; and {len(wrong) - 2} more" if len(wrong) > 2 else "")
        raise ValueError(f"{file}: adapters of another model or LoRA configuration: {shown}")
