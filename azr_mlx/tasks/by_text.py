"""What turns a text into code, or into an attribute, while a program runs.

Some functions that a program may use look up, copy or write attributes that texts name, or make
code of names: those of ``copy`` and ``dataclasses``, patterns, ``wraps``, ``format``. They may be
used in the usual way, in which each such name stands in the program, where it can be checked.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Iterator, Sequence

from azr_mlx.tasks.nodes import FUNCTIONS, IMPORTS, called, marker
from azr_mlx.tasks.own_classes import OwnClasses
from azr_mlx.tasks.reach import NEVER_OWN, is_hidden

_BY_TEXT = frozenset({"getattr", "setattr", "delattr"})
_ACTED_ON = frozenset({"__annotations__", "__dataclass_fields__", "__dict__", "__match_args__"})
# Methods by which a copy writes attributes that texts name.
_COPYING = frozenset({"__reduce__", "__reduce_ex__", "__getstate__"})
# What has a say in how other classes are made, and what they are.
_MAKING = frozenset({"__prepare__", "__mro_entries__"})
_LOOKS_UP = frozenset({"__getattr__", "__getattribute__"})
_FIELDS = frozenset({"field", "fields", "Field"})
_MAKES_FIELDS = {"dataclass", *_FIELDS}
_NAMED_TUPLES = frozenset({"namedtuple", "NamedTuple"})
_WORD = re.compile(r"\w+")
_FIELD = re.compile(r"[.\[]\s*([A-Za-z_]\w*)")
_DUNDER = re.compile(r"__[a-z]|\._")
_FORMATTING = frozenset({"format", "format_map"})


def acts_on_texts(nodes: Sequence[ast.AST], banned: Collection[str]) -> bool:
    """Whether a program uses any of that in another than the usual way. ``nodes``: all of it.
    ``banned``: the attributes that it may not name."""
    classes = OwnClasses(nodes)
    fields = _dataclasses(nodes, classes)
    patterns = [n for n in nodes if isinstance(n, ast.MatchClass) and n.patterns]
    return (
        fields is None
        or _finds_attributes(nodes, banned)
        or _binds_what_python_reads(nodes, classes, banned)
        or _makes_class(nodes, banned)
        or not all(classes.is_known(pattern.cls) for pattern in patterns)
        or _sets_attributes(nodes, classes, bool(fields or patterns))
        or _renames_fields(nodes, classes, fields)
        or _formats_hidden(nodes)
        or _uses_otherwise(nodes)
    )


def _text(node: ast.AST | None) -> str | None:
    match node:
        case ast.Constant(value=str() as text):
            return text
    return None


def _is_plain(node: ast.AST | None, banned: Collection[str]) -> bool:
    """Whether an expression is the name of an attribute that Python does not act on."""
    name = _text(node)
    return name is not None and not (name in banned or name in _ACTED_ON or is_hidden(name, ()))


def _imports(nodes: Iterable[ast.AST]) -> bool:
    return any(isinstance(node, IMPORTS) for node in nodes)


def _also_called(names: Collection[str], nodes: Sequence[ast.AST]) -> set[str]:
    """Some names of modules, and what a program calls them when it imports them."""
    given = (a for n in nodes if isinstance(n, ast.ImportFrom) for a in n.names)
    return {*names, *(a.asname for a in given if a.asname and a.name in names)}


def _finds_attributes(nodes: Sequence[ast.AST], banned: Collection[str]) -> bool:
    """Whether a program uses ``getattr`` and the like, other than to call them with the plain name
    of an attribute that it may use."""
    banned = {*banned, *(_MAKES_FIELDS if _imports(nodes) else ())}
    calls = [n for n in nodes if isinstance(n, ast.Call) and len(n.args) > 1]
    named = ((n.func, _text(n.args[1])) for n in calls)
    plain = {id(func) for func, name in named if name is not None and name not in banned}
    return any(isinstance(n, ast.Name) and n.id in _BY_TEXT and id(n) not in plain for n in nodes)


def _binds_what_python_reads(
    nodes: Sequence[ast.AST], classes: OwnClasses, banned: Collection[str]
) -> bool:
    """Whether a program gives a meaning to attributes that Python acts on, other than by a method,
    or by the names for patterns as a literal tuple."""
    literal = {
        id(target)
        for n in nodes
        if isinstance(n, ast.Assign) and isinstance(n.value, ast.Tuple)
        for target in n.targets
        if called(target) == "__match_args__" and all(_is_plain(e, banned) for e in n.value.elts)
    }
    no_methods = _ACTED_ON | _COPYING if _imports(nodes) else _ACTED_ON
    return any(
        id(node) not in literal and (name in no_methods or not isinstance(node, FUNCTIONS))
        for name in NEVER_OWN | _ACTED_ON | _MAKING
        for node in classes.bound.get(name, ())
    )


def _makes_class(nodes: Iterable[ast.AST], banned: Collection[str]) -> bool:
    """Whether a program makes a class, or a named tuple, with attributes that Python acts on."""
    for node in nodes:
        match node:
            case ast.Call(func=ast.Name(id="type"), args=[_, _, ast.Dict(keys=keys)]):
                if not all(_is_plain(key, banned) for key in keys):
                    return True
            case ast.Call(func=ast.Name(id="type"), args=args, keywords=named):
                if len(args) > 1 or named or any(isinstance(a, ast.Starred) for a in args):
                    return True
            case ast.Call(func=func, args=[_, fields]) if called(func) in _NAMED_TUPLES:
                texts = map(_text, ast.walk(fields))
                if any(text and NEVER_OWN & set(_WORD.findall(text)) for text in texts):
                    return True
    return False


def _sets_attributes(nodes: Sequence[ast.AST], classes: OwnClasses, acted_on: bool) -> bool:
    """Whether a program may set an attribute of a class by a text that does not stand there, or,
    if texts are ``acted_on``, of anything."""
    plain = set[int]()
    for node in nodes:
        match node:
            case ast.Call(func=func, args=[*_, name, _]) if _text(name) is not None:
                if _text(name) not in NEVER_OWN | _ACTED_ON | _MAKING:
                    plain.add(id(func))
            case ast.Call(func=ast.Attribute(value=ast.Name(id="object")) as func):
                if "object" not in classes.bound and not acted_on:
                    plain.add(id(func))  # it refuses to change classes
            case ast.Call(func=ast.Attribute(value=ast.Call(func=ast.Name("super"), args=[]))):
                if not classes.strange and not acted_on:
                    plain.add(id(node.func))
    return any(called(n) == "__setattr__" and id(n) not in plain for n in nodes)


def _dataclasses(nodes: Sequence[ast.AST], classes: OwnClasses) -> list[ast.ClassDef] | None:
    """The dataclasses of a program; None if one may get fields that are not written in it, since
    their names become code."""
    makers = _also_called({"dataclass"}, nodes)
    used = {id(node) for node in nodes if called(node) in makers}
    found = list[ast.ClassDef]()
    for one in (n for n in nodes if isinstance(n, ast.ClassDef) and used and _imports(nodes)):
        marks = {id(marker(m)) for m in one.decorator_list if called(marker(m)) in makers}
        if marks and not classes.is_written(one):
            return None
        used -= marks
        found += [one] if marks else []
    return None if used and _imports(nodes) else found


def _renames_fields(
    nodes: Sequence[ast.AST], classes: OwnClasses, found: Sequence[ast.ClassDef] | None
) -> bool:
    """Whether a program may give a field another name before a dataclass inherits it."""
    if not any(not classes.is_imported(base) for one in found or () for base in one.bases):
        return False
    renames = any(
        (isinstance(n, ast.Attribute) and n.attr == "name" and isinstance(n.ctx, ast.Store))
        or (isinstance(n, ast.Call) and "name" in map(_text, n.args) and _sets(n.func))
        for n in nodes
    )
    return renames and _holds_fields(nodes, classes, found or ())


def _sets(function: ast.expr) -> bool:
    return called(function) in ("setattr", "__setattr__")


def _holds_fields(
    nodes: Sequence[ast.AST], classes: OwnClasses, found: Sequence[ast.ClassDef]
) -> bool:
    """Whether a program gets hold of a field, other than to put it into a class."""
    names = _also_called(_FIELDS, nodes)
    put = {
        id(n.value.func)
        for n in nodes
        if isinstance(n, ast.AnnAssign) and isinstance(n.value, ast.Call)
    }
    used = [n for n in nodes if called(n) in names]
    if any(id(n) not in put or called(n) == "fields" for n in used):
        return True
    told = {"__init_subclass__", "__set_name__"} & classes.bound.keys()
    return bool(used) and (bool(told) or any(map(_reads_own_fields, found)))


def _reads_own_fields(one: ast.ClassDef) -> bool:
    """Whether the body of a class, without those of its methods, reads what it annotates."""
    own = {called(n.target) for n in one.body if isinstance(n, ast.AnnAssign)}
    todo = list[ast.AST](one.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in own:
            return True
        parts = [node.args, *node.decorator_list] if isinstance(node, FUNCTIONS) else None
        todo += ast.iter_child_nodes(node) if parts is None else parts
    return False


def _uses_otherwise(nodes: Sequence[ast.AST]) -> bool:
    """Whether a program uses, in another way than the usual one, what copies attributes that texts
    name (``wraps``), tells addresses (``deepcopy``) or draws numbers (``samples``)."""
    special = _special_uses(nodes)
    if not special:  # it imports nothing
        return False
    copying = _copies(nodes)
    if copying is None:
        return True
    fine = copying | set(map(id, _usual(nodes)))
    for node in nodes:
        match node:
            case ast.Call(func=ast.Name(id="getattr"), args=[_, ast.Constant(value=name), *_]):
                if name in special:
                    return True
            case ast.MatchClass(kwd_attrs=names) if special & set(names):
                return True
    return any(
        called(node) in special
        and id(node) not in fine
        and not isinstance(getattr(node, "ctx", None), ast.Store)
        for node in nodes
    )


def _usual(nodes: Iterable[ast.AST]) -> Iterator[ast.expr]:
    """The functions that are called as is usual."""
    for node in nodes:
        match node:
            case ast.FunctionDef(decorator_list=marks) | ast.AsyncFunctionDef(decorator_list=marks):
                yield from (marker(mark) for mark in marks if _is_wrapping(mark))
            case ast.Call(func=func, args=[_], keywords=[]) if called(func) == "deepcopy":
                yield func
            case ast.Call(func=ast.Name(id="map"), args=[func, _]) if called(func) == "deepcopy":
                yield func
            case ast.Call(func=func, keywords=named) if called(func) == "samples":
                if any(n.arg == "seed" and not _is_none(n.value) for n in named):
                    yield func


def _special_uses(nodes: Sequence[ast.AST]) -> set[str]:
    """The names that are to be used in the usual way only, given what a program imports; also what
    it calls them."""
    imports = [node for node in nodes if isinstance(node, IMPORTS)]
    modules = {alias.name for node in imports for alias in node.names}
    modules |= {str(node.module) for node in imports if isinstance(node, ast.ImportFrom)}
    uses = _also_called({"wraps", "deepcopy"}, imports) if imports else set()
    return uses | ({"samples"} if "statistics" in modules else set())


def _is_wrapping(node: ast.expr) -> bool:
    match node:
        case ast.Call(func=func, args=[arg], keywords=[]):
            return called(func) == "wraps" and not isinstance(arg, ast.Starred)
    return False


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _copies(nodes: Sequence[ast.AST]) -> set[int] | None:
    """The ``deepcopy`` of calls that pass on the memo of ``__deepcopy__``, whose keys are
    addresses; None if a program does anything else with that."""
    found = set[int]()
    if _copies_otherwise(nodes):
        return None
    for node in nodes:
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
                ) if called(func) == "deepcopy" and memo in names:
                    passed.add(id(given))
                    found.add(id(func))
        for name in ast.walk(node):
            if isinstance(name, ast.Name) and name.id in names and id(name) not in passed:
                return None
    return found


def _copies_otherwise(nodes: Sequence[ast.AST]) -> bool:
    """Whether something else than a plain method may be called as ``__deepcopy__``."""
    copied = any(called(n) in ("deepcopy", "asdict", "astuple") for n in nodes)
    return any(
        (called(n) == "__deepcopy__" and isinstance(getattr(n, "ctx", None), ast.Store))
        or (isinstance(n, ast.Constant) and n.value == "__deepcopy__")
        or (copied and isinstance(n, ast.FunctionDef) and n.name in _LOOKS_UP)
        for n in nodes
    )


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
