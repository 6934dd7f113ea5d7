"""A control for assert-style tests: the same tests, changed so that no right answer can pass them.

Assertions run beside the code that they judge, which may return an object that equals everything,
or leave the tests early and claim their end. Such code passes the control as well, and is found out
by it; honest code cannot. In the control every ``assert a == b`` compares with another value than
``b``, every ``a < b`` with an infinity, every ``a in b`` with a set of strangers; and the end is
reached only after one of these has held.
"""

from __future__ import annotations

import ast
import warnings
from functools import lru_cache
from typing import TypeVar

_PREAMBLE = """
def _control_other(x, _hits=[]):
    _hits.append(1)
    if type(x) is bool:
        return not x
    if type(x) in (int, float, complex):
        return next((y for y in (x + 1, x / 2) if y != x), 0)
    if type(x) in (str, bytes):
        return x + x[:1] + type(x)().join([x, x]) + ("?" if type(x) is str else b"?")
    if type(x) is list:
        return x + [None]
    if type(x) is tuple:
        return x + (None,)
    if type(x) in (set, frozenset):
        return x | {"?control"}
    if type(x) is dict:
        return {**x, "?control": None}
    return "?control" if x is None else object()

def _control_bound(x, bound):
    if type(x) not in (int, float):
        return x
    _control_other(x)
    return bound

def _control_strangers(x):
    _control_other(x)
    return ("?control",)
"""
_END = """
if not _control_other.__defaults__[0]:
    raise AssertionError("control: nothing was compared")
"""
_Node = TypeVar("_Node", ast.Try, ast.With, ast.If)
_BOUNDS: dict[type[ast.cmpop], str] = {
    ast.Lt: "-1e999",
    ast.LtE: "-1e999",
    ast.Gt: "1e999",
    ast.GtE: "1e999",
}


@lru_cache(maxsize=256)
def control_tests(tests: str) -> str:
    """The control of ``tests``; they pass or fail by their end alone where nothing in them can be
    changed.

    Raises ValueError where ``tests`` cannot be parsed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(tests)
            changed = ast.unparse(_Change().visit(tree))
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"the tests cannot be parsed: {error}") from None
    return f"{_PREAMBLE}\n{changed}\n{_END}"


class _Change(ast.NodeTransformer):
    """Assertions that something may catch are left alone: failing there would prove nothing."""

    def visit_Assert(self, node: ast.Assert) -> ast.Assert:
        node.test = _impossible(node.test)
        return node

    def visit_Try(self, node: ast.Try) -> ast.Try:
        return node if node.handlers else self._inside(node)

    def visit_With(self, node: ast.With) -> ast.With:
        catches = any(
            "raises" in (text := ast.unparse(i)).lower() or "suppress" in text.lower()
            for i in node.items
        )
        return node if catches else self._inside(node)

    def visit_If(self, node: ast.If) -> ast.If:
        """``if f(1) != 2: raise``."""
        if any(isinstance(statement, ast.Raise) for statement in node.body):
            test = node.test
            if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
                test.operand = _impossible(test.operand)
            elif isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.NotEq):
                test.comparators[-1] = _call("_control_other", test.comparators[-1])
        return self._inside(node)

    def _inside(self, node: _Node) -> _Node:
        self.generic_visit(node)
        return node


def _impossible(test: ast.expr) -> ast.expr:
    """``test`` with the right side of its comparison replaced, where it is a plain one, an ``and``
    of them, or ``all`` of a row of them.
    """
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        test.values = [_impossible(value) for value in test.values]
    elif isinstance(test, ast.Compare) and len(test.ops) == 1:
        test.comparators = [_replaced(type(test.ops[0]), test.comparators[0])]
    elif isinstance(test, ast.Call) and isinstance(test.func, ast.Name) and test.func.id == "all":
        for row in test.args:
            if isinstance(row, ast.GeneratorExp | ast.ListComp):
                row.elt = _impossible(row.elt)
    return test


def _replaced(operator: type[ast.cmpop], right: ast.expr) -> ast.expr:
    if operator is ast.Eq:
        return _call("_control_other", right)
    if operator in _BOUNDS:
        return _call("_control_bound", right, ast.parse(_BOUNDS[operator], mode="eval").body)
    return _call("_control_strangers", right) if operator is ast.In else right


def _call(name: str, *args: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), list(args), [])
