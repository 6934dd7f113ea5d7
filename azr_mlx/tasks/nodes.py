"""Parts of syntax trees that several readers of programs need: kinds of nodes, and names."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

IMPORTS = (ast.Import, ast.ImportFrom)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITIONS = (*FUNCTIONS, ast.ClassDef)
_NAMED = (
    *DEFINITIONS, ast.ExceptHandler, ast.MatchAs, ast.MatchStar,
    getattr(ast, "type_param", ast.MatchStar),
)  # fmt: skip


def called(node: ast.AST) -> str:
    """``a`` of ``a``, and ``b`` of ``a.b``; "" of anything else."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def marker(decorator: ast.expr) -> ast.expr:
    """The decorator itself, without the arguments with which it may be called."""
    return decorator.func if isinstance(decorator, ast.Call) else decorator


def parameters(arguments: ast.arguments) -> set[str]:
    """The names of a function's parameters."""
    a = arguments
    found = [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg]
    return {one.arg for one in found if one is not None}


def variables(node: ast.GeneratorExp) -> set[str]:
    """The names to which the loops of a comprehension give values."""
    targets = (n for loop in node.generators for n in ast.walk(loop.target))
    return {n.id for n in targets if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def bindings(nodes: Sequence[ast.AST]) -> dict[str, list[ast.AST]]:
    """What gives each name a meaning or takes it away, in any scope; attributes count as names, and
    imports stand for their aliases."""
    found = defaultdict[str, list[ast.AST]](list)
    for node in nodes:
        for name in _bound(node):
            found[name].append(node)
    return found


def _bound(node: ast.AST) -> Iterator[str]:
    if isinstance(node, IMPORTS):
        yield from ((a.asname or a.name.partition(".")[0]) for a in node.names)
    elif isinstance(node, ast.arg):
        yield node.arg
    elif isinstance(node, ast.MatchMapping):
        yield node.rest or ""
    elif isinstance(node, _NAMED):
        yield getattr(node, "name", None) or ""
    elif not isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
        yield called(node)


def reaching(targets: Iterable[str], users: Mapping[str, Iterable[str]]) -> set[str]:
    """The targets and whatever uses one of them, or uses something that does."""
    found = set(targets)
    todo = [*found]
    while todo:
        new = set(users.get(todo.pop(), ())) - found
        found |= new
        todo += new
    return found


def turned(edges: Mapping[str, Iterable[str]]) -> dict[str, set[str]]:
    """What uses a name, of what each name uses."""
    users = defaultdict[str, set[str]](set)
    for name, used in edges.items():
        for one in used:
            users[one].add(name)
    return users
