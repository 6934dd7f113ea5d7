"""What a program can reach by way of modules, attributes and texts.

A module that may be imported holds others that may not, and functions that look up an attribute, or
evaluate code, that a text names. Four rules close these ways:

- of a module a program takes what that offers (``Surface.offers``), by name, also with ``*``;
- a module that holds more than it offers is never a value: nothing may walk into it;
- attributes with a leading underscore are the program's own, or known to be harmless;
- what turns a text into code or into an attribute is refused by its name.
"""

from __future__ import annotations

import ast
import importlib
import re
import symtable
import sys
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from types import ModuleType

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


@lru_cache(maxsize=256)
def _module(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except (ImportError, TypeError, ValueError):  # there is no such module here
        return None


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
            module = _module(node.module)
            if module is not None and not hasattr(module, alias.name):
                module = None  # an ImportError, which tells nothing
            if alias.name != "*" and not self.offers(module, alias.name):
                return False
        return True

    def withheld(self, node: ast.ImportFrom) -> set[str]:
        """The names that ``from ... import *`` gives, and that the module does not offer."""
        module = _module(str(node.module))
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
        self.modules = dict(_aliases(tree, surface.allowed))
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
        if not isinstance(node.ctx, ast.Load) and _called(node.value) in self.classes:
            self.faults += 1
        self._follow(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for statement in node.body:  # a module would be an attribute of the class
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                given = {a.asname or a.name.partition(".")[0] for a in statement.names}
                modules = [self.modules[name] for name in given if name in self.modules]
                self.faults += not all(map(self.surface.is_open, modules))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        match node:
            case ast.Call(
                func=ast.Name(id="getattr" | "hasattr"),
                args=[value, ast.Constant(value=str() as name), *rest],
            ):
                self._follow(ast.Attribute(value, name, ast.Load()))
                for part in rest:
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
        value: object = self.modules[node.id]
        while names and (value is None or isinstance(value, ModuleType)):
            name = names.pop()
            if not self.surface.offers(value, name):
                self.faults += 1
            if isinstance(attribute, ast.Attribute) and not isinstance(attribute.ctx, ast.Load):
                self.faults += 1  # modules stay as they are
            value = getattr(value, name, _NOTHING)
        if names and (names[-1] in self.surface.banned):
            self.faults += 1
        module = value is None or isinstance(value, ModuleType)
        if module and not self.surface.is_open(value):  # type: ignore[arg-type]
            self.faults += 1

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
            return symbol.is_imported()
        return symbol.is_global() or name in self.seen

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.visit(node.args)
        before = self.seen
        self.seen = before - {arg.arg for arg in ast.walk(node.args) if isinstance(arg, ast.arg)}
        self.visit(node.body)
        self.seen = before

    def _visit_comprehension(self, node: ast.AST) -> None:
        before = self.seen
        generators: list[ast.comprehension] = node.generators  # type: ignore[attr-defined]
        self.visit(generators[0].iter)
        stored = (n for g in generators for n in ast.walk(g.target) if isinstance(n, ast.Name))
        self.seen = before - {n.id for n in stored}
        generators[0].iter = ast.Constant(None)
        self.generic_visit(node)
        self.seen = before

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _visit_comprehension


_NOTHING = object()


def _aliases(tree: ast.Module, allowed: tuple[str, ...]) -> Iterator[tuple[str, ModuleType | None]]:
    """The names that imports give to modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.name if alias.asname else alias.name.partition(".")[0]
                loaded = _module(alias.name)  # a module within appears in its parent
                yield alias.asname or name, _module(name) if loaded else None
        elif isinstance(node, ast.ImportFrom) and listed(str(node.module), allowed):
            for alias in node.names:
                value = getattr(_module(str(node.module)), alias.name, None)
                if isinstance(value, ModuleType):
                    yield alias.asname or alias.name, value


def _classes(tree: ast.Module, allowed: tuple[str, ...]) -> Iterator[str]:
    """The names that imports give to classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and listed(str(node.module), allowed):
            module = _module(str(node.module))
            for alias in node.names:
                names = getattr(module, "__all__", ()) if alias.name == "*" else (alias.name,)
                for name in names:
                    if isinstance(getattr(module, name, None), type):
                        yield alias.asname or name


def texts_to_code(tree: ast.Module) -> bool:
    """Whether a program uses, in another way than the usual one, what copies attributes that texts
    name (``wraps``), tells addresses (``deepcopy``) or draws numbers (``samples``)."""
    special = _special_uses(tree)
    if not special:  # it imports nothing
        return False
    fine = set[int]()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(decorator_list=marks) | ast.AsyncFunctionDef(decorator_list=marks):
                fine |= {id(m.func) for m in marks if _is_wrapping(m)}  # type: ignore[attr-defined]
            case ast.Call(func=func, args=[_], keywords=[]) if _called(func) == "deepcopy":
                fine.add(id(func))
            case ast.Call(func=ast.Name(id="map"), args=[func, _]) if _called(func) == "deepcopy":
                fine.add(id(func))
            case ast.Call(func=func, keywords=named) if _called(func) == "samples":
                if any(n.arg == "seed" and not _is_none(n.value) for n in named):
                    fine.add(id(func))
    copying = _copies(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="getattr"), args=[_, ast.Constant(value=name), *_]):
                if name in special:
                    return True
            case ast.MatchClass(kwd_attrs=names) if special & set(names):
                return True
    return copying is None or any(
        _called(node) in special
        and id(node) not in fine | copying
        and not isinstance(getattr(node, "ctx", None), ast.Store)
        for node in ast.walk(tree)
    )


def _special_uses(tree: ast.Module) -> set[str]:
    """The names that are to be used in the usual way only, given what a program imports; also what
    it calls them."""
    uses = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            uses |= {"wraps", "deepcopy"}
            module = node.module if isinstance(node, ast.ImportFrom) else None
            if "statistics" in (module, *(alias.name for alias in node.names)):
                uses.add("samples")
            renamed = {a.asname for a in node.names if a.name in ("wraps", "deepcopy") and a.asname}
            uses |= renamed
    return uses


def _called(node: ast.AST) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def _is_wrapping(node: ast.expr) -> bool:
    match node:
        case ast.Call(func=func, args=[arg], keywords=[]):
            return _called(func) == "wraps" and not isinstance(arg, ast.Starred)
    return False


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _copies(tree: ast.Module) -> set[int] | None:
    """The ``deepcopy`` of calls that pass on the memo of ``__deepcopy__``, whose keys are
    addresses; None if a program does anything else with that."""
    found = set[int]()
    if _copies_otherwise(tree):
        return None
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or node.name != "__deepcopy__":
            continue
        names = [arg.arg for arg in [*node.args.posonlyargs, *node.args.args]][1:]
        if node.decorator_list or len(names) != 1 or node.args.vararg:
            return None
        passed = set[int]()
        for call in ast.walk(node):
            match call:
                case ast.Call(func=func, args=[_, ast.Name(id=memo) as given], keywords=[]) | (
                    ast.Call(
                        func=func,
                        args=[_],
                        keywords=[ast.keyword(arg="memo", value=ast.Name(id=memo) as given)],
                    )
                ) if _called(func) == "deepcopy" and memo in names:
                    passed.add(id(given))
                    found.add(id(func))
        for name in ast.walk(node):
            if isinstance(name, ast.Name) and name.id in names and id(name) not in passed:
                return None
    return found


def _copies_otherwise(tree: ast.Module) -> bool:
    """Whether something else than a plain method may be called as ``__deepcopy__``."""
    nodes = list(ast.walk(tree))
    copied = any(_called(n) in ("deepcopy", "asdict", "astuple") for n in nodes)
    return any(
        (_called(n) == "__deepcopy__" and isinstance(getattr(n, "ctx", None), ast.Store))
        or (isinstance(n, ast.Constant) and n.value == "__deepcopy__")
        or (copied and isinstance(n, ast.FunctionDef) and n.name in _LOOKS_UP)
        for n in nodes
    )


_LOOKS_UP = frozenset({"__getattr__", "__getattribute__"})


def makes_by_text(tree: ast.Module, banned: Collection[str]) -> bool:
    """Whether a program gives a class attributes that texts name and Python then acts on: the
    fields of a dataclass become code, and those of a pattern are looked up in what it matches."""
    nodes = list(ast.walk(tree))
    if any(_names_by_text(node, banned) for node in nodes):
        return True
    defined = {n.name for n in nodes if isinstance(n, ast.FunctionDef)}
    named = {n.attr for n in nodes if isinstance(n, ast.Attribute)} | defined
    positional = any(
        isinstance(n, ast.MatchClass) and n.patterns and _called(n.cls) not in _MATCHED_WHOLE
        for n in nodes
    )
    lies = {"__instancecheck__", "__subclasshook__", "register", "__prepare__"} & named
    if positional and (lies or any(isinstance(n, ast.ClassDef) and n.keywords for n in nodes)):
        return True
    return _makes_fields(nodes) or _formats_hidden(nodes)


_MATCHED_WHOLE = frozenset({
    "bool", "bytearray", "bytes", "dict", "float", "frozenset", "int", "list", "set", "str",
    "tuple",
})  # fmt: skip
_ACTED_ON = frozenset({"__annotations__", "__dataclass_fields__", "__dict__", "__match_args__"})


def _names_by_text(node: ast.AST, banned: Collection[str]) -> bool:
    """Whether a node gives a class, or a thing, an attribute of those that Python acts on."""

    def fine(text: ast.expr | None) -> bool:
        name = text.value if isinstance(text, ast.Constant) else None
        hidden = not isinstance(name, str) or name in banned or name in _ACTED_ON
        return not hidden and not is_hidden(str(name), ())

    match node:
        case ast.Assign(targets=targets, value=value) if "__match_args__" in map(_called, targets):
            return not (isinstance(value, ast.Tuple) and all(map(fine, value.elts)))
        case ast.AnnAssign(target=target) | ast.AugAssign(target=target) | ast.For(target=target):
            return any(_called(n) == "__match_args__" for n in ast.walk(target))
        case ast.Tuple(elts=parts, ctx=ast.Store()) | ast.List(elts=parts, ctx=ast.Store()):
            return any(_called(n) == "__match_args__" for n in parts)
        case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
            return name in (NEVER_OWN | _ACTED_ON) - {"__match_args__"}
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return name in _ACTED_ON
        case ast.Call(func=ast.Name(id="type"), args=[_, _, ast.Dict(keys=keys)]):
            return not all(map(fine, keys))
        case ast.Call(func=ast.Name(id="type"), args=args, keywords=named):
            return len(args) > 1 or bool(named) or any(isinstance(a, ast.Starred) for a in args)
    return False


def _makes_fields(nodes: Sequence[ast.AST]) -> bool:
    """Whether a dataclass may get fields that are not written in it: their names become code."""
    renamed = {
        a.asname
        for n in nodes
        if isinstance(n, ast.ImportFrom) and n.module == "dataclasses"
        for a in n.names
        if a.name == "dataclass" and a.asname
    }
    makers = {"dataclass"} | renamed
    used = [n for n in nodes if _called(n) in makers]
    if not used or not any(isinstance(n, (ast.Import, ast.ImportFrom)) for n in nodes):
        return False
    marks = set[int]()
    for one in (n for n in nodes if isinstance(n, ast.ClassDef)):
        for mark in one.decorator_list:
            marker = mark.func if isinstance(mark, ast.Call) else mark
            if _called(marker) in makers:
                marks.add(id(marker))
                if not is_written(one, nodes):
                    return True
    marks |= {id(n.func) for n in nodes if isinstance(n, ast.Call) and _called(n.func) == "wraps"}
    return any(id(n) not in marks for n in used) or _writes_by_text(nodes)


def is_written(one: ast.ClassDef, nodes: Sequence[ast.AST]) -> bool:
    """Whether a class is made as it is written: no metaclass of the program's own has a say.
    ``nodes``: all of the program."""
    variables = set[str]()
    for node in nodes:
        if isinstance(getattr(node, "ctx", None), ast.Store):
            variables.add(_called(node))
        elif isinstance(node, ast.arg):
            variables.add(node.arg)
        elif isinstance(node, (ast.MatchAs, ast.MatchStar)):
            variables.add(node.name or "")
    todo, seen = [one], set[str]()
    while todo:
        one = todo.pop()
        metas = [word.value for word in one.keywords if word.arg in ("metaclass", None)]
        if any(_called(meta) != "ABCMeta" for meta in metas):
            return False
        for base in one.bases:
            name = _called(base.value if isinstance(base, ast.Subscript) else base)
            if not name or name in variables or name == "type" or name.endswith(("Meta", "Type")):
                return False
            if name not in seen:
                seen.add(name)
                todo += [n for n in nodes if isinstance(n, ast.ClassDef) and n.name == name]
    marks = [
        mark.func if isinstance(mark, ast.Call) else mark
        for node in nodes
        if isinstance(node, ast.ClassDef) and node.name in seen
        for mark in node.decorator_list
    ]
    return all(_called(mark) in _KEEP_CLASSES for mark in marks)


# Decorators that give back the class that they get.
_KEEP_CLASSES = frozenset({
    "dataclass", "total_ordering", "unique", "verify", "final", "runtime_checkable",
})  # fmt: skip


def _writes_by_text(nodes: Sequence[ast.AST]) -> bool:
    """Whether a program could write to a class or to a field what a text names."""
    written = {
        id(n.value.func)
        for n in nodes
        if isinstance(n, ast.AnnAssign) and isinstance(n.value, ast.Call)
    }
    held = any(_called(n) == "field" and id(n) not in written for n in nodes)
    named = held or any(_called(n) == "fields" for n in nodes)
    for node in nodes:
        match node:
            case ast.Attribute(value=value, attr="__setattr__"):
                plain = isinstance(value, ast.Call) and _called(value.func) == "super"
                if not plain and _called(value) != "object":
                    return True
            case ast.Attribute(attr="name", ctx=ast.Store()) if named:
                return True
            case ast.Call(func=func) if named and _called(func) in ("setattr", "__setattr__"):
                return True
    return False


_FIELD = re.compile(r"[.\[]\s*([A-Za-z_]\w*)")
_DUNDER = re.compile(r"__[a-z]|\._")
_FORMATTING = frozenset({"format", "format_map"})


def _formats_hidden(nodes: Sequence[ast.AST]) -> bool:
    """Whether a text that ``format`` may read walks to what the program may not name; it could
    show the number of a thread, or an address."""
    used = [n for n in nodes if isinstance(n, ast.Attribute) and n.attr in _FORMATTING]
    if not used:
        return False
    # A template that is put together is not read as a whole.
    pieces = any(not isinstance(n.value, ast.Constant) for n in used)
    texts = [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return any(
        any(is_hidden(name, ()) for name in _FIELD.findall(text))
        or (pieces and _DUNDER.search(text))
        for text in texts
        if "{" in text or pieces
    )
