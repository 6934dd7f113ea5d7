"""Jobs, their limits and their results, and the check that a job is well-formed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any

from azr_mlx.sandbox.jail.wire import MAX_CALLS
from azr_mlx.sandbox.literals import literal, parse_literal
from azr_mlx.types import Status

MAX_TEXT = 4 << 20  # characters of all texts of one job together, without its stdin
MAX_STDIN = 15 << 20  # bytes; stdin is a file, and a job's files may have 16 MiB


@dataclass(frozen=True, slots=True)
class Limits:
    """What one job may use.

    ``wall_s`` and ``cpu_s`` are in seconds (CPU time is rounded up to whole seconds), ``memory_mb``
    in MiB of address space (in addition to that of the bare interpreter), ``output_kb`` in KiB of
    stdout that are kept. ``processes`` is the number of child processes (0: none; threads do not
    count).
    """

    wall_s: float = 5.0
    cpu_s: float = 4.0
    memory_mb: int = 512
    output_kb: int = 64
    processes: int = 0

    def error(self) -> str:
        """One line that says what is wrong, or an empty string."""
        for name in ("wall_s", "cpu_s"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 < value <= 86_400:
                return f"limits.{name} = {value!r}: must be a number of seconds in (0, 86400]"
        for name, low, high in (
            ("memory_mb", 1, 1 << 20),
            ("output_kb", 0, 1 << 14),
            ("processes", 0, 256),
        ):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                return f"limits.{name} = {value!r}: must be an integer in [{low}, {high}]"
        return ""


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of untrusted code, in one of four styles.

    - ``call`` and ``args``: the value of ``call(*args)``; ``args`` is a Python literal tuple, and
      ``expect`` (optional) a Python literal, both as text.
    - ``call`` and ``calls``: the values of many calls in one process; each of ``calls`` is the text
      of a tuple of arguments. An exception ends the job. With ``call_s`` (seconds of CPU time that
      each call may take) the value of a call that raises, or takes longer, equals nothing, and the
      next one is made.
    - ``tests``: assertions that run in the code's namespace after the code.
    - ``stdin`` and ``expect_stdout`` (both optional): the code is a program.

    If ``limits`` is None, the limits of the sandbox apply. ``deterministic`` runs the job in two
    fresh processes whose hash seeds, random seeds and clocks differ, and demands the same outcome.
    ``trace`` counts executed lines.
    """

    id: str
    code: str
    call: str | None = None
    args: str | None = None
    expect: str | None = None
    calls: tuple[str, ...] | None = None
    call_s: float | None = None
    tests: str | None = None
    stdin: str | None = None
    expect_stdout: str | None = None
    limits: Limits | None = None
    deterministic: bool = False
    trace: bool = False

    @property
    def style(self) -> str:
        """``call``, ``calls``, ``tests`` or ``program``."""
        if self.call is not None:
            return "call" if self.calls is None else "calls"
        return "tests" if self.tests is not None else "program"

    def shape_error(self) -> str:
        """One line that says what is wrong with the job, or an empty string. Does not check its
        literals.
        """
        return self._type_error() or self._style_error()

    def literals(self) -> tuple[tuple[Any, ...], Any]:
        """The arguments (or a tuple with those of each call), and the expected value or None.
        Raises ValueError with one line.
        """
        if self.calls is not None:
            return tuple(_arguments(f"calls[{i}]", text) for i, text in enumerate(self.calls)), None
        args = _arguments("args", self.args or "()")
        try:
            return args, None if self.expect is None else parse_literal(self.expect)
        except ValueError as error:
            raise ValueError(f"expect: {error}") from None

    def _type_error(self) -> str:
        if type(self.id) is not str or type(self.code) is not str:
            return "id and code must be strings"
        for name in ("call", "args", "expect", "tests", "stdin", "expect_stdout"):
            if type(getattr(self, name)) not in (str, type(None)):
                return f"{name} must be a string"
        calls = () if self.calls is None else self.calls
        if type(calls) is not tuple or not all(type(text) is str for text in calls):
            return "calls must be a tuple of strings"
        if len(calls) > MAX_CALLS:
            return f"{len(calls)} calls (at most {MAX_CALLS})"
        if self.call_s is not None and not (
            type(self.call_s) in (int, float) and 0 < self.call_s <= 86_400
        ):
            return f"call_s = {self.call_s!r}: must be a number of seconds in (0, 86400]"
        if type(self.deterministic) is not bool or type(self.trace) is not bool:
            return "deterministic and trace must be true or false"
        texts = (
            *calls,
            self.code,
            self.call,
            self.args,
            self.expect,
            self.tests,
            self.expect_stdout,
        )
        if sum(len(text) for text in texts if text is not None) > MAX_TEXT:
            return f"more than {MAX_TEXT} characters"
        if self.stdin is not None and size_of(self.stdin) > MAX_STDIN:
            return f"more than {MAX_STDIN} bytes of stdin"
        if self.limits is not None and type(self.limits) is not Limits:
            return "limits must be Limits"
        return self.limits.error() if self.limits is not None else ""

    def _style_error(self) -> str:
        given = {name for name in _STYLED if getattr(self, name) is not None}
        allowed = {
            "call": {"call", "args", "expect"},
            "calls": {"call", "calls", "call_s"},
            "tests": {"tests"},
            "program": {"stdin", "expect_stdout"},
        }[self.style]
        if given - allowed:
            return f"{', '.join(sorted(given - allowed))} does not go with a {self.style} job"
        if self.call is not None and not self.call.isidentifier():
            return f"call = {self.call[:80]!r}: must be the name of a function"
        return ""


