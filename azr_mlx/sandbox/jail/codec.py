"""Plain literals as bytes. This is the only form in which a value leaves untrusted code.

A *plain literal* is None, bool, int, float, complex, str, bytes, list, tuple, dict or set, of
exactly that type (a subclass does not count), nested at most ``MAX_DEPTH`` deep and encoded in at
most ``MAX_BYTES`` bytes. Floats and the parts of complex numbers are finite, integers have at most
``MAX_INT_BITS`` bits (so that their decimal form stays under Python's own limit of 4,300 digits),
and strings can be encoded as UTF-8 (no lone surrogates).

*Loose* values are those that Python's ``==`` may find equal to a plain literal. An instance of a
subclass becomes one of its base. Frozensets, views, fractions, decimals, NaN and infinities are
allowed. Anything else becomes OPAQUE, which equals nothing, or *external*: bytes whose meaning the
two sides have agreed on.

Both the trusted side and the process that runs the job import this module, so it uses the standard
library only.

Layout: one tag byte, followed by what the tag asks for.

    N T F   (None, True, False) nothing
    I       (int) u32 length, little-endian two's complement
    D, C    (float, complex) one f64, two f64
    S, B    (str, bytes) u32 length, bytes
    L U E   (list, tuple, set) u32 count, items
    M       (dict) u32 count, then each key followed by its value

Only in loose values:

    Z       (frozenset) as E
    Q       (fraction) two items
    O       (OPAQUE) nothing
    X       (external) u32 length, bytes
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from typing import Any

Name = Callable[[Any], "bytes | None"]  # the bytes of an external; None if it is not one
Known = Callable[[bytes], Any]  # the value that an external stands for

MAX_BYTES = 1 << 17
MAX_DEPTH = 64
MAX_INT_BITS = 14_000
MAX_HASHED = 4096  # members of one set or dict
MAX_ALIKE = 64  # members with the same hash: the time is quadratic in their number

_SEQUENCES: dict[type, bytes] = {list: b"L", tuple: b"U", set: b"E"}
_TAGS = {**_SEQUENCES, dict: b"M", frozenset: b"Z"}
_INFINITY = float("inf")


class CodecError(ValueError):
    """A value that is not a plain literal, or bytes that do not encode one."""


class _Opaque:
    """Stands for an object that has no plain form."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "(an object)"


def is_opaque(value: object) -> bool:
    """Whether a decoded value stands for an object that has no plain form or was too large."""
    return type(value) is _Opaque


def encode(value: object, limit: int = MAX_BYTES) -> bytes:
    """The bytes of a plain literal, ``limit`` at most. Raises CodecError for anything else. Never
    calls methods that the value's own class defines.
    """
    out: list[bytes] = []
    _put(value, out, [limit], 0, None)
    return b"".join(out)


def encode_loose(value: object) -> bytes:
    """The bytes of a loose value; ``O`` if it is too large. Raises nothing itself, but may call
    methods of the value, which may raise.
    """
    try:
        return encode_named(value, _nameless, MAX_BYTES)
    except CodecError:
        return b"O"


def encode_named(value: object, name: Name, limit: int) -> bytes:
    """The bytes of a loose value, ``limit`` at most. ``name`` gives the bytes of parts whose exact
    type is not that of a plain literal. Raises CodecError if the value is too large. May call
    methods of the value.
    """
    out: list[bytes] = []
    _put(value, out, [limit], 0, name)
    return b"".join(out)


def _nameless(value: object) -> None:
    return None


def _emit(piece: bytes, out: list[bytes], room: list[int]) -> None:
    room[0] -= len(piece)
    if room[0] < 0:
        raise CodecError("value is too large")
    out.append(piece)


def _put(value: Any, out: list[bytes], room: list[int], depth: int, name: Name | None) -> None:
    kind = type(value)
    # Compare by identity: a metaclass may claim that its class equals another.
    if kind is list or kind is tuple or kind is dict or kind is set:
        _put_container(value, kind, out, room, depth, name)
    elif name is not None:
        _put_loose(value, kind, out, room, depth, name)
    else:
        _emit(_scalar(value, kind, room[0]), out, room)


def _put_loose(
    value: Any, kind: type, out: list[bytes], room: list[int], depth: int, name: Name
) -> None:
    if kind not in _EXACT and (named := name(value)) is not None:
        _emit(struct.pack("<cI", b"X", len(named)) + named, out, room)
        return
    base = plain_base(value)
    if base is not value:
        _put(base, out, room, depth, name)
    elif kind is frozenset:
        _put_container(value, kind, out, room, depth, name)
    elif kind.__name__ in ("Fraction", "Decimal") and value == value:
        _emit(b"Q", out, room)
        for part in value.as_integer_ratio():
            _put(part, out, room, depth, None)
    elif kind is float:
        _emit(struct.pack("<cd", b"D", value), out, room)
    else:
        try:
            _emit(_scalar(value, kind, room[0]), out, room)
        except CodecError:
            _emit(b"O", out, room)


def plain_base(value: Any) -> Any:
    """An instance of a subclass of a builtin type as that type; any other value as it is."""
    if type(value) in _EXACT:
        return value
    for base, plain in _BASES.items():
        if isinstance(value, base):
            return plain(value)
    return value


