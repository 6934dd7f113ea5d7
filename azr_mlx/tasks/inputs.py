"""Reads the arguments of ``f`` as models write them: ``f(3, k=1)``, ``3, k=1``, ``xs = [3]``, one
line after another. Python's own parser says what they mean; nothing is evaluated."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple, TypeGuard

from azr_mlx.tasks.program import entry, parse_source, unparse

MAX_INPUTS = 64  # inputs that are read from one text
_MAX_ENDS = 200  # closing brackets that are tried as the end of one call
_MARKED_CALL = re.compile(r"^[ \t]*[-*+][ \t]+(?=f\()", re.M)  # to Python, `- f(1)` is a number
# What stands before an input in a list or a sentence, and after a call that says what it returns.
_MARK = re.compile(
    r"([-*+>]+|\d+[.)])[ \t]+|[*_]*(inputs?|calls?|arguments?|answer)[*_]*:[*_]*", re.I
)
_CALL = re.compile(
    r"^(>>>[ \t]*|[-*+][ \t]+|\d+[.)][ \t]+)?(assert[ \t]+|print\(|`)?f[ \t]*\(", re.M
)
_RESULT = re.compile(r"[ \t]*(->|=>|→|=|:|#|,?[ \t]*(which )?(returns?|gives|is)\b).*")


class Signature(NamedTuple):
    """The parameters of ``f`` that take positional arguments, in order, with their defaults; none
    are known if there is no program."""

    names: tuple[str, ...] = ()
    defaults: tuple[ast.expr, ...] = ()
    more: bool = True  # whether it takes any further arguments, or none are known

    @property
    def required(self) -> int:
        return len(self.names) - len(self.defaults)

    def takes(self, count: int) -> bool:
        """Whether ``f`` can be called with so many arguments."""
        return self.required <= count and (self.more or count <= len(self.names))


def signature(program: str) -> Signature:
    """The signature of the program's ``f``; an unknown one if it has no such function."""
    tree = parse_source(program) if program else None
    function = None if tree is None else entry(tree)
    if function is None:
        return Signature()
    arguments = function.args
    names = tuple(one.arg for one in [*arguments.posonlyargs, *arguments.args])
    return Signature(names, tuple(arguments.defaults), arguments.vararg is not None)


def call_at(text: str, opening: int) -> str | None:
    """``f(...)`` where ``opening`` is the index of its bracket: the shortest text that is a call.
    None if there is none."""
    end = opening
    for _ in range(_MAX_ENDS):
        end = text.find(")", end) + 1
        if not end:
            return None
        call = "f" + text[opening:end]
        if _call_of(call) is not None:
            return call
    return None


def _call_of(text: str) -> ast.Call | None:
    tree = parse_source(text)
    if tree is None or len(tree.body) != 1 or not isinstance(tree.body[0], ast.Expr):
        return None
    return node if is_call(node := tree.body[0].value) else None


def is_call(node: ast.expr) -> TypeGuard[ast.Call]:
    """Whether an expression is a call of ``f``."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "f"


def arguments_of_call(call: str, program: str = "") -> str | None:
    """The arguments of ``f(...)`` as the source of a tuple; those with names in the places that the
    program gives them. None for stars, unknown names and a missing argument before a named one."""
    node = _call_of(call)
    return None if node is None else _placed(node, signature(program), {})


def arguments_in(text: str, program: str = "") -> list[str]:
    """The arguments that a text holds, each as the source of a tuple: of calls and assertions, of
    assignments to the parameters, or of bare values. What is not Python is passed over."""
    known = signature(program)
    text = _MARKED_CALL.sub("", text).strip()
    if not text:
        return []
    tree, call = parse_source(text), _call_of(f"f({text}\n)")
    # With commas between them, assignments are Python as well, but keywords are meant.
    if tree is not None and not (call is not None and call.keywords):
        return _read(tree.body, known)[:MAX_INPUTS]
    if call is not None:
        return [args for args in [_placed(call, known, {})] if args is not None]
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) < 2:
        plain = _plain(text)
        return arguments_in(plain, program) if len(plain) < len(text) else []
    return [one for line in lines[:MAX_INPUTS] for one in arguments_in(line, program)][:MAX_INPUTS]


def calls_in(text: str, program: str = "") -> list[str]:
    """The arguments of the calls of ``f`` that begin a line, each as the source of a tuple."""
    found = islice(_CALL.finditer(text), MAX_INPUTS)
    calls = [call_at(text, match.end() - 1) for match in found]
    known = [arguments_of_call(call, program) for call in calls if call is not None]
    return [one for one in known if one is not None]


def _plain(line: str) -> str:
    """A line without what models put around an input: marks of a list, a label such as `Input:`,
    backticks, and after a call what it returns."""
    mark = _MARK.match(line)
    line = line[mark.end() :].strip() if mark else line
    if len(line) > 1 and line[0] == line[-1] == "`":
        return line.strip("`").strip()
    call = call_at(line, 1) if line.startswith("f(") else None
    return call if call is not None and _RESULT.fullmatch(line[len(call) :]) else line


def _read(statements: Sequence[ast.stmt], known: Signature) -> list[str]:
    """The arguments in some statements; none if any of them is something else."""
    calls: list[str | None] = []
    bare: list[ast.expr] = []
    named: dict[str, ast.expr] = {}
    used = False
    for statement in statements:
        value = _value(statement)
        name = None if value is not None and is_call(value) else _assigned(statement)
        if name is not None:
            if name in named and not used:
                calls.append(_from_names(named, known))
            if name in named:
                named, used = {}, False
            named[name] = statement.value  # type: ignore[attr-defined]
            continue
        if value is None:
            return []
        if is_call(value):
            used = used or bool(named)
            calls.append(_placed(value, known, named))
        else:
            bare.append(value)
    if named and not used:
        calls.append(_from_names(named, known))
    calls += _from_values(bare, known)
    return [call for call in calls if call is not None]


def _assigned(statement: ast.stmt) -> str | None:
    """The name that a statement gives a value to; None if it does something else."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target: ast.expr = statement.targets[0]
    elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
        target = statement.target
    else:
        return None
    return target.id if isinstance(target, ast.Name) else None


