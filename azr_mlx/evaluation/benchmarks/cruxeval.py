"""CRUXEval (Gu et al., arXiv 2401.03065): what does this function return (O, deduction), and what
could it have been given (I, abduction)?

Answers are literals, compared by value and exact type. An answer to O is never run; an answer to I
is arguments, on which the benchmark's own function runs. The reference scorer evaluates both, and
``0 or True`` passes there.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from azr_mlx.evaluation.benchmarks.problem import DataRow, Grade, Problem, Spec
from azr_mlx.sandbox import Job, Limits, Result, equal, literal, parse_literal
from azr_mlx.tasks.inputs import arguments_of_call
from azr_mlx.tasks.program import unparse
from azr_mlx.tasks.thinking import answer_of
from azr_mlx.text import parsed, parsed_expression
from azr_mlx.types import Status, Task, TaskKind

LIMITS = Limits(wall_s=10.0, cpu_s=5.0, memory_mb=512, output_kb=16)
_MAX_ANSWER = 20_000  # characters
_MAX_LINES = 200  # at the end of a completion, that are looked at

# The paper's direct prompts: an instruction, two examples, the question.
_OUTPUT = """You are given a Python function and an assertion containing an input to the function. \
Complete the assertion with a literal (no unsimplified expressions, no function calls) containing \
the output when executing the provided code on the given input, even if the function is incorrect \
or incomplete. Do NOT output any extra information. Provide the full assertion with the correct \
output in [ANSWER] and [/ANSWER] tags, following the examples.

[PYTHON]
def f(n):
    return n
assert f(17) == ??
[/PYTHON]
[ANSWER]
assert f(17) == 17
[/ANSWER]

[PYTHON]
def f(s):
    return s + "a"
assert f("x9j") == ??
[/PYTHON]
[ANSWER]
assert f("x9j") == "x9ja"
[/ANSWER]

[PYTHON]
{code}
assert f({input}) == ??
[/PYTHON]
[ANSWER]
"""
_INPUT = """You will be given a function f and an output in the form f(??) == output. Find any \
input such that executing f on the input leads to the given output. There may be multiple answers, \
but you should only output one. In [ANSWER] and [/ANSWER] tags, complete the assertion with one \
such input that will produce the output when executing the function.

[PYTHON]
def f(my_list):
    count = 0
    for i in my_list:
        if len(i) % 2 == 0:
            count += 1
    return count
assert f(??) == 3
[/PYTHON]
[ANSWER]
assert f(["mq", "px", "zy"]) == 3
[/ANSWER]

[PYTHON]
def f(s1, s2):
    return s1 + s2
assert f(??) == "banana"
[/PYTHON]
[ANSWER]
assert f("ba", "nana") == "banana"
[/ANSWER]

