"""What happens inside the disposable process of one job. Nothing here can be trusted once the code
has started.

The process reads its job from a socket, applies its limits, runs the code and writes one frame.
Everything that is used after the code has run is looked up before it runs, since the code may
replace any builtin or module attribute. Standard library only.
"""

from __future__ import annotations

import builtins
import io
import marshal
import os
import sys
import types
from collections.abc import Callable
from typing import Any, NoReturn

from codec import CodecError, encode, encode_loose  # type: ignore[import-not-found]
from wire import MAX_BODY, MAX_CALLS, MAX_STEPS  # type: ignore[import-not-found]

MAX_DETAIL = 500
CODE, TESTS = "<code>", "<tests>"
REPORT = "_azr_report"  # the function with which split tests report values
MAX_REPORTS = MAX_BODY - 64 * MAX_CALLS  # bytes of reported values; further values become opaque


class Channel:
    """The job's socket. ``spec`` comes in, and one frame goes out."""

    def __init__(self, fd: int, nonce: bytes) -> None:
        self.fd = fd
        self.nonce = nonce
        self._encode, self._write, self._read = encode, os.write, os.read
        self._len, self._min = len, min

    def send(self, kind: str, steps: int | None, detail: str, value: object = None) -> None:
        """Send one frame. Raises CodecError if the value is not a plain literal."""
        self.write(self.nonce + self._encode((kind, steps, detail, value), MAX_BODY))

    def write(self, data: bytes) -> None:
        while data:
            data = data[self._write(self.fd, data) :]

    def read(self, size: int) -> bytes:
        parts = []
        while size:
            part = self._read(self.fd, self._min(size, 1 << 16))
            if not part:
                raise EOFError("the job's socket closed")
            parts.append(part)
            size -= self._len(part)
        return b"".join(parts)


class Steps:
    """Counts the executed lines of the job's own code. At MAX_STEPS it stops tracing."""

    def __init__(self) -> None:
        self.count = 0
        self._settrace = sys.settrace

    def start(self) -> None:
        self._settrace(self._frame)

    def stop(self) -> None:
        self._settrace(None)

    def _frame(self, frame: types.FrameType, event: str, arg: object) -> Any:
        return self._line if frame.f_code.co_filename == CODE else None

    def _line(self, frame: types.FrameType, event: str, arg: object) -> Any:
        if event == "line":
            self.count += 1
            if self.count >= MAX_STEPS:
                self.stop()
                return None
        return self._line


def run(channel: Channel, spec: dict[str, Any], confine: Callable[[Any], None]) -> NoReturn:
    """Call ``confine(spec)``, run the job, write its frame, and exit. Never returns."""
    leave = os._exit
    confine(spec)
    steps = Steps() if spec["trace"] else None
    finish = Finish(channel, steps)
    reseed(spec["code"])
    try:
        _STYLES[spec["style"]](spec, finish)
    except BaseException as error:
        finish.raised(error, "error")
    leave(0)


def reseed(text: str) -> None:
    """Seed ``random`` if the text may use it. To keep forks fast, they do not seed it."""
    if "random" in text:
        import random

        random.seed()


def open_streams() -> None:
    """Open text streams on descriptors 0, 1 and 2. This is done once, before any fork; each job
    then puts its own files behind the descriptors.
    """
    sys.stdin = io.TextIOWrapper(
        io.BufferedReader(io.FileIO(0, "r", False)), "utf-8", "surrogateescape"
    )
    writers = [io.BufferedWriter(io.FileIO(fd, "w", False)) for fd in (1, 2)]
    sys.stdout = io.TextIOWrapper(writers[0], "utf-8", "surrogateescape")
    sys.stderr = io.TextIOWrapper(writers[1], "utf-8", "backslashreplace", line_buffering=True)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]


class Finish:
    """Ends a job: flushes what it printed, then writes the frame. Made before the code runs."""

    def __init__(self, channel: Channel, steps: Steps | None) -> None:
        self.channel = channel
        self.steps = steps
        self._not_literal: tuple[type[BaseException], ...] = (CodecError,)
        self._base, self._memory, self._exit = BaseException, MemoryError, SystemExit
        self._describe = describe
        self._sys = sys
        self._getpid, self._pid, self._leave = os.getpid, os.getpid(), os._exit
        self._streams = (sys.stdout,)  # kept here, since the code may replace it

    def count(self) -> int | None:
        if self.steps is None:
            return None
        self.steps.stop()
        return self.steps.count

    def send(self, kind: str, detail: str = "", value: object = None) -> None:
        steps = self.count()
        self.flush()
        if self._getpid() != self._pid:
            self._leave(0)  # a child that the job forked has run to the end of the code
        try:
            self.channel.send(kind, steps, detail, value)
        except self._not_literal as error:
            self.channel.send(
                "invalid", steps, f"the value is not a plain literal: {error}"[:MAX_DETAIL]
            )
        except self._memory:
            self.channel.send("memory", steps, "MemoryError")
        except self._base as error:
            self.channel.send(
                "invalid", steps, f"the value cannot be read: {self._describe(error)}"
            )

    def raised(self, error: BaseException, kind: str, value: object = None) -> None:
        """Send the frame for an exception. Its traceback is dropped first, which frees the objects
        of the code.
        """
        error.__traceback__ = None
        error.__context__ = None
        if isinstance(error, self._memory):
            self.send("memory", "MemoryError", value)
        else:
            self.send(kind, self._describe(error), value)

    def flush(self) -> None:
        """Write out what the code has printed."""
        for stream in (self._sys.stdout, *self._streams):
            try:
                stream.flush()
            except self._base:
                continue  # the stream may be the code's own object


