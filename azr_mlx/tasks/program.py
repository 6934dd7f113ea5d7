"""What the source of a program shows: whether it follows the rules, its shape, its size.

All of it reads the syntax tree and runs nothing; any text gets an answer, never an exception.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import symtable
from collections.abc import Collection, Iterable, Sequence
from copy import deepcopy
from functools import lru_cache
from types import ModuleType

from azr_mlx.tasks.by_text import acts_on_texts
from azr_mlx.tasks.dead_code import remove_dead_code
from azr_mlx.tasks.nodes import DEFINITIONS
from azr_mlx.tasks.own_names import foreign_names
from azr_mlx.tasks.reach import (
    BANNED_ATTRIBUTES,
    FUTURES,
    ModuleUse,
    Surface,
    is_hidden,
    listed,
)
from azr_mlx.text import NOT_PYTHON, parsed

MAX_SOURCE = 20_000  # longer programs are not parsed
MOST_INLINED = 500  # nodes of a program whose temporary variables are written out
RESULTS = ("t", "result", "value")  # what a value may be called that was returned
RESERVED = 8  # one shape in so many is kept for held-out tasks

# Names that a program may not use unless it binds them itself: I/O, other people's code, and what
# distinguishes one process from another. This keeps proposals on the subject; what keeps the
# machine safe is the sandbox.
BANNED_NAMES = frozenset({
    "open", "input", "exec", "eval", "compile", "__import__", "globals", "locals", "vars",
    "breakpoint", "exit", "quit", "help", "id", "memoryview", "license", "credits", "copyright",
    "__build_class__", "__builtins__", "__loader__", "__spec__", "__package__", "__file__",
    "__cached__", "__path__", "__annotations__", "__annotate__",
})  # fmt: skip
BANNED_MODULES = frozenset({
    "os", "sys", "io", "random", "builtins", "importlib", "subprocess", "socket",
})  # fmt: skip
CLOCK_ATTRIBUTES = frozenset({"now", "utcnow", "today"})  # those of datetime


def entry(tree: ast.Module) -> ast.FunctionDef | None:
    """The last top-level ``def f``, which is the one that a call reaches."""
    found = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "f"]
    return found[-1] if found else None


def parse_source(source: str) -> ast.Module | None:
    """The syntax tree, or None if it is too large or not Python."""
    if len(source) > MAX_SOURCE:
        return None
    return parsed(source)


def beginning(source: str) -> str | None:
    """The program up to where ``f`` returns, for somebody to go on from there: what it would return
    has a name instead. None unless ``f`` ends the program, and its only ``return`` ends ``f``."""
    tree = parse_source(source)
    function = None if tree is None else entry(tree)
    if tree is None or function is None or tree.body[-1] is not function:
        return None
    last = function.body[-1]
    returns = [node for node in ast.walk(function) if isinstance(node, ast.Return)]
    if not isinstance(last, ast.Return) or last.value is None or returns != [last]:
        return None
    # If f gave a value the name of a helper or a module that it uses, it would lose that.
    nodes = list(ast.walk(function))
    used = {n.id for n in nodes if isinstance(n, ast.Name) and not _is_stored(n)}
    outside = used - _bound_names(nodes)
    free = [name for name in RESULTS if name not in outside]
    if not free:
        return None
    if isinstance(last.value, ast.Name) and len(function.body) > 1:
        function.body.pop()  # it has a name already
    else:
        result = ast.Name(free[0], ast.Store())
        function.body[-1] = ast.Assign([result], last.value, lineno=last.lineno)
    return unparse(tree)


def unparse(node: ast.AST) -> str | None:
    """The source of a tree; None if it cannot be written (an integer of too many digits)."""
    try:
        return ast.unparse(node)
    except (ValueError, RecursionError, MemoryError):
        return None


def scopes(source: str) -> list[symtable.SymbolTable]:
    """All scopes of a source, the module's first; empty if it is not Python. Its parser takes some
    programs that its compiler does not, such as one with two parameters of one name."""
    try:
        found = [symtable.symtable(source, "<program>", "exec")]
    except NOT_PYTHON:
        return []
    for scope in found:
        found += scope.get_children()
    return found


def check_program(
    source: str, allowed_imports: Collection[str], max_chars: int = MAX_SOURCE
) -> str | None:
    """Why a program cannot be a task, in a word, or None.

    In this order: ``too_large``, ``syntax``, ``no_f`` (no top-level ``def f``), ``no_params`` (it
    takes no positional argument), ``no_return`` (it never returns a value, or is a generator),
    ``import`` (one that is not on the list), ``banned`` (input and files, clock, randomness,
    introspection, modules by way of others: see ``BANNED_NAMES`` and ``reach``). Any number of
    helper functions, nested functions, lambdas and classes is welcome. A banned name that the
    program itself binds (``def f(input)``, ``id = 3``) is its own and no offence.
    """
    if len(source) > min(max_chars, MAX_SOURCE):
        return "too_large"
    tree = parse_source(source)
    if tree is None:
        return "syntax"
    text = unparse(tree)
    if text is not None and not scopes(text):
        return "syntax"
    function = entry(tree)
    if function is None:
        return "no_f"
    arguments = function.args
    if not (arguments.posonlyargs or arguments.args or arguments.vararg):
        return "no_params"
    if not _returns(function):
        return "no_return"
    allowed = tuple(allowed_imports)
    if not all(_import_allowed(node, allowed) for node in ast.walk(tree)):
        return "import"
    if text is None or _is_banned(text, allowed):
        return "banned"
    return None


class _Generators(ast.NodeTransformer):
    """Makes generators of all comprehensions, which have no scope of their own since Python 3.12,
    though names mean in them what they did."""

    def _made(self, node: ast.ListComp | ast.SetComp) -> ast.AST:
        self.generic_visit(node)
        return ast.GeneratorExp(node.elt, node.generators)

    visit_ListComp = visit_SetComp = _made

    def visit_DictComp(self, node: ast.DictComp) -> ast.AST:
        self.generic_visit(node)
        return ast.GeneratorExp(ast.Tuple([node.key, node.value], ast.Load()), node.generators)


def _is_banned(text: str, allowed: tuple[str, ...]) -> bool:
    """Whether a program uses what the rules refuse."""
    surface = Surface(allowed, BANNED_ATTRIBUTES)
    try:
        tree = parsed(text)
        plain = None if tree is None else unparse(_Generators().visit(tree))
        tree = None if plain is None else parsed(plain)
        found = [] if plain is None else scopes(plain)
        if tree is None or not found:
            return True
        return (
            _uses_banned_names(tree, found, surface)
            or _uses_banned(tree, _modules_within(allowed))
            or ModuleUse(tree, found, surface).faults > 0
        )
    except RecursionError:
        return True


def _returns(function: ast.FunctionDef) -> bool:
    """Whether its own body (not a nested one) returns a value and yields none."""
    returns, stack = False, list[ast.AST](function.body)
    while stack:
        node = stack.pop()
        if isinstance(node, (ast.Yield, ast.YieldFrom)):
            return False
        if isinstance(node, ast.Return):
            returns = returns or node.value is not None
        nested = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
        if not isinstance(node, nested):
            stack.extend(ast.iter_child_nodes(node))
    return returns


def _import_allowed(node: ast.AST, allowed: tuple[str, ...]) -> bool:
    if isinstance(node, ast.Import):
        banned = BANNED_MODULES | BANNED_ATTRIBUTES
        return all(_importable(alias.name, allowed, banned) for alias in node.names)
    if not isinstance(node, ast.ImportFrom):
        return True
    if node.module == "__future__" and not node.level:
        return all(alias.name in FUTURES for alias in node.names)
    return Surface(allowed, BANNED_MODULES | BANNED_ATTRIBUTES).imports(node)


def _importable(name: str, allowed: tuple[str, ...], banned: Collection[str]) -> bool:
    """Whether a module is on the list, or is a part of one there that is meant for others."""
    if name in allowed:
        return True
    parts = name.split(".")[1:]
    return listed(name, allowed) and not any(p.startswith("_") or p in banned for p in parts)


@lru_cache
def _modules_within(allowed: tuple[str, ...]) -> frozenset[str]:
    """The names under which allowed modules hold other modules, which are not allowed: through
    ``dataclasses.inspect`` a program would reach all of them.
    """
    names = set[str]()
    for module in allowed:
        with contextlib.suppress(ImportError, TypeError, ValueError):  # there is no such module
            held = vars(importlib.import_module(module))
            names |= {
                name
                for name, value in held.items()
                if isinstance(value, ModuleType) and not listed(value.__name__, allowed)
            }
    return frozenset(names)


def _uses_banned(tree: ast.Module, modules: Collection[str]) -> bool:
    nodes = list(ast.walk(tree))
    clock = any(
        (isinstance(n, ast.Import) and any(a.name.startswith("datetime") for a in n.names))
        or (isinstance(n, ast.ImportFrom) and n.module == "datetime")
        for n in nodes
    )
    own = _own_attributes(nodes)
    # A clock stays one, whatever else the program calls by its name.
    banned = ((BANNED_ATTRIBUTES | set(modules)) - own) | (CLOCK_ATTRIBUTES if clock else set())
    names = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    names |= {n for node in nodes if isinstance(node, ast.MatchClass) for n in node.kwd_attrs}
    if any(name in banned or is_hidden(name, own) for name in names):
        return True
    hidden = {text for text in _texts(nodes) if is_hidden(text, own)}
    banned |= BANNED_ATTRIBUTES | hidden
    return acts_on_texts(nodes, banned)


def _texts(nodes: Iterable[ast.AST]) -> set[str]:
    return {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def _own_attributes(nodes: list[ast.AST]) -> set[str]:
    """The attributes that the program gives to its own objects and classes."""
    own = {n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)}
    for node in nodes:
        if isinstance(node, ast.ClassDef):
            own |= {member.name for member in node.body if isinstance(member, DEFINITIONS)}
            own |= {n.id for m in node.body for n in ast.walk(m) if _is_stored(n)}  # type: ignore[attr-defined]
        match node:
            case ast.Assign(targets=[ast.Name(id="__slots__")], value=value):
                own |= _texts(ast.walk(value))
            case ast.Call(
                func=ast.Name(id="setattr") | ast.Attribute(attr="__setattr__"),
                args=[_, ast.Constant(value=str() as name), _],
            ):
                own.add(name)
    classes = {node.name.lstrip("_") for node in nodes if isinstance(node, ast.ClassDef)}
    secret = {name for name in own if name.startswith("__") and not name.endswith("__")}
    # What Python calls them outside of their class.
    return own | {f"_{one}{name}" for name in secret for one in classes}


def _is_stored(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def _uses_banned_names(
    tree: ast.Module, found: Sequence[symtable.SymbolTable], surface: Surface
) -> bool:
    """Whether a banned name in any of the scopes means what Python, or a module that is imported
    with ``*``, means by it."""
    names = set(BANNED_NAMES)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names |= surface.withheld(node)
    return bool(foreign_names(tree, found, names))


def _bound_names(nodes: list[ast.AST]) -> set[str]:
    """Every name that the program gives a meaning to: variables, parameters, definitions, its own
    attributes.
    """
    bound: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            bound.add(node.id)
        elif isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            bound.add(node.attr)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, DEFINITIONS):
            bound.add(node.name)
        elif isinstance(node, ast.alias) and node.asname:
            bound.add(node.asname)
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
            bound.add(node.name)
    return bound


@lru_cache(maxsize=1024)
def clean_source(source: str) -> str:
    """The program without comments, docstrings and layout, which could give an answer away, and
    without dead code, which makes it look harder and newer than it is."""
    tree = parse_source(source)
    if tree is None:
        return source
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            node.body = _without_docstring(node.body)
    remove_dead_code(tree)
    text = unparse(tree)
    return source if text is None else text + "\n"


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0] if body else None
    text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    if not (text and isinstance(first.value.value, str)):  # type: ignore[union-attr]
        return body
    return body[1:] or [ast.Pass()]


class _Normalise(ast.NodeTransformer):
    """One placeholder for every name that the program binds, one for every constant; no
    annotations.
    """

    def __init__(self, bound: set[str]) -> None:
        self.bound = bound

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name(id=self._name(node.id), ctx=node.ctx)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.Constant(value=0)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return ast.arg(arg="_", annotation=None)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        target = self.visit(node.target)
        if node.value is None:
            return ast.Expr(value=target)
        return ast.Assign(targets=[target], value=self.visit(node.value), lineno=0)

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        for slot in ("name", "attr", "arg", "asname"):
            value = getattr(node, slot, None)
            if isinstance(value, str):
                setattr(node, slot, self._name(value))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.returns = None
        if isinstance(node, (ast.Global, ast.Nonlocal)):
            node.names = ["_" for _ in node.names]
        return node

    def _name(self, name: str) -> str:
        return "_" if name in self.bound else name


def _without_futures(body: list[ast.stmt]) -> list[ast.stmt]:
    return [s for s in body if not (isinstance(s, ast.ImportFrom) and s.module == "__future__")]


def skeleton(source: str) -> str:
    """A hash of the program's shape: near-duplicates, which differ in names, constants, comments,
    docstrings or annotations only, share it.

    Names are those that the program binds; built-in functions, methods and modules stay, since
    ``max`` for ``min`` is another program. A text that does not parse is its own shape.
    """
    shape = source
    tree = parse_source(clean_source(source))
    if tree is not None:
        try:
            tree.body = _without_futures(tree.body)
            shape = ast.dump(_Normalise(_bound_names(list(ast.walk(tree)))).visit(tree))
        except (RecursionError, ValueError):
            shape = source
    return hashlib.sha256(shape.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def shape(source: str) -> str:
    """A hash of what is computed: coarser than ``skeleton``, temporary variables and annotations
    don't count.

    ``t = n - 3; return t * 2`` and ``return (n - 3) * 2`` share it. The same on every Python
    version: node types in the order of ``ast.walk``, with the names that the program does not bind.
    A text that does not parse is its own shape.
    """
    words = [source]
    tree = parse_source(clean_source(source))
    if tree is not None:
        tree = without_annotations(tree)
        tree.body = _without_futures(tree.body)
        nodes = list(ast.walk(tree if (inlined := _inlined(tree)) is None else inlined))
        bound = _bound_names(nodes)
        words = list[str]()
        for node in nodes:
            words.append(type(node).__name__)
            if isinstance(node, ast.Name) and node.id not in bound:
                words.append(node.id)
            elif isinstance(node, ast.Attribute):
                words.append(node.attr)
    return hashlib.sha256(" ".join(words).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def is_reserved(source: str) -> bool:
    """Whether a program's shape is kept for held-out tasks: one of ``RESERVED`` is."""
    return int(shape(source), 16) % RESERVED == 0


