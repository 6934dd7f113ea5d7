"""How likely a guess is right, as far as the text of a task's program shows it.

A solver that tosses a coin for ``return n > 3`` is right half of the time for ever. Without a
correction, such a task pays its proposer as if there was something to learn.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import neg
from typing import Any

from azr_mlx.sandbox import literal, parse_literal
from azr_mlx.tasks.program import entry, parse_source, unparse
from azr_mlx.types import Task, TaskKind

BOOLEANS = frozenset({"True", "False"})
_TESTS = frozenset({"bool", "any", "all", "isinstance", "issubclass", "callable", "hasattr"})
_TEST_METHODS = frozenset({
    "startswith", "endswith", "isalnum", "isalpha", "isascii", "isdecimal", "isdigit",
    "isidentifier", "islower", "isnumeric", "isprintable", "isspace", "istitle", "isupper",
    "isdisjoint", "issubset", "issuperset", "is_integer",
})  # fmt: skip
_EXACT: Mapping[str, Callable[[Any], Any]] = {
    "int": int, "abs": abs, "len": len, "str": str,
}  # fmt: skip
_MUTABLE = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
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
    """All values that ``f`` can return, if its text shows them: literals, conditions, remainders of
    a small number, choices between them, and what is looked up by them. Otherwise none."""
    tree = parse_source(program)
    function = None if tree is None else entry(tree)
    if function is None:
        return frozenset()
    returned: list[ast.expr | None] = [node.value for node in _returns(function)]
    try:
        known = Known(_named(function))
        return _together(returned if _ends(function.body) else [*returned, None], known)
    except (RecursionError, ValueError):  # set from itself, too deep; an integer of many digits
        return frozenset()


class Known:
    """What is known of a program: its variables that are ``_named``, and the values of expressions
    that have been looked at. Each is looked at once, however often variables lead to it."""

    def __init__(self, named: Mapping[str, ast.expr]) -> None:
        self.named = named
        self._values: dict[int, Values] = {}

    def meant(self, node: ast.expr) -> ast.expr:
        """What a name stands for; any other expression itself."""
        return self.named.get(node.id, node) if isinstance(node, ast.Name) else node

    def values(self, node: ast.expr | None) -> Values:
        """The values of an expression; none if they are not known, or more than ``MOST``."""
        if node is None or isinstance(node, ast.Constant):
            return frozenset({repr(None if node is None else node.value)})
        if id(node) not in self._values:
            self._values[id(node)] = _values(node, self)
        return self._values[id(node)]


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
    """The variables that are set once, by a plain assignment, and what they stand for. Lists and
    dicts are among them only if nothing but a look-up is done with them."""
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
        if not _changes(target.id, node.value, nodes)
    }


def _changes(name: str, value: ast.expr, nodes: Sequence[ast.AST]) -> bool:
    """Whether a variable may stand for something else later, without being set again."""
    inner = sum(isinstance(node, _MUTABLE) for node in ast.walk(value))
    looked_up = [node.value for node in nodes if _is_look_up(node)]  # type: ignore[attr-defined]
    named = (node for node in nodes if isinstance(node, ast.Name) and node.id == name)
    uses = {node for node in named if isinstance(node.ctx, ast.Load)}
    return inner > 1 or (inner == 1 and not uses <= set(looked_up))


def _is_look_up(node: ast.AST) -> bool:
    """Whether it is ``x[i]``, which is not set, or ``x.get``."""
    if isinstance(node, ast.Subscript):
        return isinstance(node.ctx, ast.Load)
    return isinstance(node, ast.Attribute) and node.attr == "get"


def _values(node: ast.expr, known: Known) -> Values:
    match node:
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _mapped(neg, operand, known)
        case ast.Compare() | ast.UnaryOp(op=ast.Not()):
            return BOOLEANS
        case ast.Call(func=ast.Name(id=name)) if name in _TESTS:
            return BOOLEANS
        case ast.Call(func=ast.Attribute(attr=name)) if name in _TEST_METHODS:
            return BOOLEANS
        case ast.Call(func=ast.Name(id=name), args=[one], keywords=[]) if name in _EXACT:
            return _mapped(_EXACT[name], one, known)
        case ast.Call(func=ast.Attribute(value=table, attr="get"), args=[key, *default]):
            is_dict = isinstance(known.meant(table), ast.Dict) and not node.keywords
            otherwise = [*default, ast.Constant(None)][0]
            return _looked_up(table, key, otherwise, known) if is_dict else frozenset()
        case ast.Subscript(value=table, slice=key):
            return _looked_up(table, key, None, known)
        case ast.BinOp(op=ast.Mod(), right=ast.Constant(value=int(modulus))):
            return frozenset(map(str, range(modulus))) if modulus <= MOST else frozenset()
        case ast.IfExp(body=first, orelse=second):
            return _together([first, second], known)
        case ast.BoolOp(values=parts):
            return _together(parts, known)
        case ast.Name(id=name) if name in known.named:
            return known.values(known.named[name])
        case ast.List() | ast.Tuple() | ast.Dict() | ast.Set():
            return _written(node)
    return frozenset()


def _written(node: ast.expr) -> Values:
    """The value of a literal; none if it is not one."""
    try:
        return frozenset({literal(parse_literal(unparse(node) or ""))})
    except ValueError:
        return frozenset()


def _mapped(function: Callable[[Any], Any], node: ast.expr, known: Known) -> Values:
    """What the function makes of the values of an expression."""
    try:
        return frozenset(literal(function(parse_literal(v))) for v in known.values(node))
    except (ValueError, TypeError, OverflowError):
        return frozenset()


def _looked_up(table: ast.expr, key: ast.expr, otherwise: ast.expr | None, known: Known) -> Values:
    """The values of ``table[key]``; ``otherwise`` is what a missing key gives, None if it gives an
    error. If nothing is known of the key, every item counts."""
    items = _items(known.meant(table))
    if not items or isinstance(key, ast.Slice):
        return frozenset()
    try:
        keys = {parse_literal(value) for value in known.values(key)}
    except (ValueError, TypeError):  # no keys, but an error when it runs
        return frozenset()
    found = [item for at, item in items.items() if at in keys or not keys]
    misses = otherwise is not None and (not keys or not keys <= items.keys())
    return _together([*found, otherwise] if misses else found, known)


def _items(table: ast.expr) -> dict[Any, ast.expr]:
    """The items of a list, a tuple, a text or a dict that is written out, by their keys."""
    match table:
        case ast.List(elts=items) | ast.Tuple(elts=items):
            pass
        case ast.Constant(value=str(text)):
            items = [ast.Constant(c) for c in text]
        case ast.Dict(keys=keys, values=values):
            return _by_key(keys, values)
        case _:
            return {}
    if any(isinstance(item, ast.Starred) for item in items):
        return {}
    counted = dict(enumerate(items))
    return {**counted, **{i - len(items): item for i, item in counted.items()}}


def _by_key(keys: Sequence[ast.expr | None], values: Sequence[ast.expr]) -> dict[Any, ast.expr]:
    """The items of a dict; nothing if a key is not a literal."""
    try:
        known = [parse_literal("" if key is None else unparse(key) or "") for key in keys]
        return dict(zip(known, values, strict=True))
    except (ValueError, TypeError):
        return {}


def _together(parts: Sequence[ast.expr | None], known: Known) -> Values:
    """The values of several expressions, if those of each are known."""
    found = [known.values(part) for part in parts]
    union = frozenset[str]().union(*found)
    return union if all(found) and len(union) <= MOST else frozenset()
