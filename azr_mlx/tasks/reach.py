"""What a program can reach by way of modules and attributes.

A module that may be imported holds others that may not, and functions that look up an attribute, or
evaluate code, that a text names. Four rules close these ways:

- of a module a program takes what that offers (``Surface.offers``), by name, also with ``*``;
- a module that holds more than it offers is never a value: nothing may walk into it;
- attributes with a leading underscore are the program's own, or known to be harmless;
- what turns a text into code or into an attribute is refused by its name, or used as is usual
  (``by_text``).
"""

from __future__ import annotations

import ast
import re
import symtable
import sys
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from types import ModuleType

from azr_mlx.tasks.nodes import IMPORTS, called, parameters, variables
from azr_mlx.tasks.own_classes import module_of

BANNED_ATTRIBUTES = frozenset({
    "os", "sys", "_os", "_sys", "builtins", "random", "f_back",
    # What finds an attribute by a text, copies attributes, or evaluates a text.
    "attrgetter", "methodcaller", "get_field", "get_type_hints", "singledispatch",
    "singledispatchmethod", "Formatter", "vformat", "format_field", "convert_field",
    "update_wrapper", "make_dataclass", "ForwardRef", "evaluate_forward_ref", "get_args",
    "get_annotations", "FunctionType", "CodeType", "global_enum", "pickle_by_enum_name",
    "pickle_by_global_name", "import_module", "tool",
    # What gives numbers that are made of addresses, or drawn.
    "c_make_encoder", "kde_random",
})  # fmt: skip
# Nobody's own: what Python, or a module that may be imported, gives these names to.
NEVER_OWN = frozenset({
    "f_globals", "f_locals", "f_builtins", "f_code", "gi_frame", "gi_code", "tb_frame", "cr_frame",
    "cr_code", "ag_frame", "ag_code", "attrname", "_evaluate", "_eval_type", "_create_fn",
    "_convert_", "_old_convert_", "_attr_name", "_attr_type", "_cls_type", "_simple_enum",
    "__subclasses__", "__globals__", "__builtins__", "__code__", "__bases__", "__base__", "__mro__",
    "__loader__", "__spec__", "__closure__", "__reduce__", "__reduce_ex__", "__getattribute__",
    "__dict__", "__self__", "__annotations__", "__dataclass_fields__", "__set_name__",
    "__getstate__", "__args__", "__forward_code__", "__annotate__", "__import__",
})  # fmt: skip
# Special methods and attributes that give nothing away.
_OPERATORS = "add sub mul matmul truediv floordiv mod divmod pow lshift rshift and xor or"
_OTHERS = """
abs aenter aexit aiter anext bool bytes call cause ceil class class_getitem complex concat contains
context copy deepcopy defaults del delattr delete delitem doc enter eq exit float floor format ge
getitem getnewargs gt hash iconcat index init init_subclass instancecheck int inv invert iter
kwdefaults le len length_hint lt match_args members missing module name ne neg new next not notes
pos post_init prepare qualname repr reversed round setattr setitem sizeof slots str subclasscheck
subclasshook suppress_context total traceback trunc version wrapped
"""
_SPECIAL = frozenset(
    {f"__{prefix}{name}__" for name in _OPERATORS.split() for prefix in ("", "r", "i")}
    | {f"__{name}__" for name in _OTHERS.split()}
)
# Of named tuples and enumerations; of heapq, which many know.
_HARMLESS = frozenset({
    "_asdict", "_replace", "_make", "_fields", "_field_defaults", "_value_", "_name_", "_missing_",
    "_generate_next_value_", "_member_map_", "_member_names_", "_value2member_map_", "_ignore_",
    "_order_", "_heapify_max", "_heappop_max", "_heapreplace_max",
})  # fmt: skip
_NUMBERED = re.compile(r"_\d+")  # a field that namedtuple has renamed
# Futures that are the present, or leave annotations unread. The others change the grammar.
FUTURES = frozenset({
    "annotations", "division", "print_function", "absolute_import", "unicode_literals",
    "generator_stop", "generators", "nested_scopes", "with_statement",
})  # fmt: skip


def listed(name: str, allowed: Collection[str]) -> bool:
    """Whether a dotted module name or one of its parents is on the list."""
    parts = name.split(".")
    return any(".".join(parts[: i + 1]) in allowed for i in range(len(parts)))


