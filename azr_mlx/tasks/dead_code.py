"""Takes away what a program carries for show: statements that are never reached, definitions that
nothing uses, values that nothing reads.

A proposal is paid for how hard and how new its task is. A line after ``return``, a first ``f`` that
a second one replaces, or an import for nothing makes a program look longer and newer, and changes
nothing. The task is made of what is left, and its outputs come from running that.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

_LEAVES = (ast.Return, ast.Raise, ast.Break, ast.Continue)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINITIONS = (*_FUNCTIONS, ast.ClassDef)
_IMPORTS = (ast.Import, ast.ImportFrom)
# With one of these below it, a statement means something without being reached.
_BINDING = (ast.Yield, ast.YieldFrom, ast.Global, ast.Nonlocal)


def remove_dead_code(tree: ast.Module, entry: str = "f") -> None:
    """Remove from a module, in place, what cannot play a part when ``entry`` is called. If the
    module does not define it, anything that it does define may be called.

    It loops and does not recurse, since hostile trees are deep.
    """
    for node in list(ast.walk(tree)):
        for _, block in _blocks(node):
            block[:] = _reached(_decided(block)) or [ast.Pass()]
    defined = _defined(tree)
    called = {entry} if entry in defined else defined
    changed = True
    while changed:
        used = called | _used(tree) | ({"annotations"} if _is_annotated(tree) else set())
        changed = _remove_replaced(tree.body)
        for node in list(ast.walk(tree)):
            if not isinstance(node, ast.ClassDef):  # its parts are attributes, read by other means
                for field, block in _blocks(node):
                    changed |= _remove_idle(block, used, field == "orelse")


def _is_annotated(tree: ast.Module) -> bool:
    """Whether ``from __future__ import annotations`` may keep an annotation from being read."""
    return any(
        (isinstance(n, ast.AnnAssign))
        or (isinstance(n, ast.arg) and n.annotation is not None)
        or (isinstance(n, _FUNCTIONS) and n.returns is not None)
        for n in ast.walk(tree)
    )


def _blocks(node: ast.AST) -> Iterator[tuple[str, list[ast.stmt]]]:
    for field, value in ast.iter_fields(node):
        if isinstance(value, list) and value and all(isinstance(s, ast.stmt) for s in value):
            yield field, value


def _decided(block: list[ast.stmt]) -> list[ast.stmt]:
    """The block with the chosen branch in the place of each choice by a constant."""
    todo, out = block[::-1], list[ast.stmt]()
    while todo:
        match todo.pop():
            case ast.If(test=ast.Constant(value=value), body=body, orelse=orelse):
                todo += (body if value else orelse)[::-1]
            case ast.While(test=ast.Constant(value=value), orelse=orelse) if not value:
                todo += orelse[::-1]
            case statement:
                out.append(statement)
    return out


def _reached(block: list[ast.stmt]) -> list[ast.stmt]:
    """The statements up to the first that always leaves the block; all of them if the others bind
    names, or make a generator, by being there."""
    for number, statement in enumerate(block[:-1], 1):
        if _leaves(statement):
            rest = (node for dead in block[number:] for node in ast.walk(dead))
            return block if any(isinstance(node, _BINDING) for node in rest) else block[:number]
    return block


def _leaves(statement: ast.stmt) -> bool:
    """Whether a statement always leaves its block, as do the last ones of all its branches."""
    while isinstance(statement, ast.If) and statement.orelse:
        if not isinstance(statement.body[-1], _LEAVES):
            return False
        statement = statement.orelse[-1]
    return isinstance(statement, _LEAVES)


def _remove_idle(block: list[ast.stmt], used: set[str], optional: bool) -> bool:
    """Remove the statements without effect; whether there were any. A block that is not
    ``optional`` keeps one."""
    kept = [s for s in block if not _idle(s, used)] or ([] if optional else [ast.Pass()])
    changed = len(kept) < len(block)
    block[:] = kept
    return changed


def _defined(tree: ast.Module) -> set[str]:
    """The names that the module's own statements bind."""
    names = set[str]()
    for statement in tree.body:
        if isinstance(statement, _DEFINITIONS):
            names.add(statement.name)
            continue
        for node in ast.walk(statement):
            if isinstance(node, _DEFINITIONS):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
    return names


def _used(tree: ast.Module) -> set[str]:
    """The names that are read anywhere but in their own definition."""
    names = set[str]()
    for statement in tree.body:
        own = statement.name if isinstance(statement, _DEFINITIONS) else ""
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Store):
                names |= {node.id} - {own}
            elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
            elif isinstance(node, (ast.Global, ast.Nonlocal)):
                names |= set(node.names)
    return names


def _remove_replaced(body: list[ast.stmt]) -> bool:
    """Remove functions whose name is defined again before anything at the top can call them."""
    last: dict[str, int] = {}
    replaced = set[int]()
    for number, statement in enumerate(body):
        if isinstance(statement, _FUNCTIONS) and not _computes(statement):
            if statement.name in last:
                replaced.add(last[statement.name])
            last[statement.name] = number
        elif not isinstance(statement, _IMPORTS):
            last.clear()
    body[:] = [s for number, s in enumerate(body) if number not in replaced]
    return bool(replaced)


def _computes(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether its definition runs anything: decorators, or defaults that are no constants."""
    given = [*function.args.defaults, *function.args.kw_defaults]
    return bool(function.decorator_list) or not all(
        default is None or isinstance(default, ast.Constant) for default in given
    )


def _idle(statement: ast.stmt, used: set[str]) -> bool:
    """Whether a statement has no effect, given the names that are used."""
    match statement:
        case ast.Pass() | ast.Expr(value=ast.Constant() | ast.Name()):
            return True
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return statement.name not in used and not _computes(statement)
        case ast.Import() | ast.ImportFrom():
            return not any(_bound_by(alias) in used | {"*"} for alias in statement.names)
        case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant()):
            return name not in used
    return False


def _bound_by(alias: ast.alias) -> str:
    return alias.asname or alias.name.partition(".")[0]
