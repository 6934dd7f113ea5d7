"""What a model wrote, read as proposals and answers, and what a program's source says of it.

Two conventions. ``completion``: the text goes on from a Python file that ends on ``def f``, ``assert f``, ``==`` or
a comment such as ``# steps:``. ``chat``: an optional ``<think>`` part, an ``<answer>`` part, and fenced blocks.

Everything here is total: on any text the answer is a value or None, never an exception. Nothing is evaluated; an
answer stays source text until the judge decodes it as a literal.
"""

from __future__ import annotations

import ast
import hashlib
import re
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeGuard

from azr_mlx.types import TaskKind

MAX_TEXT = 100_000  # characters of model output that are looked at
MAX_SOURCE = 20_000  # characters that are ever handed to the Python parser
MAX_INPUTS = 64  # inputs read from one induction proposal

_PARSE_ERRORS = (SyntaxError, ValueError, RecursionError, MemoryError, SystemError)

# Names that a program may not use unless it binds them itself: I/O, other people's code, and what tells one
# process from another. This keeps proposals on the subject; what keeps the machine safe is the sandbox.
BANNED_NAMES = frozenset(
    "open input print exec eval compile __import__ globals locals vars breakpoint exit quit help id "
    "memoryview __builtins__ __file__ __loader__ __spec__".split()
)
BANNED_ATTRIBUTES = frozenset(
    "__subclasses__ __globals__ __builtins__ __code__ __bases__ __mro__ __loader__ __spec__ __closure__ "
    "__reduce__ __reduce_ex__ f_back f_globals f_locals gi_frame tb_frame cr_frame "
    "os sys _os _sys builtins random".split()
)
BANNED_MODULES = frozenset("os sys io random builtins importlib subprocess socket".split())
CLOCK_ATTRIBUTES = frozenset({"now", "utcnow", "today"})  # of datetime


class Styled(Protocol):
    """A prompt form, as far as parsing goes."""

    @property
    def style(self) -> str: ...


Form = str | Styled


@dataclass(frozen=True, slots=True)
class Proposal:
    """A proposed task before validation: ``inputs`` are source texts of argument tuples."""

    program: str
    inputs: tuple[str, ...]
    message: str = ""


def parse_proposal(text: str, kind: TaskKind, form: Form, program: str = "") -> Proposal | None:
    """The proposal in a completion, or None where its form is not kept.

    For induction the model writes inputs and a message for ``program``, which the prompt showed.
    """
    text = text[:MAX_TEXT]
    chat = _is_chat(form)
    try:
        if kind is TaskKind.INDUCTION:
            return _induction_proposal(text, chat, program)
        return _chat_proposal(text) if chat else _completion_proposal(text)
    except RecursionError:
        return None


def parse_answer(text: str, kind: TaskKind, form: Form) -> str | None:
    """The final answer in a completion, or None.

    Deduction: the source of one expression. Abduction: the source of an argument tuple. Induction: a program.
    Whether an expression is a literal is the judge's to say.
    """
    text = text[:MAX_TEXT]
    try:
        if _is_chat(form):
            return _chat_answer(_after_thinking(text), kind)
        return _completion_answer(text, kind)
    except RecursionError:
        return None


def _is_chat(form: Form) -> bool:
    style = form if isinstance(form, str) else form.style
    return style == "chat"


# ---------------------------------------------------------------- completions


def _completion_proposal(text: str) -> Proposal | None:
    source = _with_opener("def f", text)
    found = re.search(r"^assert[ \t]+f[ \t]*\(", source, re.M)
    if found is None:
        return None
    program = _program(source[: found.start()])
    call = _call(source, found.end() - 1)
    args = None if call is None else _call_args(call)
    return None if program is None or args is None else Proposal(program, (args,))


def _induction_proposal(text: str, chat: bool, program: str) -> Proposal | None:
    if chat:
        text = _after_thinking(text)
        blocks = list(_fences(text))
        message = next((body.strip() for label, body in blocks if label == "message"), "")
        inputs = [a for label, body in blocks if label == "input" for a in _each_args(body)]
    else:
        message, _, rest = text.strip().partition("\n")
        inputs = _each_args(rest)
    distinct = tuple(dict.fromkeys(inputs))[:MAX_INPUTS]
    message = " ".join(message.lstrip("# ").split())[:500]
    return Proposal(program, distinct, message) if distinct else None