def size_of(text: str) -> int:
    """How many bytes a text takes as a file."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


_STYLED = ("call", "args", "expect", "calls", "call_s", "tests", "stdin", "expect_stdout")


def _arguments(where: str, text: str) -> tuple[Any, ...]:
    try:
        args = parse_literal(text)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if type(args) is not tuple:
        raise ValueError(f"{where}: must be a tuple, such as (1,), not {type(args).__name__}")
    return args


@dataclass(frozen=True, slots=True)
class Result:
    """The verdict on one job.

    ``value`` is the literal text of the value (call style), ``detail`` one line, ``stdout`` what
    was kept of the output, ``stdout_cut`` whether there was more, ``seconds`` the wall time of the
    run, ``steps`` the number of executed lines if the job was traced. The process of the code
    counts its own steps and could forge the number, so it proves nothing.

    ``values`` (calls style) are the values of the calls up to the first exception, as objects.
    They are *loose* (see ``codec``): an instance of a subclass becomes one of its base, and a value
    that is not a literal, or too large (128 KiB alone, 896 KiB together), equals nothing.
    ``call_seconds`` is the CPU time of each of these calls, by the same process's own clock.
    """

    id: str
    status: Status
    value: str | None = None
    detail: str = ""
    stdout: str = ""
    seconds: float = 0.0
    steps: int | None = None
    values: tuple[Any, ...] | None = None
    call_seconds: tuple[float, ...] = ()
    stdout_cut: bool = False

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {
            "id": self.id,
            "status": self.status.value,
            "value": self.value,
            "detail": self.detail,
            "stdout": self.stdout,
            "seconds": round(self.seconds, 6),
        }
        if self.stdout_cut:
            row["stdout_cut"] = True
        if self.values is not None:
            row["values"] = [_text_of(value) for value in self.values]
        return row if self.steps is None else {**row, "steps": self.steps}


def _text_of(value: object) -> str | None:
    try:
        return literal(value)
    except ValueError:
        return None


_JOB_KEYS = tuple(f.name for f in fields(Job) if f.name != "limits")
_LIMIT_KEYS = tuple(f.name for f in fields(Limits))


def job_from_json(row: object, defaults: Limits) -> Job:
    """The job of one JSON row. Unknown keys are ignored, except if they look misspelt: a job with a
    misspelt ``expect`` would never fail. Raises ValueError.
    """
    if not isinstance(row, Mapping):
        raise ValueError("a job is a JSON object")
    for key in row.keys() - {*_JOB_KEYS, "limits"}:
        if meant := get_close_matches(str(key).lower(), [*_JOB_KEYS, "limits"], 1, 0.7):
            raise ValueError(f"no such key: {str(key)[:80]!r}; did you mean {meant[0]!r}?")
    for name in ("id", "code"):
        if name not in row:
            raise ValueError(f"the job has no {name!r}")
    values = {name: row[name] for name in _JOB_KEYS if name in row}
    if type(values["id"]) is int:
        values["id"] = str(values["id"])
    if type(values.get("calls")) is list:
        values["calls"] = tuple(values["calls"])
    if row.get("limits") is not None:
        values["limits"] = _limits_from_json(row["limits"], defaults)
    for flag in ("deterministic", "trace"):
        if values.get(flag, False) is None:
            del values[flag]
    return Job(**values)


def _limits_from_json(row: object, defaults: Limits) -> Limits:
    if not isinstance(row, Mapping):
        raise ValueError("limits is a JSON object")
    unknown = sorted(set(map(str, row)) - set(_LIMIT_KEYS))
    if unknown:
        raise ValueError(f"limits.{unknown[0]}: no such limit (there are {', '.join(_LIMIT_KEYS)})")
    return replace(defaults, **row)
