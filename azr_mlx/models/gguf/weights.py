"""A GGUF file's tensors under Hugging Face's names, quantised again if needed, and writing the MLX
files."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from azr_mlx.config import Quantization
from azr_mlx.errors import ModelError
from azr_mlx.models.gguf.architecture import Architecture
from azr_mlx.models.gguf.header import Tensor
from azr_mlx.models.gguf.reader import BITS, PLAIN, GgufFile, Stored, load
from azr_mlx.models.gguf.rope import FACTORS

_ROUTERS = ("mlp.gate", "mlp.shared_expert_gate")  # as in mlx-lm never quantised to few bits
# How many heads a tensor has whose rows are in llama.cpp's order, as an entry of config.json.
HEADS = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}
_EXPERT = re.compile(r"(.*\.mlp)\.switch_mlp\.(\w+)\.weight")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done with each matrix: kept if it has blocks, quantised, or made dense."""

    quantization: Quantization
    dtype: str
    keep_blocks: bool
    lower: bool

    @classmethod
    def of(
        cls, file: GgufFile, quantization: Quantization, dtype: str | None, keep_blocks: bool
    ) -> Plan:
        """Blocks are kept if that is asked for, or if the weights are quantised anyway, and most
        of the file has no more bits than are asked for."""
        lower = not keep_blocks and 0 < quantization.bits < _usual_bits(file)
        return cls(
            quantization,
            dtype or natural_dtype(file),
            keep_blocks or quantization.bits > 0,
            lower,
        )

    def keeps(self, tensor: Tensor) -> bool:
        bits = BITS.get(tensor.kind, 0)
        fewer = self.lower and bits > self.quantization.bits
        fits = tensor.shape[-1] % self.quantization.group_size == 0
        return bits > 0 and self.keep_blocks and not (fewer and fits)


@dataclass(slots=True)
class Converted:
    """Tensors to write under Hugging Face's names, and how many matrices kept their blocks, were
    dequantised and were quantised."""

    tensors: dict[str, Stored] = field(default_factory=dict)
    kept: int = 0
    dequantized: int = 0
    quantized: int = 0


def convert_tensors(
    file: GgufFile,
    known: Architecture,
    config: Mapping[str, Any],
    plan: Plan,
) -> Converted:
    """Read and convert all tensors, one after the other. Raises ModelError."""
    done = Converted()
    for name, tensor, module in list(_named(file, known)):
        matrix = len(tensor.shape) >= 2
        keep = matrix and plan.keeps(tensor)
        stored = _as_trained(tensor, name, known, config, (plan.dtype, keep))
        out = _cast(stored, plan.dtype, file.path, name) if keep else stored
        if matrix and not keep and not module.endswith(_ROUTERS):
            out = _quantized(stored, plan)
        done.tensors[f"{module}.{name.rpartition('.')[2]}"] = out
        done.kept += keep
        done.quantized += matrix and not keep and out.bits > 0
        done.dequantized += matrix and not keep and tensor.kind not in PLAIN
    done.tensors = dict(_experts_by_number(done.tensors))
    return done


def _named(file: GgufFile, known: Architecture) -> Iterator[tuple[str, Tensor, str]]:
    """(ggml's name, tensor, name of the module) of each tensor. Raises ModelError for a tensor
    that the architecture does not have."""
    for name, tensor in file.tensors.items():
        if name == FACTORS and "llama3" in known.scalings:
            continue
        module = known.module(name)
        if module is None:
            raise ModelError(
                f"{file.path}: tensor {name} is not part of a {file.architecture}",
                "convert the Hugging Face folder instead",
            )
        yield name, tensor, module


def _as_trained(
    tensor: Tensor, name: str, known: Architecture, config: Mapping[str, Any], how: tuple[str, bool]
) -> Stored:
    """The tensor as Hugging Face has it: what llama.cpp's conversion does to some is undone.
    ``how`` is what ``load`` takes."""
    import mlx.core as mx

    leaf = name.split(".")[-2]
    if known.norms and leaf.endswith("norm"):
        weight = load(tensor).weight - known.norms  # in float32, in which the difference is exact
        return Stored(weight.astype(getattr(mx, how[0])), kind=tensor.kind)
    stored = load(tensor, *how)
    heads = HEADS.get(leaf)
    if known.rows and heads:
        if tensor.shape[0] % (2 * config[heads]):
            raise ModelError(
                f"{tensor.path}: {name} has {tensor.shape[0]} rows, which are not those of "
                f"{config[heads]} heads",
                "fetch it again",
            )
        return _unpermute(stored, config[heads])
    if leaf == "ffn_gate_inp_shexp":
        return replace(stored, weight=stored.weight.reshape(1, -1))
    return stored


