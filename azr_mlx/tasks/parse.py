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
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from azr_mlx.tasks.excerpt import (
    Room,
    lines_of,
    longest,
    needed_by,
    needed_source,
)
from azr_mlx.tasks.fences import Fence, fences, is_open, outside, program_for
from azr_mlx.tasks.inputs import (
    MAX_INPUTS,
    arguments_in,
    arguments_in_json,
    arguments_in_prose,
    arguments_of_call,
    call_at,
    calls_in,
    is_call,
    is_literal,
    named_in,
    quoted_in,
)
from azr_mlx.tasks.outputs import (
    value_in,
    value_in_code,
    value_in_json,
    value_in_prose,
)
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
from azr_mlx.tasks.prose import takes_back
from azr_mlx.tasks.statements import does_nothing, is_main, is_main_function
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
MAX_TITLE = 200  # how many of the line before a block
_INPUT, _OUTPUT, _MESSAGE = "input", "output", "message"  # what a block holds
_LABELS = {
    "input": _INPUT, "inputs": _INPUT, "output": _OUTPUT, "outputs": _OUTPUT, "message": _MESSAGE,
}  # fmt: skip
_TITLE = re.compile(  # the line before a block, if it ends on what the block holds
    r"(?:(?P<before>.*)\W)?(?:(?P<input>inputs?|arguments?|call)|(?P<output>outputs?|results?)"
    r"|(?P<verb>returns?|prints|gives))(?:[ \t]+(?:is|are))?[*_]*:?[*_]*",
    re.I,
)
_EITHER = re.compile(r"\b(?:inputs?|arguments?|call|outputs?|results?|returns?)\b", re.I)
_DEFINITION = re.compile(r"^def[ \t]+f\b", re.M)
_MAX_STARTS = 30  # lines above `def f`, the first and the last, that are tried as its beginning
_MOST_STARTS = 3  # of those, how many are tried with what follows


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


def parse_proposal(
    text: str, kind: TaskKind, form: Form, program: str = "", beginning: str = ""
) -> Proposal | None:
    """The proposal in a completion, or None if its form is not kept.

    For induction the model writes inputs and a message for ``program``, which the prompt showed.
    A completion may go on from the ``beginning`` of a program, with which the prompt ended.
    """
    text = text[:MAX_TEXT]
    chat = _is_chat(form)
    try:
        if kind is TaskKind.INDUCTION:
            return _induction_proposal(text, chat, program)
        return _chat_proposal(text) if chat else _completion_proposal(text, beginning)
    except RecursionError:
        return None


def parse_answer(
    text: str, kind: TaskKind, form: Form, program: str = "", inputs: Sequence[str] = ()
) -> str | None:
    """The final answer in a completion, or None. ``program`` and ``inputs`` are the task's.

    Deduction: the source of one expression. Abduction: the source of an argument tuple, as
    ``program`` takes them. Induction: a program. Whether an expression is a literal is the judge's
    to say; in a chat nothing else is an answer. There, the last block with the right label counts,
    or else what the other blocks and the text between them say, unless they differ.
    """
    text = text[:MAX_TEXT]
    try:
        if _is_chat(form):
            text = _after_thinking(text)
            shown = "\n".join([program, *inputs]) if kind is TaskKind.DEDUCTION else program
            return _chat_answer(text, kind, shown) if text.strip() else None
        return _completion_answer(text, kind, program)
    except RecursionError:
        return None


def _is_chat(form: Form) -> bool:
    style = form if isinstance(form, str) else form.style
    return style == "chat"


# ---------------------------------------------------------------- completions


def _completion_proposal(text: str, beginning: str) -> Proposal | None:
    source = beginning + text if beginning else _with_opener("def f", text)
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
        message, inputs = _message(text), _proposed_inputs(text, program)
    else:
        message, _, rest = text.strip().partition("\n")
        inputs = arguments_in(rest, program)
    distinct = tuple(dict.fromkeys(inputs))[:MAX_INPUTS]
    message = " ".join(message.lstrip("# ").split())[:500]
    return Proposal(program, distinct, message) if distinct else None


def _completion_answer(text: str, kind: TaskKind, program: str) -> str | None:
    if kind is TaskKind.INDUCTION:
        return _program(_with_opener("def f", text))
    text = text.lstrip("\n")
    # What follows a blank line is another example, unless the line is within brackets or a string.
    example = re.split(r"\n[ \t]*\n", text)[0]
    asserts = [m.start() for m in re.finditer(r"^assert[ \t]+f[ \t]*\(", example, re.M)]
    last = text[asserts[-1] :] if asserts else None
    if kind is TaskKind.DEDUCTION:
        return _asserted_value(last if last is not None else "assert f() ==" + text)
    if last is None and text.lstrip(" ").startswith("("):
        last = "assert f" + text
    return None if last is None else _asserted_args(last, program)


