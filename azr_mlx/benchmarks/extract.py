"""The code in a chat model's answer."""

from __future__ import annotations

import re
import textwrap

_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.S | re.M)
_PYTHON_LABELS = frozenset({"", "python", "python3", "py"})


def extract_code(text: str, entry_point: str) -> str:
    """The code in a chat model's answer.

    Reasoning up to ``</think>`` is left out, all the rest where it never ends. Of the fenced blocks
    in Python or without a label, the last that defines ``entry_point`` counts, else the first; a
    fence may lack its end. An answer without a fence is code from its first to its last line.
    """
    text = text.replace("\r\n", "\n").rpartition("</think>")[2]
    text = text.partition("<think>")[0]
    blocks = [body for label, body in _FENCE.findall(text) if label.lower() in _PYTHON_LABELS]
    if not blocks:
        return text
    defines = re.compile(rf"^[ \t]*(?:async[ \t]+)?def[ \t]+{re.escape(entry_point)}\b", re.M)
    whole = [textwrap.dedent(body) for body in blocks if entry_point and defines.search(body)]
    return whole[-1] if whole else blocks[0]
