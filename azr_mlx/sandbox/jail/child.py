"""What happens inside the disposable process of one job. Nothing here can be trusted once the code
has started.

The process reads its job from a socket, applies its limits, runs the code and writes one frame.
Everything that is used after the code has run is looked up before it runs, since the code may
replace any builtin or module attribute. Standard library only.
"""

from __future__ import annotations

import _sitebuiltins
import _thread
import builtins
import errno
import io
import marshal
import os
import signal
import sys
import time
import types
from collections.abc import Callable
from typing import Any, NoReturn

from codec import CodecError, encode, encode_loose  # type: ignore[import-not-found]
from wire import MAX_BODY, MAX_CALLS, MAX_REPORTED, MAX_STEPS  # type: ignore[import-not-found]

MAX_DETAIL = 500
CODE, TESTS = "<code>", "<tests>"
PROGRAM = "prog.py"  # the name of a file that a program-style job takes itself to be
REPORT = "_azr_report"  # the function with which split tests report values


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
    try:
        confine(spec)
    except Exception as error:
        Finish(channel, None).raised(error, "error")
        leave(70)
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


def look_like_a_program() -> None:
    """Give this process what ``python prog.py`` finds: its arguments, ``exit`` and ``quit``, and
    text streams. This is done once, before any fork; each job then puts its own files behind the
    descriptors 0, 1 and 2.
    """
    sys.argv[:], sys.orig_argv[:] = [PROGRAM], ["python", PROGRAM]
    for name in ("exit", "quit"):  # usually the ``site`` module, not loaded here, defines them
        setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D (i.e. EOF)"))
    sys.stdin = sys.__stdin__ = _stream(0, "<stdin>", "r", "surrogateescape")  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = _stream(1, "<stdout>", "w", "surrogateescape")  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _stream(2, "<stderr>", "w", "backslashreplace")  # type: ignore[misc]


def _stream(fd: int, name: str, mode: str, errors: str) -> Any:
    """A standard stream as CPython makes it: no character of a line's end is changed."""
    raw: Any = io.FileIO(fd, mode, closefd=False)
    raw.name = name
    buffer: Any = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
    stream: Any = io.TextIOWrapper(buffer, "utf-8", errors, "\n", write_through=fd == 2)
    stream.mode = mode
    return stream


def protect_others(scratch: str) -> None:
    """Refuse to change the mode, owner, times or attributes of files outside the scratch folder.
    The kernel lets them be as well, but, depending on the level, without an error.
    """
    inside, whole, describe_error = scratch + "/", os.path.realpath, os.strerror

    def refusing(change: Any) -> Any:
        def checked(path: Any, *args: Any, **named: Any) -> Any:
            if type(path) is not int and not (whole(os.fsdecode(path)) + "/").startswith(inside):
                raise PermissionError(errno.EPERM, describe_error(errno.EPERM), path)
            return change(path, *args, **named)

        return checked

    changes = "chmod lchmod chown lchown chflags lchflags utime setxattr removexattr"
    for name in changes.split():
        if hasattr(os, name):
            setattr(os, name, refusing(getattr(os, name)))


def limit_threads(most: int) -> None:
    """Let no process have more than ``most`` threads besides its main one, with the error that
    Python raises if the system has no more. What code does without Python, other limits bound.
    """
    count = _thread._count

    def limited(start: Any) -> Any:
        def begin(*args: Any, **named: Any) -> Any:
            if count() >= most:
                raise RuntimeError("can't start new thread")
            return start(*args, **named)

        return begin

    for name in ("start_new_thread", "start_new", "start_joinable_thread"):
        if hasattr(_thread, name):
            setattr(_thread, name, limited(getattr(_thread, name)))


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
    """Make all the calls in one process, and send what they gave and how long they took, up to the
    first exception. With a limit for each call, go on after an exception, and after a call that has
    used more CPU time; the value of such a call is no literal.
    """
    rows, limit = marshal.loads(spec["args"]), spec["call_s"]
    reports, report = _reports()
    base, clock, timer = BaseException, time.process_time, _timer(limit)
    nothing, detail, describe_error, dump = object(), "", describe, encode_loose
    function = _entry(spec, finish)
    if function is None:
        return
    for number, args in enumerate(rows):
        start = clock()
        try:
            timer(limit)
            value = function(*args)
            timer(0)
        except base as error:
            timer(0)
            if not limit:
                finish.raised(error, "error", reports)
                return
            value, detail = nothing, detail or describe_error(error)
        taken = clock() - start
        report(number, value)
        reports[-1].append(dump(taken))
    finish.send("values", detail, reports)


class TooLong(BaseException):
    """Raised in a call that has used the CPU time that each may use."""


def _timer(limit: float) -> Callable[[float], object]:
    """A function that starts a timer of CPU time (0: stops it), which raises TooLong."""
    if not limit:
        return lambda seconds: None

    def stop(number: int, frame: object) -> None:
        raise TooLong(f"more than {limit:g} s of CPU time")

    start, which = signal.setitimer, signal.ITIMER_PROF
    signal.signal(signal.SIGPROF, stop)
    return lambda seconds: start(which, seconds)


def _entry(spec: dict[str, Any], finish: Finish) -> Any:
    """Run the code and return the function to call. If it is missing, send an error: then None."""
    namespace = _module("candidate")
    name, key_error = spec["call"], KeyError
    exec_code, start = exec, finish.steps.start if finish.steps else None
    program = compile(spec["code"], CODE, "exec", dont_inherit=True)
    _kept.extend(_scattered(spec["heap"]))
    if start:
        start()
    exec_code(program, namespace)
    try:
        return namespace[name]
    except key_error:
        finish.send("error", f"NameError: name '{name}' is not defined")
        return None


_SIZES = range(48, 513, 16)  # bytes of the objects that CPython's own allocator makes
_HEADER = 33  # bytes of an empty ``bytes``
_OF_EACH = 64
_kept: list[object] = []


def _scattered(seed: int) -> list[object]:
    """Objects of every small size, with gaps between them that new objects fill in an order that
    ``seed`` decides; 0: none. Otherwise objects made in turn often lie in turn, and a program that
    sorts by addresses gives the same value in every run.
    """
    kept, state = list[object](), seed
    for size in _SIZES if seed else ():
        made: list[object] = [bytes(size - _HEADER) for _ in range(_OF_EACH)]
        for _ in range(_OF_EACH):
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            made[(state >> 33) % _OF_EACH] = None
        kept += made
    return kept


def _run_program(spec: dict[str, Any], finish: Finish) -> None:
    namespace = _module("__main__")
    namespace |= {"__file__": f"{os.getcwd()}/{PROGRAM}", "__builtins__": builtins}
    namespace |= {"__annotations__": {}, "__cached__": None}
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
    room = MAX_REPORTED
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
