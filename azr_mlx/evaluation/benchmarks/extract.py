"""The program in a chat model's answer."""

from __future__ import annotations

import ast
import re

from azr_mlx.tasks.excerpt import (
    DEFINITIONS,
    Room,
    defines,
    is_main,
    lines_of,
    longest,
    needed_by,
    source_of,
)
from azr_mlx.tasks.fences import fences, program_for
from azr_mlx.tasks.thinking import answer_of
from azr_mlx.text import parsed

_BEGINS = re.compile(
    r"^(?:import |from \w|def |async def |class |@|[A-Za-z_]\w*[ \t]*(?::[^=\n]+)?=(?!=))", re.M
)
_FENCE_LINE = re.compile(r"^[ \t]*(`{3,}|~{3,})[^\n]*$", re.M)
_MAGIC = re.compile(r"^[!%][^\n]*$", re.M)  # a notebook's commands
_MAX_STARTS = 20  # how many lines are tried as the beginning of a program
_SHOWS = frozenset(
    {"print", "input", "exit", "quit", "sys.exit", "unittest.main", "doctest.testmod", "main"}
)


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
    needed = needed_by(tree.body, entry_point, all_definitions=True)
    kept = [node for node in needed if not _only_shows(node, entry_point)]
    if len(kept) == len(tree.body):
        return code
    lines = lines_of(code)
    return "".join(source_of(node, lines) for node in kept)


def _only_shows(node: ast.stmt, entry_point: str) -> bool:
    """Assertions, the main block, and top-level statements that are a call by name (of tests that
    the answer brings with it, say) or hold one of the function itself, or one that talks to a user
    or ends the program.
    """
    if isinstance(node, DEFINITIONS):
        return False
    if isinstance(node, ast.Assert):
        return True
    if isinstance(node, ast.If) and is_main(node.test):
        return True
    if defines(node, entry_point):
        return False
    value = node.value if isinstance(node, ast.Expr) else None
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        return True
    calls = {_called(n.func) for n in ast.walk(node) if isinstance(n, ast.Call)}
    return bool(calls & {entry_point, *_SHOWS})


def _called(function: ast.expr) -> str:
    """``print`` or ``sys.exit``; an empty string for anything else."""
    if isinstance(function, ast.Name):
        return function.id
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        return f"{function.value.id}.{function.attr}"
    return ""
