"""Functions of a user's own code as programs for tasks: the top-level functions of a module, each
with what it needs of the module, and the inputs that the code itself shows.

Python's parser reads the code; nothing is imported or run. A function is renamed to ``f``, and its
annotations are left out, whose names would otherwise be needed too.
"""

from __future__ import annotations

import ast
import builtins
import doctest
import symtable
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from azr_mlx.tasks.inputs import MAX_INPUTS, is_literal, placed, signature
from azr_mlx.tasks.program import (
    MAX_SOURCE,
    check_program,
    clean_source,
    entry,
    parse_source,
    scopes,
    unparse,
    without_annotations,
)
from azr_mlx.text import parsed

MOST_STATEMENTS = 30  # of a module that one function needs

Calls = Mapping[str, Sequence[ast.Call]]  # the calls of each name, in the order of the code

_BUILTINS = frozenset(dir(builtins))


class Rules(NamedTuple):
    """What ``check_program`` asks of a program."""

    allowed_imports: Collection[str]
    max_chars: int


@dataclass(slots=True)
class OwnFunction:
    """A top-level function: its name in the module; the program; in a word, why it cannot be a
    task; the inputs that its doctests, and then calls in the code, show; the first line of its
    docstring.

    The words are those of ``check_program``, and ``unknown_name`` (it needs a name that the module
    does not define in plain sight), ``changing_name`` (one with several meanings) and
    ``not_renamed`` (``f`` is another thing there).
    """

    name: str
    program: str = ""
    reason: str = ""
    inputs: list[str] = field(default_factory=list)
    message: str = ""


class Module:
    """A module's tree, and the statements that give a meaning to its names."""

    def __init__(self, tree: ast.Module) -> None:
        self.tree = tree
        self.calls = _calls(tree)
        self.imported = {
            (str(node.module).rpartition(".")[2], alias.name)
            for node in tree.body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
            if alias.asname is None
        }
        # Without it, annotations in classes would be read.
        self.futures: list[ast.stmt] = [
            node
            for node in tree.body
            if isinstance(node, ast.ImportFrom) and node.module == "__future__"
        ]
        self._givers: dict[str, list[ast.stmt]] = {}
        for statement in tree.body:
            for part, name in _given(statement):
                self._givers.setdefault(name, []).append(part)
        self._place = {id(part): i for i, part in enumerate(_all(self._givers))}
        self._read: dict[int, tuple[set[str] | None, int]] = {}
        # What a function changes is another thing at every call.
        self._changed = {
            name for n in ast.walk(tree) if isinstance(n, ast.Global) for name in n.names
        }

    def functions(self, rules: Rules, most: int | None = None) -> list[OwnFunction]:
        """The first ``most`` of the functions that are not tests, in the order of the module."""
        return [self._own(function, rules) for function in self.defined()[:most]]

    def defined(self) -> list[ast.FunctionDef]:
        """The functions that are not tests, as they stand in the module."""
        found = [n for n in self.tree.body if isinstance(n, ast.FunctionDef)]
        last = {function.name: function for function in found}  # the one that a call reaches
        return [
            function for function in last.values() if not function.name.startswith(("test_", "__"))
        ]

    def _own(self, function: ast.FunctionDef, rules: Rules) -> OwnFunction:
        own = OwnFunction(function.name)
        statements = self._needed(function.name)
        if isinstance(statements, str):
            own.reason = statements
            return own
        if any(isinstance(statement, ast.ClassDef) for statement in statements):
            statements = [*self.futures, *statements]
        program = _renamed(statements, function.name)
        if program is None:
            own.reason = "not_renamed"
            return own
        own.program = clean_source(program)
        own.reason = check_program(own.program, rules.allowed_imports, rules.max_chars) or ""
        if own.reason:
            return own
        text = ast.get_docstring(function) or ""
        own.message = text.partition("\n")[0].strip()
        own.inputs = inputs_in(_examples(text).get(function.name, ()), own.program)
        add_inputs(own, self.calls)
        return own

    def _needed(self, name: str) -> list[ast.stmt] | str:
        """The statements that a function needs, itself among them, in the order of the module; or
        why there are none, in a word."""
        found: dict[int, ast.stmt] = {}
        names, seen, size = [name], {name}, 0
        while names:
            givers = self._givers.get(name := names.pop(), [])
            if not givers:
                return "unknown_name"
            if len(givers) > 1 or name in self._changed:
                return "changing_name"
            (giver,) = givers
            found[self._place[id(giver)]] = giver
            free, length = self._needs(giver)
            size += length
            if free is None or len(found) > MOST_STATEMENTS or size > MAX_SOURCE:
                return "too_large"
            more = free - seen - (_BUILTINS - self._givers.keys())
            seen |= more
            names += sorted(more)
        return [found[place] for place in sorted(found)]

    def _needs(self, statement: ast.stmt) -> tuple[set[str] | None, int]:
        """What ``_free_names`` says of a statement, and the length of its source."""
        if id(statement) not in self._read:
            source = unparse(statement)
            names = None if source is None else _free_names(source)
            self._read[id(statement)] = names, len(source or "")
        return self._read[id(statement)]


def read_module(source: str) -> Module | None:
    """A module; None if the text is not Python."""
    tree = parsed(source)
    return None if tree is None else Module(tree)


def add_inputs(own: OwnFunction, calls: Calls) -> None:
    """Give a function the inputs of further calls in the code."""
    if own.reason:
        return
    more = inputs_in(calls.get(own.name, ()), own.program)
    own.inputs = list(dict.fromkeys([*own.inputs, *more]))[:MAX_INPUTS]


