"""HumanEval+ and MBPP+ (Liu et al., EvalPlus, arXiv 2305.01210): the same problems, with many more
inputs. What is expected of a completion is what the reference solution gives on them.

The rules are those of EvalPlus 0.3.1: which inputs stand for tuples, sets and complex numbers (JSON
has none of these), the tolerance of floats, and the problems whose answers are judged by a rule of
their own. But an input is left out if the reference's value is too large to come back from the
sandbox, by itself or together with the others (76 of MBPP+'s inputs). Both solutions run in the
sandbox, each in a process of its own; their values are compared here.
"""

from __future__ import annotations

import cmath
import math
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from azr_mlx.errors import UsageError
from azr_mlx.evaluation.benchmarks import humaneval, mbpp
from azr_mlx.evaluation.benchmarks.numpy_free import without_numpy
from azr_mlx.evaluation.benchmarks.problem import AssertCheck, DataRow, Grade, Problem, Spec
from azr_mlx.sandbox import Job, Limits, Result, is_opaque, literal
from azr_mlx.types import Status

LIMITS = Limits(wall_s=180.0, cpu_s=60.0, memory_mb=2048, output_kb=64)
# EvalPlus's rule, but of CPU instead of wall time: an input may take this long, or four times as
# long as the reference takes, if that is more; all together may take the limit above, and four
# times the reference's time besides. A slow machine gets more.
INPUT_S, TIMES = 1.0, 4.0
_LOOP, _LOOP_S = 1_000_000, 0.07  # a loop, and what it takes on a machine that is not slow
Value = Any
Same = Callable[[tuple[Value, ...], Value, Value], bool]  # arguments, a value, the expected one