[PYTHON]
{code}
assert f(??) == {output}
[/PYTHON]
[ANSWER]
"""


@dataclass(frozen=True, slots=True)
class OutputCheck:
    """The answer is the value that ``f(input)`` has, alone or as the right side of an assertion."""

    output: str

    def jobs(self, code: str) -> list[Job]:
        return []

    def grade(self, code: str, results: Sequence[Result]) -> Grade:
        text = _assertion(code)
        for candidate in (text, *_after_equals(text)):
            try:
                value = parse_literal(candidate, _MAX_ANSWER)
            except ValueError:
                continue
            same = equal(value, parse_literal(self.output))
            return Grade(Status.PASS if same else Status.FAIL, float(same))
        return Grade(Status.FORMAT, 0.0, "the answer is no literal")

    def content(self) -> Any:
        return self.output


@dataclass(frozen=True, slots=True)
class InputCheck:
    """The answer is a call of ``f`` with literals, alone or as the left side of an assertion."""

    program: str
    output: str

    def jobs(self, code: str) -> list[Job]:
        args = arguments(self.program, code)
        if args is None:
            return []
        job = Job("0", self.program, call="f", args=args, expect=self.output, limits=LIMITS)
        return [job]

    def grade(self, code: str, results: Sequence[Result]) -> Grade:
        if not results:
            return Grade(Status.FORMAT, 0.0, "the answer is no call of f with literals")
        [result] = results
        return Grade(result.status, float(result.status is Status.PASS), result.detail)

    def content(self) -> Any:
        return [self.program, self.output]


def _assertion(text: str) -> str:
    """What the answer asserts, in brackets; the answer as it is, if that is no assertion."""
    said = answer(text)
    tested = _tested(said)
    return said if tested is None else f"({tested}\n)"


def _tested(statement: str) -> str | None:
    """X of ``assert X`` or ``assert(X)``, with a message or without; None if it is none."""
    tree = parsed(statement) if len(statement) <= _MAX_ANSWER and _asserts(statement) else None
    asserted = [node for node in tree.body if isinstance(node, ast.Assert)] if tree else []
    if not asserted:
        return None
    test = asserted[-1].test
    if isinstance(test, ast.Tuple) and test.elts and isinstance(test.elts[0], ast.Compare):
        test = test.elts[0]  # the message is within the brackets
    return ast.get_source_segment(statement, test)


def _after_equals(text: str) -> list[str]:
    """What stands right of a top-level ``==``."""
    node = parsed_expression(text[:_MAX_ANSWER])
    if not isinstance(node, ast.Compare) or len(node.ops) != 1 or not _is_call(node.left):
        return []
    if not isinstance(node.ops[0], ast.Eq):
        return []
    right = ast.get_source_segment(text, node.comparators[0]) or ""
    return [right, f"({right}\n)"]  # in its own brackets it may have had several lines


def _is_call(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "f"


def arguments(program: str, answer: str) -> str | None:
    """The arguments of a call of ``f``, or of several values with commas, as the text of a tuple;
    keywords in the places that the function gives them. None if they are not literals.
    """
    text = _assertion(answer)
    if len(text) > _MAX_ANSWER:
        return None
    for candidate in (text, f"f({text}\n)"):  # a comment may end the text
        node = parsed_expression(candidate)
        if isinstance(node, ast.Compare):
            node = node.left
        if node is None or not _is_call(node):
            continue
        args = arguments_of_call(unparse(node) or "", program)
        try:
            return None if args is None else literal(parse_literal(args, _MAX_ANSWER))
        except ValueError:
            continue
    return None


_FENCE_LINE = re.compile(r"^[ \t]*```.*$", re.M)
_ASSERT = re.compile(r"\s*assert(?=[\s(])")
_FIELD = re.compile(r"\{(code|input|output)\}")
_TAGGED = re.compile(r"\[ANSWER\]((?:(?!\[ANSWER\]).)*?)\[/ANSWER\]", re.S)


def answer(text: str, entry: str = "") -> str:
    """The answer in a completion: what its tags hold, or else its last assertion, or the expression
    that it ends with. Both may take several lines. ``entry`` is not needed: the function is always
    ``f``.
    """
    text = answer_of(text.replace("\r\n", "\n"))
    whole = _TAGGED.findall(text)  # after it there may be a remark on the tags
    text = whole[-1] if whole else text.rpartition("[ANSWER]")[2].partition("[/ANSWER]")[0]
    # A line with a fence, or a blank one, may be part of a string: they go only if it helps.
    for given in (text, _FENCE_LINE.sub("", text)):
        lines = given.strip().split("\n")[-_MAX_LINES:]
        found = _statement(lines) or _expression(lines)
        if found:
            return found
    return _unread([line for line in lines if line.strip()])


def _statement(lines: Sequence[str]) -> str:
    """The last assertion; "" if there is none that ends."""
    starts = [i for i, line in enumerate(lines) if _asserts(line)][-1:]
    for start, end in ((i, end) for i in starts for end in range(i + 1, len(lines) + 1)):
        beginning = "\n".join(lines[start:end]).strip()
        if _tested(beginning) is not None:
            return beginning
    return ""


def _expression(lines: Sequence[str]) -> str:
    """The shortest expression that the lines end with; "" if they end with none, or if one of them
    begins an assertion."""
    if any(map(_asserts, lines)):
        return ""
    for start in reversed(range(len(lines))):
        ending = "\n".join(lines[start:]).strip()
        if parsed_expression(ending) is not None:
            return ending
    return ""


def _unread(lines: Sequence[str]) -> str:
    """What is shown of an answer that cannot be read: its last assertion's line, or its last."""
    return ([*filter(_asserts, lines)] or lines or [""])[-1].strip()


def _asserts(line: str) -> bool:
    return _ASSERT.match(line) is not None


def _problem(row: DataRow, form: str, kind: TaskKind, check: OutputCheck | InputCheck) -> Problem:
    # in one pass: a program may hold such a word itself
    asked = _FIELD.sub(lambda found: str(row[found[1]]), form)
    return Problem(
        id=_id(row),
        prompt=asked,
        question=asked.removesuffix("[ANSWER]\n").rstrip(),
        prefix="",
        entry_point="f",
        reference=_reference(row),
        check=check,
        program=row["code"],
        task=_task(row, kind),
    )


def _reference(row: DataRow) -> str:
    return f"assert f({row['input']}) == {row['output']}"


def _task(row: DataRow, kind: TaskKind) -> Task | None:
    """The question as self-play asks it; None if the arguments are not literals."""
    args = arguments(row["code"], _reference(row))
    return None if args is None else Task.create(kind, row["code"], (args,), (row["output"],))


def _knows(row: DataRow) -> bool:
    """Whether what is expected is a literal: else no answer could be judged."""
    try:
        parse_literal(row["output"])
    except ValueError:
        return False
    return True


def parse_output(row: DataRow) -> Problem | None:
    if not _knows(row):
        return None
    return _problem(row, _OUTPUT, TaskKind.DEDUCTION, OutputCheck(row["output"]))


def parse_input(row: DataRow) -> Problem | None:
    """None also if the benchmark's own input is not a literal (a lambda, for example)."""
    if not _knows(row) or arguments(row["code"], _reference(row)) is None:
        return None
    return _problem(row, _INPUT, TaskKind.ABDUCTION, InputCheck(row["code"], row["output"]))


def _id(row: DataRow) -> str:
    return f"CRUXEval/{str(row['id']).removeprefix('sample_')}"


def _spec(name: str, parse: Any) -> Spec:
    return Spec(
        name=name,
        parse=parse,
        id_of=_id,
        stop=("[/ANSWER]",),
        limits=LIMITS,
        form="CRUXEval's direct prompt",
        shots=2,
        extract=answer,
        reads="[ANSWER] tags, or the last assertion, or the expression at the end; strings whole",
        files=("cruxeval.jsonl", "test.jsonl", "cruxeval-first400.jsonl"),
        hub=("cruxeval-org/cruxeval",),
        fix="give as --data the file "
        "https://github.com/facebookresearch/cruxeval/raw/main/data/cruxeval.jsonl",
    )


INPUT = _spec("cruxeval-i", parse_input)
OUTPUT = _spec("cruxeval-o", parse_output)
