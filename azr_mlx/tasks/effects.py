"""What code does when it runs, as far as its text shows: which global names it gives a meaning or
changes the content of, which functions it calls, and whether it only shows something.

Nothing is run. What cannot be known from the text (the callee of ``g()()``) counts as nothing.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from azr_mlx.tasks.nodes import DEFINITIONS, FUNCTIONS, parameters

_WITH_BODY = (*FUNCTIONS, ast.Lambda)
_PRINTS = frozenset({"print", "pprint", "pprint.pprint", "display", "help"})
_STREAMS = ("sys.stdout.", "sys.stderr.")
ASKS = frozenset({  # what talks to a user, or ends the program
    "input", "exit", "quit", "sys.exit", "unittest.main", "doctest.testmod", "testmod",
    "breakpoint",
})  # fmt: skip
# Methods of Python's containers that change them, and functions that change their first argument.
_CHANGING = frozenset({
    "add", "append", "appendleft", "clear", "difference_update", "discard", "extend", "extendleft",
    "insert", "intersection_update", "pop", "popitem", "popleft", "remove", "reverse", "rotate",
    "setdefault", "sort", "subtract", "symmetric_difference_update", "update",
    "__setitem__", "__delitem__", "__iadd__",
})  # fmt: skip
_CHANGING_FIRST = frozenset({
    "setattr", "delattr", "next", "heapify", "heappush", "heappop", "heapreplace", "heappushpop",
    "insort", "insort_left", "insort_right", "shuffle", "setitem", "delitem", "iadd",
})  # fmt: skip
HARMLESS = frozenset(dir(builtins)) - {*_CHANGING_FIRST, "exec", "eval"}


@dataclass(slots=True)
class Effects:
    """What some code does. All names are global ones."""

    changes: set[str] = field(default_factory=set)  # given a meaning, or other content
    # (function, argument, whether nothing takes the value) of calls of functions by name
    passes: set[tuple[str, str, bool]] = field(default_factory=set)
    calls: set[str] = field(default_factory=set)  # what is in a call, as a function or an argument
    shows: set[str] = field(default_factory=set)  # the same within what is printed
    called: set[str] = field(default_factory=set)  # functions called by name, anywhere
    hands_on: set[str] = field(default_factory=set)  # functions that get one of its parameters
    changes_parameter: bool = False
    prints: bool = False
    asserts: bool = False
    asks: bool = False


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a node stands: which names are local there, which of them are parameters, and the call
    around it: "" (none), "used" (its value is), "bare" (its value is not), or "shown"."""

    local: frozenset[str] = frozenset()
    parameters: frozenset[str] = frozenset()
    call: str = ""
    called: bool = False  # whether what is defined here is called, too

    def within(self, call: str) -> _Place:
        kept = self.call if self.call == "shown" else call
        return _Place(self.local, self.parameters, kept, self.called)


def effects_of(node: ast.AST) -> Effects:
    """What a top-level statement does when it is reached."""
    return _effects(node, _Place())


def effects_of_call(definition: ast.AST) -> Effects:
    """What a function (or a class, by any of its methods) may do when it is called."""
    if isinstance(definition, ast.ClassDef):
        effects = _effects(definition, _Place(called=True))
        effects.changes.discard(definition.name)
        effects.changes_parameter = True  # an object may keep what it is given
    elif isinstance(definition, _WITH_BODY):
        local, parameters = _locals(definition)
        effects = Effects()
        for inner in _body(definition):
            place = _Place(local, parameters, "" if isinstance(inner, ast.stmt) else "bare", True)
            _effects(inner, place, effects)
        for default in _altered_defaults(definition, effects):
            effects.changes.add(default)
    else:
        effects = Effects()
    return effects


def _altered_defaults(definition: ast.AST, effects: Effects) -> list[str]:
    """The names that stand for parameters by default, if the function changes any of them."""
    arguments = getattr(definition, "args", None)
    if not effects.changes_parameter or arguments is None:
        return []
    values = [*arguments.defaults, *arguments.kw_defaults]
    return [name for value in values if value is not None and (name := root(value))]


def root(node: ast.AST) -> str:
    """``a`` of ``a.b[0].c``; "" if it does not begin with a name."""
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Starred)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _effects(node: ast.AST, place: _Place, found: Effects | None = None) -> Effects:
    """A loop instead of a recursion: programs may be nested as deeply as Python can parse."""
    found = Effects() if found is None else found
    todo = [(node, place)]
    while todo:
        one, at = todo.pop()
        if isinstance(one, (*_WITH_BODY, ast.ClassDef)):
            todo += _of_definition(one, at, found)
        elif isinstance(one, ast.Call):
            todo += _of_call(one, at, found)
        else:
            _of_name(one, at, found)
            inner = at
            if isinstance(one, ast.Expr):
                inner = at.within("bare")
            elif isinstance(one, ast.Assert):
                found.asserts, inner = True, at.within("shown")
            todo += [(child, inner) for child in ast.iter_child_nodes(one)]
    return found