def is_hidden(name: str, own: Collection[str]) -> bool:
    """Whether an attribute is somebody else's inner part. ``own``: those that the program gives to
    its own objects."""
    if name in NEVER_OWN:
        return True
    if not name.startswith("_") or name in own or name in _SPECIAL | _HARMLESS:
        return False
    return not _NUMBERED.fullmatch(name)


class Surface:
    """What the modules on a list offer."""

    def __init__(self, allowed: tuple[str, ...], banned: Collection[str]) -> None:
        self.allowed, self.banned = allowed, frozenset(banned)
        self.homes = {name.partition(".")[0] for name in allowed}

    def offers(self, module: ModuleType | None, name: str) -> bool:
        """Whether a module offers a name: in its ``__all__``, or else made by it or by another on
        the list. One that is not installed offers all names without a leading underscore."""
        if name in self.banned or name in NEVER_OWN:
            return False
        if name.startswith("_"):
            return name in _SPECIAL | _HARMLESS
        value = getattr(module, name, None)
        if module is not None and not hasattr(module, name):
            return self.is_open(module)  # the error would hold the module
        if isinstance(value, ModuleType):
            return listed(value.__name__, self.allowed)
        if module is None or name in getattr(module, "__all__", ()):
            return True
        home = str(getattr(value, "__module__", None) or "").partition(".")[0]
        foreign = home in sys.stdlib_module_names and home.lstrip("_") not in self.homes
        return not foreign or (home == "builtins" and not callable(value))

    def imports(self, node: ast.ImportFrom) -> bool:
        """Whether the modules on the list offer what ``from ... import ...`` asks for."""
        if node.level or node.module is None:
            return False
        for alias in node.names:
            if f"{node.module}.{alias.name}" in self.allowed:
                continue
            if not listed(node.module, self.allowed):
                return False
            module = module_of(node.module)
            if module is not None and not hasattr(module, alias.name):
                module = None  # an ImportError, which tells nothing
            if alias.name != "*" and not self.offers(module, alias.name):
                return False
        return True

    def withheld(self, node: ast.ImportFrom) -> set[str]:
        """The names that ``from ... import *`` gives, and that the module does not offer."""
        module = module_of(str(node.module))
        if node.names[0].name != "*" or module is None:
            return set()
        names = getattr(module, "__all__", None) or [n for n in vars(module) if n[0] != "_"]
        return {name for name in names if not self.offers(module, name)}

    def is_open(self, module: ModuleType | None) -> bool:
        """Whether a module holds nothing but what it offers, so that it may be a value."""
        return module is not None and all(
            self.offers(module, name) for name in vars(module) if not name.startswith("__")
        )


