"""Reading a GGUF file: its metadata as Python values, its tensors as MLX arrays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from azr_mlx.errors import ModelError
from azr_mlx.models.gguf.integrity import check_whole

if TYPE_CHECKING:
    import mlx.core as mx

GROUP = 32  # weights per block of Q4_0, Q4_1 and Q8_0


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor. Quantised: [out, in] packed in uint32, with scales and biases [out, in / group].
    Plain: ``bits`` is 0."""

    weight: mx.array
    scales: mx.array | None = None
    biases: mx.array | None = None
    bits: int = 0
    group: int = GROUP
    mode: str = "affine"
    kind: str = ""  # ggml's name for the type in the file


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A file's metadata as Python values, and its tensors under ggml's names."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, Stored]

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    def key(self, name: str, default: Any = None) -> Any:
        """``<architecture>.<name>``; raises ModelError if it is missing and has no default."""
        value = self.metadata.get(f"{self.architecture}.{name}", default)
        if value is None:
            raise ModelError(
                f"{self.path}: the metadata has no {self.architecture}.{name}", "fetch another file"
            )
        return value


def read(path: Path) -> GgufFile:
    """Read a file: with MLX if it supports all types in it, otherwise with the package ``gguf``.
    Raises ModelError."""
    check_whole(path)
    native = read_native(path)
    return native if native is not None else read_with_package(path)


def read_native(path: Path) -> GgufFile | None:
    """Read a file with ``mx.load``, which is fast. None if it does not support a type, or might
    have rounded one.

    ``mx.load`` silently turns BF16 and some K-quants into float16, so a plain float16 tensor may
    have been any of these.
    """
    import mlx.core as mx

    try:
        loaded: Any = mx.load(str(path), return_metadata=True)
    except RuntimeError:
        return None
    arrays, metadata = loaded
    plain = {
        name: array for name, array in arrays.items() if not name.endswith((".scales", ".biases"))
    }
    tensors = {}
    for name, array in plain.items():
        scales = arrays.get(f"{name.removesuffix('.weight')}.scales")
        if scales is None and array.dtype == mx.float16:
            return None
        if scales is None:
            tensors[name] = Stored(array, kind="F32")
            continue
        biases = arrays[f"{name.removesuffix('.weight')}.biases"]
        bits = array.shape[-1] // scales.shape[-1]  # 32 bits per word, 32 weights per group
        tensors[name] = Stored(array, scales, biases, bits, kind=f"Q{bits}")
    return GgufFile(path, {key: _plain_value(value) for key, value in metadata.items()}, tensors)


def _plain_value(value: Any) -> Any:
    """A value of ``mx.load`` as a Python value. A float32 becomes the shortest decimal number that
    rounds to it."""
    import mlx.core as mx

    if not isinstance(value, mx.array):
        return value
    if value.ndim == 0 and mx.issubdtype(value.dtype, mx.floating):
        return float(str(np.asarray(value, dtype=np.float32)))
    return value.item() if value.ndim == 0 else value.tolist()


def read_with_package(path: Path) -> GgufFile:
    """Read a file with the package ``gguf``, which can dequantise every type of ggml. Raises
    ModelError."""
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise ModelError(
            f"{path} holds types that MLX alone cannot read", "pip install gguf"
        ) from error
    try:
        reader = GGUFReader(path)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {tensor.name: _stored(tensor) for tensor in reader.tensors}
    except (ValueError, NotImplementedError, IndexError, OSError) as error:
        raise ModelError(f"{path} cannot be read as GGUF: {error}", "fetch it again") from error
    shortest = {
        key: float(str(np.float32(value))) if isinstance(value, float) else value
        for key, value in metadata.items()
    }
    return GgufFile(path, shortest, tensors)


def _stored(tensor: Any) -> Stored:
    import mlx.core as mx
    from gguf.quants import dequantize

    kind = tensor.tensor_type.name
    if kind in _UNPACK:
        return _UNPACK[kind](np.asarray(tensor.data), kind)
    if kind in ("F32", "F16"):
        return Stored(mx.array(np.asarray(tensor.data)), kind=kind)
    weight = mx.array(dequantize(tensor.data, tensor.tensor_type))
    return Stored(weight.astype(mx.bfloat16) if kind == "BF16" else weight, kind=kind)


def _blocks(data: np.ndarray, size: int) -> np.ndarray:
    """The bytes of each block, uint8 [out, blocks, size]."""
    return np.ascontiguousarray(data).reshape(data.shape[0], -1, size)


def _half(blocks: np.ndarray, start: int) -> np.ndarray:
    """The number that begins at byte ``start`` of each block, float16 [out, blocks]."""
    half: np.ndarray = np.ascontiguousarray(blocks[..., start : start + 2]).view(np.float16)[..., 0]
    return half


def _nibbles(blocks: np.ndarray) -> np.ndarray:
    """4-bit weights in MLX's order, uint32 [out, in / 8]. In a block of ggml, byte i of 16 holds
    the weights i and i + 16."""
    weights = np.concatenate([blocks & 15, blocks >> 4], axis=-1)
    packed = weights[..., 0::2] | weights[..., 1::2] << 4
    words: np.ndarray = np.ascontiguousarray(packed).view(np.uint32).reshape(packed.shape[0], -1)
    return words


def _q4_0(data: np.ndarray, kind: str) -> Stored:
    """Q4_0: a weight is d (q - 8)."""
    import mlx.core as mx

    blocks = _blocks(data, 18)
    scales = _half(blocks, 0)
    offsets = scales * np.float16(-8)
    return Stored(
        mx.array(_nibbles(blocks[..., 2:])), mx.array(scales), mx.array(offsets), 4, kind=kind
    )


def _q4_1(data: np.ndarray, kind: str) -> Stored:
    """Q4_1: a weight is d q + m."""
    import mlx.core as mx

    blocks = _blocks(data, 20)
    weight = mx.array(_nibbles(blocks[..., 4:]))
    return Stored(weight, mx.array(_half(blocks, 0)), mx.array(_half(blocks, 2)), 4, kind=kind)


def _q8_0(data: np.ndarray, kind: str) -> Stored:
    """Q8_0: a weight is d q with q signed, which is d (q + 128) - 128 d."""
    import mlx.core as mx

    blocks = _blocks(data, 34)
    scales = _half(blocks, 0)
    bytes_ = np.ascontiguousarray(blocks[..., 2:] ^ 0x80)
    words = bytes_.view(np.uint32).reshape(bytes_.shape[0], -1)
    return Stored(
        mx.array(words), mx.array(scales), mx.array(scales * np.float16(-128)), 8, kind=kind
    )


_UNPACK = {"Q4_0": _q4_0, "Q4_1": _q4_1, "Q8_0": _q8_0}
