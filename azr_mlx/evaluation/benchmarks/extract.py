"""The program in a chat model's answer."""

from __future__ import annotations

import re

from azr_mlx.tasks.excerpt import Room, longest, source_of
from azr_mlx.tasks.fences import fences, program_for
from azr_mlx.tasks.needs import Needs
from azr_mlx.tasks.statements import defines
from azr_mlx.tasks.thinking import answer_of
from azr_mlx.text import parsed

_BEGINS = re.compile(
    r"^(?:import |from \w|def |async def |class |@|[A-Za-z_]\w*[ \t]*(?::[^=\n]+)?=(?!=))", re.M
)
_FENCE_LINE = re.compile(r"^[ \t]*(`{3,}|~{3,})[^\n]*$", re.M)
_MAGIC = re.compile(r"^[!%][^\n]*$", re.M)  # a notebook's commands
_MAX_STARTS = 20  # how many lines are tried as the beginning of a program


def extract_code(text: str, entry_point: str) -> str:
    """The program in a chat model's answer.

    A thought is left out, and all the rest if it never ends. Of the fenced
    blocks in Python or without a label, the last that gives ``entry_point`` a body counts, else the
    first, unless the code stands outside of fences; a fence may lack its end or its beginning. An
    answer without a fence is code from its first line that begins as code does to the last with
    which it is a program. Where ``entry_point`` is given, statements that only use it (example
    calls, tests) or talk to a user are left out, and what stands behind it without being needed.
    """
    text, room = answer_of(text.replace("\r\n", "\n")), Room()
    blocks = fences(text)
    whole = program_for(blocks, entry_point) if entry_point else None
    if whole is not None:
        return _definitions(_repaired(whole, entry_point, room), entry_point)
    python = [one.body for one in blocks if one.is_python]
    outside = _bare(_FENCE_LINE.sub("", text), entry_point, room)
    if not any(body.strip() for body in python) or _defines(outside, entry_point):
        return _definitions(outside, entry_point)
    return _definitions(python[0], entry_point)


def _repaired(code: str, entry_point: str, room: Room) -> str:
    """A block's code without a cut tail, a notebook's commands, or prose before it, if it is a
    program only then."""
    if parsed(code) is not None:
        return code
    plain = _MAGIC.sub("", code)
    part = max((longest(given, room) for given in dict.fromkeys((code, plain))), key=len)
    if _defines(part, entry_point):
        return part
    part = _bare(plain, entry_point, room)
    return part if _defines(part, entry_point) else code


def _bare(text: str, entry_point: str, room: Room) -> str:
    """The code among prose: the first part that is a program and defines ``entry_point``, or else
    the first that is a program; the text as it is if none begins in it.
    """
    starts = [found.start() for found in _BEGINS.finditer(text)][:_MAX_STARTS]
    if not starts or (parsed(text) is not None and _defines(text, entry_point)):
        return text
    parts = [part for start in starts if (part := longest(text[start:], room))]
    own = [part for part in parts if _defines(part, entry_point)]
    return (own or parts or [text[starts[0] :]])[0]


def _defines(code: str, entry_point: str) -> bool:
    tree = parsed(code) if entry_point else None
    return tree is not None and any(defines(node, entry_point) for node in tree.body)


def _definitions(code: str, entry_point: str) -> str:
    """The program without statements that only show or ask for something, or that its function does
    not need; the code as it is where it is not a program or does not define ``entry_point``.
    """
    tree = parsed(code) if entry_point else None
    if tree is None or not any(defines(node, entry_point) for node in tree.body):
        return code
    needs = Needs(tree.body, entry_point, all_definitions=True)
    kept = [tree.body[i] for i in needs.kept() if not needs.only_shows(i)]
    return code if len(kept) == len(tree.body) else source_of(kept, tree.body, code)