_EXACT = frozenset({int, float, complex, str, bytes, bool, frozenset, type(None)})
_BASES: dict[type, Any] = {
    int: int.__pos__,
    float: float.__pos__,
    complex: complex.__pos__,
    str: str.__str__,
    bytes: lambda value: bytes.__add__(value, b""),
    list: lambda value: list.__getitem__(value, slice(None)),
    tuple: lambda value: tuple.__getitem__(value, slice(None)),
    dict: lambda value: dict(dict.items(value)),
    set: lambda value: set(set.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
    bytearray: bytes,
    type({}.keys()): set,
    type({}.items()): set,
}


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
            raise CodecError("value is too large")
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


def _put_container(
    value: Any, kind: type, out: list[bytes], room: list[int], depth: int, name: Name | None
) -> None:
    if depth >= MAX_DEPTH:
        raise CodecError(f"nested deeper than {MAX_DEPTH}")
    if kind not in (list, tuple) and len(value) > MAX_HASHED:
        raise CodecError(f"{kind.__name__} of {len(value)} members (at most {MAX_HASHED})")
    _emit(struct.pack("<cI", _TAGS[kind], min(len(value), 1 << 31)), out, room)
    if len(value) > room[0]:
        raise CodecError("value is too large")
    if kind is dict:
        for key, item in value.items():
            _put(key, out, room, depth + 1, name)
            _put(item, out, room, depth + 1, name)
    else:
        for item in value:
            _put(item, out, room, depth + 1, name)


def decode(data: bytes, limit: int = MAX_BYTES) -> Any:
    """The value that ``data``, all of it, encodes. Raises only CodecError, whatever the bytes."""
    return _decode(data, limit, None)


def decode_loose(data: bytes) -> Any:
    """The loose value that ``data`` encodes. Raises only CodecError, whatever the bytes."""
    return _decode(data, MAX_BYTES, _unknown)


def decode_named(data: bytes, known: Known, limit: int) -> Any:
    """The loose value that ``data`` encodes; ``known`` turns its externals into values. Raises
    CodecError and what ``known`` raises.
    """
    return _decode(data, limit, known)


def _unknown(name: bytes) -> Any:
    raise CodecError("an external value")


def _decode(data: bytes, limit: int, known: Known | None) -> Any:
    if len(data) > limit:
        raise CodecError(f"more than {limit} bytes")
    try:
        value, end = _get(data, 0, 0, known)
    except (struct.error, IndexError):
        raise CodecError("cut short") from None
    except UnicodeDecodeError:
        raise CodecError("not UTF-8") from None
    except TypeError:
        raise CodecError("a key or set member that cannot be hashed") from None
    if end != len(data):
        raise CodecError("bytes after the end")
    return value


def _get(data: bytes, at: int, depth: int, known: Known | None) -> tuple[Any, int]:
    tag = data[at : at + 1]
    at += 1
    if tag in _CONSTANTS:
        return _CONSTANTS[tag], at
    if tag == b"D":
        value = struct.unpack_from("<d", data, at)[0]
        return value if known else _finite(value), at + 8
    if tag == b"C":
        real, imag = struct.unpack_from("<dd", data, at)
        return complex(_finite(real), _finite(imag)), at + 16
    if known and tag in (b"O", b"Q"):
        return _get_loose(data, at, tag)
    if tag not in _SIZED or (tag in (b"Z", b"X") and not known):
        raise CodecError(f"unknown tag {tag!r}")
    size = struct.unpack_from("<I", data, at)[0]
    at += 4
    if size > len(data) - at:
        raise CodecError("cut short")
    if tag in b"LUEMZ":
        return _get_container(data, at, depth, tag, size, known)
    if known and tag == b"X":
        return known(data[at : at + size]), at + size
    return _sized(tag, data[at : at + size]), at + size


_CONSTANTS: dict[bytes, bool | None] = {b"N": None, b"T": True, b"F": False}
_SIZED = frozenset({b"I", b"S", b"B", b"L", b"U", b"E", b"M", b"Z", b"X"})


def _get_loose(data: bytes, at: int, tag: bytes) -> tuple[Any, int]:
    if tag == b"O":
        return _Opaque(), at
    from fractions import Fraction

    above, at = _get(data, at, MAX_DEPTH, None)
    below, at = _get(data, at, MAX_DEPTH, None)
    if type(above) is not int or type(below) is not int or below == 0:
        raise CodecError("not a fraction")
    return Fraction(above, below), at


def _sized(tag: bytes, raw: bytes) -> int | str | bytes:
    if tag == b"I":
        value = int.from_bytes(raw, "little", signed=True)
        if value.bit_length() > MAX_INT_BITS:
            raise CodecError(f"int of more than {MAX_INT_BITS} bits")
        return value
    return raw if tag == b"B" else raw.decode("utf-8")


def _get_container(
    data: bytes, at: int, depth: int, tag: bytes, size: int, known: Known | None
) -> tuple[Any, int]:
    if depth >= MAX_DEPTH:
        raise CodecError(f"nested deeper than {MAX_DEPTH}")
    if tag in b"EMZ" and size > MAX_HASHED:
        raise CodecError(f"{size} members of a set or dict (at most {MAX_HASHED})")
    items: list[Any] = []
    for _ in range(2 * size if tag == b"M" else size):
        item, at = _get(data, at, depth + 1, known)
        items.append(item)
    if tag == b"L":
        return items, at
    if tag == b"U":
        return tuple(items), at
    if size > MAX_ALIKE:
        members = items[::2] if tag == b"M" else items
        if max(Counter(map(hash, members)).values()) > MAX_ALIKE:
            raise CodecError(f"more than {MAX_ALIKE} members of one hash")
    made: Any = _HASHED[tag](items)
    if len(made) != size:
        raise CodecError("a key or set member twice")
    return made, at


_HASHED: dict[bytes, Any] = {
    b"E": set,
    b"Z": frozenset,
    b"M": lambda items: dict(zip(items[::2], items[1::2], strict=True)),
}
