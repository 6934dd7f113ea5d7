"""Reading a GGUF file's header: its metadata, and where its tensors lie.

The package ``gguf`` has a reader, too. This one is used instead since it says what is wrong with a
file, checks every length before it allocates anything, and is many times faster. The layout is
described in https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from azr_mlx.errors import ModelError, install

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_ALIGNMENT = "general.alignment"
_STRING, _ARRAY = 8, 9
# GGUF's type of a value -> numpy's, by number.
_NUMBERS = {
    **dict(enumerate(("u1", "i1", "u2", "i2", "u4", "i4", "f4", "?"))),
    **{10: "u8", 11: "i8", 12: "f8"},
}
_MOST_DIMENSIONS = 4
# Types that ggml has dropped, or that the package gguf may be too old to know.
_OTHER_TYPES = {
    **{4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8"},
    **{36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8"},
}
_NEW_TYPES = {34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0", 42: "Q2_0"}


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor lies: ``size`` bytes from ``start`` of ``path``, in ggml's type ``kind``.
    ``shape`` is in numpy's order, of weights."""

    path: Path
    kind: str
    shape: tuple[int, ...]
    start: int
    size: int
    big_endian: bool = False


@dataclass(frozen=True, slots=True)
class Header:
    """A file's metadata as Python values, and its tensors under ggml's names."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]


def read_header(path: Path) -> Header:
    """Read and check the header of one file. Raises ModelError if it is damaged, cut off, or of a
    kind that cannot be read."""
    with path.open("rb") as file:
        if file.read(4) != _MAGIC:
            raise ModelError(
                f"{path} is not a GGUF file (its first bytes are not 'GGUF')", "fetch it again"
            )
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                return _Walk(path, content).header()
            except (struct.error, ValueError, MemoryError, OverflowError) as error:
                if isinstance(error, ModelError):
                    raise
                raise ModelError(
                    f"{path} cannot be read as GGUF: its header is cut off or damaged",
                    "fetch it again",
                ) from error


class _Walk:
    """A position that moves through the header. Reading past the end of the file raises
    ``struct.error``."""

    def __init__(self, path: Path, content: Any) -> None:
        self.path, self.content, self.at = path, content, len(_MAGIC)
        self.order = "<"

    def header(self) -> Header:
        self._version()
        tensors, entries = self._number("Q"), self._number("Q")
        metadata: dict[str, Any] = {}
        for _ in range(entries):
            key = self._text("the name of a metadata key")
            if key in metadata:
                raise self._damaged(f"the metadata has {key!r} twice")
            metadata[key] = self._value(key, self._number("I"))
        return Header(self.path, metadata, self._tensors(tensors, self._alignment(metadata)))

    def _version(self) -> None:
        version = self._number("I")
        if version and not version & 0xFFFF:  # as llama.cpp finds out that the bytes are swapped
            self.order, self.at = ">", self.at - 4
            version = self._number("I")
        if version in _VERSIONS:
            return
        if version == 1:
            fix = "convert it with a llama.cpp of 2023, or fetch a newer file"
        else:
            fix = "fetch a file of version 3"
        raise ModelError(f"{self.path}: GGUF version {version} is not supported, only 2 and 3", fix)

    def _alignment(self, metadata: dict[str, Any]) -> int:
        alignment = metadata.get(_ALIGNMENT, 32)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise self._damaged(f"{_ALIGNMENT} is {alignment!r}, not a power of two")
        return alignment

    def _tensors(self, count: int, alignment: int) -> dict[str, Tensor]:
        """All tensors. As in llama.cpp each must begin where the one before it ends."""
        found: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
        end = 0
        for _ in range(count):
            name = self._text("the name of a tensor")
            if name in found:
                raise self._damaged(f"tensor {name!r} is there twice")
            kind, shape, size = self._layout(name)
            if self._number("Q") != end:
                raise self._damaged(f"tensor {name!r} does not begin where the one before it ends")
            found[name] = (kind, shape, end, size)
            end += -(-size // alignment) * alignment
        data = -(-self.at // alignment) * alignment
        last = max((start + size for _, _, start, size in found.values()), default=0)
        if data + last > len(self.content):
            have = f"it has {len(self.content)} of {data + last} bytes"
            raise ModelError(f"{self.path} is cut off: {have}", "fetch it again")
        big = self.order == ">"
        return {
            name: Tensor(self.path, kind, shape, data + start, size, big)
            for name, (kind, shape, start, size) in found.items()
        }

    def _layout(self, name: str) -> tuple[str, tuple[int, ...], int]:
        """(ggml's type, shape in numpy's order, bytes)"""
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        dimensions = self._number("I")
        if not 0 < dimensions <= _MOST_DIMENSIONS:
            raise self._damaged(f"tensor {name!r} has {dimensions} dimensions")
        shape = tuple(self._number("Q") for _ in range(dimensions))[::-1]
        number = self._number("I")
        if number not in list(GGMLQuantizationType):
            raise self._unknown_type(name, number)
        kind = GGMLQuantizationType(number)
        block, size = GGML_QUANT_SIZES[kind]
        if not prod(shape) or shape[-1] % block:
            raise self._damaged(f"tensor {name!r} of type {kind.name} has the shape {shape}")
        return kind.name, shape, prod(shape) // block * size

    def _unknown_type(self, name: str, number: int) -> ModelError:
        if number in _OTHER_TYPES:
            return ModelError(
                f"{self.path}: tensor {name!r} has type {_OTHER_TYPES[number]} ({number}), which "
                "ggml has removed",
                "fetch a Q4_0, Q8_0 or K-quant file of the model",
            )
        known = _NEW_TYPES.get(number, "")
        return ModelError(
            f"{self.path}: tensor {name!r} has type {f'{known} ({number})' if known else number}, "
            "which the installed package gguf does not know",
            f"{install('-U', 'gguf')}, or fetch a Q4_0, Q8_0 or K-quant file of the model",
        )

    def _damaged(self, why: str) -> ModelError:
        return ModelError(f"{self.path} is damaged: {why}", "fetch it again")

    def _number(self, kind: str) -> int:
        (value,) = struct.unpack_from(f"{self.order}{kind}", self.content, self.at)
        self.at += struct.calcsize(kind)
        return int(value)

    def _text(self, what: str, errors: str = "strict") -> str:
        try:
            return self._slice(self._number("Q")).decode("utf-8", errors)
        except UnicodeDecodeError as error:
            raise self._damaged(f"{what} is not UTF-8") from error

    def _value(self, key: str, kind: int) -> Any:
        if kind == _ARRAY:
            item, count = self._number("I"), self._number("Q")
            if item == _STRING:
                return [self._text(f"a text of {key}") for _ in range(count)]
            return self._numbers(item, count).tolist()
        if kind == _STRING:
            # Only texts that describe the model may be read with a stand-in.
            return self._text(key, "replace" if key.startswith("general.") else "strict")
        (value,) = self._numbers(kind, 1)
        # A float32 becomes the shortest decimal number that rounds to it.
        return float(str(value)) if value.dtype.kind == "f" else value.item()

    def _numbers(self, kind: int, count: int) -> np.ndarray:
        if kind not in _NUMBERS:
            raise ValueError(f"a value of type {kind}")
        dtype = np.dtype(self.order + _NUMBERS[kind])
        return np.frombuffer(self._slice(count * dtype.itemsize), dtype)

    def _slice(self, size: int) -> bytes:
        if size > len(self.content) - self.at:
            raise struct.error("a value ends behind the end of the file")
        self.at += size
        return bytes(self.content[self.at - size : self.at])
