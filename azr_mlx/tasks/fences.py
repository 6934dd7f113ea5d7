"""The fenced blocks of a chat model's answer, and the one of them that holds a program."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from azr_mlx.tasks.excerpt import completed
from azr_mlx.tasks.nodes import DEFINITIONS
from azr_mlx.tasks.statements import outer
from azr_mlx.text import fault, parsed

# No two parts that follow each other may match the same sign: it would take quadratic time.
_FENCE = re.compile(r"([ \t]*)(`{3,}|~{3,}(?!~))[ \t]*([^\s`{]*)(?:[\s{][^`]*)?")
_ITEM = re.compile(r"\A[ \t]*(?:[-*+]|\d+[.)])[ \t]+(?=```|~~~)")  # a block may begin on its line
_PYTHON = frozenset({"", "python", "python3", "py", "py3"})
_TEXT = frozenset({"markdown", "md", "text"})  # fences in such a block are blocks themselves
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_MAX_DEPTH = 3  # of blocks in blocks
_MAX_ENDS = 20  # how many lines are tried as the end of one block


class Fence(NamedTuple):
    """A block: its label in lower case ("" if it has none), its text, the last line of the text
    between it and the block before it, and whether it has an end."""

    label: str
    body: str
    title: str = ""
    closed: bool = True

    @property
    def is_python(self) -> bool:
        """Whether the label says so, or there is none."""
        return self.label in _PYTHON


def fences(text: str, depth: int = 0) -> list[Fence]:
    """The blocks in the order of the text, as CommonMark reads them (section 4.5): a block ends
    with a fence at least as long as its first one. But a block of Python goes on if only then it is
    a program, since docstrings have fences, too. The last block may lack its end.
    """
    lines, found, at = _lines(text), list[Fence](), 0
    for label, start, end in _blocks(lines):
        body = "\n".join(lines[start:end])
        closed = end < len(lines)
        if not closed:
            code = _without_late_end(body)
            closed, body = code != body, code
        title = next((one for one in reversed(lines[at : start - 1]) if one.strip()), "")
        inner = fences(body, depth + 1) if label in _TEXT and depth < _MAX_DEPTH else []
        inner = [one._replace(closed=one.closed or closed) for one in inner]
        body = body + "\n" if start < end < len(lines) else body
        found += inner or [Fence(label, body, title.strip(), closed)]
        at = end + 1
    return found


def _without_late_end(body: str) -> str:
    """Without the end of a block that stands behind its last line."""
    head, line_break, last = body.rstrip().rpartition("\n")
    code = last.rstrip("`")
    late = len(last) - len(code) > 2 and code.strip()
    return head + line_break + code.rstrip() if late else body


def outside(text: str) -> str:
    """The text without its blocks; a blank line is in the place of each."""
    lines = _lines(text)
    kept, at = list[str](), 0
    for _, start, end in _blocks(lines):
        kept += [*lines[at : start - 1], ""]
        at = end + 1
    return "\n".join([*kept, *lines[at:]])


def is_open(text: str) -> bool:
    """Whether the text ends within a block, so that a fence after it would be the block's end."""
    lines = _lines(text)
    return any(end == len(lines) for _, _, end in _blocks(lines))


def _lines(text: str) -> list[str]:
    return text.replace("\r\n", "\n").split("\n")


