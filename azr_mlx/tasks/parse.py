"""Reads proposals and answers out of what a model wrote.

Two conventions. ``completion``: the text goes on from a Python file that ends on ``def f``,
``assert f``, ``==`` or a comment such as ``# steps:``. ``chat``: an optional thought, an
``<answer>`` part, and fenced blocks.

Everything here is total: on any text the answer is a value or None, never an exception. Nothing is
evaluated; an answer stays source text until the judge decodes it as a literal.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import Protocol

from azr_mlx.tasks.fences import fences, program_for
from azr_mlx.tasks.inputs import MAX_INPUTS, arguments_in, arguments_of_call, call_at, is_call
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
from azr_mlx.tasks.thinking import answer_of
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


def parse_answer(text: str, kind: TaskKind, form: Form, program: str = "") -> str | None:
    """The final answer in a completion, or None.

    Deduction: the source of one expression. Abduction: the source of an argument tuple, as
    ``program`` takes them. Induction: a program. Whether an expression is a literal is the judge's
    to say.
    """
    text = text[:MAX_TEXT]
    try:
        if _is_chat(form):
            text = _after_thinking(text)
            return _chat_answer(text, kind, program) if text.strip() else None
        return _completion_answer(text, kind, program)
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
    call = call_at(source, found.end() - 1)
    if program is None or call is None:
        return None
    args = arguments_of_call(call, program)
    return None if args is None else Proposal(program, (args,))


def _induction_proposal(text: str, chat: bool, program: str) -> Proposal | None:
    if chat:
        text = _after_thinking(text)
        blocks = fences(text)
        message = next((body.strip() for label, body in blocks if label == "message"), "")
        bodies = [body for label, body in blocks if label == "input"]
    else:
        message, _, rest = text.strip().partition("\n")
        bodies = [rest]
    inputs = [one for body in bodies for one in arguments_in(body, program)]
    distinct = tuple(dict.fromkeys(inputs))[:MAX_INPUTS]
    message = " ".join(message.lstrip("# ").split())[:500]
    return Proposal(program, distinct, message) if distinct else None


def _completion_answer(text: str, kind: TaskKind, program: str) -> str | None:
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
    return None if last is None else _asserted_args(last, program)


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
    if len(compare.ops) != 1 or not isinstance(compare.ops[0], ast.Eq) or not is_call(compare.left):
        return None
    return unparse(compare.comparators[0])


def _asserted_args(statement: str, program: str) -> str | None:
    """The arguments of ``assert f(ARGS) == ...``; nothing but ``== ...`` or a comment may follow
    the call.
    """
    opening = statement.find("(", statement.find("f"))
    call = call_at(statement, opening)
    if call is None:
        return None
    rest = _first_line(statement[opening + len(call) - 1 :])
    return arguments_of_call(call, program) if re.fullmatch(r"[ \t]*(==.*|#.*)?\r?", rest) else None


# ---------------------------------------------------------------- chat


def _after_thinking(text: str) -> str:
    """What follows the thought: the (perhaps unterminated) answer tag's content, or all."""
    text = answer_of(text)
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
    bodies = [body for label, body in blocks if label == "input"]
    inputs = [one for body in bodies for one in arguments_in(body, program)]
    found = re.search(r"^assert[ \t]+f[ \t]*\(", text, re.M)
    if not inputs and found is not None:
        call = call_at(text, found.end() - 1)
        args = None if call is None else arguments_of_call(call, program)
        inputs = [] if args is None else [args]
    return Proposal(program, (inputs[0],)) if inputs else None


def _chat_answer(text: str, kind: TaskKind, program: str) -> str | None:
    blocks = fences(text)
    if kind is TaskKind.INDUCTION:
        code = program_for(blocks, "f")
        return _program(text if code is None else code)
    label = "output" if kind is TaskKind.DEDUCTION else "input"
    labelled = [body for name, body in blocks if name == label]
    body = (labelled or [body for _, body in blocks] or [text])[-1].strip()
    if kind is TaskKind.ABDUCTION:
        found = arguments_in(body, program)
        return found[-1] if found else None
    asserts = [m.start() for m in re.finditer(r"^assert[ \t]+f[ \t]*\(", body, re.M)]
    if asserts:
        return _asserted_value(body[asserts[-1] :])
    if re.match(r"f[ \t]*\(", body) and "==" in body:
        return _asserted_value("assert " + body)
    return _expression(body)


# ---------------------------------------------------------------- pieces


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
