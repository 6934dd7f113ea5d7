"""Which statements of a program a function needs, and which only show what it does."""

from __future__ import annotations

import ast
import builtins
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from azr_mlx.tasks.effects import Effects, effects_of, effects_of_call
from azr_mlx.tasks.nodes import DEFINITIONS, IMPORTS, reaching, turned
from azr_mlx.tasks.statements import (
    binds,
    defines,
    does_nothing,
    given_by,
    is_main,
    is_main_function,
    outer,
    read_at_once,
    read_by,
)

_MOST_REBOUND = 50  # how often a function may be wrapped in another


class Needs:
    """What the function ``name`` needs of the top-level statements of a program.

    It needs what gives a meaning to a name that it reads, or to one that this reads, and so on; and
    what changes the content of such a name: a store, a method, a function that gets it as an
    argument, or a call of one of the program's own functions that does any of these. What calls the
    function itself is a demonstration of it. With ``all_definitions``, definitions of the name
    behind the first one count as the function, too.
    """

    _reads: list[set[str]]
    _used: dict[str, set[str]]

    def __init__(
        self, body: Sequence[ast.stmt], name: str, *, all_definitions: bool = False
    ) -> None:
        self._read(body, name, all_definitions)
        own = [i for i, n in enumerate(body) if name in given_by(n) and not does_nothing(n)]
        own = own or [i for i, node in enumerate(body) if defines(node, name)]
        self._at = own[0] if own else len(body)
        self._own_helpers = reaching(self._reads[self._at] if own else (), self._used)
        self._rebound = self._find_rebound()
        self._find(set[str]().union(*(self._reads[i] for i in self._own())))

    @classmethod
    def of_names(
        cls, body: Sequence[ast.stmt], wanted: set[str], name: str, known: set[str]
    ) -> list[ast.stmt]:
        """Those of some statements that the ``wanted`` names need. The function ``name`` stands
        elsewhere, and so does what gives the ``known`` names a meaning."""
        if not wanted:
            return []
        needs = cls.__new__(cls)
        needs._read(body, name, False)
        needs._find(wanted, known)
        return [node for i, node in enumerate(body) if i in needs._found]

    def _read(self, body: Sequence[ast.stmt], name: str, all_definitions: bool) -> None:
        self._body, self._name, self._all = body, name, all_definitions
        self._at, self._rebound, self._own_helpers = len(body), set[int](), set[str]()
        self._given = [given_by(node) for node in body]
        self._reads = [read_by(node) for node in body]
        self._effects = [effects_of(node) for node in body]
        self._read_functions()

    def _read_functions(self) -> None:
        """What the program's functions do when they are called, and who uses whom."""
        inner = defaultdict[str, list[Effects]](list)
        edges = defaultdict[str, set[str]](set)
        for node, given, reads in zip(self._body, self._given, self._reads, strict=True):
            for one in given - {self._name}:
                edges[one] |= reads - {self._name}
            for one, function in _functions(node):
                if one != self._name:
                    inner[one].append(effects_of_call(function))
        self._used, self._users, self._functions = edges, turned(edges), inner
        self._changers = defaultdict[str, set[str]](set)
        for one, effects in inner.items():
            for changed in set[str]().union(*(e.changes for e in effects)):
                self._changers[changed].add(one)
        self._tell_apart()

    def _tell_apart(self) -> None:
        """The names by which a call only shows, tests or asks."""
        inner = self._functions

        def those(does: Callable[[Effects], bool]) -> set[str]:
            return reaching((n for n, many in inner.items() if any(map(does, many))), self._users)

        self._tests = those(lambda e: self._name in e.called)
        self._asks = those(lambda e: e.asks)
        self._shows = those(lambda e: e.prints or e.asserts)
        hands = {n: set[str]().union(*(e.hands_on for e in many)) for n, many in inner.items()}
        foreign = set[str]().union(*hands.values()) - inner.keys() if hands else set[str]()
        altering = {n for n, many in inner.items() if any(e.changes_parameter for e in many)}
        self._altering = reaching(altering | foreign, turned(hands))

    def _own(self) -> set[int]:
        """The numbers of the statements that make the function what it is when the program ends."""
        found = {self._at, *self._rebound} if self._at < len(self._body) else set[int]()
        for i in range(self._at + 1, len(self._body)):
            node = self._body[i]
            if isinstance(node, DEFINITIONS) and node.name == self._name:
                found.add(i)
            elif not self._all and not isinstance(node, (*DEFINITIONS, *IMPORTS)):
                break
        return found

    def _find_rebound(self) -> set[int]:
        """The numbers of the statements that give the name a function made of the one before, such
        as ``f = cached(f)``, or ``def f`` with a call of ``old`` after ``old = f``."""
        found, aliases, made = set[int](), set[str](), set[str]()
        for i in range(self._at + 1, len(self._body)):
            node, name = self._body[i], self._name
            if name not in self._given[i]:
                if not isinstance(node, DEFINITIONS) and _takes(node, name):
                    aliases |= self._given[i]
                    made = reaching(aliases, self._users)
            elif self._reads[i] & made or _wraps(node, name):
                found.add(i)
            elif not isinstance(node, DEFINITIONS):
                break  # from here on the name means something else
            if len(found) > _MOST_REBOUND:
                break
        return found

    def _find(self, start: set[str], known: Collection[str] = ()) -> None:
        """Follow names from the function to all that it needs."""
        by_name = defaultdict[str, list[int]](list)
        for i, effects in enumerate(self._effects):
            arguments = {argument for _, argument, _ in effects.passes}
            for name in self._given[i] | effects.changes | arguments | effects.calls:
                by_name[name].append(i)
        self._wanted, self._filling, self._filling_only = set[str](), set[str](), set[str]()
        self._found, todo = set[int](), [*start]
        while todo:
            name = todo.pop()
            if name in self._wanted or name in known:
                continue
            self._wanted.add(name)
            for one in {name, *self._fill(self._changers[name])}:
                for i in by_name[one]:
                    if i not in self._found and self._serves(i):
                        self._found.add(i)
                        todo += self._reads[i]

    def _fill(self, changers: set[str]) -> set[str]:
        """Mark the functions that change something wanted, and whatever uses them."""
        new = _spread(changers, self._filling, self._users)
        only = changers - self._own_helpers
        return new | _spread(only, self._filling_only, self._users)

    def _serves(self, i: int) -> bool:
        """Whether a statement gives a meaning or content to something wanted, and is no
        demonstration."""
        node, effects, wanted = self._body[i], self._effects[i], self._wanted
        if self._name in effects.called or binds(node, self._name):
            return False
        if self._given[i] & wanted:
            return True
        if effects.asks or isinstance(node, ast.Assert) or is_main_block(node):
            return False
        if effects.changes & wanted:
            return True
        if (effects.calls | effects.shows) & (self._tests | self._asks):
            return False
        # The function's own helpers may keep what they have found. To show that is no preparation.
        shows = effects.prints or effects.asserts or effects.calls & self._shows
        filling = self._filling_only if shows else self._filling
        given = {a for function, a, bare in effects.passes if self._alters(function, bare)}
        return bool((given - {self._name}) & wanted or effects.calls & filling)

    def _alters(self, function: str, bare: bool) -> bool:
        """Whether a function may change what it is given. One of another module may, if nothing
        takes its value: what else would it be called for?"""
        return function in self._altering if function in self._functions else bare

    def kept(self) -> list[int]:
        """The numbers of the statements that stay: see ``needed_by`` of ``excerpt``."""
        whole, kept = True, list[int]()
        given, gone = set[str](), set[str]()
        for i, node in enumerate(self._body):
            if does_nothing(node):
                keep = i < self._at and _is_constant(node)
            else:
                stays = isinstance(node, (*DEFINITIONS, *IMPORTS)) and not is_main_function(node)
                stays = stays and not read_at_once(node) & (gone - given)
                keep = i <= self._at or self.needs(i) or (stays and (whole or self._all))
            whole = whole and (keep or i < self._at)
            (given if keep else gone).update(self._given[i])
            kept += [i] if keep else []
        return kept

    def needs(self, i: int) -> bool:
        """Whether the function needs statement number ``i``."""
        return i in self._found or i in self._rebound

    def only_shows(self, i: int) -> bool:
        """Whether statement number ``i`` is a check, a demonstration or a talk to a user: an
        assertion, the main block, or what prints, asks or calls the function, itself or by one of
        the program's own functions, and changes nothing that the function needs."""
        node, effects = self._body[i], self._effects[i]
        if isinstance(node, DEFINITIONS) or i in self._rebound:
            return False
        if isinstance(node, ast.Assert) or is_main_block(node):
            return True
        if defines(node, self._name) or (i in self._found and not effects.asks):
            return False
        if effects.prints or effects.asks or self._name in effects.called:
            return True
        return self._runs_a_demonstration(node)

    def _runs_a_demonstration(self, node: ast.stmt) -> bool:
        value = node.value if isinstance(node, ast.Expr) else None
        if not (isinstance(value, ast.Call) and isinstance(value.func, ast.Name)):
            return False
        name = value.func.id
        known = name in dir(builtins) or any(name in given for given in self._given)
        return name == "main" or not known or name in self._tests | self._asks | self._shows


