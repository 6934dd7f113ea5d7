"""LiveCodeBench (Jain et al., arXiv 2403.07974), code generation: problems of programming contests,
each with the date of its contest.

What a chat model is asked, which part of its answer counts, and when two outputs are the same is
LiveCodeBench's (lcb_runner of github.com/LiveCodeBench/LiveCodeBench). Two forms of tests: a
program reads stdin, or a method of ``class Solution`` is called. Both are jobs that print
their answer: arguments and values travel as JSON, in which lists of any length have room.

The published files hold the private tests as a compressed pickle. It is never unpickled: of its
instructions only those are read that make up a single text.
"""

from __future__ import annotations

import base64
import hashlib
import pickletools
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from azr_mlx.evaluation.benchmarks import cases
from azr_mlx.evaluation.benchmarks.problem import DataRow, Grade, Problem, Spec
from azr_mlx.evaluation.benchmarks.source import read_jsonl
from azr_mlx.files import Unreadable, from_json
from azr_mlx.sandbox import MAX_STDIN, Job, Limits, Result, size_of
from azr_mlx.tasks.thinking import answer_of

# The reference harness stops a test at 6 s of wall time; a busy machine does not stretch CPU time.
LIMITS = Limits(wall_s=18.0, cpu_s=6.0, memory_mb=2048, output_kb=16384)
LEVELS = ("easy", "medium", "hard")
_STDIN, _FUNCTIONAL = "stdin", "functional"
_MAX_TESTS = 1 << 29  # bytes of one problem's private tests

# Before every solution: the names that the reference harness gives it, in its order, since later
# ones replace earlier ones (``pow`` of math and operator by that of builtins).
_STARRED = (
    "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random",
    "statistics", "itertools", "functools", "operator", "io", "sys", "json", "builtins", "typing",
)  # fmt: skip
HEADER = (
    "".join(f"from {name} import *\n" for name in _STARRED)
    + f"import {', '.join(name for name in _STARRED if name not in ('builtins', 'typing'))}\n"
    + "sys.setrecursionlimit(50000)\n"
)
# A solution to be called is a module: its main block does not run.
_MODULE = '__name__ = "solution"\n'
# The last line of what it prints is the value. The outermost tuple is a list, as in the reference;
# a value that JSON does not give back as it is (tuples in lists, numbers as keys) is no answer.
_CALL = """
def _answer():
    import builtins, json, sys
    value = _entry(*builtins.map(json.loads, sys.stdin.read().strip().split("\\n")))
    if builtins.isinstance(value, builtins.tuple):
        value = builtins.list(value)
    text = json.dumps(value)
    if json.loads(text) != value:
        raise builtins.TypeError("the value is not one of JSON")
    builtins.print("\\n" + text)
_answer()
"""


class Test(NamedTuple):
    """What a program reads and should print, or arguments (JSON, one a line) and a value (JSON)."""

    input: str
    output: str
    kind: str


