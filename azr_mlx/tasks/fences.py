"""The fenced blocks of a chat model's answer."""

from __future__ import annotations

import re
from typing import NamedTuple

_FENCE = re.compile(r"^[ \t]*(```|~~~)[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*\1|\Z)", re.S | re.M)


class Fence(NamedTuple):
    """A block: its label in lower case ("" if it has none), and its text."""

    label: str
    body: str


def fences(text: str) -> list[Fence]:
    """The blocks in the order of the text. The last one may lack its end."""
    return [Fence(m[2].lower(), m[3]) for m in _FENCE.finditer(text)]