def _first_line(text: str) -> str:
    return text.split("\n", 1)[0]


def _with_opener(opener: str, text: str) -> str:
    """The text, with the end of the prompt that it goes on from put back if it does go on from
    it.
    """
    return opener + text if text.lstrip(" ").startswith("(") else text


def _asserted_value(text: str) -> str | None:
    """X of ``assert f(...) == X``, with which the text begins, read by Python's grammar, so that
    `0 or True` is not an answer. It ends with the first line by which it is a statement."""
    lines, room = lines_of(text), Room()
    for end in range(1, len(lines) + 1):
        source = "".join(lines[:end])
        if not room.take(source):
            return None
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
    codes = [block.body for block in fences(text) if block.label not in _LABELS]
    codes = [body for body in codes if _DEFINITION.search(body)][:_MOST_STARTS] or [text]
    found = ((body, program) for body in codes if (program := _program(body)))
    code, program = next(found, ("", None))
    if program is None:
        return None
    # What follows the next definition is another example.
    before, whole, own = text.partition(program.rstrip())
    if not whole and (begins := _DEFINITION.search(text)):  # some of its lines were left out
        before, own = text[: begins.start()], text[begins.end() :]
    own = "```python\n" + own if is_open(before) else own
    own = own[: another.start()] if (another := _DEFINITION.search(own)) else own
    inputs = _in_blocks(own, program) or _used_in_blocks(code, own, program)
    inputs = inputs or _used_inputs(code, program) or calls_in(own, program)
    inputs = inputs or named_in(own, program) or quoted_in(own, program)
    inputs = inputs or _proposed_inputs(text, program)
    return Proposal(program, (inputs[0],)) if inputs else None


def _used_in_blocks(code: str, text: str, program: str) -> list[str]:
    """The inputs that the code, a block of the text, or all of them together call ``f`` with, if
    they are values: a block may call it with variables of its own, or of the code above it."""
    bodies = [one.body for one in fences(text) if one.is_python and _holds(one) != _OUTPUT]
    found = list[str]()
    for source in (code, *bodies[:MAX_INPUTS]):
        found += [one for one in _used_inputs(source, program) if is_literal(one)]
    together = "\n".join([code, *bodies])
    return found or [one for one in _used_inputs(together, program) if is_literal(one)]


def _used_inputs(code: str, program: str) -> list[str]:
    """The inputs that code calls ``f`` with, perhaps by variables: after its definition, if it has
    one."""
    tree = parse_source(code)
    if tree is None:
        return []
    function = entry(tree)
    rest = tree.body if function is None else tree.body[tree.body.index(function) + 1 :]
    if rest and isinstance(rest[-1], ast.If) and is_main(rest[-1].test):
        rest = [*rest[:-1], *rest[-1].body]
    rest = [one for statement in rest for one in _main_body(statement)]
    kept, called = list[str](), False
    for statement in rest:
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            continue
        call = _call_in(statement)
        called = called or call is not None
        if call is not None or isinstance(statement, (ast.Assign, ast.AnnAssign)):
            kept.append(unparse(statement if call is None else call) or "")
    return arguments_in("\n".join(kept), program) if called else []


def _main_body(statement: ast.stmt) -> list[ast.stmt]:
    """What is in ``def main()``, or else the statement itself."""
    return statement.body if is_main_function(statement) else [statement]


def _call_in(statement: ast.stmt) -> ast.expr | None:
    """The outermost call of ``f`` in a statement."""
    return next((n for n in ast.walk(statement) if isinstance(n, ast.expr) and is_call(n)), None)


def _in_blocks(text: str, program: str) -> list[str]:
    """The inputs in the blocks for them."""
    bodies = [block.body for block in fences(text) if _holds(block) == _INPUT]
    return [one for body in bodies for one in arguments_in(body, program)]


def _holds(block: Fence) -> str:
    """What a block holds, as its label says, or else the line before it; "" if neither does."""
    if block.label in _LABELS:
        return _LABELS[block.label]
    title = _TITLE.fullmatch(block.title[-MAX_TITLE:])
    if title is None:
        return ""
    if title["verb"]:
        return _OUTPUT
    # `The result of this call:` and `The input for this output:` say both.
    return "" if _EITHER.search(title["before"] or "") else str(title.lastgroup)


