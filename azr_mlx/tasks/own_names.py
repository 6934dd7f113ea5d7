"""Which names of Python a program has made its own: bound, whenever they are read, by itself."""

from __future__ import annotations

import ast
import symtable
from collections.abc import Collection, Iterable, Sequence

from azr_mlx.tasks.reach import is_written

_Function = (ast.FunctionDef, ast.AsyncFunctionDef)
_Block = (*_Function, ast.ClassDef)


def foreign_names(
    tree: ast.Module, found: Sequence[symtable.SymbolTable], names: Collection[str]
) -> set[str]:
    """Those of ``names`` that mean somewhere in a program what Python, or a ``*`` import, means by
    them. ``found`` are the scopes, the module's first, of the very text that was parsed.

    A function's own variable is the program's. A name of a module, or of a class, is if the first
    statement with it binds it whatever happens (``id = 3``, ``import math as id``, ``def``, a
    ``for`` that has something to go through), to a value that does not come from it
    (``eval = eval``), before anything that reads it is called, and nothing deletes it.
    """
    read = {name for name in names if any(_reads(scope, name) for scope in found)}
    return {name for name in read if _is_foreign(tree, found, name)}


def _is_foreign(tree: ast.Module, found: Sequence[symtable.SymbolTable], name: str) -> bool:
    if _is_unbound(tree, found, name):
        return True
    ranges = not any("range" in s.get_identifiers() and _assigns(s, "range") for s in found)
    owner = _Owner(tree, name, ranges)
    return not owner.binds_first(tree.body, after=True) and owner.is_foreign_in(found[0], False)


def _assigns(scope: symtable.SymbolTable, name: str) -> bool:
    symbol = scope.lookup(name)
    return symbol.is_assigned() or symbol.is_imported() or symbol.is_parameter()


def _reads(scope: symtable.SymbolTable, name: str) -> bool:
    """Whether a scope reads a name that is not a variable of a function."""
    if name not in scope.get_identifiers():
        return False
    symbol = scope.lookup(name)
    local = symbol.is_local() and scope.get_type() == "function"
    return symbol.is_referenced() and not (local or symbol.is_free())


def _is_unbound(tree: ast.Module, found: Iterable[symtable.SymbolTable], name: str) -> bool:
    """Whether something deletes a name outside of a function's variables."""
    deleting = any(
        (isinstance(n, ast.Name) and isinstance(n.ctx, ast.Del) and n.id == name)
        or (isinstance(n, ast.ExceptHandler) and n.name == name)
        for n in ast.walk(tree)
    )
    return deleting and any(_is_bound_outside(scope, name) for scope in found)


def _is_bound_outside(scope: symtable.SymbolTable, name: str) -> bool:
    if name not in scope.get_identifiers():
        return False
    symbol = scope.lookup(name)
    return symbol.is_assigned() and (scope.get_type() != "function" or symbol.is_global())


def _star(statement: ast.stmt) -> bool:
    """Whether names of a module may replace the program's there."""
    return any(
        isinstance(n, ast.ImportFrom) and n.names[0].name == "*" for n in ast.walk(statement)
    )


class _Owner:
    """Where a program binds one name. ``ranges``: ``range`` is Python's there."""

    def __init__(self, tree: ast.Module, name: str, ranges: bool) -> None:
        self.name, self.ranges = name, ranges
        self.nodes = list(ast.walk(tree))
        self.blocks = {(n.lineno, n.name): n for n in self.nodes if isinstance(n, _Block)}

    def is_foreign_in(self, scope: symtable.SymbolTable, owned: bool) -> bool:
        """Whether a scope, or one within, reads the name where no block around it (if ``owned``,
        one does) has bound it first."""
        own = owned
        block = self.blocks.get((scope.get_lineno(), scope.get_name()))
        if block is not None and self.name in scope.get_identifiers():
            symbol = scope.lookup(self.name)
            if isinstance(block, ast.ClassDef):
                # A metaclass may give the body a namespace that keeps nothing.
                plain = symbol.is_local() and is_written(block, self.nodes)
                own = owned or (plain and self.binds_first(block.body, after=False))
            elif symbol.is_declared_global():
                owned = own = owned or self.binds_first(block.body, after=False)
        if _reads(scope, self.name) and not own:
            return True
        return any(self.is_foreign_in(child, owned) for child in scope.get_children())

    def binds_first(
        self, block: Sequence[ast.stmt], after: bool, users: frozenset[str] = frozenset()
    ) -> bool:
        """Whether a block binds the name before anything that it runs reads it. ``after``: ``f`` is
        called when the block has ended. ``users``: what is known to read it when it is called."""
        users = self._users(block, users)
        kept = False
        for i, statement in enumerate(block):
            if self._binds(statement, users):
                return not any(map(_star, block[i + 1 :]))
            if not users & _read_names(statement):
                continue
            if self._keeps_inside(statement, users):
                kept = True
            elif not _waits(statement, users):
                return False
        # Bound in loops and branches only, it may still be Python's afterwards.
        return kept and not any(map(_star, block)) and not (after and "f" in users)

    def _users(self, block: Sequence[ast.stmt], known: frozenset[str]) -> frozenset[str]:
        """The name, and all that reads it, or another of them, when it is called."""
        users, more = known | {self.name}, True
        defined = [s for s in block if isinstance(s, _Block)]
        while more:
            found = {s.name for s in defined if users & _read_names(s)} - users
            users, more = users | found, bool(found)
        return users

    def _keeps_inside(self, statement: ast.stmt, users: frozenset[str]) -> bool:
        """Whether the blocks of a loop, a branch and the like bind the name for themselves."""
        match statement:
            case ast.For(target=target, iter=iterated, body=body, orelse=orelse):
                outside: list[ast.AST] = [iterated, target]
                blocks = [orelse] if _stores(target, self.name) else [body, orelse]
            case ast.If(test=test, body=body, orelse=orelse):
                outside, blocks = [test], [body, orelse]
            case ast.While(test=test, body=body, orelse=orelse):
                outside, blocks = [test], [body, orelse]
            case ast.Try(body=body, handlers=handlers, orelse=orelse, finalbody=last):
                outside, blocks = [*handlers, *last], [[*body, *orelse]]
            case _:
                return False
        if any(users & _read_names(part) for part in outside):
            return False
        return all(
            not any(users & _read_names(s) for s in block) or self.binds_first(block, True, users)
            for block in blocks
        )

    def _binds(self, statement: ast.stmt, users: frozenset[str]) -> bool:
        """Whether a statement binds the name, whatever happens, before it reads it."""
        match statement:
            case ast.For(target=target, iter=iterated):
                known = not users & (_read_names(iterated) | _read_names(target))
                return known and _stores(target, self.name) and self._has_items(iterated)
            case ast.If(test=test, body=body, orelse=orelse):
                return not users & _read_names(test) and all(
                    any(self._binds(s, users) for s in block)
                    and self.binds_first(block, True, users)
                    for block in (body, orelse)
                )
            case ast.With(items=items):
                # The first alone: what it gives may pass over an error in the others.
                first = items[0].optional_vars
                reads = any(users & _read_names(item) for item in items)
                return isinstance(first, ast.Name) and first.id == self.name and not reads
        return _binds(statement, self.name, users)

    def _has_items(self, iterated: ast.expr) -> bool:
        match iterated:
            case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
                return any(not isinstance(item, ast.Starred) for item in items)
            case ast.Constant(value=str() as text):
                return text != ""
            case ast.Call(func=ast.Name(id="range"), args=args, keywords=[]) if self.ranges:
                ends = [arg.value for arg in args if isinstance(arg, ast.Constant)]
                whole = [end for end in ends if type(end) is int]
                return len(whole) == len(args) in (1, 2) and len(range(*whole)) > 0
        return False