class PlusCheck:
    """A function on many inputs, compared with the reference on the same inputs. The first ``base``
    of these are the original benchmark's.

    The first verdicts also ask for the reference, all with one job; its values are kept for the
    next ones.
    """

    def __init__(
        self,
        entry: str,
        reference: str,
        inputs: Sequence[tuple[Value, ...]],
        atol: float,
        base: int = 0,
    ) -> None:
        self.entry, self.reference, self.atol, self.base = entry, reference, atol, base
        self.inputs = tuple(inputs)
        self.call, self.calls, self.more = entry, _calls(self.inputs), ""
        if self.calls is None:
            self.call, self.calls = "_entry", tuple(f"({i},)" for i in range(len(inputs)))
            self.more = _ENTRY.format(inputs=_source(list(self.inputs)), entry=entry)
        self._asked: Job | None = None
        self._expected: tuple[Value, ...] | None = None
        self._seconds: tuple[float, ...] = ()  # of each input, by the reference

    def jobs(self, code: str) -> list[Job]:
        own = self._job("code", code)
        if self._expected is not None:
            return [own]
        self._asked = self._asked or self._job("reference", self.reference)
        return [self._asked, own]

    def _job(self, name: str, code: str) -> Job:
        most = self._most()
        limits = replace(LIMITS, cpu_s=most, wall_s=most * LIMITS.wall_s / LIMITS.cpu_s)
        return Job(name, code + self.more, call=self.call, calls=self.calls, limits=limits)

    def _most(self) -> float:
        """Seconds of CPU time for all inputs together; more once the reference's is known."""
        return LIMITS.cpu_s * slowness() + TIMES * sum(self._seconds)

    def _limits(self) -> list[float]:
        """Seconds of CPU time for each input."""
        return [max(INPUT_S * slowness(), TIMES * seconds) for seconds in self._seconds]

    def grade(self, code: str, results: Sequence[Result]) -> Grade:
        *reference, given = results
        if reference:
            if reference[0].status is not Status.OK or reference[0].values is None:
                return Grade(Status.INVALID, 0.0, f"the reference fails: {reference[0].detail}")
            self._expected, self._seconds = reference[0].values, reference[0].call_seconds
        assert self._expected is not None  # otherwise jobs() has had it computed
        judged = [i for i, wanted in enumerate(self._expected) if self._is_judged(wanted)]
        if not judged:
            return Grade(Status.INVALID, 0.0, "the reference gives no value to compare with")
        wrong = self._wrong(given.values or (), self._expected, judged)
        share = 1.0 - len(wrong) / len(judged)
        base = self._base(given, judged, wrong)
        if given.status is not Status.OK:
            return Grade(given.status, share, given.detail, base)
        slow = self._slow(given)
        if slow or sum(given.call_seconds) > self._most():
            most = self._limits()[slow[0]] if slow else self._most()
            return Grade(Status.TIMEOUT, share, f"more than {most:.3g} s of CPU time", base)
        if wrong:
            text = f"{self.entry}{_source(self.inputs[wrong[0]])}"
            return Grade(Status.FAIL, share, f"{text[:200]}: another value is expected", base)
        return Grade(Status.PASS, 1.0, base=base)

    def _base(self, given: Result, judged: Sequence[int], wrong: Sequence[int]) -> Status | None:
        """The verdict by the original inputs alone. It is not known if a limit ended the process:
        no value came back then."""
        made = len(given.values or ())
        if not any(i < self.base for i in judged):
            return None
        if any(i < min(self.base, made) for i in wrong):
            return Status.FAIL
        if made < self.base:
            return Status.ERROR if given.status is Status.ERROR else None
        return Status.TIMEOUT if any(i < self.base for i in self._slow(given)) else Status.PASS

    def _slow(self, given: Result) -> list[int]:
        """The inputs that took longer than they may."""
        taken = zip(given.call_seconds, self._limits(), strict=False)
        return [i for i, (seconds, most) in enumerate(taken) if seconds > most]

    def _is_judged(self, wanted: Value) -> bool:
        return not is_opaque(wanted) or SPECIAL.get(self.entry) is _same_presence

    def _wrong(
        self, given: Sequence[Value], expected: Sequence[Value], judged: Sequence[int]
    ) -> list[int]:
        """Which of the ``judged`` inputs have another value, or none: it ends with the first call
        that raised. Once a float was expected, EvalPlus compares all that follows with a tolerance.
        """
        atol, wrong = self.atol, []
        for i in judged:
            if atol == 0 and _is_floats(expected[i]):
                atol = 1e-6
            if i >= len(given) or not self._same(i, given[i], expected[i], atol):
                wrong.append(i)
        return wrong

    def _same(self, number: int, value: Value, wanted: Value, atol: float) -> bool:
        special = SPECIAL.get(self.entry)
        try:
            if special is not None and special(self.inputs[number], value, wanted):
                return True
            if special in _DECISIVE:
                return False
            return bool(value == wanted) or (atol != 0 and _is_close(value, wanted, atol))
        except (TypeError, ValueError, ArithmeticError):
            return False

    def content(self) -> Any:
        return [self.entry, self.reference, self.calls, self.more, self.atol]


@cache
def slowness() -> float:
    """How many times as long as on a machine that is not slow Python takes here; at least 1."""
    start, total = time.process_time(), 0
    for number in range(_LOOP):
        total += number * number % 7
    return max(1.0, (time.process_time() - start) / _LOOP_S)


# Infinities and very large arguments are not plain literals: the program holds them.
_ENTRY = """

_inputs = {inputs}


def _entry(number):
    return {entry}(*_inputs[number])
"""


def _calls(inputs: Sequence[tuple[Value, ...]]) -> tuple[str, ...] | None:
    try:
        return tuple(map(literal, inputs))
    except ValueError:
        return None


