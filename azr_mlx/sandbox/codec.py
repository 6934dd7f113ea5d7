"""Plain literals as bytes: the only form in which a value leaves untrusted code.

A *plain literal* is None, bool, int, float, complex, str, bytes, list, tuple, dict or set, of
exactly that type (a subclass is not one), nested at most ``MAX_DEPTH`` deep and encoded in at most
``MAX_BYTES`` bytes. Floats and the parts of complex numbers are finite, integers have at most
``MAX_INT_BITS`` bits (so that their decimal form stays under Python's own limit of 4,300 digits),
and strings encode as UTF-8 (no lone surrogates).

The module is read by the trusted side and by the process that runs the job; it imports nothing but
``struct``.

Layout: one tag byte, then N T F nothing; I u32 length, little-endian two's complement; D f64; C two
f64; S and B u32 length, bytes; L U E u32 count, items; M u32 count, key and value by turns.
"""

from __future__ import annotations

import struct
from typing import Any

MAX_BYTES = 1 << 17
MAX_DEPTH = 64
MAX_INT_BITS = 14_000
MAX_HASHED = 4096  # members of one set or dict: colliding keys cost their square

_SEQUENCES: dict[type, bytes] = {list: b"L", tuple: b"U", set: b"E"}
_INFINITY = float("inf")


class CodecError(ValueError):
    """A value that is not a plain literal, or bytes that do not encode one."""


def encode(value: object) -> bytes:
    """The bytes of a plain literal. Raises CodecError for anything else; calls no code of the
    value's own.
    """
    out: list[bytes] = []
    _put(value, out, [MAX_BYTES], 0)
    return b"".join(out)


def _emit(piece: bytes, out: list[bytes], room: list[int]) -> None:
    room[0] -= len(piece)
    if room[0] < 0:
        raise CodecError(f"value is larger than {MAX_BYTES} bytes")
    out.append(piece)


def _put(value: Any, out: list[bytes], room: list[int], depth: int) -> None:
    kind = type(value)
    if kind in _SEQUENCES or kind is dict:
        _put_container(value, kind, out, room, depth)
    else:
        _emit(_scalar(value, kind, room[0]), out, room)


def _scalar(value: Any, kind: type, room: int) -> bytes:
    if value is None:
        return b"N"
    if kind is bool:
        return b"T" if value else b"F"
    if kind is int:
        return _integer(value)
    if kind is float:
        return struct.pack("<cd", b"D", _finite(value))
    if kind is complex:
        return struct.pack("<cdd", b"C", _finite(value.real), _finite(value.imag))
    if kind is str or kind is bytes:
        if len(value) > room:
            raise CodecError(f"value is larger than {MAX_BYTES} bytes")
        raw = value if kind is bytes else _utf8(value)
        return struct.pack("<cI", b"B" if kind is bytes else b"S", len(raw)) + raw
    raise CodecError(f"{_type_name(kind)} is not a plain literal")


def _type_name(kind: type) -> str:
    name = type.__getattribute__(kind, "__name__")
    return name[:80] if type(name) is str else "object"


def _integer(value: int) -> bytes:
    bits = value.bit_length()
    if bits > MAX_INT_BITS:
        raise CodecError(f"int of {bits} bits (at most {MAX_INT_BITS})")
    raw = value.to_bytes(bits // 8 + 1, "little", signed=True)
    return struct.pack("<cI", b"I", len(raw)) + raw


def _finite(value: float) -> float:
    if value != value or value in (_INFINITY, -_INFINITY):
        raise CodecError(f"{value!r} is not a plain literal")
    return value


def _utf8(value: str) -> bytes:
    try:
        return value.encode("utf-8")
    except UnicodeEncodeError:
        raise CodecError("str with a lone surrogate") from None


def _put_container(value: Any, kind: type, out: list[bytes], room: list[int], depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise CodecError(f"nested deeper than {MAX_DEPTH}")
    if kind in (dict, set) and len(value) > MAX_HASHED:
        raise CodecError(f"{kind.__name__} of {len(value)} members (at most {MAX_HASHED})")
    tag = b"M" if kind is dict else _SEQUENCES[kind]
    _emit(struct.pack("<cI", tag, min(len(value), 1 << 31)), out, room)
    if len(value) > room[0]:
        raise CodecError(f"value is larger than {MAX_BYTES} bytes")
    if kind is dict:
        for key, item in value.items():
            _put(key, out, room, depth + 1)
            _put(item, out, room, depth + 1)
    else:
        for item in value:
            _put(item, out, room, depth + 1)


def decode(data: bytes) -> Any:
    """The value that ``data`` encodes, all of it. Total: raises CodecError and nothing else."""
    if len(data) > MAX_BYTES:
        raise CodecError(f"more than {MAX_BYTES} bytes")
    try:
        value, end = _get(data, 0, 0)
    except (struct.error, IndexError):
        raise CodecError("cut short") from None
    except UnicodeDecodeError:
        raise CodecError("not UTF-8") from None
    except TypeError:
        raise CodecError("a key or set member that cannot be hashed") from None
    if end != len(data):
        raise CodecError("bytes after the end")
    return value


def _get(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    tag = data[at : at + 1]
    at += 1
    if tag in _CONSTANTS:
        return _CONSTANTS[tag], at
    if tag == b"D":
        return _finite(struct.unpack_from("<d", data, at)[0]), at + 8
    if tag == b"C":
        real, imag = struct.unpack_from("<dd", data, at)
        return complex(_finite(real), _finite(imag)), at + 16
    if tag not in _SIZED:
        raise CodecError(f"unknown tag {tag!r}")
    size = struct.unpack_from("<I", data, at)[0]
    at += 4
    if size > len(data) - at:
        raise CodecError("cut short")
    if tag in b"LUEM":
        return _get_container(data, at, depth, tag, size)
    return _sized(tag, data[at : at + size]), at + size


_CONSTANTS: dict[bytes, bool | None] = {b"N": None, b"T": True, b"F": False}
_SIZED = frozenset({b"I", b"S", b"B", b"L", b"U", b"E", b"M"})


def _sized(tag: bytes, raw: bytes) -> int | str | bytes:
    if tag == b"I":
        value = int.from_bytes(raw, "little", signed=True)
        if value.bit_length() > MAX_INT_BITS:
            raise CodecError(f"int of more than {MAX_INT_BITS} bits")
        return value
    return raw if tag == b"B" else raw.decode("utf-8")


def _get_container(data: bytes, at: int, depth: int, tag: bytes, size: int) -> tuple[Any, int]:
    if depth >= MAX_DEPTH:
        raise CodecError(f"nested deeper than {MAX_DEPTH}")
    if tag in b"EM" and size > MAX_HASHED:
        raise CodecError(f"{size} members of a set or dict (at most {MAX_HASHED})")
    items: list[Any] = []
    for _ in range(2 * size if tag == b"M" else size):
        item, at = _get(data, at, depth + 1)
        items.append(item)
    if tag == b"L":
        return items, at
    if tag == b"U":
        return tuple(items), at
    made: Any = set(items) if tag == b"E" else dict(zip(items[::2], items[1::2], strict=True))
    if len(made) != size:
        raise CodecError("a key or set member twice")
    return made, at
