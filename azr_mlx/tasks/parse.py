"""Reads proposals and answers out of what a model wrote.

Two conventions. ``completion``: the text goes on from a Python file that ends on ``def f``,
``assert f``, ``==`` or a comment such as ``# steps:``. ``chat``: an optional ``<think>`` part, an
``<answer>`` part, and fenced blocks.

Everything here is total: on any text the answer is a value or None, never an exception. Nothing is
evaluated; an answer stays source text until the judge decodes it as a literal.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import Protocol, TypeGuard

from azr_mlx.tasks.fences import fences
from azr_mlx.tasks.program import (
    BANNED_NAMES,
    MAX_SOURCE,
    check_program,
    clean_source,
    entry,
    features,
    is_reserved,
    parse_source,
    shape,
    skeleton,
    unparse,
)
from azr_mlx.types import TaskKind

__all__ = [
    "BANNED_NAMES",
    "Proposal",
    "check_program",
    "clean_source",
    "features",
    "is_reserved",
    "parse_answer",
    "parse_proposal",
    "shape",
    "skeleton",
]

MAX_TEXT = 100_000  # how many characters of a model's output are read
MAX_INPUTS = 64  # inputs read from one induction proposal


class Styled(Protocol):
    """What parsing needs of a prompt form."""

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
    """The proposal in a completion, or None if its form is not kept.

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

    Deduction: the source of one expression. Abduction: the source of an argument tuple. Induction:
    a program. Whether an expression is a literal is the judge's to say.
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
        blocks = fences(text)
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
    # What follows a blank line is another example.
    text = re.split(r"\n[ \t]*\n", text.lstrip("\n"))[0]
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
    """The text, with the end of the prompt that it goes on from put back if it does go on from
    it.
    """
    return opener + text if text.lstrip(" ").startswith("(") else text


def _asserted_value(statement: str) -> str | None:
    """X of ``assert f(...) == X``, read by Python's grammar, so that `0 or True` is not an
    answer."""
    for source in (statement, _first_line(statement)):
        tree = parse_source(source)
        if tree is not None and tree.body:
            return _right_side(tree.body[0])
    return None


def _right_side(node: ast.stmt) -> str | None:
    if not (isinstance(node, ast.Assert) and isinstance(node.test, ast.Compare)):
        return None
    compare = node.test
    if len(compare.ops) != 1 or not isinstance(compare.ops[0], ast.Eq) or not _is_f(compare.left):
        return None
    return unparse(compare.comparators[0])


def _is_f(node: ast.expr) -> TypeGuard[ast.Call]:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "f"


def _asserted_args(statement: str) -> str | None:
    """The arguments of ``assert f(ARGS) == ...``; nothing but ``== ...`` or a comment may follow
    the call.
    """
    start = statement.find("f")
    call = _call(statement, statement.find("(", start))
    if call is None:
        return None
    rest = _first_line(statement[statement.find("(", start) + len(call) - 1 :])
    return _call_args(call) if re.fullmatch(r"[ \t]*(==.*|#.*)?\r?", rest) else None


# ---------------------------------------------------------------- chat


def _after_thinking(text: str) -> str:
    """What follows the reasoning: the (perhaps unterminated) answer tag's content, or all."""
    text = text.rpartition("</think>")[2]
    if "<answer>" in text:
        text = text.rpartition("<answer>")[2]
    return text.partition("</answer>")[0]


def _chat_proposal(text: str) -> Proposal | None:
    text = _after_thinking(text)
    blocks = fences(text)
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
    blocks = fences(text)
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
    """Argument tuples of lines ``f(1, 2)``, ``assert f(1, 2) == 3`` or, with no call at all, ``1,
    2``.
    """
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
    tree = parse_source(call)
    if tree is None or len(tree.body) != 1 or not isinstance(tree.body[0], ast.Expr):
        return None
    node = tree.body[0].value
    if not _is_f(node) or node.keywords or any(isinstance(a, ast.Starred) for a in node.args):
        return None
    return unparse(ast.Tuple(elts=node.args, ctx=ast.Load()))


def _bare_args(text: str) -> str | None:
    """``1, 2`` as an argument tuple: what stands between the parentheses of a call, and nothing
    more.
    """
    text = text.strip()
    call = "f(" + text + "\n)"
    return _call_args(call) if text and _closing(call, 1) == len(call) - 1 else None


def _expression(text: str) -> str | None:
    tree = parse_source(text.strip())
    if tree is None or len(tree.body) != 1 or not isinstance(tree.body[0], ast.Expr):
        return None
    return unparse(tree.body[0].value)


def _program(text: str) -> str | None:
    """The Python program in a text: prose before it, a cut tail and trailing checks are left out.

    Tried from the first lines that look like code, at the ends of top-level statements from the
    last one back.
    """
    lines = text[:MAX_SOURCE].split("\n")
    starts = [i for i, line in enumerate(lines) if re.match(r"(def|class|from|import|@)\b|@", line)]
    for start in starts[:4]:
        part = lines[start:]
        tops = [i for i, line in enumerate(part) if i and re.match(r"[^\s#)\]}]", line)]
        for end in [len(part), *reversed(tops[-12:])]:
            tree = parse_source("\n".join(part[:end]))
            if tree is not None and entry(tree) is not None:
                return "\n".join(part[: min(end, _tail(tree))]).rstrip() + "\n"
    return None


def _tail(tree: ast.Module) -> int:
    """Lines before the first top-level check, call or main guard that follows ``f``."""
    seen = False
    for node in tree.body:
        seen = seen or (isinstance(node, ast.FunctionDef) and node.name == "f")
        if seen and isinstance(node, (ast.Assert, ast.Expr, ast.If)):
            return node.lineno - 1
    return MAX_SOURCE