def _source(value: Value) -> str:
    """Python source of a value; ``repr`` has no such thing for infinities and NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    if isinstance(value, complex) and not cmath.isfinite(value):
        return f"complex({_source(value.real)}, {_source(value.imag)})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_source(k)}: {_source(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)) or (isinstance(value, set) and value):
        brackets = {list: "[]", tuple: "()", set: "{}"}[type(value)]
        return brackets[0] + "".join(f"{_source(item)}, " for item in value) + brackets[1]
    return repr(value)


def _is_floats(value: Value) -> bool:
    if isinstance(value, (list, tuple)) and value:
        return all(isinstance(item, float) for item in value)
    return isinstance(value, float)


def _is_close(value: Value, wanted: Value, atol: float) -> bool:
    if type(value) is not type(wanted):
        return False
    if isinstance(wanted, (list, tuple)) and len(value) != len(wanted):
        return False
    return bool(np.allclose(value, wanted, rtol=1e-7, atol=atol))


# --- problems with a rule of their own, by the function's name ---


def _same_set(args: tuple[Value, ...], value: Value, wanted: Value) -> bool:
    return set(value) == set(wanted)


def _same_presence(args: tuple[Value, ...], value: Value, wanted: Value) -> bool:
    """Something was found or not: a match object, its text and True are all the same."""
    found = wanted is not None and wanted is not False
    return value is found if isinstance(value, bool) else (value is not None) == found


def _pyramid(args: tuple[Value, ...], value: Value, wanted: Value) -> bool:
    """Mbpp/581: the height may also be that of the apex over the base."""
    base, height = args
    return bool(value == round(base**2 + 2 * base * math.hypot(base / 2, height)))


def _digit_distance(args: tuple[Value, ...], value: Value, wanted: Value) -> bool:
    """Mbpp/558: the numbers may be taken as of equal length, with zeros before the shorter one."""
    width = max(len(str(number)) for number in args)
    a, b = (str(number).zfill(width) for number in args)
    return bool(value == sum(abs(int(x) - int(y)) for x, y in zip(a, b, strict=True)))


def _root(args: tuple[Value, ...], value: Value, wanted: Value) -> bool:
    """Accepts any zero of the polynomial (HumanEval/32)."""
    return bool(abs(sum(c * math.pow(value, i) for i, c in enumerate(args[0]))) <= 1e-4)


# These alone decide; in addition to the others, a value like the reference's is right as well.
_DECISIVE = (_same_set, _same_presence, _root)
SPECIAL: dict[str, Same] = {
    **dict.fromkeys(
        (
            *("similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly"),
            *("larg_nnum", "intersection_array", "find_dissimilar", "Diff"),
        ),
        _same_set,
    ),
    **dict.fromkeys(("check_str", "text_match_three", "text_starta_endb"), _same_presence),
    "are_equivalent": lambda args, value, wanted: True,
    "sum_div": lambda args, value, wanted: value == 0,
    "surface_Area": _pyramid,
    "digit_distance_nums": _digit_distance,
    "find_zero": _root,
}


# --- inputs that JSON cannot say, by MBPP's number ---


def _tuple(value: Value) -> Value:
    return tuple(value) if isinstance(value, list) else value


def _tuples(value: Value) -> Value:
    """Make a list of tuples."""
    return [_tuple(item) for item in value]


def _deep(value: Value) -> Value:
    return tuple(map(_deep, value)) if isinstance(value, list) else value


def _each(change: Callable[[Value], Value]) -> Callable[[list[Value]], list[Value]]:
    return lambda args: [change(arg) for arg in args]


def _first(change: Callable[[Value], Value]) -> Callable[[list[Value]], list[Value]]:
    return lambda args: [change(args[0]), *args[1:]]


def _second(change: Callable[[Value], Value]) -> Callable[[list[Value]], list[Value]]:
    return lambda args: [args[0], change(args[1]), *args[2:]]


def _sets(value: Value) -> Value:
    return [set(item) if isinstance(item, list) and item else {} for item in value]


def _tuple_values(value: Value) -> Value:
    return {key: tuple(item) for key, item in value.items()}


_CHANGES: tuple[tuple[str, Callable[[list[Value]], list[Value]]], ...] = (
    (
        "2 116 132 143 222 261 273 394 399 421 424 429 470 560 579 596 616 630 726 740 744 809",
        _each(_tuple),
    ),
    ("63 64 70 94 120 237 272 299 400 409 417 438 473 614 780", _each(_tuples)),
    ("75 413 444 753", _first(_tuples)),
    ("106 750", _second(_tuple)),
    ("115", _first(_sets)),
    ("124", lambda args: [float(args[0]), complex(args[1])]),
    ("250 405 446 617 720 763 808 307", _first(_tuple)),
    ("259 401 445", _each(lambda value: tuple(_tuples(value)))),
    ("278", _first(lambda value: tuple(_tuples(value)))),
    ("722", _first(_tuple_values)),
    ("252", _first(complex)),
    ("580 615 791", _each(_deep)),
)
_CHANGE_OF = {number: change for numbers, change in _CHANGES for number in numbers.split()}


def arguments(name: str, rows: Sequence[list[Value]]) -> list[tuple[Value, ...]]:
    """The arguments of each call of a problem, as EvalPlus reads them."""
    prefix, _, number = name.partition("/")
    change = _CHANGE_OF.get(number) if prefix == "Mbpp" else None
    return [tuple(row if change is None else change(row)) for row in rows]


# --- rows ---


def check(row: DataRow, *, base_only: bool = False) -> PlusCheck:
    """The check of a row; ``base_only``: by the original benchmark's inputs alone."""
    rows = [*row["base_input"], *([] if base_only else row["plus_input"])]
    reference = row["canonical_solution"]
    if row["task_id"].startswith("HumanEval"):
        reference = row["prompt"] + reference
    inputs = arguments(row["task_id"], rows)
    base = len(row["base_input"])
    if type(row["atol"]) not in (int, float) or not 0 <= row["atol"] < math.inf:
        raise ValueError(f"atol {str(row['atol'])[:40]} is not a number of at least 0")
    return PlusCheck(row["entry_point"], reference, inputs, row["atol"], base)