def _completion_answer(text: str, kind: TaskKind) -> str | None:
    if kind is TaskKind.INDUCTION:
        return _program(_with_opener("def f", text))
    text = re.split(r"\n[ \t]*\n", text.lstrip("\n"))[
        0
    ]  # what follows a blank line is another example
    asserts = [m.start() for m in re.finditer(r"^assert[ \t]+f[ \t]*\(", text, re.M)]
    last = text[asserts[-1] :] if asserts else None
    if kind is TaskKind.DEDUCTION:
        return _asserted_value(last if last is not None else "assert f() ==" + _first_line(text))
    if last is None and text.lstrip(" ").startswith("("):
        last = "assert f" + _first_line(text)
    return None if last is None else _asserted_args(last)


def _first_line(text: str) -> str:
    return text.split("\n", 1)[0]


def _with_opener(opener: str, text: str) -> str:
    """The text, with the end of the prompt that it goes on from put back where it does go on from it."""
    return opener + text if text.lstrip(" ").startswith("(") else text


def _asserted_value(statement: str) -> str | None:
    """X of ``assert f(...) == X``, read by Python's grammar, so that `0 or True` is no answer."""
    for source in (statement, _first_line(statement)):
        tree = _parse(source)
        if tree is not None and tree.body:
            return _right_side(tree.body[0])
    return None


def _right_side(node: ast.stmt) -> str | None:
    if not (isinstance(node, ast.Assert) and isinstance(node.test, ast.Compare)):
        return None
    compare = node.test
    if len(compare.ops) != 1 or not isinstance(compare.ops[0], ast.Eq) or not _is_f(compare.left):
        return None
    return _unparse(compare.comparators[0])


def _is_f(node: ast.expr) -> TypeGuard[ast.Call]:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "f"


def _asserted_args(statement: str) -> str | None:
    """The arguments of ``assert f(ARGS) == ...``; nothing but ``== ...`` or a comment may follow the call."""
    start = statement.find("f")
    call = _call(statement, statement.find("(", start))
    if call is None:
        return None
    rest = _first_line(statement[statement.find("(", start) + len(call) - 1 :])
    return _call_args(call) if re.fullmatch(r"[ \t]*(==.*|#.*)?\r?", rest) else None


# ---------------------------------------------------------------- chat


def _after_thinking(text: str) -> str:
    """What follows the reasoning: the (perhaps unterminated) answer tag's content, or all there is."""
    text = text.rpartition("</think>")[2]
    if "<answer>" in text:
        text = text.rpartition("<answer>")[2]
    return text.partition("</answer>")[0]


_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.S | re.M)


def _fences(text: str) -> Iterator[tuple[str, str]]:
    """(label, body) of each fenced block; the last may lack its end."""
    for found in _FENCE.finditer(text):
        yield found.group(1).lower(), found.group(2)


def _chat_proposal(text: str) -> Proposal | None:
    text = _after_thinking(text)
    blocks = list(_fences(text))
    code = next((body for label, body in blocks if label not in ("input", "output")), None)
    program = _program(text if code is None else code)
    if program is None:
        return None
    inputs = [a for label, body in blocks if label == "input" for a in _each_args(body)]
    if not inputs:
        found = re.search(r"^assert[ \t]+f[ \t]*\(", text, re.M)
        call = None if found is None else _call(text, found.end() - 1)
        inputs = [a for a in [None if call is None else _call_args(call)] if a is not None]
    return Proposal(program, (inputs[0],)) if inputs else None


def _chat_answer(text: str, kind: TaskKind) -> str | None:
    blocks = list(_fences(text))
    if kind is TaskKind.INDUCTION:
        code = [body for _, body in blocks if "def " in body]
        return _program(code[-1] if code else text)
    label = "output" if kind is TaskKind.DEDUCTION else "input"
    labelled = [body for name, body in blocks if name == label]
    body = (labelled or [body for _, body in blocks] or [text])[-1].strip()
    asserts = [m.start() for m in re.finditer(r"^assert[ \t]+f[ \t]*\(", body, re.M)]
    if asserts:
        last = body[asserts[-1] :]
        return _asserted_value(last) if kind is TaskKind.DEDUCTION else _asserted_args(last)
    if re.match(r"f[ \t]*\(", body) and "==" in body and kind is TaskKind.DEDUCTION:
        return _asserted_value("assert " + body)
    if kind is TaskKind.DEDUCTION:
        return _expression(body)
    return _asserted_args("assert " + body) if re.match(r"f[ \t]*\(", body) else _bare_args(body)