def _stores(target: ast.expr, name: str) -> bool:
    """Whether a target is a plain name, or has it among others."""
    match target:
        case ast.Name(id=found):
            return found == name
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            return any(_stores(part, name) for part in parts)
        case ast.Starred(value=part):
            return _stores(part, name)
    return False


def _binds(statement: ast.stmt, name: str, users: frozenset[str]) -> bool:
    """Whether a statement binds a name, whatever happens, and runs nothing that reads it."""
    match statement:
        case ast.Import(names=given):
            return any((a.asname or a.name.partition(".")[0]) == name for a in given)
        case ast.ImportFrom(names=given):
            return any((alias.asname or alias.name) == name for alias in given)
        case ast.FunctionDef(name=own) | ast.AsyncFunctionDef(name=own) | ast.ClassDef(name=own):
            reads = users & _read_names(statement)
            return own == name and (not reads or _waits(statement, users))
        case ast.Assign(targets=targets, value=value):
            more = [value.target] if isinstance(value, ast.NamedExpr) else []
            stored = any(_stores(target, name) for target in [*targets, *more])
        case ast.AnnAssign(target=ast.Name(id=own), value=ast.expr()):
            stored = own == name
        case ast.Expr(value=ast.NamedExpr(target=target)):
            stored = _stores(target, name)
        case _:
            return False
    return stored and not users & _read_names(statement)


def _waits(statement: ast.stmt, users: frozenset[str]) -> bool:
    """Whether a statement defines what reads one of the names only when it is called."""
    match statement:
        case ast.FunctionDef(decorator_list=[]) | ast.AsyncFunctionDef(decorator_list=[]):
            outside: list[ast.AST] = [statement.args, *getattr(statement, "type_params", [])]
            if statement.returns is not None:
                outside.append(statement.returns)
            return not any(users & _read_names(part) for part in outside)
        case ast.ClassDef(decorator_list=[], bases=[], keywords=[], body=body):
            # Anything else in the class could be told of it before its name is bound.
            return all(
                isinstance(member, ast.Pass)
                or (isinstance(member, ast.Expr) and isinstance(member.value, ast.Constant))
                or (isinstance(member, _Function) and _waits(member, users))
                for member in body
            )
    return False


def _read_names(node: ast.AST) -> set[str]:
    """The names of others that are read anywhere in a node, in its functions, too."""
    read, stack = set[str](), [node]
    while stack:
        n = stack.pop()
        if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load):
            read.add(n.id)
        elif isinstance(n, ast.AugAssign) and isinstance(n.target, ast.Name):
            read.add(n.target.id)
        if isinstance(n, _Function):
            inner = set[str]().union(*map(_read_names, n.body))
            read |= inner - _variables(n)
            stack += [n.args, *n.decorator_list, *([n.returns] if n.returns else [])]
            stack += getattr(n, "type_params", [])
        elif isinstance(n, ast.GeneratorExp):
            first, *others = n.generators
            inner = set[str]().union(*map(_read_names, [n.elt, *first.ifs, *others]))
            stored = (t for g in n.generators for t in ast.walk(g.target))
            read |= inner - {t.id for t in stored if isinstance(t, ast.Name)}
            stack += [first.iter, first.target]
        else:
            stack += ast.iter_child_nodes(n)
    return read


_SCOPES = (*_Block, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def _variables(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """The parameters of a function, and the variables that it stores."""
    a = function.args
    found = {arg.arg for arg in [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg] if arg}
    others, stack = set[str](), list[ast.AST](function.body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            others |= set(node.names)
        if not isinstance(node, _SCOPES):
            stack += ast.iter_child_nodes(node)
    return found - others