def without_annotations(tree: ast.Module) -> ast.Module:
    """The tree, its annotations taken away. A loop, for hostile trees are deep."""
    for node in list(ast.walk(tree)):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.returns = None
        for _, block in ast.iter_fields(node):
            if isinstance(block, list):
                block[:] = [_unannotated(part) for part in block]
    return tree


def _unannotated(statement: object) -> object:
    match statement:
        case ast.AnnAssign(value=None):
            return ast.Pass()  # an empty block would not be valid
        case ast.AnnAssign(target=target, value=ast.expr() as value):
            return ast.Assign([target], value, lineno=0)  # ast.unparse wants a line
    return statement


class _Values(ast.NodeTransformer):
    """Replaces names by what they stand for."""

    def __init__(self, values: dict[str, ast.expr]):
        self.values = values

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self.values.get(node.id, node)


def _inlined(tree: ast.Module) -> ast.FunctionDef | None:
    """The only function of a module as one return, if it is assignments to names and a return;
    None if it is not, or would grow beyond ``MOST_INLINED`` nodes."""
    match tree.body:
        case [ast.FunctionDef(body=[*steps, ast.Return(value=ast.expr() as returned)]) as function]:
            pass
        case _:
            return None
    values: dict[str, ast.expr] = {}

    def full(expression: ast.expr) -> ast.expr | None:
        value = _Values(values).visit(deepcopy(expression))
        return value if sum(1 for _ in ast.walk(value)) <= MOST_INLINED else None

    try:
        for step in steps:
            match step:
                case ast.Assign(targets=[ast.Name(id=name)], value=expression):
                    value = full(expression)
                case ast.AugAssign(target=ast.Name(id=name), op=op, value=expression):
                    value = full(ast.BinOp(ast.Name(name, ast.Load()), op, expression))
                case ast.Pass():
                    continue
                case _:
                    return None
            if value is None:
                return None
            values[name] = value
        value = full(returned)
    except RecursionError:
        return None
    if value is None:
        return None
    return ast.FunctionDef(function.name, function.args, [ast.Return(value)], [])


_BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.Assert)


def features(source: str) -> dict[str, int]:
    """``ast_nodes``, ``depth`` (of the tree) and ``cyclomatic`` complexity (McCabe); zeros if it
    cannot parse.
    """
    tree = parse_source(source)
    if tree is None:
        return {"ast_nodes": 0, "depth": 0, "cyclomatic": 0}
    nodes, depth, cyclomatic = 0, 0, 1
    stack: list[tuple[ast.AST, int]] = [(tree, 1)]
    while stack:
        node, level = stack.pop()
        nodes, depth = nodes + 1, max(depth, level)
        cyclomatic += _decisions(node)
        stack.extend((child, level + 1) for child in ast.iter_child_nodes(node))
    return {"ast_nodes": nodes, "depth": depth, "cyclomatic": cyclomatic}


def _decisions(node: ast.AST) -> int:
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    return int(isinstance(node, (*_BRANCHES, ast.match_case)))
