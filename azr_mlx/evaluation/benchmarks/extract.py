"""The program in a chat model's answer."""

from __future__ import annotations

import ast
import io
import re

from azr_mlx.tasks.fences import fences, program_for
from azr_mlx.tasks.thinking import answer_of
from azr_mlx.text import NOT_PYTHON, parsed

_BEGINS = re.compile(r"^(?:import |from \w|def |async def |class |@)", re.M)
_FENCE_LINE = re.compile(r"^[ \t]*(`{3,}|~{3,})[^\n]*$", re.M)
_MAX_STARTS = 20  # how many lines are tried as the beginning of a program
_MAX_CUTS = 400  # how often an answer's end is cut off until it is a program
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
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
    calls, tests) or talk to a user are left out.
    """
    text = answer_of(text.replace("\r\n", "\n"))
    blocks = fences(text)
    whole = program_for(blocks, entry_point) if entry_point else None
    if whole is not None:
        cut_off = parsed(whole) is None and _defines(shorter := _longest(whole), entry_point)
        return _definitions(shorter if cut_off else whole, entry_point)
    python = [one.body for one in blocks if one.is_python]
    outside = _bare(_FENCE_LINE.sub("", text), entry_point)
    if not any(body.strip() for body in python) or _defines(outside, entry_point):
        return _definitions(outside, entry_point)
    return _definitions(python[0], entry_point)


def _bare(text: str, entry_point: str) -> str:
    """The code among prose: the first part that is a program and defines ``entry_point``, or else
    the first that is a program; the text as it is if none begins in it.
    """
    starts = [found.start() for found in _BEGINS.finditer(text)][:_MAX_STARTS]
    if not starts or (parsed(text) is not None and _defines(text, entry_point)):
        return text
    parts = [part for start in starts if (part := _longest(text[start:]))]
    own = [part for part in parts if _defines(part, entry_point)]
    return (own or parts or [text[starts[0] :]])[0]


def _longest(text: str) -> str:
    """The most lines from the start of the text that are a program; an empty string if none are."""
    lines = _lines(text)
    end = len(lines)
    for _ in range(_MAX_CUTS):
        part = "".join(lines[:end])
        if end <= 0 or parsed(part) is not None:
            return part if end > 0 else ""
        end = min(end - 1, _faulty_line(part) - 1)
    return ""


def _faulty_line(code: str) -> int:
    """The number of the line by which a text is not Python; beyond its end if that is not known."""
    try:
        ast.parse(code)
    except SyntaxError as error:
        return max(1, error.lineno or 1) if "was never closed" not in str(error) else 1 << 30
    except NOT_PYTHON:
        return 1 << 30
    return 1 << 30


def _defines(code: str, entry_point: str) -> bool:
    tree = parsed(code) if entry_point else None
    return tree is not None and any(entry_point in _names(node, ast.Store) for node in tree.body)


def _definitions(code: str, entry_point: str) -> str:
    """The program without statements that only show or ask for something; the code as it is where
    it is not a program or does not define ``entry_point``.
    """
    tree = parsed(code) if entry_point else None
    if tree is None or not any(entry_point in _names(node, ast.Store) for node in tree.body):
        return code
    kept = [node for node in tree.body if not _only_shows(node, entry_point)]
    if len(kept) == len(tree.body):
        return code
    lines = _lines(code)
    return "".join(_source(node, lines) for node in kept)


def _lines(text: str) -> list[str]:
    """The lines with their ends, as Python counts them: other separators, such as U+2028, may stand
    in the middle of a string."""
    return list(io.StringIO(text, newline=""))


def _names(node: ast.stmt, context: type[ast.expr_context]) -> set[str]:
    """The names that a statement defines (Store) or uses (Load)."""
    found = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, context)}
    if context is ast.Store:
        found |= {n.name for n in ast.walk(node) if isinstance(n, _DEFINITIONS)}
        found |= {n.asname or n.name for n in ast.walk(node) if isinstance(n, ast.alias)}
    return found


def _only_shows(node: ast.stmt, entry_point: str) -> bool:
    """Assertions, the main block, and top-level statements that are a call by name (of tests that
    the answer brings with it, say) or hold one of the function itself, or one that talks to a user
    or ends the program.
    """
    if isinstance(node, _DEFINITIONS):
        return False
    if isinstance(node, ast.Assert):
        return True
    if isinstance(node, ast.If) and "__name__" in _names(node, ast.Load):
        return True
    if entry_point in _names(node, ast.Store):
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


def _source(node: ast.stmt, lines: list[str]) -> str:
    """The lines of a statement, its decorators included."""
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    start = min([node.lineno, *(d.lineno for d in decorators)])
    text = "".join(lines[start - 1 : node.end_lineno])
    return text if text.endswith("\n") else text + "\n"
