"""Reading a GGUF file: one file or all parts of a split one, and its tensors as MLX arrays."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from azr_mlx.errors import ModelError
from azr_mlx.models.gguf.header import Header, Tensor, read_header

if TYPE_CHECKING:
    import mlx.core as mx

GROUP = 32  # weights per block of Q4_0, Q4_1 and Q8_0
PLAIN = ("F32", "F16", "BF16")  # types that need no dequantising
BITS = {"Q4_0": 4, "Q4_1": 4, "Q8_0": 8}  # of types whose blocks MLX has, too
_NUMPY = {"F32": "f4", "F16": "f2", "F64": "f8", "I8": "i1", "I16": "i2", "I32": "i4", "I64": "i8"}
WEIGHTS_AT_ONCE = 1 << 22  # that are dequantised together, 16 MB in float32
_PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in memory. Quantised: [..., out, in] packed in uint32, with scales and biases
    [..., out, in / group]. Plain: ``bits`` is 0."""

    weight: mx.array
    scales: mx.array | None = None
    biases: mx.array | None = None
    bits: int = 0
    group: int = GROUP
    mode: str = "affine"
    kind: str = ""  # ggml's name for the type in the file


@dataclass(frozen=True, slots=True)
class GgufFile:
    """The metadata of a file as Python values, and where its tensors lie, under ggml's names."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    def key(self, name: str, default: Any = None) -> Any:
        """``<architecture>.<name>``; raises ModelError if it is missing and has no default. A list
        with one value for each layer, all of them equal, is that value."""
        value = self.metadata.get(f"{self.architecture}.{name}", default)
        if value is None:
            raise ModelError(
                f"{self.path}: the metadata has no {self.architecture}.{name}", "fetch another file"
            )
        if isinstance(value, list) and value and value.count(value[0]) == len(value):
            return value[0]
        return value

    def count(self, name: str, default: int | None = None) -> int:
        """A key that is a whole number above 0. Raises ModelError."""
        value = self.key(name, default)
        if type(value) is not int or not 0 < value < 1 << 31:
            raise self.wrong(name, value, "is not one whole number above 0")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A key that is a finite number. Raises ModelError."""
        value = self.key(name, default)
        if type(value) not in (int, float) or not np.isfinite(value):
            raise self.wrong(name, value, "is not a number")
        return float(value)

    def wrong(self, name: str, value: Any, why: str) -> ModelError:
        """The error that a key has a value that cannot be used."""
        shown = repr(value) if len(repr(value)) < 80 else f"{repr(value)[:77]}..."
        return ModelError(
            f"{self.path}: {self.architecture}.{name} {why}: {shown}",
            "convert the Hugging Face folder instead",
        )


def parts_of(path: Path) -> list[Path]:
    """All files of the model of which ``path`` is one, by their names (``-00001-of-00003.gguf``).
    Raises ModelError if one is missing."""
    match = _PART.fullmatch(path.name)
    if match is None:
        return [path]
    count = int(match["count"])
    names = [f"{match['stem']}-{i + 1:05d}-of-{count:05d}.gguf" for i in range(count)]
    parts = [path.with_name(name) for name in names]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise ModelError(
            f"{path} is one of {count} parts, and {missing[0]} is missing"
            + (f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""),
            f"put it into {path.parent}",
        )
    return parts


def read(path: Path) -> GgufFile:
    """Read the header of a file, or of all parts of a split one. Raises ModelError."""
    header = read_header(path)
    count = header.metadata.get("split.count", 1)
    if type(count) is not int or count < 2:
        return GgufFile(path, header.metadata, _readable(header))
    parts = parts_of(path)
    if len(parts) != count:
        raise ModelError(
            f"{path} is one of {count} parts, but its name does not end in "
            f"-00001-of-{count:05d}.gguf",
            "give all parts their original names",
        )
    headers = [read_header(part) for part in parts]
    tensors: dict[str, Tensor] = {}
    for number, part in enumerate(headers):
        if part.metadata.get("split.no") != number or tensors.keys() & part.tensors.keys():
            raise ModelError(
                f"{part.path} is not part {number + 1} of {parts[0].name}", "fetch it again"
            )
        tensors |= _readable(part)
    wanted = headers[0].metadata.get("split.tensors.count", len(tensors))
    if len(tensors) != wanted:
        raise ModelError(
            f"{path}: its parts hold {len(tensors)} of {wanted} tensors", "fetch them again"
        )
    return GgufFile(path, headers[0].metadata, tensors)


