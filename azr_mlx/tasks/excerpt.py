"""The program in a text that says more: how much of it is Python, and which of its statements a
function needs."""

from __future__ import annotations

import ast
import builtins
import io
from collections.abc import Collection, Iterable, Sequence
from typing import TypeGuard

from azr_mlx.tasks.program import scopes, unparse
from azr_mlx.text import fault, parsed

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_IMPORTS = (ast.Import, ast.ImportFrom)
MOST_PARSED = 400_000  # characters that are parsed to find one program
_LEAST = 500  # what it costs to parse a short text, in characters


class Room:
    """How much may still be parsed. Without a bound, each line of a text could be its end."""

    def __init__(self) -> None:
        self._left = MOST_PARSED

    def take(self, text: str) -> bool:
        """Whether there is room to parse the text; takes it if so."""
        self._left -= max(len(text), _LEAST)
        return self._left > 0


def longest(text: str, room: Room) -> str:
    """The most lines from the start of the text that are a program; an empty string if none are."""
    lines = lines_of(text)
    end = len(lines)
    while end > 0:
        part = "".join(lines[:end])
        if not room.take(part):
            return ""
        faulty = _faulty_line(part)
        if faulty is None:
            return part
        end = min(end - 1, faulty - 1)
    return ""


def _faulty_line(code: str) -> int | None:
    """The number of the line by which a text is not Python; beyond its end if that is not known.
    None if it is Python. A bracket that is never closed is at fault from where it opens."""
    if parsed(code) is not None:
        return None
    error = fault(code)
    return max(1, error.lineno or 1) if error is not None else 1 << 30


def lines_of(text: str) -> list[str]:
    """The lines with their ends, as Python counts them: other separators, such as U+2028, may stand
    in the middle of a string."""
    return list(io.StringIO(text, newline=""))


def source_of(node: ast.stmt, lines: Sequence[str]) -> str:
    """The lines of a statement, its decorators included."""
    text = "".join(lines[first_line(node) - 1 : node.end_lineno])
    return text if text.endswith("\n") else text + "\n"


def first_line(node: ast.stmt) -> int:
    """The number of a statement's first line, that of its decorators."""
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(one.lineno for one in decorators)])


def does_nothing(node: ast.stmt) -> bool:
    """Whether a top-level statement is a value that nobody takes, or an annotation alone: a word or
    a remark in a program (``Done``, ``Complexity: O(n)``) is one to Python."""
    if isinstance(node, ast.AnnAssign):
        return node.value is None
    acts = (ast.Call, ast.Await, ast.Yield, ast.YieldFrom, ast.NamedExpr)
    return isinstance(node, ast.Expr) and not any(isinstance(n, acts) for n in ast.walk(node))


def needed_by(
    body: Sequence[ast.stmt], name: str, *, all_definitions: bool = False
) -> list[ast.stmt]:
    """The top-level statements, in their order, without those behind the one that first gives
    ``name`` a meaning which it does not need: checks, demonstrations, a main function. What stands
    before it, it may need, unless it does nothing. Behind it, definitions stay up to the first
    statement that goes, or ``all_definitions`` stay."""
    own = [i for i, node in enumerate(body) if name in given_by(node)]
    own = own or [i for i, node in enumerate(body) if defines(node, name)]
    at = own[0] if own else len(body)
    wanted, whole = _wanted(body, at), True
    kept = list[ast.stmt]()
    for i, node in enumerate(body):
        if does_nothing(node):
            keep = i < at and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        else:
            stays = isinstance(node, (*DEFINITIONS, *_IMPORTS)) and not is_main_function(node)
            keep = i <= at or _is_needed(node, name, wanted)
            keep = keep or (stays and (whole or all_definitions))
        whole = whole and (keep or i < at)
        kept += [node] if keep else []
    return kept


def completed(code: str, others: Iterable[str]) -> str:
    """Code with the imports, definitions and variables of other code before it that it reads and
    lacks. What comes first among the others counts."""
    tree = parsed(code)
    if tree is None:
        return code
    for other in others:
        part = parsed(other)
        body = [] if part is None else part.body
        found = list[ast.stmt]()
        while new := [
            n for n in body if n not in found and _missing([*found, *tree.body]) & _made(n)
        ]:
            found += new
        if found:
            lines = lines_of(other)
            code = "".join(source_of(n, lines) for n in body if n in found) + code
            tree.body[:0] = found
    return code


