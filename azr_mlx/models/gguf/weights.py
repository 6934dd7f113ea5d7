"""Renaming a GGUF file's tensors, quantising them again if needed, and writing the MLX files."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from azr_mlx.config import Quantization
from azr_mlx.errors import ModelError
from azr_mlx.models.gguf.reader import GgufFile, Stored

_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def renamed(file: GgufFile, config: dict[str, Any]) -> Iterator[tuple[str, Stored]]:
    """(Hugging Face's name, tensor) of each tensor. llama's rotary rows are put back in order."""
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for name, stored in file.tensors.items():
        if name == "rope_freqs.weight":
            continue
        match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
        layer, leaf, part = match.groups() if match else (None, "", "")
        module = _LAYER.get(leaf) if layer is not None else _TOP.get(leaf)
        if module is None:
            raise ModelError(
                f"{file.path}: tensor {name} is not part of a dense {file.architecture}",
                "convert the Hugging Face folder instead",
            )
        if file.architecture == "llama" and leaf in heads:
            stored = _unpermute(stored, heads[leaf])
        yield (
            f"model.layers.{layer}.{module}.{part}" if layer is not None else f"{module}.{part}",
            stored,
        )


def _unpermute(stored: Stored, heads: int) -> Stored:
    """Undo LlamaModel.permute of convert_hf_to_gguf.py, which interleaves each head's halves."""
    import mlx.core as mx

    rows = stored.weight.shape[0]
    order = mx.array(
        np.arange(rows).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).reshape(-1)
    )
    if stored.scales is None or stored.biases is None:
        return replace(stored, weight=stored.weight[order])
    scales, biases = stored.scales[order], stored.biases[order]
    return replace(stored, weight=stored.weight[order], scales=scales, biases=biases)


def check_complete(tensors: dict[str, Stored], config: dict[str, Any], path: Path) -> None:
    """Raise ModelError if a layer is missing, as it is in one part of a split file."""
    wanted = {
        f"model.layers.{i}.self_attn.q_proj.weight" for i in range(config["num_hidden_layers"])
    }
    missing = sorted((wanted | {"model.norm.weight"}) - set(tensors))
    if missing:
        raise ModelError(
            f"{path}: {missing[0]} is missing (one part of a split file?)", "merge its parts first"
        )


def natural_dtype(tensors: dict[str, Stored]) -> str:
    kinds = {stored.kind for stored in tensors.values()}
    if kinds <= {"F32"}:
        return "float32"
    return "bfloat16" if kinds <= {"F32", "BF16"} else "float16"


def requantize(
    tensors: dict[str, Stored], quantization: Quantization, dtype: str
) -> tuple[dict[str, Stored], int, int, int]:
    """(tensors to write, with floats in ``dtype``; numbers of matrices kept, dequantised and
    quantised)."""
    matrices = {name: stored for name, stored in tensors.items() if stored.weight.ndim == 2}
    lower = 0 < quantization.bits < _usual_bits(matrices)
    done, counts = {}, Counter[str]()
    for name, stored in tensors.items():
        keep = stored.bits > 0 and not (lower and _worth(stored, quantization))
        out = (
            _cast(stored, dtype)
            if keep or stored.weight.ndim != 2
            else _quantized(stored, quantization, dtype)
        )
        done[name] = out
        if name in matrices:
            counts["kept"] += keep
            counts["quantized"] += not keep and out.bits > 0
            counts["dequantized"] += not keep and stored.kind not in ("F32", "F16", "BF16")
    return done, counts["kept"], counts["dequantized"], counts["quantized"]


def _worth(stored: Stored, quantization: Quantization) -> bool:
    """Whether packed weights have more bits than asked for, and fit into the groups asked for."""
    columns = stored.weight.shape[-1] * 32 // stored.bits
    return stored.bits > quantization.bits and columns % quantization.group_size == 0


def _usual_bits(matrices: dict[str, Stored]) -> int:
    """The bits of the blocks that hold most of the weights; 0 if MLX does not support those."""
    sizes: Counter[int] = Counter()
    for stored in matrices.values():
        sizes[stored.bits] += (
            stored.weight.size * 32 // stored.bits if stored.bits else stored.weight.size
        )
    return sizes.most_common(1)[0][0]