def _readable(header: Header) -> dict[str, Tensor]:
    """The tensors of a file. Raises ModelError if one has a type that cannot be dequantised."""
    kinds: dict[tuple[str, bool], str] = {}
    for name, tensor in header.tensors.items():
        kinds.setdefault((tensor.kind, tensor.big_endian), name)
    for (kind, big_endian), name in kinds.items():
        if big_endian and kind not in _NUMPY:
            raise ModelError(
                f"{header.path} is a big-endian file, whose type {kind} (tensor {name!r}) cannot "
                "be read",
                "fetch the little-endian file",
            )
        if not _can_dequantize(kind):
            raise ModelError(
                f"{header.path}: tensor {name!r} has type {kind}, which the package gguf cannot "
                "dequantise",
                "fetch a Q4_0, Q8_0 or K-quant file of the model",
            )
    return header.tensors


def _can_dequantize(kind: str) -> bool:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    if kind in _NUMPY:
        return True
    which = GGMLQuantizationType[kind]
    try:
        dequantize(np.zeros((1, GGML_QUANT_SIZES[which][1]), np.uint8), which)
    except NotImplementedError:
        return False
    return True


def load(tensor: Tensor, dtype: str = "float32", keep_blocks: bool = False) -> Stored:
    """A tensor's values as ``dtype``, dequantised a few rows at a time, so that there is never a
    whole matrix in float32. With ``keep_blocks``, blocks that MLX supports stay as they are."""
    import mlx.core as mx

    raw = np.memmap(tensor.path, np.uint8, "r", tensor.start, (tensor.size,))
    if keep_blocks:
        return _UNPACK[tensor.kind](raw.reshape(*tensor.shape[:-1], -1), tensor.kind)
    rows = raw.reshape(prod(tensor.shape[:-1]), -1)
    step = max(1, WEIGHTS_AT_ONCE // tensor.shape[-1])
    pieces = []
    for start in range(0, len(rows), step):
        values = mx.array(_floats(rows[start : start + step], tensor))
        pieces.append(values.astype(getattr(mx, dtype)))
        mx.eval(pieces[-1])
    return Stored(mx.concatenate(pieces).reshape(tensor.shape), kind=tensor.kind)


def _floats(rows: np.ndarray, tensor: Tensor) -> np.ndarray:
    """Rows of bytes as float16 or float32, [rows, in]."""
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    if tensor.kind not in _NUMPY:
        return dequantize(rows, GGMLQuantizationType[tensor.kind])
    order = ">" if tensor.big_endian else "<"
    values = rows.view(order + _NUMPY[tensor.kind])
    return values.astype(np.float16 if tensor.kind == "F16" else np.float32)


def _blocks(data: np.ndarray, size: int) -> np.ndarray:
    """The bytes of each block, uint8 [..., blocks, size]."""
    return np.ascontiguousarray(data).reshape(*data.shape[:-1], -1, size)


def _half(blocks: np.ndarray, start: int) -> np.ndarray:
    """The number that begins at byte ``start`` of each block, float16 [..., blocks]."""
    half: np.ndarray = np.ascontiguousarray(blocks[..., start : start + 2]).view(np.float16)[..., 0]
    return half


def _words(bytes_: np.ndarray) -> np.ndarray:
    """The bytes of all blocks of a row as uint32, [..., words]."""
    words: np.ndarray = np.ascontiguousarray(bytes_).view(np.uint32)
    return words.reshape(*words.shape[:-2], -1)


def _nibbles(blocks: np.ndarray) -> np.ndarray:
    """4-bit weights in MLX's order, uint32 [..., in / 8]. In a block of ggml, byte i of 16 holds
    the weights i and i + 16."""
    weights = np.concatenate([blocks & 15, blocks >> 4], axis=-1)
    return _words(weights[..., 0::2] | weights[..., 1::2] << 4)


def _q4_0(data: np.ndarray, kind: str) -> Stored:
    """Q4_0: a weight is d (q - 8)."""
    blocks = _blocks(data, 18)
    scales = _half(blocks, 0)
    return _packed(_nibbles(blocks[..., 2:]), scales, scales * np.float16(-8), 4, kind)


def _q4_1(data: np.ndarray, kind: str) -> Stored:
    """Q4_1: a weight is d q + m."""
    blocks = _blocks(data, 20)
    return _packed(_nibbles(blocks[..., 4:]), _half(blocks, 0), _half(blocks, 2), 4, kind)


def _q8_0(data: np.ndarray, kind: str) -> Stored:
    """Q8_0: a weight is d q with q signed, which is d (q + 128) - 128 d."""
    blocks = _blocks(data, 34)
    scales = _half(blocks, 0)
    return _packed(_words(blocks[..., 2:] ^ 0x80), scales, scales * np.float16(-128), 8, kind)


def _packed(
    words: np.ndarray, scales: np.ndarray, biases: np.ndarray, bits: int, kind: str
) -> Stored:
    import mlx.core as mx

    return Stored(mx.array(words), mx.array(scales), mx.array(biases), bits, kind=kind)


_UNPACK: dict[str, Callable[[np.ndarray, str], Stored]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q8_0": _q8_0,
}
