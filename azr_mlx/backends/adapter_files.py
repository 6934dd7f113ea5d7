"""The files of a trained model that are the same on every backend, in mlx-lm's format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from azr_mlx.config import Lora


def describe(lora: Lora, depth: int) -> dict[str, Any]:
    """The adapter_config.json of adapters on a model of ``depth`` layers."""
    parameters: dict[str, Any] = {"rank": lora.rank, "scale": lora.scale, "dropout": lora.dropout}
    if lora.keys:
        parameters["keys"] = list(lora.keys)
    count = depth if lora.num_layers < 0 else min(lora.num_layers, depth)
    return {"fine_tune_type": "lora", "num_layers": count, "lora_parameters": parameters}


def write_arrays(file: Path, arrays: Mapping[str, Any]) -> None:
    """Write a safetensors file. Its bytes depend only on the arrays; MLX's own writer puts them in
    an arbitrary order. (The library's own ``save_file`` makes files that nobody but their owner can
    read, whatever the umask says, so a server that runs as another user could not load them.)

    Raises:
        OSError: the file cannot be written.
    """
    made = {k: np.array(v) for k, v in arrays.items()}
    file.write_bytes(save(made, metadata={"format": "mlx"}))


def require_fit(file: Path, found: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Check that the arrays in ``file`` have the names and shapes of the model's own adapters.

    Raises:
        ValueError: an array is missing, unexpected, or of another shape. The message names the
            first two such arrays.
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