def _of_definition(node: ast.AST, at: _Place, found: Effects) -> Iterator[tuple[ast.AST, _Place]]:
    """What runs where a function or a class is defined: decorators call, defaults and bases are
    read, a class's body runs. The body of a lambda runs if that is in a call."""
    if not isinstance(node, ast.Lambda):
        _change(node.name, at, found)  # type: ignore[attr-defined]
    for decorator in getattr(node, "decorator_list", []):
        yield decorator, at.within("bare")
        _change(root(decorator.func if isinstance(decorator, ast.Call) else decorator), at, found)
    if isinstance(node, ast.ClassDef):
        for base in [*node.bases, *(k.value for k in node.keywords)]:
            yield base, at.within("bare")
        stored = frozenset(_stored(node.body))
        for statement in node.body:
            yield statement, _Place(at.local | stored, at.parameters - stored, "", at.called)
        return
    arguments = node.args  # type: ignore[attr-defined]
    for default in [*arguments.defaults, *arguments.kw_defaults]:
        if default is not None:
            yield default, at
    if at.called or (isinstance(node, ast.Lambda) and at.call):
        local, _ = _locals(node)
        for one in _body(node):
            call = "" if isinstance(one, ast.stmt) else at.call or "bare"
            yield one, _Place(at.local | local, at.parameters - local, call, at.called)


def _body(node: ast.AST) -> list[ast.AST]:
    body = node.body  # type: ignore[attr-defined]
    return body if isinstance(body, list) else [body]


def _of_call(node: ast.Call, at: _Place, found: Effects) -> Iterator[tuple[ast.AST, _Place]]:
    name = called_name(node.func)
    is_global = root(node.func) not in at.local
    call = "bare" if at.call == "bare" else "used"
    if is_global and (name in _PRINTS or name.startswith(_STREAMS)):
        found.prints, call = True, "shown"
    elif is_global and name in ASKS:
        found.asks = True
    elif isinstance(node.func, ast.Name) and is_global:
        found.called.add(name)
    if at.call != "shown" and call != "shown":
        _of_arguments(node, name, at, found)
    for child in ast.iter_child_nodes(node):
        yield child, at.within(call)


def _of_arguments(node: ast.Call, name: str, at: _Place, found: Effects) -> None:
    """What a call may change: the object of its method, and what it is given. If its value is used,
    only what is known to change something counts."""
    last = name.rpartition(".")[2]
    given = [*node.args, *(keyword.value for keyword in node.keywords)]
    if last in _CHANGING_FIRST:
        _change(root(given[0]) if given else "", at, found)
    if isinstance(node.func, ast.Attribute):
        if at.call == "bare":
            _change(root(node.func), at, found)
            if node.func.attr not in _CHANGING:
                for one in given:
                    _change(root(one), at, found)
    elif name not in HARMLESS:
        for argument in filter(None, map(root, given)):
            if argument in at.parameters:
                found.hands_on.add(name)
            elif argument not in at.local:
                found.passes.add((name, argument, at.call == "bare"))


def _of_name(node: ast.AST, at: _Place, found: Effects) -> None:
    if isinstance(node, ast.alias):
        _change((node.asname or node.name).partition(".")[0], at, found)
    elif isinstance(node, ast.Name):
        if isinstance(node.ctx, ast.Store) and node.id not in at.local:
            found.changes.add(node.id)
        elif isinstance(node.ctx, ast.Load) and at.call and node.id not in at.local:
            (found.shows if at.call == "shown" else found.calls).add(node.id)
    elif isinstance(node, (ast.Attribute, ast.Subscript)):
        method = isinstance(node, ast.Attribute) and node.attr in _CHANGING and at.call != "shown"
        if method or not isinstance(node.ctx, ast.Load):
            _change(root(node), at, found)


def _change(name: str, at: _Place, found: Effects) -> None:
    if name in at.parameters:
        found.changes_parameter = True
    elif name and name not in at.local:
        found.changes.add(name)


def called_name(function: ast.expr) -> str:
    """``print`` or ``sys.stdout.write``; an empty string for anything else."""
    parts = list[str]()
    while isinstance(function, ast.Attribute):
        parts.append(function.attr)
        function = function.value
    return ".".join([function.id, *reversed(parts)]) if isinstance(function, ast.Name) else ""


def _locals(node: ast.AST) -> tuple[frozenset[str], frozenset[str]]:
    """The names that are local to a function, and those of them that are its parameters."""
    arguments = node.args  # type: ignore[attr-defined]
    given = parameters(arguments)
    stored = set(_stored(_body(node)))
    shared = {name for one in _of_own(_body(node)) for name in _declared(one)}
    return frozenset((stored | given) - shared), frozenset(given - stored)


def _declared(node: ast.AST) -> list[str]:
    return node.names if isinstance(node, (ast.Global, ast.Nonlocal)) else []


def _stored(body: Iterable[ast.AST]) -> Iterator[str]:
    """The names to which statements give a meaning where they stand."""
    for one in _of_own(body):
        if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store):
            yield one.id
        elif isinstance(one, DEFINITIONS):
            yield one.name
        elif isinstance(one, ast.alias):
            yield (one.asname or one.name).partition(".")[0]
        elif isinstance(one, ast.ExceptHandler) and one.name:
            yield one.name


def _of_own(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """The nodes of statements, without the bodies of functions and classes in them."""
    todo = [*body]
    while todo:
        one = todo.pop()
        yield one
        if not isinstance(one, (*_WITH_BODY, ast.ClassDef)):
            todo += ast.iter_child_nodes(one)
