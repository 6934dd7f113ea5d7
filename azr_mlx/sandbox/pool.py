"""The pool: feeds jobs to zygotes, replaces those that die, keeps results in the jobs' order."""

from __future__ import annotations

import json
import os
import selectors
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from azr_mlx.sandbox import judge, wire
from azr_mlx.sandbox.asserts import split
from azr_mlx.sandbox.job import Job, Limits, Result
from azr_mlx.types import Status

ISOLATION = ("auto", "strong", "limits-only")
# Two classes of zygotes, which a deterministic job must agree in: other hash seeds, another clock.
HASH_SEEDS = ("0", "4061983")
START_S = 30.0
GRACE_S = 10.0  # past a job's wall limit, for a zygote that has work to do after it
ATTEMPTS = 2
_ZYGOTE = Path(__file__).with_name("supervisor.py")


class SandboxError(RuntimeError):
    """The sandbox itself cannot run as asked."""


class _Died(Exception):
    """A zygote ended, or spoke nonsense."""


class _Zygote:
    """The pool's end of one zygote process; at most one run at a time."""

    def __init__(self, isolation: str, flavour: int) -> None:
        self.flavour = flavour
        self.base = tempfile.mkdtemp(prefix="azr-sandbox-")
        os.chmod(self.base, 0o711)
        ours, theirs = socket.socketpair()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the zygote
        try:
            with theirs:
                self.process = subprocess.Popen(
                    self._command(isolation),
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=self._log,
                    env=self._environment(),
                    cwd="/",
                    start_new_session=True,
                )
            self.socket = ours
            self.hello = self._read_hello()
        except BaseException:
            ours.close()
            if hasattr(self, "process"):
                self.process.kill()
                self.process.wait()
            self._tidy()
            raise
        self.socket.setblocking(False)
        self._reset()

    def _command(self, isolation: str) -> list[str]:
        flags = ["-s", "-S", "-B", *(["-P"] if sys.version_info >= (3, 11) else [])]
        hidden = [str(Path.home()), str(Path(__file__).resolve().parents[2]), os.getcwd()]
        script = [str(_ZYGOTE), isolation, self.base, str(self.flavour), json.dumps(hidden)]
        return [sys.executable, *flags, "-X", "utf8", *script]

    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        fixed = {"PYTHONHASHSEED": HASH_SEEDS[self.flavour], "MALLOC_ARENA_MAX": "1"}
        return {**kept, **fixed, "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": self.base}

    def _read_hello(self) -> dict[str, object]:
        self.socket.settimeout(START_S)
        try:
            size = struct.unpack("<I", self._exactly(4))[0]
            hello: dict[str, object] = json.loads(self._exactly(size))
        except (OSError, EOFError) as error:
            raise SandboxError(
                f"the sandbox's interpreter did not start: {self._last_words(error)}"
            ) from None
        if "error" in hello:
            raise SandboxError(str(hello["error"]))
        return hello

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            if not part:
                raise EOFError("it ended")
            data += part
        return data

    def _last_words(self, error: Exception) -> str:
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else str(error) or type(error).__name__

    def _reset(self) -> None:
        self.out = b""
        self.answer = bytearray()
        self.deadline = 0.0
        self.case: _Case | None = None
        self.run: judge.Run | None = None

    def start(self, case: _Case, run: judge.Run) -> None:
        self.case, self.run = case, run
        self.out = run.request()
        self.deadline = time.monotonic() + run.limits.wall_s + GRACE_S

    def send(self) -> None:
        """Write what fits. Raises _Died."""
        try:
            self.out = self.out[self.socket.send(self.out) :]
        except BlockingIOError:
            return
        except OSError as error:
            raise _Died(str(error)) from None

    def receive(self) -> judge.Outcome | None:
        """Read what is there; the outcome once the answer is whole. Raises _Died."""
        try:
            part = self.socket.recv(1 << 18)
        except BlockingIOError:
            return None
        except OSError as error:
            raise _Died(str(error)) from None
        if not part or self.run is None:
            raise _Died("the zygote ended")
        self.answer += part
        if len(self.answer) < wire.RESPONSE_BYTES:
            return None
        response = wire.Response.unpack(bytes(self.answer[: wire.RESPONSE_BYTES]))
        if response.frame_bytes > wire.MAX_FRAME or response.stdout_bytes > wire.MAX_STDOUT:
            raise _Died("the zygote's answer is malformed")
        frame_end = wire.RESPONSE_BYTES + response.frame_bytes
        if len(self.answer) < frame_end + response.stdout_bytes:
            return None
        frame = bytes(self.answer[wire.RESPONSE_BYTES : frame_end])
        stdout = bytes(self.answer[frame_end : frame_end + response.stdout_bytes])
        outcome = judge.observe(self.run, response, frame, stdout)
        self._reset()
        return outcome

    def close(self, kill: bool = False) -> None:
        """Hang up, wait until the process has ended what it runs, remove its folder."""
        if kill:
            self.process.kill()
        self.socket.close()
        try:
            self.process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._tidy()

    def _tidy(self) -> None:
        self._log.close()
        shutil.rmtree(self.base, ignore_errors=True)


