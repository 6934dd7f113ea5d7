"""Which names of Python a program has made its own: bound, whenever they are read, by itself."""

from __future__ import annotations

import ast
import symtable
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from enum import IntEnum

from azr_mlx.tasks.nodes import (
    DEFINITIONS,
    FUNCTIONS,
    parameters,
    reaching,
    turned,
    variables,
)
from azr_mlx.tasks.own_classes import OwnClasses


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
    program = _Program(tree, found) if read else None
    return {name for name in read if program is None or program.is_foreign(name)}


def _assigns(scope: symtable.SymbolTable, name: str) -> bool:
    if name not in scope.get_identifiers():
        return False
    symbol = scope.lookup(name)
    return symbol.is_assigned() or symbol.is_imported() or symbol.is_parameter()


def _reads(scope: symtable.SymbolTable, name: str) -> bool:
    """Whether a scope reads a name that is not a variable of a function."""
    if name not in scope.get_identifiers():
        return False
    symbol = scope.lookup(name)
    local = symbol.is_local() and scope.get_type() == "function"
    return symbol.is_referenced() and not (local or symbol.is_free())


def _is_bound_outside(scope: symtable.SymbolTable, name: str) -> bool:
    if name not in scope.get_identifiers():
        return False
    symbol = scope.lookup(name)
    return symbol.is_assigned() and (scope.get_type() != "function" or symbol.is_global())


class _Use(IntEnum):
    """What a statement, or a block of them, does with a name."""

    NOTHING = 0
    INSIDE = 1  # parts of it bind the name for themselves; afterwards it may still be Python's
    READS = 2  # it may read what Python means by the name
    BINDS = 3  # it binds the name, whatever happens, before it reads it


class _Program:
    """What the statements of a program read and bind."""

    def __init__(self, tree: ast.Module, found: Sequence[symtable.SymbolTable]) -> None:
        self.tree, self.found = tree, found
        nodes = list(ast.walk(tree))
        self.classes = OwnClasses(nodes)
        self.blocks = {(n.lineno, n.name): n for n in nodes if isinstance(n, DEFINITIONS)}
        self.stars = {
            id(n) for n in nodes if isinstance(n, ast.ImportFrom) and n.names[0].name == "*"
        }
        self.deleted = {
            n.id if isinstance(n, ast.Name) else n.name
            for n in nodes
            if (isinstance(n, ast.Name) and isinstance(n.ctx, ast.Del))
            or isinstance(n, ast.ExceptHandler)
        }
        self.ranges = not any(_assigns(scope, "range") for scope in found)  # it is Python's
        self._read = dict[int, set[str]]()
        # With the blocks themselves, so that no other one gets the number of one that is gone.
        self._users = dict[int, tuple[Sequence[ast.stmt], dict[str, set[str]]]]()

    def is_foreign(self, name: str) -> bool:
        """Whether a name means somewhere what Python means by it."""
        if name in self.deleted and any(_is_bound_outside(scope, name) for scope in self.found):
            return True
        if _Owner(self, name).owns(self.tree.body, after=True):
            return False
        return _Owner(self, name).is_foreign_in(self.found[0], False)

    def reads(self, node: ast.AST) -> set[str]:
        """The names of others that are read anywhere in a node, in its functions, too."""
        if id(node) not in self._read:
            self._read[id(node)] = _read_names(node)
        return self._read[id(node)]

    def users(self, block: Sequence[ast.stmt], known: frozenset[str]) -> frozenset[str]:
        """Some names, and all that reads one of them, or another of those, when it is called."""
        if id(block) not in self._users:
            edges = defaultdict[str, set[str]](set)
            for statement in block:
                if isinstance(statement, DEFINITIONS):
                    edges[statement.name] |= self.reads(statement)
            self._users[id(block)] = block, turned(edges)
        return frozenset(reaching(known, self._users[id(block)][1]))

    def has_star(self, statements: Iterable[ast.stmt]) -> bool:
        """Whether names of a module may replace the program's there."""
        return bool(self.stars) and any(
            id(node) in self.stars for statement in statements for node in ast.walk(statement)
        )

    def has_items(self, iterated: ast.expr) -> bool:
        """Whether a loop has something to go through."""
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


