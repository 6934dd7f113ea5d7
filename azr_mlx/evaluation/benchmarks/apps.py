"""APPS (Hendrycks et al., arXiv 2105.09938): programs from problem statements, at three levels and
in two forms: a function or method that is called, or a program that reads stdin.

Two figures: strict accuracy (all test cases of a problem pass) and the test-case average. A problem
without test cases is set aside. Each stdin case is a process of its own.
"""

from __future__ import annotations

import ast
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from azr_mlx.errors import UsageError
from azr_mlx.evaluation.benchmarks import cases
from azr_mlx.evaluation.benchmarks.problem import DataRow, Grade, Problem, Spec
from azr_mlx.files import Unreadable, from_json, read_text
from azr_mlx.sandbox import MAX_CALLS, MAX_REPORTED, Job, Limits, Result, literal, parse_literal
from azr_mlx.text import NOT_PYTHON
from azr_mlx.types import Status

# The reference harness stops a case at 4 s of wall time; a busy machine does not stretch CPU time.
CASE_S = 4.0
LIMITS = Limits(wall_s=3 * CASE_S, cpu_s=CASE_S, memory_mb=1024, output_kb=4096)
MOST_SLOW = 30  # how many calls in one process may take all of their time
LEVELS = ("introductory", "interview", "competition")
# Before every solution: the names that the reference harness gives it, since solutions were written
# for judges that have them. (numpy, which that has too, is not in the sandbox.)
HEADER = """import sys, time, itertools, collections, math, fractions, random, heapq
from itertools import accumulate, product, permutations, combinations
from collections import Counter, OrderedDict, deque, defaultdict, ChainMap
from functools import lru_cache
from math import sqrt, sin, cos, tan, ceil, fabs, floor, gcd, exp, log, log2
from typing import List, Tuple
from heapq import *
stdin, stdout = sys.stdin, sys.stdout
"""


