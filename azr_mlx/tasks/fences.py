"""The fenced blocks of a chat model's answer, and the one of them that holds a program."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from azr_mlx.text import parsed

# No two parts that follow each other may match the same sign: it would take quadratic time.
_FENCE = re.compile(r"([ \t]*)(`{3,}|~{3,}(?!~))[ \t]*([^\s`{]*)(?:[\s{][^`]*)?")
_PYTHON = frozenset({"", "python", "python3", "py", "py3"})
_TEXT = frozenset({"markdown", "md", "text"})  # fences in such a block are blocks themselves
_MAX_DEPTH = 3  # of blocks in blocks
_MAX_ENDS = 20  # how many lines are tried as the end of one block


class Fence(NamedTuple):
    """A block: its label in lower case ("" if it has none), its text, and the last line of the text
    between it and the block before it."""

    label: str
    body: str
    title: str = ""

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
        title = next((one for one in reversed(lines[at : start - 1]) if one.strip()), "")
        inner = fences(body, depth + 1) if label in _TEXT and depth < _MAX_DEPTH else []
        whole = Fence(label, body + "\n" if start < end < len(lines) else body, title.strip())
        found += inner or [whole]
        at = end + 1
    return found


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
        opening = _FENCE.fullmatch(lines[number])
        number += 1
        if opening is None or (not opening[3] and _begins_with_fence(lines[number:])):
            continue
        label = opening[3].lower()
        end = _end(lines, number, opening, label in _PYTHON)
        yield label, number, end
        number = end + 1


def _begins_with_fence(lines: Sequence[str]) -> bool:
    """Whether another fence, with a label, follows at once: the one before it has no meaning."""
    first = next((line for line in lines if line.strip()), "")
    inner = _FENCE.fullmatch(first)
    return inner is not None and bool(inner[3])


def _end(lines: Sequence[str], start: int, opening: re.Match[str], python: bool) -> int:
    """The number of the line that ends a block; how many lines there are, if none does."""
    mark, width = opening[2], len(opening[1].expandtabs(4))
    closing = re.compile(rf"([ \t]*){mark[0]}{{{len(mark)},}}[ \t]*")
    ends = [
        (i, len(match[1].expandtabs(4)) - width)
        for i, line in enumerate(lines[start:], start)
        if (match := closing.fullmatch(line))
    ][:_MAX_ENDS]
    if not ends:
        return len(lines)
    if python:
        for i, _ in ends:
            if parsed(textwrap.dedent("\n".join(lines[start:i]))) is not None:
                return i
    # With more than three blanks before it, a fence is text. But if there is no other, it is one.
    return next((i for i, deeper in ends if deeper <= 3), ends[0][0])


def program_for(blocks: Sequence[Fence], name: str) -> str | None:
    """The last Python block that gives the function ``name`` a body, or else the last that defines
    it at all; None if none does."""
    definition = re.compile(rf"^[ \t]*(?:async[ \t]+)?def[ \t]+{re.escape(name)}\b", re.M)
    bodies = [textwrap.dedent(one.body) for one in blocks if one.is_python]
    own = [body for body in bodies if definition.search(body)]
    written = [body for body in own if not _is_stub(body, name)]
    return next(reversed(written or own), None)


def _is_stub(code: str, name: str) -> bool:
    """Whether a program only shows how the function is called."""
    tree = parsed(code)
    if tree is None:
        return False
    functions = [
        node
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == name
    ]
    return all(_says_nothing(one) for function in functions for one in function.body)


def _says_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Raise):
        names = (node.id for node in ast.walk(statement) if isinstance(node, ast.Name))
        return "NotImplementedError" in names
    is_constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.Pass) or is_constant