# ---------------------------------------------------------------- pieces


def _each_args(text: str) -> list[str]:
    """Argument tuples of lines ``f(1, 2)``, ``assert f(1, 2) == 3`` or, with no call at all, ``1, 2``."""
    calls = [m.end() - 1 for m in re.finditer(r"^(?:assert[ \t]+)?f[ \t]*\(", text, re.M)]
    if not calls:
        bare = _bare_args(text)
        return [] if bare is None else [bare]
    texts = [_call(text, at) for at in calls[:MAX_INPUTS]]
    return [a for a in (_call_args(t) for t in texts if t is not None) if a is not None]


def _call(text: str, opening: int) -> str | None:
    """``f(...)`` where ``opening`` is the index of its parenthesis; None if it is never closed."""
    end = _closing(text, opening)
    return None if end is None else "f" + text[opening : end + 1]


def _closing(text: str, opening: int) -> int | None:
    """The index of the bracket that closes the one at ``opening``, strings skipped."""
    depth, quote, i = 0, "", opening
    limit = min(len(text), opening + MAX_SOURCE)
    while i < limit:
        char = text[i]
        if quote:
            i += char == "\\"
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
            if depth == 0:
                return i
        i += 1
    return None


def _call_args(call: str) -> str | None:
    """The positional arguments of ``f(...)`` as a tuple; keywords and stars are not values."""
    tree = _parse(call)
    if tree is None or len(tree.body) != 1 or not isinstance(tree.body[0], ast.Expr):
        return None
    node = tree.body[0].value
    if not _is_f(node) or node.keywords or any(isinstance(a, ast.Starred) for a in node.args):
        return None
    return _unparse(ast.Tuple(elts=node.args, ctx=ast.Load()))


def _bare_args(text: str) -> str | None:
    """``1, 2`` as an argument tuple: what stands between the parentheses of a call, and nothing more."""
    text = text.strip()
    call = "f(" + text + "\n)"
    return _call_args(call) if text and _closing(call, 1) == len(call) - 1 else None


def _expression(text: str) -> str | None:
    tree = _parse(text.strip())
    if tree is None or len(tree.body) != 1 or not isinstance(tree.body[0], ast.Expr):
        return None
    return _unparse(tree.body[0].value)


def _program(text: str) -> str | None:
    """The Python program in a text: prose before it, a cut tail and trailing checks are left out.

    Tried from the first lines that look like code, at the ends of top-level statements from the last one back.
    """
    lines = text[:MAX_SOURCE].split("\n")
    starts = [i for i, line in enumerate(lines) if re.match(r"(def|class|from|import|@)\b|@", line)]
    for start in starts[:4]:
        part = lines[start:]
        tops = [i for i, line in enumerate(part) if i and re.match(r"[^\s#)\]}]", line)]
        for end in [len(part), *reversed(tops[-12:])]:
            tree = _parse("\n".join(part[:end]))
            if tree is not None and _entry(tree) is not None:
                return "\n".join(part[: min(end, _tail(tree))]).rstrip() + "\n"
    return None


def _tail(tree: ast.Module) -> int:
    """The number of lines before the first top-level check, call or main guard that follows ``f``."""
    seen = False
    for node in tree.body:
        seen = seen or (isinstance(node, ast.FunctionDef) and node.name == "f")
        if seen and isinstance(node, (ast.Assert, ast.Expr, ast.If)):
            return node.lineno - 1
    return MAX_SOURCE


def _entry(tree: ast.Module) -> ast.FunctionDef | None:
    """The last top-level ``def f``, which is the one that a call reaches."""
    found = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "f"]
    return found[-1] if found else None


def _parse(source: str) -> ast.Module | None:
    if len(source) > MAX_SOURCE:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the model's escapes, to nobody's use
            return ast.parse(source)
    except _PARSE_ERRORS:
        return None


def _unparse(node: ast.AST) -> str | None:
    try:
        return ast.unparse(node)
    except _PARSE_ERRORS:
        return None


# ---------------------------------------------------------------- programs


