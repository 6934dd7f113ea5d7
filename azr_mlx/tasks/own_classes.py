"""Which classes of a program are made as they are written, with nobody else having a say."""

from __future__ import annotations

import ast
import importlib
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType

from azr_mlx.tasks.nodes import IMPORTS, bindings, called, marker, reaching, turned

# Decorators that give back the class that they get.
_KEEP_CLASSES = frozenset({
    "dataclass", "total_ordering", "unique", "verify", "final", "runtime_checkable",
})  # fmt: skip
_PLAIN_MAKERS = frozenset({"ABCMeta"})  # metaclasses that give the class that is written


@lru_cache(maxsize=256)
def module_of(name: str) -> ModuleType | None:
    """A module that may be imported; None if there is no such module here."""
    try:
        return importlib.import_module(name)
    except (ImportError, TypeError, ValueError):
        return None


class OwnClasses:
    """The classes of a program. ``nodes``: all of it.

    One is as it is written if its bases are such classes, imported ones, or Python's, and neither a
    metaclass nor a decorator of the program's own makes it.
    """

    def __init__(self, nodes: Sequence[ast.AST]) -> None:
        self.bound = bindings(nodes)
        self.tuples = {
            id(node.targets[0])
            for node in nodes
            if isinstance(node, ast.Assign) and self._is_named_tuple(node.value)
        }
        strange, bases = set[str](), defaultdict[str, set[str]](set)
        for one in (n for n in nodes if isinstance(n, ast.ClassDef)):
            bases[one.name] |= {called(_base(base)) for base in one.bases}
            if not self._seems_written(one):
                strange.add(one.name)
        self.strange = reaching(strange, turned(bases))

    def is_written(self, one: ast.ClassDef) -> bool:
        """Whether a class of the program is as it is written."""
        return self._seems_written(one) and not any(
            called(_base(base)) in self.strange for base in one.bases
        )

    def is_imported(self, node: ast.expr) -> bool:
        """Whether a name, or an attribute of one, means what imports or Python mean by it."""
        match node:
            case ast.Name(id=name):
                return self._is_import(name)
            case ast.Attribute(value=ast.Name(id=owner), attr=name):
                return owner in self.bound and self._is_import(owner) and name not in self.bound
        return False

    def is_known(self, node: ast.expr) -> bool:
        """Whether an expression is an imported class, a named tuple, or one of the program's
        classes that are as they are written."""
        match node:
            case ast.Attribute(value=ast.Name(id=owner), attr=name):
                own = self._is_own(owner) and self._is_own(name)
            case _:
                own = isinstance(node, ast.Name) and self._is_own(node.id)
        return own or self.is_imported(node)

    def _is_import(self, name: str) -> bool:
        return all(isinstance(n, IMPORTS) for n in self.bound.get(name, ()))

    def _is_own(self, name: str) -> bool:
        return self._is_made_here(name) and name not in self.strange

    def _is_made_here(self, name: str) -> bool:
        """Whether a name means a class or a named tuple of the program, whatever happens."""
        return name in self.bound and all(
            isinstance(node, ast.ClassDef) or id(node) in self.tuples for node in self.bound[name]
        )

    def _seems_written(self, one: ast.ClassDef) -> bool:
        """Whether a class is as it is written, if its bases are."""
        makers = [word.value for word in one.keywords if word.arg in ("metaclass", None)]
        marks = [(marker(mark), _KEEP_CLASSES) for mark in one.decorator_list]
        return all(map(self._is_base, one.bases)) and all(
            called(node) in known and self.is_imported(node)
            for node, known in [*((maker, _PLAIN_MAKERS) for maker in makers), *marks]
        )

    def _is_base(self, node: ast.expr) -> bool:
        node = _base(node)
        name = called(node)
        if self._is_named_tuple(node) or (isinstance(node, ast.Name) and self._is_made_here(name)):
            return True
        # The instances of a metaclass are classes, which it may change.
        metaclass = name == "type" or name.endswith(("Meta", "Type"))
        makers = self.bound.get(name, ())
        return self.is_imported(node) and not metaclass and not any(_types(m, name) for m in makers)

    def _is_named_tuple(self, node: ast.expr) -> bool:
        """Whether an expression makes a named tuple, with fields that are written in it."""
        match node:
            case ast.Call(func=func, args=[ast.Constant(), fields]) if self.is_imported(func):
                literal = (ast.Constant, ast.List, ast.Tuple, ast.expr_context)
                types = {"namedtuple": (), "NamedTuple": (ast.Name, ast.Attribute, ast.Subscript)}
                known = (*literal, *types.get(called(func), ()))
                return called(func) in types and all(isinstance(n, known) for n in ast.walk(fields))
        return False


def _base(node: ast.expr) -> ast.expr:
    return node.value if isinstance(node, ast.Subscript) else node


def _types(node: ast.AST, name: str) -> bool:
    """Whether an import gives the name to a class whose instances are classes."""
    if not isinstance(node, ast.ImportFrom):
        return False
    module = module_of(str(node.module))
    given = (getattr(module, a.name, None) for a in node.names if name in (a.asname, a.name))
    return any(isinstance(value, type) and issubclass(value, type) for value in given)