def _proposed_inputs(text: str, program: str) -> list[str]:
    """The inputs in the blocks for them; if there are none, the calls that begin a line, or those
    in blocks, if not all of the former are of values."""
    inputs = _in_blocks(text, program) or calls_in(text, program)
    if inputs and all(map(is_literal, inputs)):
        return inputs
    return _used_in_blocks("", text, program) or inputs


def _message(text: str) -> str:
    """The message in its block; if there is none, the first line of prose."""
    blocks = fences(text)
    named = next((block.body for block in blocks if _holds(block) == _MESSAGE), None)
    if named is not None:
        return named.strip()
    prose = text.partition("```")[0].strip().split("\n")[0]
    return "" if calls_in(prose) else prose


def _chat_answer(text: str, kind: TaskKind, program: str) -> str | None:
    blocks = fences(text)
    if kind is TaskKind.INDUCTION:
        code = program_for(blocks, "f")
        return _program(text if code is None else code)
    own, read, in_prose = {
        TaskKind.DEDUCTION: (_OUTPUT, _value, value_in_prose),
        TaskKind.ABDUCTION: (_INPUT, _arguments, arguments_in_prose),
    }[kind]
    labelled = [block for block in blocks if _LABELS.get(block.label) == own]
    if labelled:
        body = labelled[-1].body
        rest = text.rpartition(body)[2].partition("\n")[2] if body else ""
        again = in_prose(outside(rest), program) if takes_back(rest) else None
        return again or read(labelled[-1], program)
    known = [(_holds(one), answer) for one in blocks if (answer := read(one, program)) is not None]
    titled = [answer for holds, answer in known if holds == own]
    if titled:
        return titled[-1]
    free = [answer for holds, answer in known if not holds]
    found = {*free[-1:], in_prose(outside(text), program)} - {None}
    return found.pop() if len(found) == 1 else None


def _value(block: Fence, program: str) -> str | None:
    """The value in a block."""
    body = block.body.strip()
    asserts = [m.start() for m in re.finditer(r"^assert[ \t]+f[ \t]*\(", body, re.M)]
    if asserts:
        value = _asserted_value(body[asserts[-1] :])
        return value if value is not None and is_literal(value) else None
    in_json = value_in_json(body, program) if block.label == "json" else None
    return in_json or value_in(body) or value_in_code(body)


def _arguments(block: Fence, program: str) -> str | None:
    """The only arguments in a block."""
    in_json = arguments_in_json(block.body, program) if block.label == "json" else None
    found = {in_json} if in_json else set(arguments_in(block.body, program))
    if len(found) != 1 or not all(map(is_literal, found)):
        found = set(_used_inputs(block.body, program))
    return found.pop() if len(found) == 1 and all(map(is_literal, found)) else None


# ---------------------------------------------------------------- pieces


def _program(text: str) -> str | None:
    """The Python program in a text, with a ``def f``: prose around it, a cut tail, and what ``f``
    does not need behind it are left out."""
    lines, room = text[:MAX_SOURCE].split("\n"), Room()
    for start in _starts(lines, room):
        code = longest("\n".join(lines[start:]), room)
        tree = parse_source(code)
        if tree is not None and entry(tree) is not None:
            return _needed(tree, code).rstrip() + "\n"
    return None


def _starts(lines: Sequence[str], room: Room) -> list[int]:
    """The numbers of the first lines from which on all is Python up to the first ``def f``."""
    first = next((i for i, line in enumerate(lines) if _DEFINITION.match(line)), None)
    if first is None:
        return []
    above = first
    while above and lines[above - 1].startswith("@"):
        above -= 1
    tops = [i for i in range(above) if re.match(r"[^\s#)\]}]", lines[i])]
    near = dict.fromkeys([*tops[:_MAX_STARTS], *tops[-_MAX_STARTS:]])
    found = (i for i in near if not _is_remark(lines[i]) and _is_python(lines[i:above], room))
    return [*islice(found, _MOST_STARTS), above]


def _is_python(lines: Sequence[str], room: Room) -> bool:
    source = "\n".join(lines)
    return room.take(source) and parse_source(source) is not None


def _is_remark(line: str) -> bool:
    """Whether a line is prose that happens to be Python, such as ``Solution``."""
    tree = parse_source(line)
    return tree is not None and all(map(does_nothing, tree.body))


def _needed(tree: ast.Module, code: str) -> str:
    """The source up to the first statement that ``f`` does not need, and those behind it that it
    does."""
    return needed_source(needed_by(tree.body, "f"), tree.body, code)