def is_main_block(node: ast.stmt) -> bool:
    """Whether a statement is ``if __name__ == "__main__"``."""
    return isinstance(node, ast.If) and is_main(node.test)


def _is_constant(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _functions(node: ast.stmt) -> Iterator[tuple[str, ast.AST]]:
    """The functions and classes that a top-level statement gives names to."""
    for one in [node] if isinstance(node, DEFINITIONS) else outer(node):
        if isinstance(one, DEFINITIONS):
            yield one.name, one
        elif isinstance(one, (ast.Assign, ast.AnnAssign)) and one.value is not None:
            lambdas = [n for n in ast.walk(one.value) if isinstance(n, ast.Lambda)]
            for name in given_by(one) if lambdas else ():
                yield from ((name, function) for function in lambdas)


def _takes(node: ast.stmt, name: str) -> bool:
    """Whether a statement takes a function as a value, and does not call it."""
    called = {id(n.func) for n in outer(node) if isinstance(n, ast.Call)}
    loaded = [n for n in outer(node) if isinstance(n, ast.Name) and n.id == name]
    return bool(loaded) and not any(id(n) in called for n in loaded)


def _wraps(node: ast.stmt, name: str) -> bool:
    """Whether a statement assigns ``name`` something made of what it was."""
    assigned = [n for n in outer(node) if isinstance(n, (ast.Assign, ast.AnnAssign))]
    for one in assigned if not isinstance(node, DEFINITIONS) else ():
        targets = one.targets if isinstance(one, ast.Assign) else [one.target]
        own = any(isinstance(n, ast.Name) and n.id == name for n in targets)
        if own and one.value is not None and _has_value_of(one.value, name):
            return True
    return False


def _has_value_of(value: ast.expr, name: str) -> bool:
    """Whether a function is a value in an expression. ``f(3)`` calls it; of ``f.read()`` it is
    none, since a file may have the same name."""
    nodes = [*outer(value)]
    calls = {id(n.func) for n in nodes if isinstance(n, ast.Call)}
    owners = {id(n.value) for n in nodes if isinstance(n, (ast.Attribute, ast.Subscript))}
    found = [n for n in nodes if isinstance(n, ast.Name) and n.id == name]
    return bool(found) and not any(id(n) in calls | owners for n in found)


def _spread(names: Iterable[str], marked: set[str], users: dict[str, set[str]]) -> set[str]:
    """Mark names and all that use them; returns those that were not marked before."""
    todo, new = [n for n in names if n not in marked], set[str]()
    while todo:
        name = todo.pop()
        if name not in marked:
            marked.add(name)
            new.add(name)
            todo += users.get(name, ())
    return new