@dataclass(frozen=True, slots=True)
class TestsCheck:
    """A program on each of its tests; the method ``name`` of ``class Solution``, if that is not "".

    The private tests are kept as they are packed and read when they are needed: those of a whole
    release take many gigabytes. ``sha256`` is of all the tests.
    """

    name: str
    public: str
    private: bytes
    sha256: str

    def jobs(self, code: str) -> list[Job]:
        return cases.jobs(program(code, self.name), *self._columns(), LIMITS)

    def grade(self, code: str, results: Sequence[Result]) -> Grade:
        same = same_value if self.name else same_output
        return cases.grade(results, self._columns()[1], same)

    def _columns(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        tests = _tests(self.public, self.private)
        return tuple(test.input for test in tests), tuple(test.output for test in tests)

    def content(self) -> Any:
        return self.sha256


def program(code: str, name: str = "") -> str:
    """What runs of an answer; ``name`` is the method to be called, if one is."""
    if not name:
        return cases.headed(HEADER, cases.as_program(code))
    return cases.with_entry(cases.headed(HEADER + _MODULE, code), name) + _CALL


def same_output(given: str, wanted: str) -> bool:
    """Line by line, without the white space around lines and around all of them. Lines that are not
    the same text may be the same numbers, exactly (``1.0`` for ``1``).
    """
    given, wanted = given.strip(), wanted.strip()
    if given.count("\n") != wanted.count("\n"):
        return False
    ours, theirs = ([line.strip() for line in text.split("\n")] for text in (given, wanted))
    return all(a == b or _same_numbers(a, b) for a, b in zip(ours, theirs, strict=True))


def _same_numbers(given: str, wanted: str) -> bool:
    try:
        theirs = [Decimal(word) for word in wanted.split()]
        words = given.split(None, len(theirs))
        return len(words) == len(theirs) and [Decimal(word) for word in words] == theirs
    except ArithmeticError:  # not a number, or one that compares with nothing
        return False


def same_value(given: str, wanted: str) -> bool:
    """Whether the last line of what was printed is the expected value, both in JSON."""
    line = given.strip().rpartition("\n")[2]
    if len(line) > 8 * len(wanted) + 1000:  # no way to write a value is that much longer
        return False
    try:
        return bool(from_json(line) == from_json(wanted))
    except (Unreadable, RecursionError):
        return False


def answer(text: str, entry: str = "") -> str:
    """The lines between the last two that have a fence; an empty string if there are fewer.
    ``entry`` does not matter.
    """
    lines = answer_of(text.replace("\r\n", "\n")).split("\n")
    fences = [number for number, line in enumerate(lines) if "```" in line]
    return "\n".join(lines[fences[-2] + 1 : fences[-1]]) if len(fences) > 1 else ""


# --- rows ---


def parse(row: DataRow) -> Problem | None:
    """A row of the published files. None if it has no tests, or one by which nobody can be judged:
    it is larger than what a job may read or print, or of a method and not JSON. Raises ValueError,
    TypeError or KeyError, with one line, if it is not such a row.
    """
    public, private = _text(row, "public_test_cases"), _packed(_text(row, "private_test_cases"))
    level, starter = _text(row, "difficulty"), _text(row, "starter_code")
    if level not in LEVELS:
        raise ValueError(f"difficulty {level[:40]!r} is none of {', '.join(LEVELS)}")
    name, tests = _function(row), _tests(public, private)
    _check(tests, name)
    if not tests or not all(_has_room(test) and (not name or _is_json(test)) for test in tests):
        return None
    question = _text(row, "question_content")
    return Problem(
        id=_id(row),
        prompt=_base(question, starter),
        question=_question(question, starter),
        prefix="",
        entry_point=name,
        reference="",
        check=TestsCheck(name, public, private, _sha256(name, tests)),
        visible=_visible(name, public),
        level=level,
    )


def _visible(name: str, public: str) -> TestsCheck | None:
    tests = _tests(public, b"")
    return TestsCheck(name, public, b"", _sha256(name, tests)) if tests else None


def _text(row: DataRow, name: str) -> str:
    value = row[name]
    if not isinstance(value, str):
        raise TypeError(f"{name} is not text")
    return value


def _function(row: DataRow) -> str:
    """The name of the method that is called; "" for a program."""
    metadata = _json("metadata", _text(row, "metadata"))
    name = metadata.get("func_name") if isinstance(metadata, dict) else 0
    if name is not None and not (isinstance(name, str) and name.isidentifier()):
        raise ValueError("metadata is not an object whose func_name, if it has one, is a name")
    return name or ""


def _check(tests: Sequence[Test], name: str) -> None:
    """Raise ValueError if there is no such kind of test, or none without the name of a method. The
    name decides how all of them run, as in the reference.
    """
    for test in tests:
        if test.kind not in (_STDIN, _FUNCTIONAL):
            raise ValueError(f"test type {test.kind[:40]!r} is neither stdin nor functional")
        if test.kind == _FUNCTIONAL and not name:
            raise ValueError("it has a functional test, and its metadata has no func_name")


def _has_room(test: Test) -> bool:
    fits = size_of(test.input) <= MAX_STDIN
    return fits and size_of(test.output) <= LIMITS.output_kb << 10


def _is_json(test: Test) -> bool:
    try:
        for text in (*test.input.strip().split("\n"), test.output):
            from_json(text)
    except Unreadable:
        return False
    return True


def _sha256(name: str, tests: Sequence[Test]) -> str:
    digest = hashlib.sha256(name.encode())
    for text in chain.from_iterable(tests):
        data = text.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(data) + data)
    return digest.hexdigest()


@lru_cache(maxsize=2)  # all samples of a problem follow each other
def _tests(public: str, private: bytes) -> tuple[Test, ...]:
    """The tests of both fields, in this order. Raises ValueError."""
    shown = _cases("public_test_cases", public)
    return (*shown, *(_cases("private_test_cases", _unpacked(private)) if private else ()))


def _cases(name: str, text: str) -> Iterator[Test]:
    rows = _json(name, text)
    if not isinstance(rows, list):
        raise ValueError(f"{name} is not a list")
    for row in rows:
        try:
            test = Test(row["input"], row["output"], row["testtype"])
        except (KeyError, TypeError):
            test = None
        if test is None or not all(isinstance(text, str) for text in test):
            raise ValueError(f"{name}: a test has an input, an output and a testtype, all text")
        yield test


def _json(name: str, text: str) -> Any:
    try:
        return from_json(text)
    except Unreadable as error:
        raise ValueError(f"{name}: {error}") from error


# --- private tests ---


def _packed(text: str) -> bytes:
    """The field of the private tests, whether JSON or base64, as zlib's bytes. Raises ValueError if
    it is empty, as if it had been taken out: public tests alone would pass wrong answers."""
    if not text.strip():
        raise ValueError("private_test_cases is empty; a problem without any has []")
    if text.lstrip().startswith("["):
        return zlib.compress(text.strip().encode("utf-8", "surrogatepass"))
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"private_test_cases is neither a list nor base64 ({error})") from error


