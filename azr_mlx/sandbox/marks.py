"""Marks in suites of tests: they say what a run of the suite has reached.

A suite that runs without an error may have checked nothing: its functions may never be called, its
loops may be empty. So everything that checks something is preceded by a call, and so is the body of
each function that may be a test (``jail/suite`` has what is called).
"""

from __future__ import annotations

import ast
import marshal
import warnings
from functools import lru_cache
from typing import Any

from azr_mlx.sandbox.jail.suite import CALLED, REACHED
from azr_mlx.text import NOT_PYTHON, parsed


@lru_cache(maxsize=512)
def marked(tests: str) -> bytes:
    """The suite with marks, as a marshalled code object (the job has the same interpreter). Empty
    if it is not Python.
    """
    tree = parsed(tests)
    if tree is None:
        return b""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = compile(_Marked().visit(tree), "<tests>", "exec", dont_inherit=True)
        return marshal.dumps(code)
    except NOT_PYTHON:
        return b""


class _Marked(ast.NodeTransformer):
    """Puts a mark before everything that checks something, and into functions that may be tests."""

    def __init__(self) -> None:
        self._within = ""  # the class that is being visited, and a dot

    def visit_ClassDef(self, node: ast.ClassDef) -> Any:
        outer, self._within = self._within, f"{node.name}."
        self.generic_visit(node)
        self._within = outer
        return node

    def visit_FunctionDef(self, node: Any) -> Any:
        self.generic_visit(node)
        if node.name.startswith("test") or node.name == "check":
            node.body.insert(
                _after_docstring(node.body), _call(CALLED, node, self._within + node.name)
            )
        return node

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Assert(self, node: ast.Assert) -> Any:
        return node if isinstance(node.test, ast.Constant) else [_call(REACHED, node), node]

    def visit_If(self, node: ast.If) -> Any:
        return self._checking(node)

    def visit_Try(self, node: ast.Try) -> Any:
        return self._checking(node)

    def _checking(self, node: Any) -> Any:
        """``if f(1) != 2: raise ...`` and ``try: f(0) ... else: raise ...`` check something."""
        checks = any(_fails(part) for part in ast.walk(node))
        self.generic_visit(node)
        return [_call(REACHED, node), node] if checks else node


def _fails(node: ast.AST) -> bool:
    if isinstance(node, ast.Assert):
        return isinstance(node.test, ast.Constant) and not node.test.value
    return isinstance(node, ast.Raise) and node.exc is not None


def _after_docstring(body: list[ast.stmt]) -> int:
    first = body[0]
    return int(isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant))


def _call(name: str, place: ast.stmt, *words: str) -> ast.stmt:
    arguments: list[ast.expr] = [ast.Constant(word) for word in words]
    call = ast.Expr(ast.Call(ast.Name(name, ast.Load()), arguments, []))
    return ast.fix_missing_locations(ast.copy_location(call, place))
