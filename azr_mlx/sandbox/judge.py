"""Turns what a job's process left behind into a verdict. Nothing that a job made is run, evaluated
or unpickled here.
"""

from __future__ import annotations

import secrets
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from azr_mlx.sandbox.asserts import Suite
from azr_mlx.sandbox.jail import wire
from azr_mlx.sandbox.jail.codec import MAX_BYTES, CodecError, decode, decode_loose
from azr_mlx.sandbox.jail.wire import MAX_STEPS
from azr_mlx.sandbox.job import Job, Limits, Result
from azr_mlx.sandbox.literals import equal, literal
from azr_mlx.text import plain
from azr_mlx.types import Status

_FRAME_STATUS = {
    "error": Status.ERROR,
    "fail": Status.FAIL,
    "memory": Status.MEMORY,
    "invalid": Status.INVALID,
}
_NOTHING = object()
_MAX_EXIT = 255


@dataclass(frozen=True, slots=True)
class Execution:
    """One execution of a job: ``spec`` is what its process gets, ``suite`` the tests that are
    judged here, and ``nonce`` the start of its frame.
    """

    job: Job
    limits: Limits
    spec: bytes
    suite: Suite
    nonce: bytes = field(default_factory=lambda: secrets.token_bytes(wire.NONCE_BYTES))

    @property
    def examined(self) -> bool:
        """Whether its tests run in a separate process, which can be trusted."""
        return self.job.tests is not None and not self.suite.sealed

    def request(self) -> bytes:
        """The bytes for a worker. They contain expected values only if the job's tests are
        examined, and even then the process of the code does not get them.
        """
        limits = self.limits
        header = wire.RunRequest(
            self.nonce,
            limits.wall_s,
            limits.memory_mb << 20,
            limits.output_kb << 10,
            limits.processes,
            self.examined,
            len(self.spec),
        )
        return header.pack() + self.spec


@dataclass(frozen=True, slots=True)
class Observed:
    """The outcome of one run. ``value`` is ``_NOTHING`` if there is none. PASS means that the end
    of the tests was reached.
    """

    status: Status
    detail: str = ""
    value: Any = _NOTHING
    stdout: str = ""
    stdout_cut: bool = False
    seconds: float = 0.0
    steps: int | None = None
    call_seconds: tuple[float, ...] = ()


def observe(run: Execution, response: wire.RunResponse, frame: bytes, stdout: bytes) -> Observed:
    """Read one response. Gives an outcome for any bytes, and raises nothing."""
    outcome = _ended_badly(run, response) or _read_frame(run, response, frame)
    return replace(
        outcome,
        stdout=stdout.decode("utf-8", "replace"),
        stdout_cut=bool(response.stdout_cut),
        seconds=response.wall_s,
    )


def _ended_badly(run: Execution, response: wire.RunResponse) -> Observed | None:
    limits = run.limits
    if response.cause == wire.TIMED_OUT:
        return Observed(Status.TIMEOUT, f"more than {limits.wall_s:g} s of wall time")
    if response.cause == wire.BAD_FRAME:
        return Observed(Status.INVALID, "the result is not a well-formed frame")
    if response.cause == wire.TOO_MANY_PROCESSES:
        return Observed(Status.KILLED, f"more than {limits.processes} processes")
    if response.cause == wire.TOO_MANY_THREADS:
        return Observed(Status.KILLED, "too many threads")
    if response.cause == wire.TOO_MUCH_MEMORY:
        return Observed(Status.MEMORY, f"more than {limits.memory_mb} MiB in all its processes")
    if response.exit >= 0:
        return None
    if response.exit == -signal.SIGXCPU or (
        response.exit == -signal.SIGKILL and response.cpu_s > 0.5 * limits.cpu_s
    ):
        return Observed(Status.TIMEOUT, f"more than {limits.cpu_s:g} s of CPU time")
    if _near_memory_limit(run, response):
        return Observed(Status.MEMORY, f"ended near the limit of {limits.memory_mb} MiB")
    return Observed(Status.KILLED, f"ended by {_signal_name(-response.exit)}")


def _near_memory_limit(run: Execution, response: wire.RunResponse) -> bool:
    return response.peak_rss > 0.9 * (run.limits.memory_mb << 20)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _read_frame(run: Execution, response: wire.RunResponse, frame: bytes) -> Observed:
    if not frame:
        return _no_frame(run, response)
    try:
        kind, steps, detail, value = _decoded(run, frame)
        if kind == "ended" and run.examined:
            return _code_ended(run, response, value)
        reports = _reports(value) if run.suite.sealed or run.job.style == "calls" else []
    except (CodecError, TypeError, ValueError) as error:
        return Observed(Status.INVALID, f"the result is not a well-formed frame: {error}"[:300])
    if run.job.style == "calls":
        return _values(run, kind, steps, detail, reports)
    if failure := run.suite.failure(reports):
        return Observed(Status.FAIL, _one_line(failure), steps=steps)
    if kind == "value" and run.job.style == "call":
        return Observed(Status.OK, "", value, steps=steps)
    if kind == "done" and run.job.style == "program":
        return Observed(Status.OK, steps=steps)
    if kind == "pass" and run.job.style == "tests":
        if not run.suite.complete(reports):
            return Observed(
                Status.FAIL, "the tests' end was reached past some of them", steps=steps
            )
        return Observed(Status.PASS, steps=steps)
    if kind in _FRAME_STATUS:
        return Observed(_FRAME_STATUS[kind], detail, steps=steps)
    return Observed(Status.INVALID, "the result is a frame of another kind")