def check_program(
    source: str, allowed_imports: Collection[str], max_chars: int = MAX_SOURCE
) -> str | None:
    """Why a program cannot be a task, in a word, or None.

    In this order: ``too_large``, ``syntax``, ``no_f`` (no top-level ``def f``), ``no_params`` (it takes no
    positional argument), ``no_return`` (it never returns a value, or is a generator), ``import`` (one that is
    not on the list), ``banned`` (I/O, clock, randomness, introspection: see ``BANNED_NAMES``). Any number of
    helper functions, nested functions, lambdas and classes is welcome. A banned name that the program itself
    binds (``def f(input)``) is its own and no offence.
    """
    if len(source) > min(max_chars, MAX_SOURCE):
        return "too_large"
    tree = _parse(source)
    if tree is None:
        return "syntax"
    entry = _entry(tree)
    if entry is None:
        return "no_f"
    arguments = entry.args
    if not (arguments.posonlyargs or arguments.args or arguments.vararg):
        return "no_params"
    if not _returns(entry):
        return "no_return"
    if not all(_import_allowed(node, allowed_imports) for node in ast.walk(tree)):
        return "import"
    return "banned" if _uses_banned(tree) else None


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


def _import_allowed(node: ast.AST, allowed: Collection[str]) -> bool:
    if isinstance(node, ast.Import):
        return all(_listed(alias.name, allowed) for alias in node.names)
    if not isinstance(node, ast.ImportFrom):
        return True
    if node.level or node.module is None:
        return False
    module = node.module
    return all(
        (_listed(module, allowed) and alias.name not in BANNED_MODULES)
        or f"{module}.{alias.name}" in allowed
        for alias in node.names
    )


def _listed(name: str, allowed: Collection[str]) -> bool:
    """Whether a dotted module name or one of its parents is on the list."""
    parts = name.split(".")
    return any(".".join(parts[: i + 1]) in allowed for i in range(len(parts)))


def _uses_banned(tree: ast.Module) -> bool:
    nodes = list(ast.walk(tree))
    bound = _bound_names(nodes)
    clock = any(
        (isinstance(n, ast.Import) and any(a.name.startswith("datetime") for a in n.names))
        or (isinstance(n, ast.ImportFrom) and n.module == "datetime")
        for n in nodes
    )
    banned_attributes = BANNED_ATTRIBUTES | (CLOCK_ATTRIBUTES if clock else frozenset())
    for node in nodes:
        if isinstance(node, ast.Name) and node.id in BANNED_NAMES and node.id not in bound:
            return True
        if isinstance(node, ast.Attribute) and node.attr in banned_attributes - bound:
            return True
    return False


def _bound_names(nodes: list[ast.AST]) -> set[str]:
    """Every name that the program gives a meaning to: variables, parameters, definitions, its own attributes."""
    bound: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            bound.add(node.id)
        elif isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            bound.add(node.attr)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, ast.alias) and node.asname:
            bound.add(node.asname)
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
            bound.add(node.name)
    return bound


def clean_source(source: str) -> str:
    """The program without comments, docstrings and layout, so that neither can give an answer away."""
    tree = _parse(source)
    if tree is None:
        return source
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            node.body = _without_docstring(node.body)
    text = _unparse(tree)
    return source if text is None else text + "\n"


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0] if body else None
    text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    if not (text and isinstance(first.value.value, str)):  # type: ignore[union-attr]
        return body
    return body[1:] or [ast.Pass()]


class _Normalise(ast.NodeTransformer):
    """One placeholder for every name that the program binds, one for every constant; no annotations."""

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


def skeleton(source: str) -> str:
    """A hash of the program's shape: near-duplicates, which differ in names, constants, comments, docstrings
    or annotations only, share it.

    Names are those that the program binds; built-in functions, methods and modules stay, since ``max`` for
    ``min`` is another program. A text that does not parse is its own shape.
    """
    shape = source
    tree = _parse(clean_source(source))
    if tree is not None:
        try:
            shape = ast.dump(_Normalise(_bound_names(list(ast.walk(tree)))).visit(tree))
        except RecursionError:
            shape = source
    return hashlib.sha256(shape.encode("utf-8", "surrogatepass")).hexdigest()[:16]


_BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.Assert)


def features(source: str) -> dict[str, int]:
    """``ast_nodes``, ``depth`` (of the tree) and ``cyclomatic`` complexity (McCabe); zeros if it cannot parse."""
    tree = _parse(source)
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
