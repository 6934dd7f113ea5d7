"""The program in a chat model's answer."""

from __future__ import annotations

import ast
import re
import textwrap

from azr_mlx.tasks.fences import fences
from azr_mlx.text import parsed

_PYTHON_LABELS = frozenset({"", "python", "python3", "py", "py3"})
_BEGINS = re.compile(r"^(?:import |from \w|def |async def |class |@)", re.M)
_MAX_CUTS = 400  # how many lines may be taken off an answer's end until it is a program
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_SHOWS = frozenset(
    {"print", "input", "exit", "quit", "sys.exit", "unittest.main", "doctest.testmod", "main"}
)


def extract_code(text: str, entry_point: str) -> str:
    """The program in a chat model's answer.

    Reasoning up to ``</think>`` is left out, and all the rest if it never ends. Of the fenced
    blocks in Python or without a label, the last that defines ``entry_point`` counts, else the
    first; a fence may lack its end. An answer without a fence is code from its first line that
    begins as code does to the last with which it is a program. Where ``entry_point`` is given,
    statements that only use it (example calls, tests) or talk to a user are left out.
    """
    text = text.replace("\r\n", "\n").rpartition("</think>")[2]
    text = text.partition("<think>")[0]
    blocks = [one.body for one in fences(text) if one.label in _PYTHON_LABELS]
    if not blocks:
        return _definitions(_bare(text), entry_point)
    defines = re.compile(rf"^[ \t]*(?:async[ \t]+)?def[ \t]+{re.escape(entry_point)}\b", re.M)
    whole = [textwrap.dedent(body) for body in blocks if entry_point and defines.search(body)]
    return _definitions(whole[-1] if whole else blocks[0], entry_point)


def _bare(text: str) -> str:
    """The code among prose; the text as it is if none begins in it."""
    found = _BEGINS.search(text)
    if found is None or parsed(text) is not None:
        return text
    lines = text[found.start() :].splitlines(keepends=True)
    for end in range(len(lines), max(0, len(lines) - _MAX_CUTS), -1):
        if parsed("".join(lines[:end])) is not None:
            return "".join(lines[:end])
    return text[found.start() :]


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
    lines = code.splitlines(keepends=True)
    return "".join(_source(node, lines) for node in kept)


def _names(node: ast.stmt, context: type[ast.expr_context]) -> set[str]:
    """The names that a statement defines (Store) or uses (Load)."""
    found = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, context)}
    if context is ast.Store:
        found |= {n.name for n in ast.walk(node) if isinstance(n, _DEFINITIONS)}
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