class ModuleUse(ast.NodeVisitor):
    """Whether a program uses modules for what they offer, and only for that (``faults``)."""

    def __init__(
        self, tree: ast.Module, found: Sequence[symtable.SymbolTable], surface: Surface
    ) -> None:
        self.surface, self.faults = surface, 0
        self.modules = defaultdict[str, list[ModuleType | None]](list)
        for name, module in _aliases(tree, surface.allowed):
            if module not in self.modules[name]:
                self.modules[name].append(module)
        own = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
        self.classes = set(_classes(tree, surface.allowed)) - own  # they stay as they are
        self.tables = {
            (scope.get_lineno(), scope.get_name()): scope
            for scope in found
            if scope.get_type() == "function"
        }
        self.seen = set(self.modules)  # those that no variable hides here
        self.visit(tree)

    def visit_Name(self, node: ast.Name) -> None:
        self._follow(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if not isinstance(node.ctx, ast.Load) and called(node.value) in self.classes:
            self.faults += 1
        self._follow(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for statement in node.body:  # a module would be an attribute of the class
            if isinstance(statement, IMPORTS):
                given = {a.asname or a.name.partition(".")[0] for a in statement.names}
                modules = [one for name in given for one in self.modules.get(name, ())]
                self.faults += not all(map(self.surface.is_open, modules))
        shared = (name for n in ast.walk(node) if isinstance(n, ast.Global) for name in n.names)
        before, self.seen = self.seen, self.seen | (self.modules.keys() & set(shared))
        self.generic_visit(node)
        self.seen = before

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):  # it is read, too
            self._follow(ast.Name(node.target.id, ast.Load()))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        match node:
            case ast.Call(
                func=ast.Name(id="getattr" | "hasattr"),
                args=[value, ast.Constant(value=str() as name), *rest],
            ):
                self._follow(ast.Attribute(value, name, ast.Load()))
                for part in [*rest, *node.keywords]:
                    self.visit(part)
            case _:
                self.generic_visit(node)

    def _follow(self, node: ast.expr) -> None:
        """Look at ``module.name.name``, the longest such expression."""
        names, attribute = list[str](), node
        while isinstance(node, ast.Attribute):
            names.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            self.visit(node)
            return
        if node.id not in self.seen or isinstance(node.ctx, ast.Store):
            return
        stays = isinstance(attribute.ctx, ast.Load)  # type: ignore[attr-defined]
        self.faults += not all(self._offers(one, names, stays) for one in self.modules[node.id])

    def _offers(self, module: ModuleType | None, names: list[str], stays: bool) -> bool:
        """Whether a module offers what the names, from the last to the first, lead to from it. If
        it is not to stay as it is, it offers nothing."""
        value: object = module
        names = names.copy()
        while names and (value is None or isinstance(value, ModuleType)):
            name = names.pop()
            if not (stays and self.surface.offers(value, name)):
                return False
            value = getattr(value, name, _NOTHING)
        if names and names[-1] in self.surface.banned:
            return False
        return not (value is None or isinstance(value, ModuleType)) or self.surface.is_open(value)

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        outside = [*node.decorator_list, node.args, *getattr(node, "type_params", [])]
        for part in [*outside, *([node.returns] if node.returns else [])]:
            self.visit(part)
        before, table = self.seen, self.tables.get((node.lineno, node.name))
        if table is not None:
            self.seen = {name for name in self.modules if self._is_seen(table, name)}
        for statement in node.body:
            self.visit(statement)
        self.seen = before

    visit_FunctionDef = _visit_function
    visit_AsyncFunctionDef = _visit_function

    def _is_seen(self, table: symtable.SymbolTable, name: str) -> bool:
        if name not in table.get_identifiers():
            return name in self.seen
        symbol = table.lookup(name)
        if symbol.is_local():
            return symbol.is_imported() or any(
                _imports_into(one, name) for one in table.get_children()
            )
        return symbol.is_global() or name in self.seen

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.visit(node.args)
        before, self.seen = self.seen, self.seen - parameters(node.args)
        self.visit(node.body)
        self.seen = before

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        """What stands for all comprehensions here."""
        first, before = node.generators[0], self.seen
        self.visit(first.iter)
        self.seen = before - variables(node)
        for part in [first.target, *first.ifs, *node.generators[1:], node.elt]:
            self.visit(part)
        self.seen = before


_NOTHING = object()


def _imports_into(scope: symtable.SymbolTable, name: str) -> bool:
    """Whether a scope, or one within, imports a module into a variable of a function around it."""
    if name not in scope.get_identifiers():
        return False
    symbol = scope.lookup(name)
    here = symbol.is_free() and symbol.is_imported()
    return here or any(_imports_into(child, name) for child in scope.get_children())


def _aliases(tree: ast.Module, allowed: tuple[str, ...]) -> Iterator[tuple[str, ModuleType | None]]:
    """The names that imports give to modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.name if alias.asname else alias.name.partition(".")[0]
                loaded = module_of(alias.name)  # a module within appears in its parent
                yield alias.asname or name, module_of(name) if loaded else None
        elif isinstance(node, ast.ImportFrom) and listed(str(node.module), allowed):
            for alias in node.names:
                value = getattr(module_of(str(node.module)), alias.name, None)
                if isinstance(value, ModuleType):
                    yield alias.asname or alias.name, value


def _classes(tree: ast.Module, allowed: tuple[str, ...]) -> Iterator[str]:
    """The names that imports give to classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and listed(str(node.module), allowed):
            module = module_of(str(node.module))
            for alias in node.names:
                names = getattr(module, "__all__", ()) if alias.name == "*" else (alias.name,)
                for name in names:
                    if isinstance(getattr(module, name, None), type):
                        yield alias.asname or name