def inputs_in(calls: Iterable[ast.Call], program: str) -> list[str]:
    """The first ``MAX_INPUTS`` arguments of calls that differ, each as the source of a literal
    tuple; others are passed over."""
    known, texts = signature(program), dict[str, None]()
    for call in calls:
        found = placed(call, known, {})
        if found is not None and found != "()" and is_literal(found):
            texts[found] = None
            if len(texts) == MAX_INPUTS:
                break
    return list(texts)


def _given(statement: ast.stmt) -> Iterator[tuple[ast.stmt, str]]:
    """The names that a top-level statement gives a meaning to, each with the part that does."""
    match statement:
        case ast.FunctionDef():
            bare = ast.Module([statement], [])
            yield without_annotations(bare).body[0], statement.name
        case ast.ClassDef(name=name) | ast.AsyncFunctionDef(name=name):
            yield statement, name
        case ast.Import(names=names):
            for alias in names:
                yield ast.Import([alias]), (alias.asname or alias.name.partition(".")[0])
        case ast.ImportFrom(module=module, names=names, level=level):
            for alias in names:
                yield ast.ImportFrom(module, [alias], level), (alias.asname or alias.name)
        case ast.AnnAssign(target=ast.Name(id=name) as target, value=ast.expr() as value):
            yield ast.Assign([target], value, lineno=0), name
        case ast.If(test=ast.Compare(left=ast.Name(id="__name__"))):
            pass  # runs in a script only
        case _:
            for node in ast.walk(statement):
                if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                    yield statement, node.id
                elif changed := _changed(node):
                    yield statement, changed


def _changed(node: ast.AST) -> str:
    """The name of the thing that is changed by storing into it, or by a method that is called for
    its effect; "" if the node does neither."""
    match node:
        case (
            ast.Subscript(ctx=ast.Store() | ast.Del()) | ast.Attribute(ctx=ast.Store() | ast.Del())
        ):
            thing: ast.AST = node
        case ast.Expr(value=ast.Call(func=ast.Attribute() as thing)):
            pass
        case _:
            return ""
    while isinstance(thing, (ast.Subscript, ast.Attribute)):
        thing = thing.value
    return thing.id if isinstance(thing, ast.Name) else ""


def _all(givers: Mapping[str, list[ast.stmt]]) -> list[ast.stmt]:
    return [part for parts in givers.values() for part in parts]


def _uses(scope: symtable.SymbolTable) -> set[str]:
    """The names of the module, or of Python, that a scope refers to."""
    top = scope.get_type() == "module"
    return {
        symbol.get_name()
        for symbol in scope.get_symbols()
        if symbol.is_referenced() and (top or symbol.is_global())
    }


def _free_names(source: str) -> set[str] | None:
    """The names that a statement needs of its module or of Python; None if it cannot be read."""
    found = scopes(source)
    return set().union(*map(_uses, found)) if found else None


def _renamed(statements: Sequence[ast.stmt], name: str) -> str | None:
    """The source in which the function of this name is called f; None if another thing has one of
    the two names where it matters."""
    source = unparse(ast.Module(list(statements), []))
    tree = None if source is None else parse_source(source)
    if source is None or tree is None or name == "f":
        return source  # the rules refuse what is too large
    found = scopes(source)
    if not found or "f" in found[0].get_identifiers():
        return None
    referring = any(name in _uses(scope) for scope in found)
    if referring and any(_binds(scope, n) for scope in found[1:] for n in ("f", name)):
        return None
    for node in ast.walk(tree):
        if referring and isinstance(node, ast.Name) and node.id == name:
            node.id = "f"
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == name:
            statement.name = "f"
    return unparse(tree) if entry(tree) is not None else None


def _binds(scope: symtable.SymbolTable, name: str) -> bool:
    return name in scope.get_identifiers() and not scope.lookup(name).is_global()


def _calls(tree: ast.AST) -> dict[str, list[ast.Call]]:
    """The calls of plain names, and then of imported modules (``module.name(...)``), by that name.
    A method of a thing (``row.get("k")``) is another function than one that has its name, and so is
    one of Python's own modules."""
    plain, through = dict[str, list[ast.Call]](), dict[str, list[ast.Call]]()
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    modules = _modules(tree)
    for node in sorted(nodes, key=lambda node: (node.lineno, node.col_offset)):
        match node.func:
            case ast.Name(id=name):
                plain.setdefault(name, []).append(node)
            case ast.Attribute(value=ast.Name(id=base), attr=name) if base in modules:
                through.setdefault(name, []).append(node)
    return {name: plain.get(name, []) + through.get(name, []) for name in {**plain, **through}}


def _modules(tree: ast.AST) -> set[str]:
    """The names by which a text knows what it imports, but for Python's own modules."""
    found = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            origin = getattr(node, "module", None)
            for alias in node.names:
                top = (origin or alias.name).partition(".")[0]
                if getattr(node, "level", 0) or top not in sys.stdlib_module_names:
                    found.add(alias.asname or alias.name.partition(".")[0])
    return found


def _examples(docstring: str) -> dict[str, list[ast.Call]]:
    """The calls in a docstring's examples, by name."""
    try:
        examples = doctest.DocTestParser().get_examples(docstring)
    except ValueError:
        return {}
    trees = [parsed(example.source) for example in examples]
    body = [statement for tree in trees if tree is not None for statement in tree.body]
    return _calls(ast.Module(body, []))
