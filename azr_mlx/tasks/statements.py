"""Single statements of a program: what they do nothing for, define, read and give a meaning to."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import TypeGuard

from azr_mlx.tasks.effects import root
from azr_mlx.tasks.nodes import DEFINITIONS, FUNCTIONS, IMPORTS
from azr_mlx.tasks.program import scopes, unparse


def does_nothing(node: ast.stmt) -> bool:
    """Whether a top-level statement is a value that nobody takes, or an annotation alone: a word or
    a remark in a program (``Done``, ``Complexity: O(n)``) is one to Python."""
    if isinstance(node, ast.AnnAssign):
        return node.value is None
    acts = (ast.Call, ast.Await, ast.Yield, ast.YieldFrom, ast.NamedExpr)
    return isinstance(node, ast.Expr) and not any(isinstance(n, acts) for n in ast.walk(node))


def defines(node: ast.stmt, name: str) -> bool:
    """Whether a statement gives ``name`` a meaning, as the name of a method, too."""
    inner = (one.name for one in ast.walk(node) if isinstance(one, DEFINITIONS))
    return name in given_by(node) or name in inner


def binds(node: ast.stmt, name: str) -> bool:
    """Whether a statement gives the name itself another meaning: ``f.a = 1`` does not."""
    if isinstance(node, DEFINITIONS):
        return node.name == name
    names = (n for n in outer(node) if isinstance(n, (ast.Name, *DEFINITIONS, ast.alias)))
    return any(_bound(one) == name for one in names)


def _bound(node: ast.AST) -> str:
    match node:
        case ast.Name(id=name, ctx=ast.Store()):
            return name
        case ast.alias():
            return (node.asname or node.name).partition(".")[0]
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return node.name
    return ""


def is_main(test: ast.expr) -> bool:
    """Whether a condition is that of a main block."""
    return any(isinstance(node, ast.Name) and node.id == "__name__" for node in ast.walk(test))


def is_main_function(node: ast.stmt) -> TypeGuard[ast.FunctionDef]:
    """Whether a statement is ``def main()``, without parameters."""
    return isinstance(node, ast.FunctionDef) and node.name == "main" and not node.args.args


def read_by(node: ast.stmt) -> set[str]:
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
            found.add(root(one))
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        found.add(root(node.value.func) if isinstance(node.value.func, ast.Attribute) else "")
    return found - {""}


def _is_stored(node: ast.Name | ast.Attribute | ast.Subscript) -> bool:
    return isinstance(node.ctx, ast.Store)


def outer(node: ast.AST) -> Iterable[ast.AST]:
    """The node and what is in it, without the bodies of functions and classes."""
    todo = [node]
    while todo:
        one = todo.pop()
        yield one
        if one is node or not isinstance(one, (*DEFINITIONS, ast.Lambda)):
            todo += ast.iter_child_nodes(one)


def read_at_once(node: ast.stmt) -> set[str]:
    """The names without which a definition cannot be reached: those in decorators, defaults, bases
    and annotations, and in the body of a class."""
    if isinstance(node, IMPORTS):
        return set()
    if isinstance(node, FUNCTIONS):
        annotations = [] if node.returns is None else [node.returns]
        return _loaded([node.args, *node.decorator_list, *annotations])
    if isinstance(node, ast.ClassDef):
        inner = set[str]().union(*map(read_at_once, node.body))
        own = set[str]().union(*map(given_by, node.body))
        return _loaded([*node.bases, *node.keywords, *node.decorator_list]) | (inner - own)
    return _loaded([node])


def _loaded(parts: Iterable[ast.AST]) -> set[str]:
    found = (one for part in parts for one in outer(part))
    return {n.id for n in found if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