def _code_ended(run: Execution, response: wire.RunResponse, value: Any) -> Observed:
    """The process of the code ended before its tests did. Raises CodecError."""
    if type(value) is not tuple or [*map(type, value)] != [int, float, int]:
        raise CodecError("not the end of a process")
    status, cpu_s, peak_rss = value
    if abs(status) > _MAX_EXIT:
        raise CodecError("no exit status")
    end = response._replace(exit=status, cpu_s=cpu_s, peak_rss=peak_rss)
    return _ended_badly(run, end) or _no_frame(run, end)


def _values(
    run: Execution, kind: str, steps: int | None, detail: str, reports: list[tuple[int, list[Any]]]
) -> Observed:
    """The outcome of a job with many calls."""
    if [number for number, _ in reports] != list(range(len(reports))):
        return Observed(Status.INVALID, "the values are not in the order of the calls")
    if any(len(row) != 2 or type(row[1]) is not float for _, row in reports):
        return Observed(Status.INVALID, "a call has a value and a time")
    values = tuple(value for _, (value, _) in reports)
    seconds = tuple(taken for _, (_, taken) in reports)
    if kind in _FRAME_STATUS:
        return Observed(_FRAME_STATUS[kind], detail, values, steps=steps, call_seconds=seconds)
    if kind != "values" or len(values) != len(run.job.calls or ()):
        return Observed(Status.INVALID, "not every call's value came back")
    return Observed(Status.OK, detail, values, steps=steps, call_seconds=seconds)


def _reports(value: Any) -> list[tuple[int, list[Any]]]:
    """What the split assertions reported. Raises CodecError."""
    reports: list[tuple[int, list[Any]]] = []
    for row in value if type(value) is list else []:
        if type(row) is not list or not row or type(row[0]) is not int:
            raise CodecError("wrong report")
        if not all(type(encoded) is bytes for encoded in row[1:]):
            raise CodecError("wrong report")
        reports.append((row[0], [decode_loose(encoded) for encoded in row[1:]]))
    return reports


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500]


def _decoded(run: Execution, frame: bytes) -> tuple[str, int | None, str, Any]:
    nonce, body = frame[: wire.NONCE_BYTES], frame[wire.NONCE_BYTES :]
    if nonce != run.nonce:
        raise CodecError("wrong nonce")
    limit = MAX_BYTES + 4096 if run.job.style == "call" else wire.MAX_BODY
    kind, steps, detail, value = decode(body, limit)
    if type(kind) is not str or type(detail) is not str or type(steps) not in (int, type(None)):
        raise CodecError("wrong fields")
    if steps is not None and not 0 <= steps <= MAX_STEPS:
        raise CodecError("no number of steps")
    return kind, steps, _one_line(detail), value


def _no_frame(run: Execution, response: wire.RunResponse) -> Observed:
    if run.job.style == "program" and response.exit == 0:
        return Observed(Status.OK)  # It called os._exit(0). A program's answer is what it printed.
    if _near_memory_limit(run, response):
        return Observed(Status.MEMORY, f"ended near the limit of {run.limits.memory_mb} MiB")
    return Observed(Status.ERROR, f"exited with status {response.exit} before it gave a result")


def agree(outcomes: Sequence[Observed]) -> Observed:
    """The outcome of runs that must not differ. If one timed out, ran out of memory, was killed or
    is invalid, its outcome counts for all.
    """
    for outcome in outcomes:
        if outcome.status in (Status.TIMEOUT, Status.MEMORY, Status.KILLED, Status.INVALID):
            return outcome
    first = outcomes[0]
    for other in outcomes[1:]:
        if difference := _difference(first, other):
            detail = f"two runs {difference}"
            return replace(first, status=Status.NONDETERMINISTIC, detail=detail, value=_NOTHING)
    return first


def _difference(a: Observed, b: Observed) -> str:
    if a.status is not b.status:
        return "ended differently"
    if a.value is not _NOTHING and not equal(a.value, b.value):
        return "gave two values"
    return "printed two texts" if a.stdout != b.stdout else ""


def verdict(job: Job, expected: Any, outcome: Observed) -> Result:
    """The result of a well-formed job: its outcome, compared with the ``expected`` value."""
    status, detail, value = outcome.status, outcome.detail, None
    if status is Status.OK and job.style == "call":
        try:
            value = literal(outcome.value)
        except ValueError as error:
            status, detail = Status.INVALID, f"the value is not a plain literal: {error}"
    values = outcome.value if job.style == "calls" and outcome.value is not _NOTHING else None
    if status is Status.OK and job.expect is not None:
        same = equal(outcome.value, expected)
        status, detail = (Status.PASS, "") if same else (Status.FAIL, "another value was expected")
    if status is Status.OK and job.expect_stdout is not None:
        status, detail = _compare_stdout(job.expect_stdout, outcome)
    # The detail may have come from the job. No terminal should obey what it says.
    took = outcome.seconds, outcome.steps, values, outcome.call_seconds
    return Result(
        job.id, status, value, plain(detail), outcome.stdout, *took, stdout_cut=outcome.stdout_cut
    )


def _compare_stdout(expected: str, outcome: Observed) -> tuple[Status, str]:
    """Compare, ignoring white space at the ends of lines and empty lines at the end."""
    if outcome.stdout_cut:
        return Status.FAIL, "stdout is longer than what is kept of it"
    if _lines(outcome.stdout) == _lines(expected):
        return Status.PASS, ""
    return Status.FAIL, "another stdout was expected"


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]
