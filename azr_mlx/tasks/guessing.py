"""How likely a guess is right, as far as the text of a task's program shows it.

A solver that tosses a coin for ``return n > 3`` is right half of the time for ever. Without a
correction, such a task pays its proposer as if there was something to learn.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from azr_mlx.tasks.program import entry, parse_source
from azr_mlx.types import Task, TaskKind

BOOLEANS = frozenset({"True", "False"})
_TESTS = frozenset({"bool", "any", "all", "isinstance", "issubclass", "callable", "hasattr"})
_TEST_METHODS = frozenset({
    "startswith", "endswith", "isalnum", "isalpha", "isascii", "isdecimal", "isdigit",
    "isidentifier", "islower", "isnumeric", "isprintable", "isspace", "istitle", "isupper",
    "isdisjoint", "issubset", "issuperset", "is_integer",
})  # fmt: skip
MOST = 16  # values that are counted; a guess among more is not worth a correction

Values = frozenset[str]  # the literals that an expression can give


def chance(task: Task) -> float:
    """The probability that a guess among the program's possible outputs is right: 1 / (number of
    outputs). 0 if that number is not known, and for induction, where one guess has to be right on
    many pairs.

    For abduction it is the share of inputs that lead to the wanted output, if all outputs are
    equally frequent.
    """
    if task.kind is TaskKind.INDUCTION:
        return 0.0
    output = task.outputs[0]
    values = found if output in (found := outcomes(task.program)) else BOOLEANS
    return 1.0 / len(values) if output in values else 0.0


def above_chance(solve_rate: float, by_chance: float) -> float:
    """The share of tasks that the solver knows, if it guesses the others: (p - c) / (1 - c), at
    least 0. ``solve_rate`` is p, ``by_chance`` is c. With c = 1 there is nothing to know: 0. (The
    correction of multiple-choice tests: Diamond and Evans, Review of Educational Research, 1973.)
    """
    return max(0.0, (solve_rate - by_chance) / (1.0 - by_chance)) if by_chance < 1.0 else 0.0


def outcomes(program: str) -> Values:
    """All values that ``f`` can return, if its text shows them: constants, conditions, remainders
    of a small number, and choices between them. Otherwise none."""
    tree = parse_source(program)
    function = None if tree is None else entry(tree)
    if function is None:
        return frozenset()
    returned: list[ast.expr | None] = [node.value for node in _returns(function)]
    return _together(returned if _ends(function.body) else [*returned, None], _named(function))


def _ends(body: list[ast.stmt]) -> bool:
    """Whether a block always returns or raises; if not, ``f`` may return None at its end."""
    match body[-1]:
        case ast.Return() | ast.Raise():
            return True
        case ast.If(body=first, orelse=[_, *_] as second):
            return _ends(first) and _ends(second)
    return False


def _returns(function: ast.FunctionDef) -> Iterator[ast.Return]:
    """The function's own returns, not those of functions within it."""
    stack: list[ast.AST] = list(function.body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Return):
            yield node
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            stack.extend(ast.iter_child_nodes(node))


def _named(function: ast.FunctionDef) -> dict[str, ast.expr]:
    """The variables that are set once, by a plain assignment, and what they stand for."""
    nodes = list(ast.walk(function))
    stores = Counter(
        node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    )
    stores.update(node.arg for node in nodes if isinstance(node, ast.arg))
    return {
        target.id: node.value
        for node in nodes
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and stores[target.id] == 1
    }


def _values(node: ast.expr | None, named: Mapping[str, ast.expr]) -> Values:
    """The values of an expression; none if they are not known, or more than ``MOST``."""
    match node:
        case None:
            return frozenset({"None"})
        case ast.Constant(value=value):
            return frozenset({repr(value)})
        case ast.Compare() | ast.UnaryOp(op=ast.Not()):
            return BOOLEANS
        case ast.Call(func=ast.Name(id=name)) if name in _TESTS:
            return BOOLEANS
        case ast.Call(func=ast.Attribute(attr=name)) if name in _TEST_METHODS:
            return BOOLEANS
        case ast.BinOp(op=ast.Mod(), right=ast.Constant(value=int(modulus))):
            return frozenset(map(str, range(modulus))) if modulus <= MOST else frozenset()
        case ast.IfExp(body=first, orelse=second):
            return _together([first, second], named)
        case ast.BoolOp(values=parts):
            return _together(parts, named)
        case ast.Name(id=name) if name in named:
            return _values(named[name], {k: v for k, v in named.items() if k != name})
    return frozenset()


def _together(parts: Sequence[ast.expr | None], named: Mapping[str, ast.expr]) -> Values:
    """The values of several expressions, if those of each are known."""
    found = [_values(part, named) for part in parts]
    union = frozenset[str]().union(*found)
    return union if all(found) and len(union) <= MOST else frozenset()
