"""Files that are damaged in every way: bytes are changed, lost or added, and values replaced."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

DEEP: Any = []
for _ in range(400):
    DEEP = [DEEP]

# What may stand for any value of JSON.
JUNK = (
    None, True, -1, 0, 10**30, 10**400, 1e308, float("inf"), float("nan"), "", "x", "\x00",
    "\ud800", "\x1b[2J\u202e", "a" * 5000, "[" * 100_000, [], [None], [[1, "a"], {}], {}, {"": {}},
    DEEP,
)  # fmt: skip


def damaged(whole: bytes, seed: int) -> bytes:
    """The content of a file, damaged in one of several ways."""
    draw = random.Random(seed)
    return _WAYS[seed % len(_WAYS)](whole, draw)


def _cut(whole: bytes, draw: random.Random) -> bytes:
    return whole[: draw.randrange(len(whole))]


def _flipped(whole: bytes, draw: random.Random) -> bytes:
    bits = bytearray(whole)
    for _ in range(draw.choice((1, 1, 8, 64))):
        bits[draw.randrange(len(bits))] ^= 1 << draw.randrange(8)
    return bytes(bits)


def _inserted(whole: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(whole) + 1)
    parts = (
        b"\0" * 9,
        b"[" * 100_000,
        b"9" * 5000,
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"{",
        b"\r",
        b"NaN",
    )
    return whole[:at] + draw.choice(parts) + whole[at:]


def _repeated(whole: bytes, draw: random.Random) -> bytes:
    at, to = sorted(draw.randrange(len(whole) + 1) for _ in range(2))
    return whole[:to] + whole[at:to] + whole[to:]


def _noise(whole: bytes, draw: random.Random) -> bytes:
    return draw.randbytes(draw.choice((0, 1, 100, 10_000)))


_WAYS: Sequence[Callable[[bytes, random.Random], bytes]] = (
    _cut, _flipped, _inserted, _repeated, _flipped, _noise,
)  # fmt: skip


def wrong(value: Any, seed: int) -> Any:
    """A value of JSON in which one or two of the values are something else, or are missing."""
    draw = random.Random(seed)
    value = copy.deepcopy(value)
    for _ in range(1 + seed % 2):
        value = _replaced(value, draw)
    return value


def _replaced(value: Any, draw: random.Random) -> Any:
    places = list(_places(value))
    if not places:
        return draw.choice(JUNK)
    holder, key = draw.choice(places)
    if isinstance(holder, dict) and draw.random() < 0.2:
        del holder[key]
    else:
        holder[key] = draw.choice(JUNK)
    return value


def _places(value: Any, depth: int = 0) -> Any:
    if depth > 20 or not isinstance(value, (dict, list)):
        return
    for key in value if isinstance(value, dict) else range(len(value)):
        yield value, key
        yield from _places(value[key], depth + 1)


def json_lines(rows: Sequence[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