class _Case:
    """One job on its way to a result: the runs it still needs and the outcomes it has."""

    def __init__(self, index: int, job: Job, limits: Limits) -> None:
        self.index, self.job, self.limits = index, job, limits
        self.outcomes: dict[int, judge.Outcome] = {}
        self.settled: judge.Outcome | None = None
        self.deaths = 0
        self.sealed = job.tests is not None and split(job.tests).sealed

    def first_runs(self) -> list[int]:
        """The zygote classes that the job starts in."""
        return [0, 1] if self.job.deterministic else [0]

    def take(self, flavour: int, outcome: judge.Outcome) -> Result | int | None:
        """Note an outcome: the result, the class for a control run, or None while a run is out."""
        if self.settled is not None:
            return judge.verdict(self.job, judge.unmasked(self.settled, outcome))
        self.outcomes[flavour] = outcome
        if len(self.outcomes) < len(self.first_runs()):
            return None
        if len(self.outcomes) == 2:
            outcome = judge.agree(self.outcomes[0], self.outcomes[1])
        self.settled = outcome
        if self.settled.status is Status.PASS and not self.sealed:
            return 0
        return judge.verdict(self.job, self.settled)

    def next_run(self) -> judge.Run:
        """Raises ValueError where the tests are such that they have no control."""
        return judge.Run.of(self.job, self.limits, control=self.settled is not None)


