"""The program in a text that says more: how much of it is Python, and which of its statements a
function needs."""

from __future__ import annotations

import ast
import builtins
import io
import re
from collections.abc import Iterable, Iterator, Sequence

from azr_mlx.tasks.needs import Needs
from azr_mlx.tasks.program import unparse
from azr_mlx.tasks.statements import given_by, read_by
from azr_mlx.text import fault, parsed

MOST_PARSED = 400_000  # characters that are parsed to find one program
_FUTURE = re.compile(r"from[ \t]+__future__[ \t]+import\b[^(\n]+\n")  # a line of its own
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


def source_of(kept: Sequence[ast.stmt], body: Sequence[ast.stmt], code: str) -> str:
    """The source of those statements of a program that are kept: their lines, decorators included.
    Of statements that share a line, it is theirs alone if not all stay."""
    lines, ids, parts = lines_of(code), {id(node) for node in kept}, list[str]()
    for group in _by_line(body):
        stays = [node for node in group if id(node) in ids]
        if len(stays) == len(group):
            text = "".join(lines[first_line(group[0]) - 1 : group[-1].end_lineno])
            parts.append(text if text.endswith("\n") else text + "\n")
        else:
            parts += [f"{unparse(node) or ast.get_source_segment(code, node)}\n" for node in stays]
    return "".join(parts)


def _by_line(body: Sequence[ast.stmt]) -> list[list[ast.stmt]]:
    """The statements, together with those on the same line."""
    groups = list[list[ast.stmt]]()
    for node in body:
        if groups and node.lineno <= (groups[-1][-1].end_lineno or 0):
            groups[-1].append(node)
        else:
            groups.append([node])
    return groups


def needed_source(kept: Sequence[ast.stmt], body: Sequence[ast.stmt], code: str) -> str:
    """A program up to its first statement that is not kept, remarks included, and the source of
    those behind it that are."""
    ids = {id(node) for node in kept}
    groups = _by_line(body)
    whole = next((i for i, g in enumerate(groups) if not all(id(n) in ids for n in g)), None)
    if whole is None:
        return code
    rest = [node for group in groups[whole:] for node in group]
    head = lines_of(code)[: first_line(rest[0]) - 1]
    return "".join(head) + source_of([n for n in rest if id(n) in ids], rest, code)


def first_line(node: ast.stmt) -> int:
    """The number of a statement's first line, that of its decorators."""
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(one.lineno for one in decorators)])


def needed_by(
    body: Sequence[ast.stmt], name: str, *, all_definitions: bool = False
) -> list[ast.stmt]:
    """The top-level statements, in their order, without those behind the one that first gives
    ``name`` a meaning which it does not need: checks, demonstrations, a main function. What stands
    before it, it may need, unless it does nothing. Behind it, definitions stay up to the first
    statement that goes, or ``all_definitions`` stay, unless they cannot be reached without what
    goes."""
    return [body[i] for i in Needs(body, name, all_definitions=all_definitions).kept()]


def completed(code: str, others: Iterable[str], name: str = "") -> str:
    """Code with the imports, definitions and variables of other code before it that it reads and
    lacks, and with what fills these. What comes first among the others counts. ``name`` is that of
    the function whose demonstrations are none of it."""
    tree = parsed(code)
    if tree is None:
        return code
    for other in others:
        part, missing = parsed(other), _missing(tree.body)
        known = set[str]().union(*map(given_by, tree.body)) if missing else set[str]()
        found = [] if part is None else Needs.of_names(part.body, missing, name, known)
        if found:
            code = joined(source_of(found, part.body if part else [], other), code)
            tree.body[:0] = found
    return code


def joined(before: str, code: str) -> str:
    """One program of two texts. What the second imports from ``__future__`` comes first, since it
    must stand before all else."""
    if not before or "__future__" not in code:
        return before + code
    lines, numbers = lines_of(code), set(_future_lines(code))
    first = [line.rstrip("\n") + "\n" for i, line in enumerate(lines) if i in numbers]
    return "".join([*first, before, *(line for i, line in enumerate(lines) if i not in numbers)])


def _future_lines(code: str) -> Iterator[int]:
    """The numbers of the lines that import from ``__future__``, from 0."""
    tree = parsed(code)
    if tree is None:  # the code is cut, say, or begins within a function
        yield from (i for i, line in enumerate(lines_of(code)) if _FUTURE.match(line))
        return
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            yield from range(node.lineno - 1, node.end_lineno or node.lineno)


def _missing(body: Sequence[ast.stmt]) -> set[str]:
    """The names that statements read and nothing gives a meaning."""
    given = set[str]().union(*map(given_by, body))
    return set[str]().union(*map(read_by, body)) - given - set(dir(builtins))