def parse_mbpp(row: DataRow) -> Problem | None:
    text = row["prompt"].strip().strip('"').strip()
    asserts = [line for line in text.split("\n") if line.startswith("assert ")]
    if not row["base_input"]:
        return None
    said = "\n".join(line for line in text.split("\n") if line not in asserts)
    return Problem(
        id=row["task_id"],
        prompt=row["prompt"],
        question=mbpp.question(said, "\n".join(asserts)),
        prefix="",
        entry_point=row["entry_point"],
        reference=row["canonical_solution"],
        check=check(row),
        visible=AssertCheck("\n".join(asserts) + "\n", mbpp.LIMITS) if asserts else None,
    )


def parse_humaneval(row: DataRow) -> Problem | None:
    """A row of EvalPlus's file, or of the hub's data set, which has its tests as Python. Raises
    UsageError if these need more of numpy than there is."""
    if "test" in row and "plus_input" not in row:
        try:
            return humaneval.with_tests(row, without_numpy(row["test"]), LIMITS)
        except ValueError as error:
            raise UsageError(
                f"--benchmark humaneval-plus: the tests of {row['task_id']} need {error}, which is "
                f"not in the sandbox; {HUMANEVAL.fix}"
            ) from error
    prompt, entry = row["prompt"], row["entry_point"]
    if not row["base_input"]:
        return None
    shown = humaneval.examples(prompt, entry)
    return Problem(
        id=row["task_id"],
        prompt=prompt,
        question=humaneval.question(prompt),
        prefix=prompt,
        entry_point=entry,
        reference=row["canonical_solution"],
        check=check(row),
        visible=AssertCheck(shown, humaneval.LIMITS) if shown else None,
    )


def _cached(name: str) -> Path | None:
    """The newest file of EvalPlus's own cache, or the one that its override names."""
    override = os.environ.get(f"{name.upper()}_OVERRIDE_PATH")
    if override:
        return Path(override)
    found = platformdirs.user_cache_path("evalplus").glob(f"{name}Plus-v*.jsonl")
    return max(found, key=lambda path: [*map(int, re.findall(r"\d+", path.name))], default=None)


def _spec(original: Spec, parse: Callable[[DataRow], Problem | None], name: str) -> Spec:
    """As the original benchmark's; the data is EvalPlus's, which is on no hub in this form."""
    file = f"{name}Plus.jsonl"
    return replace(
        original,
        name=f"{original.name}-plus",
        parse=parse,
        id_of=lambda row: str(row["task_id"]),
        selected=lambda name: True,
        limits=LIMITS,
        package="",
        cached=lambda: _cached(name),
        hub=(),
        files=(file, f"{file}.gz", f"{original.name}-plus-v0.2.0.jsonl"),
        fix=f"give as --data {file}.gz of "
        f"https://github.com/evalplus/{name.lower()}plus_release/releases, or let EvalPlus "
        "load it: its cache is found",
    )


HUMANEVAL = _spec(humaneval.SPEC, parse_humaneval, "HumanEval")
MBPP = _spec(mbpp.SPEC, parse_mbpp, "Mbpp")
