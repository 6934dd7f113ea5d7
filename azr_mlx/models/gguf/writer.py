"""Writing a model of mlx-lm as a GGUF file: the reverse of what is read here.

The names and values are those of llama.cpp's convert_hf_to_gguf.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from azr_mlx.errors import ModelUsageError
from azr_mlx.models.gguf.architecture import (
    EPS,
    SIZES,
    Architecture,
    architecture_for,
    build_config,
)
from azr_mlx.models.gguf.reader import GROUP, WEIGHTS_AT_ONCE, GgufFile, read
from azr_mlx.models.gguf.rope import FACTORS, rotary_keys
from azr_mlx.models.gguf.tokenizer import Vocabulary, backend_tokenizer
from azr_mlx.models.gguf.tokenizer_keys import check_same_tokens, tokenizer_keys
from azr_mlx.models.gguf.weights import HEADS, trained_order
from azr_mlx.models.measure import MEASURED_TEXT

# The types of matrices that can be asked for -> general.file_type.
TYPES = {"f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0", "q4_0": "MOSTLY_Q4_0"}
_LARGEST = float(np.finfo(np.float16).max)
_USUAL_CONTEXT = 2048  # transformers' for a llama that does not say
# Arguments of mlx-lm's models that metadata keys hold under other names, or that change nothing.
_ELSEWHERE = {
    *("model_type", "vocab_size", "rms_norm_eps", "rope_theta", "rope_scaling", "rope_parameters"),
    *("partial_rotary_factor", "original_max_position_embeddings", "layer_types"),
}
_TEXTS = (
    MEASURED_TEXT,
    "x = [1, 22, 333, 4444]\n\tif x['a'] != \"b\":  # don't, WE'LL\r\n\n\n        return f(x)**2\n",
    "  leading   and trailing\t\tblanks  ",
    "Gr\u00fc\u00dfe \u65e5\u672c\u8a9e \U0001f389 \u00bd\u00b2 a1b22c333",
)


@dataclass(slots=True)
class Model:
    """mlx-lm's arguments of a model, its parameters under Hugging Face's names, not quantised, and
    its tokenizer. The parameters may be lazy: each is removed when it has been written."""

    args: Any
    parameters: dict[str, Any]
    tokenizer: Any


@dataclass(frozen=True, slots=True)
class _Tensor:
    """ggml's name of a parameter, and the type and the shape that it gets in the file."""

    name: str
    parameter: str
    kind: str
    shape: tuple[int, ...]

    @property
    def leaf(self) -> str:
        return self.name.split(".")[-2]


def write_gguf(model: Model, path: Path, kind: str, name: str) -> None:
    """Write ``path`` with matrices of type ``kind``, one of ``TYPES``, and read it back to check
    that it describes the model. ``name`` is what programs show.

    Vectors and routers are in float32. With q4_0 the embedding and the head are in q8_0. Rows that
    are no multiple of 32 weights are in float16. No more than one parameter is in memory beside
    those that were. Raises ModelUsageError if the model or its tokenizer cannot be written, and
    OSError.
    """
    from gguf import GGUFWriter

    architecture, known = architecture_for(model.args)
    own, factors = _described(model.args, known)
    tensors = list(_tensors(model, known, kind))
    rows = next(tensor.shape[0] for tensor in tensors if tensor.leaf == "token_embd")
    keys = {
        **_general(name, kind),
        **{f"{architecture}.{key}": value for key, value in own.items()},
        f"{architecture}.vocab_size": rows,
        **tokenizer_keys(model.tokenizer, rows),
    }
    writer = GGUFWriter(path, architecture)
    try:
        for key, value in keys.items():
            _add(writer, key, value)
        _write_header(writer, tensors, factors)
        if factors is not None:
            writer.write_tensor_data(factors)
        for one in tensors:
            weight = _as_stored(model.parameters.pop(one.parameter), one, known, model.args)
            writer.write_tensor_data(_packed(weight, one))
    finally:
        writer.close()
    _check(model, known, read(path))