def describe(
    error: BaseException,
    _type: type = type,
    _str: type = str,
    _name: Any = type.__dict__["__name__"].__get__,
    _base: type[BaseException] = BaseException,
) -> str:
    """``ExceptionType: message`` in one line, even if the exception's own methods misbehave."""
    try:
        name = _name(_type(error))
        text = error.__str__()
        if _type(text) is not _str or _type(name) is not _str:
            text = ""
    except _base:
        name, text = "Exception", "(its text cannot be read)"
    line = f"{name}: {text}" if text else name
    line = " ".join(line[: 4 * MAX_DETAIL].split())[:MAX_DETAIL]
    return line.encode("utf-8", "backslashreplace").decode("utf-8")


def _module(name: str) -> dict[str, Any]:
    """The namespace of a new module ``name``, which also replaces ``__main__``."""
    module = types.ModuleType(name)
    sys.modules["__main__"] = module
    sys.modules[name] = module
    return module.__dict__


def _run_call(spec: dict[str, Any], finish: Finish) -> None:
    args = marshal.loads(spec["args"])
    function = _entry(spec, finish)
    if function is not None:
        finish.send("value", "", function(*args))


def _run_calls(spec: dict[str, Any], finish: Finish) -> None:
    """Make all the calls in one process, and send the values up to the first exception."""
    rows = marshal.loads(spec["args"])
    reports, report = _reports()
    base = BaseException
    function = _entry(spec, finish)
    if function is None:
        return
    try:
        for number, args in enumerate(rows):
            report(number, function(*args))
    except base as error:
        finish.raised(error, "error", reports)
        return
    finish.send("values", "", reports)


def _entry(spec: dict[str, Any], finish: Finish) -> Any:
    """Run the code and return the function to call. If it is missing, send an error: then None."""
    namespace = _module("candidate")
    name, key_error = spec["call"], KeyError
    exec_code, start = exec, finish.steps.start if finish.steps else None
    program = compile(spec["code"], CODE, "exec", dont_inherit=True)
    if start:
        start()
    exec_code(program, namespace)
    try:
        return namespace[name]
    except key_error:
        finish.send("error", f"NameError: name '{name}' is not defined")
        return None


def _run_program(spec: dict[str, Any], finish: Finish) -> None:
    namespace = _module("__main__")
    exec_code, leave, system_exit = exec, os._exit, SystemExit
    try:
        program = compile(spec["code"], CODE, "exec", dont_inherit=True)
        if finish.steps:
            finish.steps.start()
        exec_code(program, namespace)
        _end_as_interpreters_do()
    except system_exit as error:
        if error.code is not None and error.code != 0:
            raise
        _end_as_interpreters_do()
    finish.send("done")
    leave(0)


def _end_as_interpreters_do() -> None:
    """Join threads and run exit functions, since what they print is part of the output."""
    import atexit

    if "threading" in sys.modules:
        sys.modules["threading"]._shutdown()
    atexit._run_exitfuncs()


def _run_tests(spec: dict[str, Any], finish: Finish) -> None:
    """Run the code, then sealed tests, which only ask for values that the pool judges. Both run in
    one bare namespace, like ``exec(program, {})`` in the reference harnesses.
    """
    namespace = bare_namespace()
    exec_code, assertion, base = exec, AssertionError, BaseException
    reports, report = _reports()
    tests = marshal.loads(spec["sealed"])
    program = compile(spec["code"], CODE, "exec", dont_inherit=True)
    if finish.steps:
        finish.steps.start()
    exec_code(program, namespace)
    namespace[REPORT] = report
    try:
        exec_code(tests, namespace)
    except assertion as error:
        finish.raised(error, "fail", reports)
        return
    except base as error:
        finish.raised(error, "error", reports)
        return
    finish.send("pass", "", reports)


def bare_namespace() -> dict[str, Any]:
    """An empty namespace. ``__main__`` is replaced by an empty module."""
    sys.modules["__main__"] = types.ModuleType("__main__")
    return {}


_STYLES: dict[str, Callable[[dict[str, Any], Finish], None]] = {
    "call": _run_call,
    "calls": _run_calls,
    "tests": _run_tests,
    "program": _run_program,
}


def _reports() -> tuple[list[list[Any]], Callable[..., None]]:
    """A list of reports (of split assertions or of calls), and the function that adds one."""
    reports: list[list[Any]] = []
    room = MAX_REPORTS
    dump, size = encode_loose, len

    def report(number: int, *values: object) -> None:
        nonlocal room
        encoded = [dump(value) for value in values]
        if room < sum(map(size, encoded)):
            encoded = [b"O" for _ in values]
        room -= sum(map(size, encoded))
        if size(reports) < MAX_CALLS:
            reports.append([number, *encoded])

    return reports, report


def add_site_builtins() -> None:
    """Define ``exit`` and ``quit``, which programs use. Usually the ``site`` module, which is not
    loaded here, defines them.
    """
    import _sitebuiltins

    for name in ("exit", "quit"):
        setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D (i.e. EOF)"))