class Sandbox:
    """Runs untrusted Python and judges it. A context manager; not for use from several threads at
    once.

    ``workers`` jobs run at a time (0: one per core). ``isolation`` is ``auto`` (the strongest there
    is), ``strong`` or ``limits-only``; ``isolation`` the attribute is the level in force.
    ``limits`` are those of jobs that have none of their own. Processes are started by
    ``subprocess`` only: the caller never forks.

    Raises SandboxError where the level asked for cannot be had.
    """

    def __init__(
        self, workers: int = 0, isolation: str = "auto", limits: Limits | None = None
    ) -> None:
        if isolation not in ISOLATION:
            raise SandboxError(
                f"sandbox.isolation = {isolation!r}: must be one of {', '.join(ISOLATION)}"
            )
        if type(workers) is not int or workers < 0:
            raise SandboxError(f"sandbox.workers = {workers!r}: must be 0 (one per core) or more")
        self.limits = Limits() if limits is None else limits
        if self.limits.error():
            raise SandboxError(f"sandbox.{self.limits.error()}")
        self.workers = workers or _cores()
        self._idle: dict[int, list[_Zygote]] = {0: [], 1: []}
        self._closed = False
        self.isolation, self.features = self._settle(isolation)

    def _settle(self, asked: str) -> tuple[str, dict[str, object]]:
        """Start the first zygote at the strongest level allowed."""
        reason = ""
        for level in ("strong", "limits-only") if asked == "auto" else (asked,):
            try:
                zygote = _Zygote(level, 0)
            except SandboxError as error:
                reason = str(error)
                continue
            self._idle[0].append(zygote)
            return level, zygote.hello
        mend = " (isolation limits-only runs without it)" if asked == "strong" else ""
        raise SandboxError(f"sandbox.isolation = {asked!r} cannot be had here: {reason}{mend}")

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every process and remove every folder. May be called twice."""
        self._closed = True
        for zygotes in self._idle.values():
            while zygotes:
                zygotes.pop().close()

    def run(self, jobs: Iterable[Job]) -> list[Result]:
        """The results of the jobs, in their order. A malformed job is ``invalid``; none is lost."""
        if self._closed:
            raise SandboxError("the sandbox is closed")
        return _Round(self, jobs).results()

    def _acquire(self, flavour: int) -> _Zygote:
        if self._idle[flavour]:
            return self._idle[flavour].pop()
        return _Zygote(self.isolation, flavour)

    def _release(self, zygote: _Zygote) -> None:
        self._idle[zygote.flavour].append(zygote)


class _Round:
    """One call of ``Sandbox.run``."""

    def __init__(self, sandbox: Sandbox, jobs: Iterable[Job]) -> None:
        self.sandbox = sandbox
        self.done: dict[int, Result] = {}
        self.waiting: deque[tuple[_Case, int]] = deque()
        self.total = 0
        for job in jobs:
            self._admit(job)
        self.selector = selectors.DefaultSelector()
        self.active: set[_Zygote] = set()

    def _admit(self, job: Job) -> None:
        index, self.total = self.total, self.total + 1
        reason = job.error()
        if reason:
            self.done[index] = Result(job.id, Status.INVALID, detail=f"malformed job: {reason}")
            return
        case = _Case(index, job, job.limits or self.sandbox.limits)
        self.waiting.extend((case, flavour) for flavour in case.first_runs())

    def results(self) -> list[Result]:
        try:
            while self.waiting or self.active:
                self._fill()
                self._turn()
        finally:
            self.selector.close()
            for (
                zygote
            ) in self.active:  # only where something was raised: their jobs are still running
                zygote.close(kill=True)
        return [self.done[index] for index in range(self.total)]

    def _fill(self) -> None:
        while self.waiting and len(self.active) < self.sandbox.workers:
            case, flavour = self.waiting.popleft()
            if case.index in self.done:
                continue
            try:
                run = case.next_run()
            except ValueError:
                assert (
                    case.settled is not None
                )  # the tests ran, so they parse in the job's interpreter
                self.done[case.index] = judge.verdict(case.job, case.settled)
                continue
            zygote = self.sandbox._acquire(flavour)
            zygote.start(case, run)
            self.active.add(zygote)
            self.selector.register(
                zygote.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, zygote
            )

    def _turn(self) -> None:
        if not self.active:
            return
        now = time.monotonic()
        timeout = max(0.0, min(zygote.deadline for zygote in self.active) - now)
        for key, events in self.selector.select(timeout):
            self._attend(key.data, events)
        now = time.monotonic()
        for zygote in [z for z in self.active if z.deadline < now]:
            self._bury(zygote)

    def _attend(self, zygote: _Zygote, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE and zygote.out:
                zygote.send()
                if not zygote.out:
                    self.selector.modify(zygote.socket, selectors.EVENT_READ, zygote)
            case = zygote.case
            outcome = zygote.receive() if events & selectors.EVENT_READ else None
        except _Died:
            self._bury(zygote)
            return
        if outcome is not None and case is not None:
            self._retire(zygote)
            self.sandbox._release(zygote)
            self._note(case, zygote.flavour, outcome)

    def _retire(self, zygote: _Zygote) -> None:
        self.active.discard(zygote)
        self.selector.unregister(zygote.socket)

    def _bury(self, zygote: _Zygote) -> None:
        """A zygote has died or hangs: another takes its run once more, then the job counts as
        killed.
        """
        case = zygote.case
        self._retire(zygote)
        zygote.close(kill=True)
        if case is None:
            return
        case.deaths += 1
        if case.deaths < ATTEMPTS:
            self.waiting.appendleft((case, zygote.flavour))
        else:
            self.done[case.index] = Result(
                case.job.id, Status.KILLED, detail="ended the process that ran it"
            )

    def _note(self, case: _Case, flavour: int, outcome: judge.Outcome) -> None:
        if case.index in self.done:
            return
        step = case.take(flavour, outcome)
        if isinstance(step, Result):
            self.done[case.index] = step
        elif step is not None:
            self.waiting.appendleft((case, step))


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