def _missing(body: Sequence[ast.stmt]) -> set[str]:
    """The names that statements read and nothing gives a meaning."""
    given = set[str]().union(*map(given_by, body))
    return set[str]().union(*map(_read_by, body)) - given - set(dir(builtins))


def _made(node: ast.stmt) -> set[str]:
    kinds = (*DEFINITIONS, *_IMPORTS, ast.Assign, ast.AnnAssign)
    return given_by(node) if isinstance(node, kinds) else set()


def defines(node: ast.stmt, name: str) -> bool:
    """Whether a statement gives ``name`` a meaning, as the name of a method, too."""
    inner = (one.name for one in ast.walk(node) if isinstance(one, DEFINITIONS))
    return name in given_by(node) or name in inner


def is_main(test: ast.expr) -> bool:
    """Whether a condition is that of a main block."""
    return any(isinstance(node, ast.Name) and node.id == "__name__" for node in ast.walk(test))


def is_main_function(node: ast.stmt) -> TypeGuard[ast.FunctionDef]:
    """Whether a statement is ``def main()``, without parameters."""
    return isinstance(node, ast.FunctionDef) and node.name == "main" and not node.args.args


def _is_needed(node: ast.stmt, name: str, wanted: Collection[str]) -> bool:
    """Whether a statement behind the function's definition gives a meaning or content to what the
    function reads, without calling it."""
    if isinstance(node, DEFINITIONS) and node.name == name:
        return False  # another example
    called = (one.func for one in outer(node) if isinstance(one, ast.Call))
    if any(isinstance(one, ast.Name) and one.id == name for one in called):
        return False
    return bool(given_by(node) & set(wanted))


def _wanted(body: Sequence[ast.stmt], at: int) -> set[str]:
    """The names that the statements up to number ``at`` read, and those that what gives them their
    meaning reads, and so on."""
    reads = {id(node): _read_by(node) for node in body}
    wanted = set[str]().union(*(reads[id(node)] for node in body[: at + 1]))
    todo = list(wanted)
    while todo:
        name = todo.pop()
        for node in body:
            if name in given_by(node):
                new = reads[id(node)] - wanted
                wanted |= new
                todo += new
    return wanted


def _read_by(node: ast.stmt) -> set[str]:
    """The global names that a statement, or a function in it, reads."""
    found = scopes(unparse(node) or "")
    outer = {s.get_name() for s in found[0].get_symbols() if s.is_referenced()} if found else set()
    inner = (s for scope in found[1:] for s in scope.get_symbols())
    return outer | {s.get_name() for s in inner if s.is_global()}


def given_by(node: ast.stmt) -> set[str]:
    """The names to which a statement gives a meaning: ``a`` and ``b`` of ``a = b.c = 1``; or which
    it may change, as ``b.append(1)`` does."""
    if isinstance(node, DEFINITIONS):
        return {node.name}
    found = set[str]()
    for one in outer(node):
        if isinstance(one, DEFINITIONS):
            found.add(one.name)
        elif isinstance(one, ast.alias):
            found.add((one.asname or one.name).partition(".")[0])
        elif isinstance(one, (ast.Name, ast.Attribute, ast.Subscript)) and _is_stored(one):
            found.add(_root(one))
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        found.add(_root(node.value.func) if isinstance(node.value.func, ast.Attribute) else "")
    return found - {""}


def _is_stored(node: ast.Name | ast.Attribute | ast.Subscript) -> bool:
    return isinstance(node.ctx, ast.Store)


def _root(node: ast.expr) -> str:
    """``a`` of ``a.b[0].c``; "" if it does not begin with a name."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def outer(node: ast.AST) -> Iterable[ast.AST]:
    """The node and what is in it, without the bodies of functions and classes."""
    todo = [node]
    while todo:
        one = todo.pop()
        yield one
        if one is node or not isinstance(one, (*DEFINITIONS, ast.Lambda)):
            todo += ast.iter_child_nodes(one)
