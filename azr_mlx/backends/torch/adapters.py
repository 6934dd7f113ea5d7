"""peft's LoRA adapters on a transformers model. Their files have mlx-lm's layout, so that a run can
continue on the other backend.

mlx-lm: ``NAME.lora_a`` [in, r], ``NAME.lora_b`` [r, out], added with ``scale``. peft:
``lora_A.weight`` [r, in], ``lora_B.weight`` [out, r], added with alpha / r.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file

from azr_mlx import rng
from azr_mlx.backends.adapter_files import describe, require_fit
from azr_mlx.backends.torch import kernels
from azr_mlx.backends.torch.model import trunk_of
from azr_mlx.config import Lora
from azr_mlx.errors import UsageError

ADAPTER = "default"  # peft's name for the only adapter
# peft refuses adapters on these layers of these models, whose kernels read their weights.
FUSED = "out_proj"
FUSED_IN = {"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"}


def add_lora(model: Any, lora: Lora, seed: int) -> tuple[Any, dict[str, Any]]:
    """(peft's model, the contents of adapter_config.json). A seed gives the same adapters on MLX.

    Raises UsageError if ``lora.keys`` names something that is not a linear layer.
    """
    depth = model.config.num_hidden_layers
    described = describe(lora, depth)
    names = _linear_names(model, depth - described["num_layers"], lora.keys)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=cast(int, lora.rank * lora.scale),  # peft takes any number
        lora_dropout=lora.dropout,
        target_modules=names,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():  # peft uses a name that transformers has deprecated
        warnings.simplefilter("ignore", FutureWarning)
        adapted = get_peft_model(model, config)
    for index, (_, layer) in enumerate(adapter_layers(model)):
        layer.cast_input_dtype_enabled = False  # ``precision`` sees to the types
        a = layer.lora_A[ADAPTER].weight
        key = rng.key(seed, "lora", 0, index)
        with torch.no_grad():
            a.copy_(uniform(key, (a.shape[1], a.shape[0]), a.shape[1] ** -0.5).T)
    return adapted, described


def uniform(key: int, shape: tuple[int, int], bound: float) -> torch.Tensor:
    """float32 ``shape``, in [-bound, bound): the numbers that ``mx.random.uniform`` draws with this
    key."""
    words = np.array([[key >> 32, key & 0xFFFFFFFF]], np.uint32)
    bits = kernels.random_bits(torch.from_numpy(words.view(np.int32)), shape[0] * shape[1])
    below_one = float(np.nextafter(np.float32(1), np.float32(0)))
    u = (bits[0].float() / 2.0**32).clamp(max=below_one)
    return (u * (2 * bound) - bound).reshape(shape)


def _linear_names(model: Any, first: int, keys: tuple[str, ...]) -> list[str]:
    """The linear layers in the blocks from ``first`` on: all, or only those that ``keys`` names by
    their path within a block."""
    blocks = trunk_of(model).layers
    path = next(name for name, module in model.named_modules() if module is blocks)
    found = [
        (i, name)
        for i, block in enumerate(blocks)
        for name, module in block.named_modules()
        if isinstance(module, torch.nn.Linear) and _adaptable(model, name, module)
    ]
    unknown = [key for key in keys if key not in {name for _, name in found}]
    if unknown:
        raise UsageError(
            f"lora.keys: {unknown[0]!r} is not a linear layer in this model's blocks; there are "
            + ", ".join(sorted({name for _, name in found}))
        )
    return [f"{path}.{i}.{name}" for i, name in found if i >= first and (not keys or name in keys)]


def _adaptable(model: Any, name: str, layer: Any) -> bool:
    """Whether a linear layer is used as one. A class of the model's own, for example a router, may
    return something else."""
    fused = model.config.model_type in FUSED_IN and name.rpartition(".")[2] == FUSED
    return not fused and not type(layer).__module__.startswith("transformers.models")


def left_out(model: Any) -> list[str]:
    """The names, within a block, of linear layers that cannot have adapters."""
    named = [pair for block in trunk_of(model).layers for pair in block.named_modules()]
    linear = [(name, layer) for name, layer in named if isinstance(layer, torch.nn.Linear)]
    return sorted({name for name, layer in linear if not _adaptable(model, name, layer)})


def adapter_layers(model: Any) -> list[tuple[str, Any]]:
    """(path in the language model, layer) of all adapter layers, sorted by path."""
    found = ((name, m) for name, m in model.named_modules() if isinstance(m, LoraLayer))
    return sorted(found, key=lambda nm: nm[0])


@contextlib.contextmanager
def merged(model: Any) -> Iterator[None]:
    """Within the block the adapters are added to the weights, if those are dense float32. A decode
    step then takes fewer operations, but there are two copies of the weights in memory. The base
    weights are kept as they are, since adding and subtracting would round them."""
    layers = [layer for _, layer in adapter_layers(model)]
    dense = all(
        type(m.base_layer) is torch.nn.Linear and m.base_layer.weight.dtype == torch.float32
        for m in layers
    )
    if not dense:
        yield
        return
    kept = [m.base_layer.weight.data for m in layers]
    try:  # from here on, since Ctrl-C may come at any time
        for layer, weight in zip(layers, kept, strict=True):
            layer.base_layer.weight.data = weight + layer.get_delta_weight(ADAPTER)
            layer.enable_adapters(False)
        yield
    finally:
        for layer, weight in zip(layers, kept, strict=True):
            layer.base_layer.weight.data = weight
            layer.enable_adapters(True)


def named_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """The adapters' parameters under mlx-lm's names, in peft's layout (see ``transposed``)."""
    return {
        f"{name}.{ours}": getattr(layer, theirs)[ADAPTER].weight
        for name, layer in adapter_layers(model)
        for ours, theirs in (("lora_a", "lora_A"), ("lora_b", "lora_B"))
    }


def transposed(array: torch.Tensor) -> torch.Tensor:
    """A matrix of peft in mlx-lm's layout, or the reverse."""
    return array.detach().T.contiguous().cpu()


def read_arrays(file: Path) -> dict[str, torch.Tensor]:
    """The arrays in a safetensors file. Raises OSError, or ValueError if it is damaged."""
    try:
        return load_file(file)
    except SafetensorError as e:
        raise ValueError(f"{file} is not a whole safetensors file: {e}; fetch it again") from e


def load_weights(model: Any, file: Path) -> None:
    """Load a file in mlx-lm's layout into the adapter layers.

    Raises:
        ValueError: the tensors do not fit this model and LoRA configuration.
    """
    new, own = read_arrays(file), named_parameters(model)
    require_fit(file, new, {name: parameter.T for name, parameter in own.items()})
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(new[name].T)