def _unpacked(packed: bytes) -> str:
    """The JSON of packed private tests. Raises ValueError."""
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(packed, _MAX_TESTS)
    except zlib.error as error:
        raise ValueError(f"private_test_cases cannot be decompressed ({error})") from error
    if not inflater.eof:
        why = "cut short" if len(data) < _MAX_TESTS else f"of {_MAX_TESTS} bytes or more"
        raise ValueError(f"private_test_cases: the compressed tests are {why}")
    return data.decode("utf-8", "surrogatepass") if data[:1] == b"[" else pickled_text(data)


_TEXTS = frozenset({"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"})
_AROUND = frozenset({"PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP"})


def pickled_text(data: bytes) -> str:
    """The text of a pickle that holds nothing but one. Its instructions are listed, none is done.

    Raises ValueError: it holds something else, or is damaged.
    """
    found: str | None = None
    end = 0
    try:
        for opcode, value, position in pickletools.genops(data):
            if opcode.name in _TEXTS and found is None and isinstance(value, str):
                found = value
            elif opcode.name not in _AROUND:
                raise ValueError(f"{opcode.name} is in it")
            end = (position or 0) + 1
    except ValueError as error:
        why = str(error).partition("\n")[0][:120]
        raise ValueError(f"private_test_cases: the pickle is not one text ({why})") from error
    if found is None or end != len(data):
        raise ValueError("private_test_cases: the pickle is not one text")
    return found


# --- prompts ---

SYSTEM = (
    "You are an expert Python programmer. You will be given a question (problem specification) and "
    "will generate a correct Python program that matches the specification and passes all tests."
)
_WITH_STARTER = (
    "You will use the following starter code to write the solution to the problem and enclose your "
    "code within delimiters."
)
_WITHOUT_STARTER = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly "
    "test on the sample inputs). Enclose your code within delimiters as follows. Ensure that when "
    "the python program runs, it reads the inputs, runs the algorithm and writes output to STDOUT."
)


def _question(question: str, starter: str) -> str:
    """LiveCodeBench's question to a chat model."""
    return (
        f"### Question:\n{question}\n\n"
        f"### Format: {_WITH_STARTER if starter else _WITHOUT_STARTER}\n"
        f"```python\n{starter or '# YOUR CODE HERE'}\n```\n\n"
        "### Answer: (use the provided format with backticks)\n\n"
    )


_STARTER = "class Solution:\n    def countEven(self, nums: List[int]) -> int:\n        "
_CALLED = (
    "You are given a list of integers nums. Return how many of them are even.\n\n"
    "Example 1:\n\nInput: nums = [3,4,8]\nOutput: 2\n",
    _STARTER,
    f"{_STARTER}return sum(number % 2 == 0 for number in nums)",
)
_READ = (
    "The first line has an integer n, the second line n integers. Print their sum.\n\n"
    "Sample Input:\n3\n1 2 3\n\nSample Output:\n6\n",
    "",
    "input()\nprint(sum(map(int, input().split())))",
)


def _base(question: str, starter: str) -> str:
    """LiveCodeBench's prompt for base models: an example, and the question in the same form."""
    return _shown(*(_CALLED if starter else _READ)) + _shown(question, starter, "")


def _shown(question: str, starter: str, code: str) -> str:
    given = f"### Starter Code\n{starter}\n\n" if starter else ""
    return f"### Question\n{question}\n\n{given}### Answer\n\n" + (f"{code}\n\n" if code else "")


# --- files ---


def _id(row: DataRow) -> str:
    return f"LiveCodeBench/{_text(row, 'question_id')}"


def contest_date(row: DataRow) -> date:
    """The day of the contest. Raises ValueError, TypeError or KeyError."""
    text = _text(row, "contest_date")
    try:
        return date.fromisoformat(text[:10])
    except ValueError:
        raise ValueError(f"contest_date {text[:40]!r} is not a date like 2024-10-31") from None


def folder_rows(folder: Path) -> Iterator[DataRow] | None:
    """The rows of the files as they are published, of which a release is the first few; None if
    there are none.
    """
    found = sorted(folder.glob("test*.jsonl"))
    return chain.from_iterable(map(read_jsonl, found)) if found else None


SPEC = Spec(
    name="livecodebench",
    parse=parse,
    id_of=_id,
    date_of=contest_date,
    stop=("###",),
    limits=LIMITS,
    form="LiveCodeBench's for base models, with an example of our own",
    shots=1,
    system=SYSTEM,
    asked="LiveCodeBench's system message and its question",
    extract=answer,
    reads="between the last two lines with a fence",
    files=("livecodebench.jsonl", "code_generation_lite.jsonl"),
    rows=folder_rows,
    hub=(),
    fix="give as --data a file test.jsonl, test2.jsonl, ... of https://huggingface.co/datasets/"
    "livecodebench/code_generation_lite, or a folder with those of a release",
)