def _value(statement: ast.stmt) -> ast.expr | None:
    """The expression of a statement; of ``assert f(x) == y``, ``print(f(x))`` and ``y = f(x)`` the
    call."""
    if isinstance(statement, ast.Assert):
        value = statement.test
    elif isinstance(statement, (ast.Expr, ast.Assign)):
        value = statement.value
    else:
        return None
    match value:
        case ast.Call(func=ast.Name(id="print"), args=[ast.expr() as printed], keywords=[]):
            value = printed
    return value.left if isinstance(value, ast.Compare) and is_call(value.left) else value


def _from_names(named: Mapping[str, ast.expr], known: Signature) -> str | None:
    """Of ``xs = [3]`` and ``k = 1``. Under other names than the parameters', their order counts."""
    if not known.names or set(named) <= set(known.names):
        return _tuple(_filled([], named, known))
    return _tuple(list(named.values())) if known.takes(len(named)) else None


def _from_values(values: Sequence[ast.expr], known: Signature) -> list[str | None]:
    """Of bare values: ``1, 2`` are two arguments, and so are ``(1, 2)`` for a function that needs
    two. Several single values are the arguments of one call if the function needs so many."""
    parts = [_parts(value, known) for value in values]
    single = all(len(part) == 1 for part in parts)
    if single and known.required > 1 and known.takes(len(parts)):
        return [_tuple([one for part in parts for one in part])]
    return [_tuple(part) for part in parts]


def _parts(value: ast.expr, known: Signature) -> list[ast.expr]:
    if not isinstance(value, ast.Tuple) or not value.elts:
        return [value]
    first = value.elts[0]
    has_brackets = (value.lineno, value.col_offset) != (first.lineno, first.col_offset)
    meant = not has_brackets or (known.required > 1 and known.takes(len(value.elts)))
    return value.elts if meant else [value]


def _placed(call: ast.Call, known: Signature, names: Mapping[str, ast.expr]) -> str | None:
    """A call's arguments in their places; ``names`` are variables and what they stand for."""
    if any(keyword.arg is None for keyword in call.keywords):
        return None
    given = [_meant(one, names) for one in call.args]
    named = {str(k.arg): _meant(k.value, names) for k in call.keywords}
    return _tuple(_filled(given, named, known))


def _meant(value: ast.expr, names: Mapping[str, ast.expr]) -> ast.expr:
    return names.get(value.id, value) if isinstance(value, ast.Name) else value


def _filled(
    given: Sequence[ast.expr], named: Mapping[str, ast.expr], known: Signature
) -> list[ast.expr] | None:
    """Positional arguments, and named ones in the places of their parameters."""
    if not named or not known.names:
        return [*given, *named.values()]
    defaults = dict(zip(known.names[known.required :], known.defaults, strict=True))
    last = max((known.names.index(name) for name in named if name in known.names), default=-1)
    if not set(named) <= set(known.names[len(given) :]):
        return None
    rest = [named.get(name) or defaults.get(name) for name in known.names[len(given) : last + 1]]
    return None if None in rest else [*given, *(one for one in rest if one is not None)]


def _tuple(values: Iterable[ast.expr] | None) -> str | None:
    if values is None or any(isinstance(one, ast.Starred) for one in values):
        return None
    return unparse(ast.Tuple(elts=list(values), ctx=ast.Load()))