def _blocks(lines: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """(label, number of the first line, number of the line that ends it) of each block. The latter
    is how many lines there are, if none does."""
    number = 0
    while number < len(lines):
        opening = _FENCE.fullmatch(_ITEM.sub(_blank, lines[number]))
        number += 1
        if opening is None:
            continue
        label, following = opening[3].lower(), _label_at(lines, number)
        if following and label in ("", following):
            continue  # the fence that follows at once begins the block
        end = _end(lines, number, opening, label in _PYTHON)
        yield label, number, end
        number = end + 1


def _blank(found: re.Match[str]) -> str:
    return " " * len(found[0])


def _label_at(lines: Sequence[str], start: int) -> str:
    """The label of the fence that comes next, if nothing stands before it."""
    rest = (lines[i] for i in range(start, len(lines)))
    first = next((line for line in rest if line.strip()), "")
    inner = _FENCE.fullmatch(first)
    return inner[3].lower() if inner is not None else ""


def _end(lines: Sequence[str], start: int, opening: re.Match[str], python: bool) -> int:
    """The number of the line that ends a block; how many lines there are, if none does."""
    mark, width = opening[2], len(opening[1].expandtabs(4))
    closing = re.compile(rf"([ \t]*){mark[0]}{{{len(mark)},}}[ \t]*")
    found = ((i, closing.fullmatch(lines[i])) for i in range(start, len(lines)))
    closed = ((i, len(match[1].expandtabs(4)) - width) for i, match in found if match)
    ends = list(islice(closed, _MAX_ENDS))
    if not ends:
        return len(lines)
    code = textwrap.dedent("\n".join(lines[start : ends[0][0]]))
    if python and parsed(code) is not None:
        return ends[0][0]
    if python and _is_in_string(code):
        for i, _ in ends[1:]:
            if parsed(textwrap.dedent("\n".join(lines[start:i]))) is not None:
                return i
    # With more than three blanks before it, a fence is text. But if there is no other, it is one.
    return next((i for i, deeper in ends if deeper <= 3), ends[0][0])


def _is_in_string(code: str) -> bool:
    """Whether code ends within a string of several lines: a fence there is part of it."""
    return "unterminated triple-quoted" in str(fault(code))


def program_for(blocks: Sequence[Fence], name: str) -> str | None:
    """The last Python block that is a program whose top level gives the function ``name`` a body,
    with what it needs of the other blocks. A block without an end may be cut within the function:
    it counts only if no other is such a program. If none is, it is the last block that gives a body
    in any way, or else the last that defines the function at all; None if none does."""
    definition = re.compile(rf"^[ \t]*(?:async[ \t]+)?def[ \t]+{re.escape(name)}\b", re.M)
    python = [one for one in blocks if one.is_python]
    bodies = [textwrap.dedent(one.body) for one in python]
    trees = {i: parsed(body) for i, body in enumerate(bodies) if definition.search(body)}
    trees = trees or {i: tree for i, body in enumerate(bodies) if (tree := _lambda(body, name))}
    if not trees:
        return None
    written = [i for i, tree in trees.items() if tree is None or not _is_stub(tree, name)]
    whole = [i for i in written if (tree := trees[i]) and _defined_by(tree, name)]
    ended = [i for i in whole if python[i].closed]
    chosen = (ended or whole or written or [*trees])[-1]
    others = [*reversed(bodies[:chosen]), *bodies[chosen + 1 :]]
    return completed(bodies[chosen], others, name)


def _lambda(code: str, name: str) -> ast.Module | None:
    """The tree of a program that gives ``name`` a function by assignment."""
    tree = parsed(code) if re.search(rf"^{re.escape(name)}\b.*\blambda\b", code, re.M) else None
    return tree if tree is not None and _defined_by(tree, name) else None


def _defined_by(tree: ast.Module, name: str) -> list[ast.stmt]:
    """The statements of a program, outside of functions and classes, that define a function: a test
    helper may have a method of its name."""
    found = list[ast.stmt]()
    for top in tree.body:
        nodes = [top] if isinstance(top, DEFINITIONS) else outer(top)
        found += [n for n in nodes if isinstance(n, ast.stmt) and _is_definition(n, name)]
    return found


def _is_definition(node: ast.stmt, name: str) -> bool:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return node.name == name
        case (
            ast.Assign(targets=[*_, ast.Name(id=target)], value=value)
            | ast.AnnAssign(target=ast.Name(id=target), value=ast.expr() as value)
        ) if target == name:  # `f = f(3)` is a use
            return not any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(value))
    return False


def _is_stub(tree: ast.Module, name: str) -> bool:
    """Whether a program only shows how the function is called: its last definition counts, which is
    the one that a call reaches."""
    at_top = _defined_by(tree, name)
    nodes: Iterable[ast.AST] = at_top[-1:] or ast.walk(tree)
    functions = [n for n in nodes if isinstance(n, _FUNCTIONS) and n.name == name]
    bodies = [function.body for function in functions]
    if any(map(_is_left_out, (one for body in bodies for one in body))):
        return True
    return bool(bodies) and all(_says_nothing(one) for body in bodies for one in body)


def _is_left_out(statement: ast.stmt) -> bool:
    """Whether ``...`` stands for a part of a function, or for what it returns."""
    value = statement.value if isinstance(statement, (ast.Expr, ast.Return)) else None
    return isinstance(value, ast.Constant) and value.value is ...


def _says_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Raise):
        names = (node.id for node in ast.walk(statement) if isinstance(node, ast.Name))
        return "NotImplementedError" in names
    is_constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    is_none = isinstance(statement, ast.Return) and _is_none(statement.value)
    return isinstance(statement, ast.Pass) or is_constant or is_none


def _is_none(value: ast.expr | None) -> bool:
    return value is None or (isinstance(value, ast.Constant) and value.value is None)
