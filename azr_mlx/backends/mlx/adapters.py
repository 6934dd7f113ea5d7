"""LoRA adapters on an mlx-lm model: adding them, switching them off, reading and writing them.

The files have exactly mlx-lm's format (``adapters.safetensors`` and ``adapter_config.json``), so
``mlx_lm.generate --adapter-path`` can load them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear
from mlx_lm.tuner.dora import DoRAEmbedding, DoRALinear
from mlx_lm.tuner.lora import LoRAEmbedding, LoRALinear, LoRASwitchLinear
from mlx_lm.tuner.utils import linear_to_lora_layers

from azr_mlx import rng
from azr_mlx.backends.adapter_files import describe, require_fit
from azr_mlx.backends.mlx.cpu import FusedLoRALinear
from azr_mlx.config import Lora
from azr_mlx.models.mlx_model import adapter_weights, read_arrays

# The attribute in which each class keeps the layer that it wraps. The classes have no common parent
# in mlx-lm.
WRAPPED = {
    LoRALinear: "linear",
    FusedLoRALinear: "linear",
    LoRASwitchLinear: "linear",
    DoRALinear: "linear",
    LoRAEmbedding: "embedding",
    DoRAEmbedding: "embedding",
}


# The classes to which mlx-lm adds adapters.
ADAPTABLE = (
    nn.Linear, nn.QuantizedLinear, SwitchLinear, QuantizedSwitchLinear, nn.Embedding,
    nn.QuantizedEmbedding,
)  # fmt: skip


CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)


def add_lora(model: nn.Module, lora: Lora, seed: int) -> dict[str, Any]:
    """Freeze the model, wrap its linear layers, and return the contents of adapter_config.json.

    A is uniform with bound 1/sqrt(fan_in), drawn from named keys. B is zero, so at the start the
    policy equals the base model (Hu et al., arXiv 2106.09685, section 4.1).
    """
    described = describe(lora, len(model.layers))
    for module in model.modules():
        if not hasattr(module, "_no_grad"):  # a constructor that does not call its parent's
            nn.Module.__init__(module)
    model.freeze()
    _choose_layers(model, described["lora_parameters"])
    linear_to_lora_layers(model, described["num_layers"], described["lora_parameters"])
    for index, (_, layer) in enumerate(adapter_layers(model)):
        fan_in = layer.lora_a.shape[-1 if type(layer) is LoRASwitchLinear else -2]
        key = mx.random.key(rng.key(seed, "lora", 0, index))
        layer.lora_a = mx.random.uniform(-(fan_in**-0.5), fan_in**-0.5, layer.lora_a.shape, key=key)
    mx.eval(model.parameters())
    return described


def _choose_layers(model: nn.Module, parameters: dict[str, Any]) -> None:
    """Leave out the keys of layers that mlx-lm cannot wrap in each block, and of those with
    adapters of their own classes (``to_lora``), which nothing here could switch off."""
    modules = [one for block in model.layers for one in block.named_modules()]
    linear = {key for key, module in modules if isinstance(module, ADAPTABLE)}
    own = {key for key, module in modules if hasattr(module, "to_lora")}
    other = {key for key, module in modules if not isinstance(module, ADAPTABLE)}
    if unfit := own | (linear & other):
        parameters["keys"] = sorted(set(parameters.get("keys", linear)) - unfit)


def by_key(model: nn.Module) -> dict[str, list[tuple[str, nn.Module]]]:
    """The (path, layer) of the adapter layers by their names within their blocks, which are the
    ``keys`` of a LoRA configuration."""
    paths = {id(layer): path for path, layer in adapter_layers(model)}
    found: dict[str, list[tuple[str, nn.Module]]] = {}
    for block in model.layers:
        for key, layer in block.named_modules():
            if id(layer) in paths:
                found.setdefault(key, []).append((paths[id(layer)], layer))
    return found


def left_out(model: nn.Module) -> list[str]:
    """The keys of matrices that have no adapters."""
    adapted = set(by_key(model))
    modules = [one for block in model.layers for one in block.named_modules()]
    matrices = {
        key
        for key, module in modules
        if getattr(module.get("weight"), "ndim", 0) > 1 and not isinstance(module, CONVOLUTIONS)
    }
    return sorted(key for key in matrices if key.rpartition(".")[0] not in adapted)


def failing(model: nn.Module, runs: Callable[[], bool]) -> list[str]:
    """The keys whose adapters alone make ``runs`` return False. Some models read the weights of a
    layer instead of calling it."""
    layers = by_key(model)
    with bypassed(model):
        return [key for key in layers if not _with_only(model, layers[key], runs)]


def _with_only(
    model: nn.Module, layers: list[tuple[str, nn.Module]], runs: Callable[[], bool]
) -> bool:
    model.update_modules(tree_unflatten(layers))
    try:
        return runs()
    finally:
        model.update_modules(tree_unflatten(_inner(layers)))


def idle(model: nn.Module, gradients: dict[str, mx.array]) -> list[str]:
    """The keys whose adapters get no gradient: what they compute only decides which tokens or
    experts are looked at."""
    moved = {path for path, gradient in gradients.items() if mx.any(gradient != 0).item()}
    layers = by_key(model)
    return [k for k in layers if not any(f"{path}.lora_b" in moved for path, _ in layers[k])]


def remove(model: nn.Module, keys: Collection[str], described: dict[str, Any]) -> None:
    """Take out the adapters with these keys, and say in the description which ones are left."""
    layers = by_key(model)
    model.update_modules(tree_unflatten(_inner([one for key in keys for one in layers[key]])))
    described["lora_parameters"]["keys"] = sorted(layers.keys() - set(keys))


def adapter_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """(path, layer) of all adapter layers, sorted by path."""
    return sorted(
        ((name, m) for name, m in model.named_modules() if type(m) in WRAPPED), key=lambda nm: nm[0]
    )


@contextlib.contextmanager
def bypassed(model: nn.Module) -> Iterator[None]:
    """Within the block the model is the base model, bit for bit, since adapter layers are taken out
    and not multiplied by zero."""
    layers = adapter_layers(model)
    try:
        model.update_modules(tree_unflatten(_inner(layers)))
        yield
    finally:
        model.update_modules(tree_unflatten(layers))


def _inner(layers: list[tuple[str, nn.Module]]) -> list[tuple[str, nn.Module]]:
    """The layers that these adapter layers wrap."""
    return [(path, getattr(layer, WRAPPED[type(layer)])) for path, layer in layers]


@contextlib.contextmanager
def merged(model: nn.Module) -> Iterator[None]:
    """Within the block the adapters are added to the weights, if those are dense. A decode step
    then takes a third of the operations, but there are two copies of the weights in memory."""
    layers = adapter_layers(model)
    if not all(type(m) is FusedLoRALinear and type(m.linear) is nn.Linear for _, m in layers):
        yield
        return
    fused = tree_unflatten([(name, layer.fuse()) for name, layer in layers])
    try:  # Ctrl-C may come in between, and what is saved then needs the layers
        model.update_modules(fused)
        mx.eval(model.parameters())
        yield
    finally:
        model.update_modules(tree_unflatten(layers))


def load_adapter_weights(model: nn.Module, file: Path) -> None:
    """Load ``file`` into the adapter layers that ``add_lora`` made.

    Raises:
        ValueError: the tensors do not fit this model and LoRA configuration.
    """
    new, own = read_arrays(file), adapter_weights(model)
    require_fit(file, new, own)
    # Adapters are trained in the type in which they were made: Adam's squares underflow in 16 bits.
    model.load_weights([(k, v.astype(own[k].dtype)) for k, v in new.items()], strict=False)