def _cast(stored: Stored, dtype: str) -> Stored:
    import mlx.core as mx

    to = getattr(mx, dtype)
    if not stored.bits or stored.scales is None or stored.biases is None:
        return Stored(stored.weight.astype(to), kind=stored.kind)
    if not bool(mx.isfinite(stored.biases).all()):
        raise ModelError(
            f"a {stored.kind} tensor has scales too large for float16", "fetch another file"
        )
    return replace(stored, scales=stored.scales.astype(to), biases=stored.biases.astype(to))


def _quantized(stored: Stored, quantization: Quantization, dtype: str) -> Stored:
    """A matrix, quantised as asked for. As in mlx-lm it stays plain if it does not fit into the
    groups."""
    import mlx.core as mx

    weight = stored.weight
    if stored.bits and stored.scales is not None and stored.biases is not None:
        scales, biases = stored.scales.astype(mx.float32), stored.biases.astype(mx.float32)
        weight = mx.dequantize(weight, scales, biases, stored.group, stored.bits)
    weight = weight.astype(getattr(mx, dtype))
    bits, group, mode = quantization.bits, quantization.group_size, quantization.mode
    if not bits or weight.shape[-1] % group:
        return Stored(weight, kind=stored.kind)
    packed, scales, *biases_ = mx.quantize(weight, group_size=group, bits=bits, mode=mode)
    mx.eval(packed, scales, *biases_)
    return Stored(packed, scales, biases_[0] if biases_ else None, bits, group, mode, stored.kind)


def quantization_entries(tensors: dict[str, Stored]) -> dict[str, Any]:
    """mlx-lm's config["quantization"]: the most common kind at the top level, others by module."""
    modules = {
        name.removesuffix(".weight"): (stored.group, stored.bits, stored.mode)
        for name, stored in tensors.items()
        if stored.bits
    }
    if not modules:
        return {}
    usual = Counter(modules.values()).most_common(1)[0][0]
    names = ("group_size", "bits", "mode")
    entries: dict[str, Any] = dict(zip(names, usual, strict=True))
    for module, values in modules.items():
        if values != usual:
            entries[module] = dict(zip(names, values, strict=True))
    return entries


def write_weights(folder: Path, tensors: dict[str, Stored]) -> None:
    import mlx.core as mx
    from mlx_lm.utils import make_shards

    arrays = {}
    for name, stored in tensors.items():
        arrays[name] = stored.weight
        for leaf, array in (("scales", stored.scales), ("biases", stored.biases)):
            if array is not None:
                arrays[f"{name.removesuffix('.weight')}.{leaf}"] = array
    shards = make_shards(arrays)
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        whole = len(shards) == 1
        file = (
            "model.safetensors" if whole else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        )
        mx.save_safetensors(str(folder / file), shard, metadata={"format": "mlx"})
        index |= dict.fromkeys(shard, file)
    meta = {"total_size": sum(array.nbytes for array in arrays.values())}
    text = json.dumps({"metadata": meta, "weight_map": dict(sorted(index.items()))}, indent=2)
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def write_config(folder: Path, config: dict[str, Any], file: GgufFile) -> None:
    """Write config.json, and generation_config.json with all tokens that end a turn."""
    from mlx_lm.utils import save_config

    save_config(
        {key: value for key, value in config.items() if value is not None}, folder / "config.json"
    )
    ends = (config["eos_token_id"], file.metadata.get("tokenizer.ggml.eot_token_id"))
    ids = list(dict.fromkeys(int(end) for end in ends if end is not None))
    generation = {"bos_token_id": config["bos_token_id"], "pad_token_id": config["pad_token_id"]}
    generation["eos_token_id"] = ids[0] if len(ids) == 1 else ids or None
    kept = {key: value for key, value in generation.items() if value is not None}
    (folder / "generation_config.json").write_text(json.dumps(kept, indent=2), encoding="utf-8")


def check_loads(folder: Path, path: Path) -> None:
    """Load what was written as a model, so that tensors that do not fit are reported now. Raises
    ModelError."""
    from mlx_lm.utils import load_model

    try:
        load_model(folder, lazy=True, strict=True)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path}: its tensors do not form a model: {str(error).splitlines()[0]}"
        ) from error
