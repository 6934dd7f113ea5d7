"""APPS (Hendrycks et al., arXiv 2105.09938): programs from problem statements, at three levels and
in two forms: a function or method that is called, or a program that reads stdin.

Two figures: strict accuracy (all test cases of a problem pass) and the test-case average. A problem
without test cases is set aside. Each stdin case is a process of its own.
"""

from __future__ import annotations

import ast
import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from azr_mlx.benchmarks.problem import Grade, Problem, Row, Spec
from azr_mlx.errors import UsageError
from azr_mlx.sandbox import Job, Limits, Result, literal
from azr_mlx.types import Status

# The reference harness stops a case at 4 s of wall time; a busy machine does not stretch CPU time.
LIMITS = Limits(wall_s=12.0, cpu_s=4.0, memory_mb=1024, output_kb=4096)
LEVELS = ("introductory", "interview", "competition")
# Before a called solution, as in the reference harness: solutions were written for judges that have
# these names. (numpy, which that has too, is not in the sandbox.)
HEADER = """import bisect, collections, copy, functools, heapq, itertools, json, math, operator
import random, re, string, sys, time, fractions
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from math import *
from typing import *
"""


@dataclass(frozen=True, slots=True)
class StdinCheck:
    """A program on each of ``inputs``; ``outputs`` is what it should print."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def jobs(self, code: str) -> list[Job]:
        program = _program(code)
        return [
            Job(str(i), program, stdin=text, limits=LIMITS) for i, text in enumerate(self.inputs)
        ]

    def grade(self, code: str, results: Sequence[Result]) -> Grade:
        right = [
            r.status is Status.OK and same_output(r.stdout, wanted)
            for r, wanted in zip(results, self.outputs, strict=True)
        ]
        bad = next((r for r, ok in zip(results, right, strict=True) if not ok), None)
        return _grade(right, bad)

    def content(self) -> Any:
        return [self.inputs, self.outputs]


@dataclass(frozen=True, slots=True)
class CallCheck:
    """A function, or a method of ``class Solution``, on each of ``calls`` (tuples, as text)."""

    name: str
    calls: tuple[str, ...]
    outputs: tuple[Any, ...]

    def jobs(self, code: str) -> list[Job]:
        program = f"{HEADER}\n{code}\n\n{_ENTRY.format(name=self.name)}"
        return [
            Job(str(i), program, call="_entry", calls=(args,), limits=LIMITS)
            for i, args in enumerate(self.calls)
        ]

    def grade(self, code: str, results: Sequence[Result]) -> Grade:
        right = [
            r.status is Status.OK and r.values is not None and same_value(r.values[0], wanted)
            for r, wanted in zip(results, self.outputs, strict=True)
        ]
        bad = next((r for r, ok in zip(results, right, strict=True) if not ok), None)
        return _grade(right, bad)

    def content(self) -> Any:
        return [self.name, self.calls, self.outputs]


_ENTRY = """
def _entry(*args):
    owner = globals().get("Solution")
    return (getattr(owner(), "{name}") if owner else globals()["{name}"])(*args)
