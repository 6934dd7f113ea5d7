"""Checking that a GGUF file is complete, before a library that trusts its header reads it.

MLX's reader crashes the process (SIGSEGV) if a file is cut off or its counts are wrong. The layout
is described in https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import struct
from math import prod
from pathlib import Path
from typing import Any

from azr_mlx.errors import ModelError

_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
_SIZES = (1, 1, 2, 2, 4, 4, 4, 1, None, None, 8, 8, 8)  # bytes per value, by GGUF's type number
_ALIGNMENT = "general.alignment"


def check_whole(path: Path) -> None:
    """Raise ModelError if ``path`` is not a GGUF file, or ends before its tensors do."""
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelError(
                f"{path} is not a GGUF file (its first bytes are not 'GGUF')", "fetch it again"
            )
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                end = _Walk(content).end_of_tensors()
            except (struct.error, ValueError, IndexError, KeyError, TypeError) as error:
                raise ModelError(
                    f"{path} cannot be read as GGUF: its header is cut off or damaged",
                    "fetch it again",
                ) from error
            if end > len(content):
                raise ModelError(
                    f"{path} is cut off: it has {len(content)} of {end} bytes", "fetch it again"
                )


class _Walk:
    """A position that moves through the file's header. Reading past the end of the file raises
    ``struct.error``."""

    def __init__(self, content: Any) -> None:
        self.content, self.at = content, 4
        self.alignment = 32

    def end_of_tensors(self) -> int:
        """The smallest size in bytes that the file can have. Raises ValueError or a similar error
        if the header is damaged."""
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        if self._number("I") not in _VERSIONS:
            raise ValueError("version")
        tensors, entries = self._number("Q"), self._number("Q")
        for _ in range(entries):
            self._entry()
        end = 0
        for _ in range(tensors):
            self._skip_string()
            shape = [self._number("Q") for _ in range(min(self._number("I"), 8))]
            block, size = GGML_QUANT_SIZES[GGMLQuantizationType(self._number("I"))]
            end = max(end, self._number("Q") + prod(shape) // block * size)
        return -(-self.at // self.alignment) * self.alignment + end

    def _number(self, kind: str) -> int:
        (value,) = struct.unpack_from(f"<{kind}", self.content, self.at)
        self.at += struct.calcsize(kind)
        return int(value)

    def _skip_string(self) -> None:
        (length,) = struct.unpack_from("<Q", self.content, self.at)
        self.at += 8 + length

    def _entry(self) -> None:
        start = self.at + 8
        self._skip_string()
        name, kind = self.content[start : self.at], self._number("I")
        if name == _ALIGNMENT.encode():
            self.alignment = self._number("I") or 1
        else:
            self._skip_value(kind)

    def _skip_value(self, kind: int) -> None:
        if kind == _STRING:
            self._skip_string()
        elif kind == _ARRAY:
            item, count = self._number("I"), self._number("Q")
            size = _SIZES[item]
            if size is not None:
                self.at += size * count
            else:
                for _ in range(count):
                    self._skip_value(item)
        else:
            self.at += _SIZES[kind] or 0