class _Owner:
    """Where a program binds one name."""

    def __init__(self, program: _Program, name: str) -> None:
        self.program, self.name = program, name

    def is_foreign_in(self, scope: symtable.SymbolTable, owned: bool) -> bool:
        """Whether a scope, or one within, reads the name where no block around it (if ``owned``,
        one does) has bound it first."""
        own = owned
        block = self.program.blocks.get((scope.get_lineno(), scope.get_name()))
        if block is not None and self.name in scope.get_identifiers():
            symbol = scope.lookup(self.name)
            if isinstance(block, ast.ClassDef):
                # A metaclass may give the body a namespace that keeps nothing.
                plain = symbol.is_local() and self.program.classes.is_written(block)
                own = owned or (plain and self.owns(block.body))
            elif symbol.is_declared_global():
                owned = own = owned or self.owns(block.body)
        if _reads(scope, self.name) and not own:
            return True
        return any(self.is_foreign_in(child, owned) for child in scope.get_children())

    def owns(self, block: Sequence[ast.stmt], after: bool = False) -> bool:
        """Whether a block binds the name before anything that it runs reads it. ``after``: ``f`` is
        called when the block has ended."""
        return self._of_block(block, frozenset({self.name}), after) in (_Use.BINDS, _Use.INSIDE)

    def _of_block(
        self, block: Sequence[ast.stmt], users: frozenset[str], after: bool = True
    ) -> _Use:
        """``users``: what is known to read the name when it is called."""
        users, use = self.program.users(block, users), _Use.NOTHING
        for i, statement in enumerate(block):
            use = max(use, self._of_statement(statement, users))
            if use is _Use.BINDS:
                return _Use.READS if self.program.has_star(block[i + 1 :]) else use
            if use is _Use.READS:
                return use
        lost = self.program.has_star(block) or (after and "f" in users)
        return _Use.READS if use is _Use.INSIDE and lost else use

    def _of_statement(self, statement: ast.stmt, users: frozenset[str]) -> _Use:
        def reads(*parts: ast.AST) -> bool:
            return any(users & self.program.reads(part) for part in parts)

        match statement:
            case ast.For(target=target, iter=iterated, body=body, orelse=orelse):
                stores = _stores(target, self.name)
                if stores and self.program.has_items(iterated) and not reads(iterated, target):
                    return _Use.BINDS
                outside: list[ast.AST] = [iterated, target]
                blocks = [orelse] if stores else [body, orelse]
            case ast.If(test=test, body=body, orelse=orelse):
                outside, blocks = [test], [body, orelse]
            case ast.While(test=test, body=body, orelse=orelse):
                outside, blocks = [test], [body, orelse]
            case ast.Try(body=body, handlers=handlers, orelse=orelse, finalbody=last):
                outside, blocks = [*handlers, *last], [[*body, *orelse]]
            case _:
                if self._binds(statement, users):
                    return _Use.BINDS
                waits = not reads(statement) or self._waits(statement, users)
                return _Use.NOTHING if waits else _Use.READS
        uses = [] if reads(*outside) else [self._of_block(block, users) for block in blocks]
        if uses and min(uses) is _Use.BINDS and isinstance(statement, ast.If):
            return _Use.BINDS
        if not reads(statement):
            return _Use.NOTHING
        return _Use.INSIDE if uses and _Use.READS not in uses else _Use.READS

    def _binds(self, statement: ast.stmt, users: frozenset[str]) -> bool:
        """Whether a statement binds the name, whatever happens, and runs nothing that reads it."""
        name = self.name
        match statement:
            case ast.Import() | ast.ImportFrom():
                return name in {a.asname or a.name.partition(".")[0] for a in statement.names}
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                reads = users & self.program.reads(statement)
                return statement.name == name and (not reads or self._waits(statement, users))
            case ast.With(items=[first, *_]):
                # The first alone: what it gives may pass over an error in the others.
                target = first.optional_vars
                plain = isinstance(target, ast.Name) and target.id == name
                return plain and not any(users & self.program.reads(i) for i in statement.items)
            case ast.Assign(targets=targets, value=value):
                more = [value.target] if isinstance(value, ast.NamedExpr) else []
                stored = any(_stores(target, name) for target in [*targets, *more])
            case ast.AnnAssign(target=ast.Name(id=own), value=ast.expr()):
                stored = own == name
            case ast.Expr(value=ast.NamedExpr(target=target)):
                stored = _stores(target, name)
            case _:
                return False
        return stored and not users & self.program.reads(statement)

    def _waits(self, statement: ast.stmt, users: frozenset[str]) -> bool:
        """Whether a statement defines what reads one of the names only when it is called."""
        match statement:
            case ast.FunctionDef(decorator_list=[]) | ast.AsyncFunctionDef(decorator_list=[]):
                return not any(users & self.program.reads(part) for part in _outside(statement))
            case ast.ClassDef(decorator_list=[], bases=[], keywords=[], body=body):
                # Anything else in the class could be told of it before its name is bound.
                return all(
                    isinstance(member, ast.Pass)
                    or (isinstance(member, ast.Expr) and isinstance(member.value, ast.Constant))
                    or (isinstance(member, FUNCTIONS) and self._waits(member, users))
                    for member in body
                )
        return False


def _outside(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.AST]:
    """The parts of a function that are read where it is defined."""
    returns = [] if function.returns is None else [function.returns]
    types = getattr(function, "type_params", [])
    return [function.args, *function.decorator_list, *returns, *types]


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


def _read_names(node: ast.AST) -> set[str]:
    """The names of others that are read anywhere in a node, in its functions, too."""
    read, stack = set[str](), [node]
    while stack:
        n = stack.pop()
        if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load):
            read.add(n.id)
        elif isinstance(n, ast.AugAssign) and isinstance(n.target, ast.Name):
            read.add(n.target.id)
        if isinstance(n, FUNCTIONS):
            read |= set[str]().union(*map(_read_names, n.body)) - _variables(n)
            stack += _outside(n)
        elif isinstance(n, ast.GeneratorExp):
            first, *others = n.generators
            inner = set[str]().union(*map(_read_names, [n.elt, *first.ifs, *others]))
            read |= inner - variables(n)
            stack += [first.iter, first.target]
        else:
            stack += ast.iter_child_nodes(n)
    return read


_SCOPES = (*DEFINITIONS, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def _variables(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """The parameters of a function, and the variables that it stores; none that anything within
    takes from the module."""
    found = parameters(function.args)
    stack = list[ast.AST](function.body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        if not isinstance(node, _SCOPES):
            stack += ast.iter_child_nodes(node)
    outer = (n for n in ast.walk(function) if isinstance(n, (ast.Global, ast.Nonlocal)))
    return found - {name for node in outer for name in node.names}