"""


def _program(code: str) -> str:
    """The reference harness puts a program into a function, and some of the human solutions end
    with a ``return``: those are put into one here.
    """
    try:
        outside = [n for n in ast.parse(code).body if not isinstance(n, _SCOPES)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return code
    if not any(isinstance(n, ast.Return) for statement in outside for n in ast.walk(statement)):
        return code
    return f"def _main():\n{textwrap.indent(code, '    ')}\n_main()\n"


_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def _grade(right: Sequence[bool], bad: Result | None) -> Grade:
    share = sum(right) / len(right)
    if bad is None:
        return Grade(Status.PASS, share)
    status = Status.FAIL if bad.status is Status.OK else bad.status
    return Grade(status, share, bad.detail or f"case {right.index(False)}: another output expected")


def same_output(given: str, wanted: str) -> bool:
    """Line by line and word by word; white space does not count, and numbers may differ by the
    tolerance of the reference harness (numpy's). What that lets pass beyond, words in any order, is
    wrong here.
    """
    a, b = ([line.split() for line in _lines(text)] for text in (given, wanted))
    if a == b:
        return True
    if [len(line) for line in a] != [len(line) for line in b]:
        return False
    try:
        one, other = ([float(word) for line in lines for word in line] for lines in (a, b))
    except ValueError:
        return False
    return bool(np.allclose(one, other))


def _lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


def same_value(given: Any, wanted: Any) -> bool:
    """Tuples are lists, as JSON has no others; the expected value may stand in a list of one."""
    value = _listed(given)
    return bool(value == wanted or (isinstance(wanted, list) and wanted and value == wanted[0]))


def _listed(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_listed(item) for item in value]
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return value


# --- rows ---


def parse(row: Row) -> Problem | None:
    """A row of the hub's files, in which some fields are JSON as text."""
    tests = row["input_output"]
    tests = json.loads(tests) if isinstance(tests, str) and tests.strip() else tests or {}
    check = _check(tests)
    if check is None:
        return None
    solutions = row.get("solutions") or "[]"
    solutions = json.loads(solutions) if isinstance(solutions, str) else solutions
    starter, name = row.get("starter_code") or "", tests.get("fn_name", "")
    how = "Use Call-Based format" if name else "Use Standard Input format"
    way = _WAYS[bool(name)].format(name=name, starter=starter)
    asked = f"\nQUESTION:\n{row['question']}\n{starter}\n{how}\n"
    return Problem(
        id=_id(row),
        prompt=f"{asked}\nANSWER:\n",
        question=f"{row['question'].strip()}\n{way}"
        "Answer with the whole program in one ```python block.",
        prefix="",
        entry_point=name,
        reference=solutions[0] if solutions else "",
        check=check,
        visible=None if name else examples(row["question"]),
        level=row["difficulty"],
    )


_WAYS = {
    False: "\nRead the input from standard input and print the answer.\n",
    True: "\nComplete this code; its function {name} is called:\n\n{starter}\n\n",
}


def _check(tests: Row) -> StdinCheck | CallCheck | None:
    inputs, outputs = tests.get("inputs") or [], tests.get("outputs") or []
    if not inputs or len(inputs) != len(outputs):
        return None
    if name := tests.get("fn_name"):
        calls = tuple(literal(tuple(_keyed(arg) for arg in args)) for args in inputs)
        return CallCheck(name, calls, tuple(map(_keyed, outputs)))
    return StdinCheck(tuple(map(_text, inputs)), tuple(map(_text, outputs)))


def _text(value: Any) -> str:
    """Some rows have lists of lines."""
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def _keyed(value: Any) -> Any:
    """JSON has only text as keys: those that are all whole numbers were numbers."""
    if isinstance(value, dict) and value and all(re.fullmatch(r"-?\d+", k) for k in value):
        return {int(key): item for key, item in value.items()}
    return value


_EXAMPLE = re.compile(
    r"Input\n(.*?)\n+Output\n(.*?)(?=\n\s*\nInput\n|\n-----|\n\s*\nNote|\Z)", re.S
)


def examples(question: str) -> StdinCheck | None:
    """The samples that a statement shows in Codeforces's form."""
    _, _, shown = question.partition("-----Example")
    pairs = _EXAMPLE.findall(shown)
    if not pairs:
        return None
    inputs, outputs = zip(*[(given + "\n", wanted) for given, wanted in pairs], strict=True)
    return StdinCheck(inputs, outputs)


def _id(row: Row) -> str:
    return f"APPS/{int(row['problem_id']):04d}"


def folder_rows(folder: Path) -> Iterator[Row] | None:
    """The rows of the original layout, a folder a problem; None where it is not that."""
    found = sorted(path.parent for path in folder.glob("**/question.txt"))
    return map(_row, found) if found else None


def _row(problem: Path) -> Row:
    def read(name: str) -> str:
        path = problem / name
        return path.read_text(encoding="utf-8") if path.exists() else ""

    try:
        return {
            "problem_id": int(problem.name),
            "question": read("question.txt"),
            "solutions": read("solutions.json"),
            "input_output": read("input_output.json"),
            "starter_code": read("starter_code.py"),
            "difficulty": json.loads(read("metadata.json"))["difficulty"],
        }
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{problem}: not a problem of APPS ({error})") from error


def _spec(name: str, level: str) -> Spec:
    return Spec(
        name=name,
        parse=parse,
        id_of=_id,
        level=level,
        stop=("\nQUESTION:", "\n---", "\n```"),
        limits=LIMITS,
        form="APPS's own: QUESTION, format, ANSWER",
        files=("test.jsonl", "apps.jsonl"),
        rows=folder_rows,
        hub=("codeparrot/apps", level or "all"),
        mend="give as --data the test folder of "
        "https://people.eecs.berkeley.edu/~hendrycks/APPS.tar.gz, or test.jsonl of the hub's "
        "codeparrot/apps",
    )


SPECS = (_spec("apps", ""), *(_spec(f"apps-{level}", level) for level in LEVELS))