def _write_header(writer: Any, tensors: list[_Tensor], factors: np.ndarray | None) -> None:
    """All that comes before the weights: the metadata, and what tensors there are."""
    from gguf.constants import GGMLQuantizationType

    if factors is not None:
        writer.add_tensor_info(FACTORS, factors.shape, factors.dtype, factors.nbytes)
    for one in tensors:
        kind, given = GGMLQuantizationType[one.kind], np.dtype(np.float32)
        writer.add_tensor_info(one.name, one.shape, given, _size(one), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()


def _tensors(model: Model, known: Architecture, kind: str) -> Iterator[_Tensor]:
    for parameter, array in model.parameters.items():
        name = known.tensor(parameter)
        if name is None:
            raise ModelUsageError(
                f"{parameter} of a {model.args.model_type} has no place in a GGUF file",
                "use --to hf or --to mlx",
            )
        shape, leaf = tuple(array.shape), name.split(".")[-2]
        if leaf == "ffn_gate_inp_shexp":
            shape = shape[-1:]
        yield _Tensor(name, parameter, _kind(leaf, shape, kind), shape)


def _kind(leaf: str, shape: tuple[int, ...], kind: str) -> str:
    if len(shape) == 1 or leaf == "ffn_gate_inp":
        return "F32"
    if shape[-1] % GROUP:
        return "F16"
    return "Q8_0" if kind == "q4_0" and leaf in ("token_embd", "output") else kind.upper()


def _size(tensor: _Tensor) -> int:
    """The bytes of a tensor."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[tensor.kind]]
    return prod(tensor.shape) // block * size


def _as_stored(weight: Any, tensor: _Tensor, known: Architecture, args: Any) -> Any:
    """A parameter as llama.cpp has it: what ``weights`` undoes is done."""
    import mlx.core as mx

    if known.norms and tensor.leaf.endswith("norm"):
        return weight + known.norms
    heads = HEADS.get(tensor.leaf)
    if known.rows and heads:
        order = np.argsort(trained_order(weight.shape[0], getattr(args, heads)))
        return weight[mx.array(order)]
    return weight


def _packed(weight: Any, tensor: _Tensor) -> np.ndarray:
    """The weights in ggml's type, a few rows at a time, [rows, bytes or values of a row]. Raises
    ModelUsageError if they are too large."""
    import mlx.core as mx
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import quantize

    rows = np.asarray(weight.astype(mx.float32)).reshape(-1, tensor.shape[-1])
    step = max(1, WEIGHTS_AT_ONCE // rows.shape[1])
    done = []
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        largest = np.abs(some).max()
        if not largest <= (np.finfo(np.float32).max if tensor.kind == "F32" else _LARGEST):
            raise ModelUsageError(
                f"{tensor.parameter} has a weight of {largest:.3g}, too large for {tensor.kind}",
                "use --to hf",
            )
        done.append(quantize(some, GGMLQuantizationType[tensor.kind]))
    packed: np.ndarray = np.concatenate(done) if len(done) > 1 else done[0]
    return packed


def _general(name: str, kind: str) -> dict[str, Any]:
    from gguf.constants import GGML_QUANT_VERSION, LlamaFileType

    return {
        "general.type": "model",
        "general.name": name,
        "general.file_type": int(LlamaFileType[TYPES[kind]]),
        "general.quantization_version": GGML_QUANT_VERSION,
    }


def _described(args: Any, known: Architecture) -> tuple[dict[str, Any], np.ndarray | None]:
    """The metadata keys of the architecture, without its name, and the rotary factors, if any.
    Raises ModelUsageError."""
    if "sliding_attention" in (getattr(args, "layer_types", None) or ()):
        raise ModelUsageError(
            f"a {args.model_type} with layers that see a window cannot be written as GGUF",
            "use --to hf or --to mlx",
        )
    width = getattr(args, "head_dim", None) or args.hidden_size // args.num_attention_heads
    given = {"head_dim": width, "max_position_embeddings": _context(args)}
    sizes = {
        key: given.get(name) or getattr(args, name)
        for name, key in {**SIZES, **known.sizes}.items()
    }
    rope, factors = rotary_keys(args, width, known.scalings)
    keys = {**sizes, EPS: float(args.rms_norm_eps), **rope, **known.metadata(args)}
    return keys | {"attention.value_length": width}, factors


def _context(args: Any) -> int:
    return getattr(args, "max_position_embeddings", None) or _USUAL_CONTEXT


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _check(model: Model, known: Architecture, file: GgufFile) -> None:
    """Raise ModelUsageError if the file, read as any other, is of another model: there may be
    arguments that a file cannot have."""
    mine, theirs = model.args, type(model.args).from_dict(build_config(file))
    differ = [name for name, value in _compared(mine, known) if value != getattr(theirs, name)]
    keys, other = _described(mine, known)[0], _described(theirs, known)[0]
    differ += [key for key in {**keys, **other} if not _near(keys.get(key), other.get(key))]
    if differ:
        value = getattr(mine, differ[0], keys.get(differ[0]))
        raise ModelUsageError(
            f"a {mine.model_type} with {differ[0]} {value!r} cannot be written as GGUF",
            "use --to hf or --to mlx",
        )
    check_same_tokens(model.tokenizer, backend_tokenizer(Vocabulary.of(file)), _TEXTS)


def _compared(args: Any, known: Architecture) -> Iterator[tuple[str, Any]]:
    """The arguments that ``_described`` does not describe, with their values."""
    described = {*_ELSEWHERE, *SIZES, *known.sizes}
    if hasattr(args, "layer_types"):
        described.add("sliding_window")  # of layers that are not there
    for field in fields(args):
        if field.name not in described:
            yield field.name, getattr(args, field.name)


def _near(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-5)
    return bool(one == other)