@dataclass(frozen=True, slots=True)
class StdinCheck:
    """A program on each of ``inputs``; ``outputs`` is what it should print."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def jobs(self, code: str) -> list[Job]:
        program = cases.headed(HEADER, cases.as_program(code))
        return cases.jobs(program, self.inputs, self.outputs, LIMITS)

    def grade(self, code: str, results: Sequence[Result]) -> Grade:
        return cases.grade(results, self.outputs, same_output)

    def content(self) -> Any:
        return [self.inputs, self.outputs]


@dataclass(frozen=True, slots=True)
class CallCheck:
    """A function, or a method of ``class Solution``, on each of ``calls`` (tuples, as text). As in
    the reference harness, one process loads the program once and makes all the calls.
    """

    name: str
    calls: tuple[str, ...]
    outputs: tuple[Any, ...]

    def jobs(self, code: str) -> list[Job]:
        program = cases.with_entry(cases.headed(HEADER, code), self.name)
        times = min(len(self.calls), MOST_SLOW)
        limits = replace(LIMITS, wall_s=times * LIMITS.wall_s, cpu_s=times * LIMITS.cpu_s)
        return [
            Job(str(i), program, call="_entry", calls=calls, call_s=CASE_S, limits=limits)
            for i, calls in enumerate(self._parts())
        ]

    def _parts(self) -> list[tuple[str, ...]]:
        """All calls; in several parts if their values could not come back together."""
        parts: list[list[str]] = []
        room = 0
        for args, wanted in zip(self.calls, self.outputs, strict=True):
            size = 2 * len(str(wanted)) + 100
            if room < size or len(parts[-1]) >= MAX_CALLS:
                parts.append([])
                room = MAX_REPORTED
            parts[-1].append(args)
            room -= size
        return [tuple(part) for part in parts]

    def grade(self, code: str, results: Sequence[Result]) -> Grade:
        given: list[Any] = []
        for result, part in zip(results, self._parts(), strict=True):
            values = list(result.values or ())
            given += values + [_NOTHING] * (len(part) - len(values))
        wrapped = all(len(one) == 1 for one in self.outputs if isinstance(one, list))
        right = [
            same_value(value, wanted, wrapped)
            for value, wanted in zip(given, self.outputs, strict=True)
        ]
        if all(right):
            return cases.counted(right, None)
        bad = next((r for r in results if r.detail), results[0])
        if bad.status is Status.OK and bad.detail:  # of a call that gave no value
            slow = bad.detail.startswith("TooLong")
            bad = replace(bad, status=Status.TIMEOUT if slow else Status.ERROR)
        return cases.counted(right, bad)

    def content(self) -> Any:
        return [self.name, self.calls, self.outputs]


_NOTHING = object()


def same_output(given: str, wanted: str) -> bool:
    """Line by line and word by word; white space does not count. If a number with a point or an
    exponent is expected, another may differ by the tolerance of the reference harness (numpy's). A
    whole number must be met, but for a rounding error of computation (1e-6). What the reference
    lets pass beyond is wrong here: words in any order, numbers merely close to a whole one.
    """
    lines = _lines(given)  # one by one: what is printed may be a thousand times what is expected
    for line in _lines(wanted):
        theirs = line.split()
        ours = next(lines, "").split(None, len(theirs))
        if len(ours) != len(theirs):
            return False
        if not all(x == y or _is_close(x, y) for x, y in zip(ours, theirs, strict=True)):
            return False
    return next(lines, None) is None


def _is_close(given: str, wanted: str) -> bool:
    if not all(_NUMBER.fullmatch(word) for word in (given, wanted)):
        return False
    if _INTEGER.fullmatch(wanted):
        try:
            return abs(Decimal(given) - Decimal(wanted)) <= _ROUNDING
        except ArithmeticError:  # an exponent beyond any that it knows
            return False
    return bool(np.isclose(float(given), float(wanted)))


_ROUNDING = Decimal("1e-6")
_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


def _lines(text: str) -> Iterator[str]:
    return (line for line in io.StringIO(text, newline="\n") if line.strip())


def same_value(given: Any, wanted: Any, wrapped: bool = False) -> bool:
    """Tuples are lists, as JSON has no others. ``wrapped``: the expected value may stand in a list
    of one. (The reference harness takes the first item of any expected list for right.)
    """
    value = _listed(given)
    return bool(value == wanted or (wrapped and isinstance(wanted, list) and value == wanted[0]))


def _listed(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_listed(item) for item in value]
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return value


# --- rows ---


def parse(row: DataRow) -> Problem | None:
    """A row of the hub's files, in which some fields are JSON as text. None if its tests cannot be
    used."""
    tests = row["input_output"]
    try:
        tests = from_json(tests) if isinstance(tests, str) and tests.strip() else tests or {}
    except Unreadable:
        if _HUGE.search(tests):  # one must not cost the whole benchmark
            return None
        raise
    check = _check(tests)
    if check is None:
        return None
    solutions = row.get("solutions") or "[]"
    solutions = from_json(solutions) if isinstance(solutions, str) else solutions
    starter, name = row.get("starter_code") or "", tests.get("fn_name") or ""
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
        visible=called_examples(name, row["question"]) if name else examples(row["question"]),
        level=row["difficulty"],
    )


_HUGE = re.compile(r"\d{4301}")  # more digits than Python reads as a whole number
_WAYS = {
    False: "\nRead the input from standard input and print the answer.\n",
    True: "\nComplete this code; its function {name} is called:\n\n{starter}\n\n",
}


def _check(tests: DataRow) -> StdinCheck | CallCheck | None:
    inputs, outputs = tests.get("inputs") or [], tests.get("outputs") or []
    lists = isinstance(inputs, list) and isinstance(outputs, list)
    if not lists or not inputs or len(inputs) != len(outputs):
        return None
    if name := tests.get("fn_name"):
        try:
            calls = tuple(literal(tuple(_keyed(arg) for arg in args)) for args in inputs)
        except ValueError:  # not a number, or nested without end
            return None
        return CallCheck(name, calls, tuple(map(_keyed_output, outputs)))
    return StdinCheck(tuple(map(_text, inputs)), tuple(map(_text, outputs)))


def _text(value: Any) -> str:
    """The text of a field that may be a list of lines."""
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def _keyed(value: Any) -> Any:
    """JSON has only text as keys: those that are all whole numbers were numbers."""
    if isinstance(value, dict) and value and all(re.fullmatch(r"-?\d+", k) for k in value):
        return {int(key): item for key, item in value.items()}
    return value


def _keyed_output(value: Any) -> Any:
    """The expected value, which some rows wrap in a list of one."""
    return [_keyed(item) for item in value] if isinstance(value, list) else _keyed(value)


# Codeforces: one heading, then pairs. AtCoder and CodeChef: a heading for each half.
_PAIR = re.compile(r"Input\n(.*?)\n+Output\n(.*?)(?=\n\s*\nInput\n|\n-----|\n\s*\nNote|\Z)", re.S)
_HALVES = re.compile(
    r"-----(?:Sample|Example) Input[^\n]*-----\n(.*?)\n\s*"
    r"-----(?:Sample|Example) Output[^\n]*-----\n(.*?)(?=\n\s*\n|\n-----|\Z)",
    re.S,
)
# LeetCode: one line each, the arguments with their names.
_CALLED = re.compile(r"^Input:[ \t]*(.+)\nOutput:[ \t]*(.+)$", re.M)


def examples(question: str) -> StdinCheck | None:
    """The samples that the statement of a program shows."""
    question = question.replace("\r\n", "\n")
    _, _, shown = question.partition("-----Example")
    pairs = _HALVES.findall(question) or _PAIR.findall(shown)
    if not pairs:
        return None
    inputs, outputs = zip(*[(given + "\n", wanted) for given, wanted in pairs], strict=True)
    return StdinCheck(inputs, outputs)


def called_examples(name: str, question: str) -> CallCheck | None:
    """The samples that the statement of a function shows, those of literals."""
    pairs = []
    for given, wanted in _CALLED.findall(question.replace("\r\n", "\n")):
        try:
            args, value = _shown_arguments(given), parse_literal(wanted)
            pairs.append((literal(args), value))
        except NOT_PYTHON:
            continue
    if not pairs:
        return None
    calls, outputs = zip(*pairs, strict=True)
    return CallCheck(name, calls, outputs)


def _shown_arguments(text: str) -> tuple[Any, ...]:
    """Of ``xs = [1, 2], k = 3``, or without the names. Raises ValueError, SyntaxError."""
    call = ast.parse(f"f({text})", mode="eval").body
    if not isinstance(call, ast.Call):
        raise ValueError("no arguments")
    return tuple(ast.literal_eval(n) for n in [*call.args, *(k.value for k in call.keywords)])


def _id(row: DataRow) -> str:
    return f"APPS/{int(row['problem_id']):04d}"


def folder_rows(folder: Path) -> Iterator[DataRow] | None:
    """The rows of the original layout, one folder per problem; None if it is not that."""
    found = sorted(path.parent for path in folder.glob("**/question.txt"))
    return map(_row, found) if found else None


def _row(problem: Path) -> DataRow:
    def read(name: str) -> str:
        path = problem / name
        return read_text(path) if path.exists() else ""

    try:
        return {
            "problem_id": int(problem.name),
            "question": read("question.txt"),
            "solutions": read("solutions.json"),
            "input_output": read("input_output.json"),
            "starter_code": read("starter_code.py"),
            "difficulty": from_json(read("metadata.json"))["difficulty"],
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
        # The repository's own form is a script, which datasets runs no more.
        hub=("json",),
        hub_file="hf://datasets/codeparrot/apps/test.jsonl",
        fix="give as --data the test folder of "
        "https://people.eecs.berkeley.edu/~hendrycks/APPS.tar.gz, or test.jsonl of the hub's "
        "codeparrot/apps",
    )


SPECS = (_spec("apps", ""), *(_spec(f"apps-{level}", level) for level in LEVELS))