def trained_order(rows: int, heads: int) -> np.ndarray:
    """Where in ggml's queries or keys each row of Hugging Face's is, int64 [rows]:
    LlamaModel.permute of convert_hf_to_gguf.py interleaves each head's halves."""
    halves = np.arange(rows).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2)
    return np.ascontiguousarray(halves).reshape(-1)


def _unpermute(stored: Stored, heads: int) -> Stored:
    import mlx.core as mx

    order = mx.array(trained_order(stored.weight.shape[0], heads))
    if stored.scales is None or stored.biases is None:
        return replace(stored, weight=stored.weight[order])
    scales, biases = stored.scales[order], stored.biases[order]
    return replace(stored, weight=stored.weight[order], scales=scales, biases=biases)


def _experts_by_number(tensors: dict[str, Stored]) -> Iterator[tuple[str, Stored]]:
    """Experts that are not quantised under one name each, as in Hugging Face's files, so that
    transformers reads them, too. mlx-lm wants the quantised ones stacked."""
    stacked = any(_EXPERT.fullmatch(name) and stored.bits for name, stored in tensors.items())
    for name, stored in tensors.items():
        match = _EXPERT.fullmatch(name)
        if stacked or match is None:
            yield name, stored
            continue
        for i in range(stored.weight.shape[0]):
            expert = f"{match[1]}.experts.{i}.{match[2]}.weight"
            yield expert, replace(stored, weight=stored.weight[i])


def natural_dtype(file: GgufFile) -> str:
    """float16, the type of GGUF's scales, unless the file holds nothing but float32 or bfloat16."""
    kinds = {tensor.kind for tensor in file.tensors.values()}
    if kinds <= {"F32", "F64"}:
        return "float32"
    return "bfloat16" if kinds <= {"F32", "BF16"} else "float16"


def _usual_bits(file: GgufFile) -> int:
    """The bits of the blocks that hold most of the weights; 0 if MLX does not support those."""
    sizes: Counter[int] = Counter()
    for tensor in file.tensors.values():
        if len(tensor.shape) >= 2:
            sizes[BITS.get(tensor.kind, 0)] += int(np.prod(tensor.shape))
    return sizes.most_common(1)[0][0] if sizes else 0


def _cast(stored: Stored, dtype: str, path: Path, name: str) -> Stored:
    """Blocks that are kept, with scales and offsets in ``dtype``."""
    import mlx.core as mx

    if stored.scales is None or stored.biases is None:
        return stored
    if not bool(mx.isfinite(stored.biases).all()):
        raise ModelError(
            f"{path}: tensor {name} ({stored.kind}) has scales too large for float16",
            "fetch another file, or convert without --keep-quantized and --quantize",
        )
    to = getattr(mx, dtype)
    return replace(stored, scales=stored.scales.astype(to), biases=stored.biases.astype(to))


def _quantized(stored: Stored, plan: Plan) -> Stored:
    """A matrix, quantised as asked for. As in mlx-lm it stays plain if it does not fit into the
    groups."""
    import mlx.core as mx

    bits, group, mode = plan.quantization.bits, plan.quantization.group_size, plan.quantization.mode
    if not bits or stored.weight.shape[-1] % group:
        return stored
    packed, scales, *biases = mx.quantize(stored.weight, group_size=group, bits=bits, mode=mode)
    mx.eval(packed, scales, *biases)
    return Stored(packed, scales, biases[0] if biases else None, bits, group, mode, stored.kind)


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


def write_config(folder: Path, config: dict[str, Any], ends: list[int]) -> None:
    """Write config.json, and generation_config.json with all tokens that end a turn."""
    from mlx_lm.utils import save_config

    save_config(config, folder / "config.json")
    generation = {name: config.get(name) for name in ("bos_token_id", "pad_token_id")}
    generation["eos_token_id"] = ends[0] if len(ends) == 1 else ends or None
    kept = {key: value for key, value in generation.items() if value is not None}
    (folder / "generation_config.json").write_text(json.dumps(kept, indent=2), encoding="utf-8")


def check_loads(folder: Path, path: Path) -> None:
    """Load what was written as a model, so that tensors that do not fit are reported now. Raises
    ModelError."""
    from mlx_lm.utils import load_model

    try:
        load_model(folder, lazy=True, strict=True)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        why = next((line.strip() for line in str(e).splitlines() if line.strip()), repr(e))
        raise ModelError(
            f"{path}: its tensors do not form a model: {why[:200]}", "fetch it again"
        ) from e
