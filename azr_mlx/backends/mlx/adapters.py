"""LoRA adapters on an mlx-lm model: adding them, switching them off, reading and writing them.

The files are exactly mlx-lm's (``adapters.safetensors`` + ``adapter_config.json``), so that
``mlx_lm.generate --adapter-path`` loads them as they are.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_unflatten
from mlx_lm.tuner.dora import DoRAEmbedding, DoRALinear
from mlx_lm.tuner.lora import LoRAEmbedding, LoRALinear, LoRASwitchLinear
from mlx_lm.tuner.utils import linear_to_lora_layers
from safetensors import SafetensorError
from safetensors.numpy import save_file

from azr_mlx import rng
from azr_mlx.backends.mlx.cpu import FusedLoRALinear
from azr_mlx.config import Lora
from azr_mlx.models.mlx_model import adapter_weights
from azr_mlx.run_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS

# No common parent class in mlx-lm: the attribute under which each holds the layer it wraps.
WRAPPED = {
    LoRALinear: "linear",
    FusedLoRALinear: "linear",
    LoRASwitchLinear: "linear",
    DoRALinear: "linear",
    LoRAEmbedding: "embedding",
    DoRAEmbedding: "embedding",
}


def add_lora(model: nn.Module, lora: Lora, seed: int) -> dict[str, Any]:
    """Freeze the model, wrap its linear layers, and return the adapter_config.json that describes
    it.

    A is uniform with bound 1/sqrt(fan_in), drawn from named keys; B is zero, so the policy starts
    as the base model (Hu et al., arXiv 2106.09685, section 4.1).
    """
    depth = len(model.layers)
    count = depth if lora.num_layers < 0 else min(lora.num_layers, depth)
    parameters: dict[str, Any] = {"rank": lora.rank, "scale": lora.scale, "dropout": lora.dropout}
    if lora.keys:
        parameters["keys"] = list(lora.keys)
    model.freeze()
    linear_to_lora_layers(model, count, parameters)
    for index, (_, layer) in enumerate(adapter_layers(model)):
        bound = layer.lora_a.shape[-2] ** -0.5
        key = mx.random.key(rng.key(seed, "lora", 0, index))
        layer.lora_a = mx.random.uniform(-bound, bound, layer.lora_a.shape, key=key)
    mx.eval(model.parameters())
    return {"fine_tune_type": "lora", "num_layers": count, "lora_parameters": parameters}


def adapter_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """(path, layer) of every adapter layer, sorted by path."""
    return sorted(
        ((name, m) for name, m in model.named_modules() if type(m) in WRAPPED), key=lambda nm: nm[0]
    )


@contextlib.contextmanager
def bypassed(model: nn.Module) -> Iterator[None]:
    """The base model, bit for bit: adapter layers are taken out, not multiplied by zero."""
    layers = adapter_layers(model)
    inner = [(name, getattr(layer, WRAPPED[type(layer)])) for name, layer in layers]
    model.update_modules(tree_unflatten(inner))
    try:
        yield
    finally:
        model.update_modules(tree_unflatten(layers))


@contextlib.contextmanager
def merged(model: nn.Module) -> Iterator[None]:
    """The policy with its adapters added to the weights, where those are dense: a third of the
    operations of a decode step, for a second copy of the weights meanwhile."""
    layers = adapter_layers(model)
    if not all(type(m) is FusedLoRALinear and type(m.linear) is nn.Linear for _, m in layers):
        yield
        return
    model.update_modules(tree_unflatten([(name, layer.fuse()) for name, layer in layers]))
    mx.eval(model.parameters())
    try:
        yield
    finally:
        model.update_modules(tree_unflatten(layers))


def save_adapters(model: nn.Module, config: dict[str, Any], path: Path) -> None:
    save_arrays(path / ADAPTER_WEIGHTS, adapter_weights(model))
    (path / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def save_arrays(file: Path, arrays: dict[str, mx.array]) -> None:
    """A safetensors file whose bytes follow from the arrays alone: MLX's own writer orders them by
    chance."""
    try:
        save_file({k: np.array(v) for k, v in arrays.items()}, file, metadata={"format": "mlx"})
    except SafetensorError as e:  # a full disk, say: to the caller an OSError like any other
        raise OSError(str(e)) from e


def load_adapter_weights(model: nn.Module, file: Path) -> None:
    """Fill the adapter layers that ``add_lora`` made.

    Raises:
        ValueError: a tensor is missing, unexpected, or of another shape; all are named.
    """
    new, own = mx.load(str(file)), adapter_weights(model)
    wrong = [f"{k}: missing" for k in own if k not in new]
    wrong += [f"{k}: unexpected" for k in new if k not in own]
    wrong += [
        f"{k}: shape {tuple(new[k].shape)}, expected {tuple(own[k].shape)}"
        for k in own
        if k in new and new[k].shape != own[k].shape
    ]
    if wrong:
        shown = "; ".join(wrong[:2]) + (f"; and {len(wrong) - 2} more" if len(wrong) > 2 else "")
        raise ValueError(f"{file}: adapters of another model or LoRA configuration: {shown}")
    model.load_weights(list(new.items()), strict=False)
