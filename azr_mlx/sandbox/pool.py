"""The pool: gives jobs to workers, replaces workers that die, and returns results in the order of
the jobs."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import time
from collections import deque
from collections.abc import Iterable, Iterator

from azr_mlx.sandbox import selftest
from azr_mlx.sandbox.case import RUNS, Case
from azr_mlx.sandbox.job import Job, Limits, Result
from azr_mlx.sandbox.worker import SandboxError, Worker, WorkerDied
from azr_mlx.types import Status

ISOLATION = ("auto", "strong", "limits-only")
STARTS = 4  # how many workers in a row may die before their first run, until the pool gives up
STALL_S = 1.0  # a caller that was away for longer does not blame the workers
BACKLOG = 256  # how many jobs may wait; a caller who submits more has to wait, too


class Sandbox:
    """Runs untrusted Python and judges it. A context manager, which must not be used from several
    threads at once.

    ``workers`` jobs run at a time (0: one per core). ``isolation`` is ``auto`` (the strongest level
    available), ``strong`` or ``limits-only``. A level is available if the self-test passes at it.
    The attribute ``isolation`` is the level in force, ``features`` says what it consists of, and
    ``fallback`` why it is not ``strong`` although ``auto`` was asked for. ``limits`` apply to jobs
    that have no limits of their own. Processes are started only by ``subprocess``: the caller never
    forks.

    Raises SandboxError if the level asked for is not available.
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
        self._crew: list[Worker] = []
        self._waiting: deque[tuple[Case, int]] = deque()
        self._selector = selectors.DefaultSelector()
        self._closed = False
        self._failed_starts = 0
        self._attended = time.monotonic()
        self.isolation, self.fallback = isolation, ""
        self.features: dict[str, object] = {}
        try:
            self._settle(isolation)
        except BaseException:
            self.close()
            raise

    def _settle(self, asked: str) -> None:
        """Start the first worker at the strongest level allowed that passes its self-test."""
        reasons: list[str] = []
        for level in ("strong", "limits-only") if asked == "auto" else (asked,):
            self.isolation = level
            reason = self._refusal()
            if not reason:
                self.fallback = "".join(reasons)
                return
            if reason not in reasons:
                reasons.append(reason)
        fix = " (isolation limits-only works without it)" if asked == "strong" else ""
        told = "; ".join(reasons)
        raise SandboxError(f"sandbox.isolation = {asked!r} is not available here: {told}{fix}")

    def _refusal(self) -> str:
        """Why the level cannot be used; an empty string, with a worker ready, if it can."""
        try:
            worker = self._hire(self.isolation, 0)
        except OSError as error:
            return _with_fix(error)
        reason = ""
        while worker in self._crew and worker.hello is None:
            reason = self._turn(None) or reason
        if worker not in self._crew or worker.hello is None:
            return reason
        self._failed_starts = 0
        self.features = worker.hello
        return self._self_test()

    def _self_test(self) -> str:
        try:
            [result] = self.run([selftest.job()])
        except SandboxError as error:
            reason = str(error)
        else:
            reason = selftest.complaint(result, self.isolation, self.features)
        if reason:
            while self._crew:
                self._dismiss(self._crew[-1], kill=False)
            self._failed_starts = 0
        return reason

    @property
    def summary(self) -> str:
        """One line for users: how many workers there are, and the level in force."""
        workers = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        return f"sandbox: {workers}, isolation {self.isolation}"

    @property
    def warning(self) -> str:
        """One line for users if the level is not ``strong``, otherwise an empty string."""
        if self.isolation == "strong":
            return ""
        why = f", since strong is not available here ({self.fallback})" if self.fallback else ""
        reached = [what for what, guard in selftest.GUARDS.items() if not self.features.get(guard)]
        risk = f"jobs can reach {' and '.join(reached)}" if reached else "it is the weaker level"
        return f"sandbox.isolation: limits-only{why}: {risk}; see docs/security.md"

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process and remove every folder. May be called twice."""
        self._closed = True
        self._waiting.clear()
        try:
            for worker in self._crew:
                worker.close()
        except BaseException:  # a second Ctrl-C: end the workers at once
            for worker in self._crew:
                worker.close(kill=True)
            raise
        finally:
            self._crew.clear()
            self._selector.close()

    def run(self, jobs: Iterable[Job]) -> list[Result]:
        """The results of the jobs, in the order of the jobs. A malformed job gets ``invalid``."""
        return list(self.stream(jobs))

    def stream(self, jobs: Iterable[Job]) -> Iterator[Result]:
        """The results of the jobs, in the order of the jobs, each as soon as it is known. ``jobs``
        is read only as needed, so memory does not grow with its length.
        """
        with self.batch() as batch:
            for job in jobs:
                batch.submit(job)
                yield from batch.ready()
                while batch.pending >= 2 * BACKLOG:
                    batch.wait()
                    yield from batch.ready()
            while batch.pending:
                batch.wait()
                yield from batch.ready()

    def batch(self) -> JobBatch:
        """A list of jobs that can grow while some of them already run."""
        if self._closed:
            raise SandboxError("the sandbox is closed")
        return JobBatch(self)

    # --- scheduling ---

    def _submit(self, case: Case) -> None:
        self._waiting.extend((case, flavour) for flavour in case.flavours())
        self._turn(0.0)
        while len(self._waiting) > BACKLOG:
            self._turn(None)

    def _drop(self, cases: set[Case]) -> None:
        """Forget what waits of these cases, and end the workers that few jobs need."""
        self._waiting = deque(entry for entry in self._waiting if entry[0] not in cases)
        for worker in [w for w in self._crew if w.flavour >= RUNS and not w.runs]:
            self._dismiss(worker, kill=False)

    def _turn(self, timeout: float | None) -> str:
        """Give jobs to free workers, then handle messages from workers for up to ``timeout``
        seconds (None: until there is one). Returns why a worker died, or an empty string.
        """
        try:
            self._fill()
            return self._attend(timeout)
        except SandboxError:
            raise
        except BaseException:
            # Interrupted, perhaps in the middle of an answer: no worker's state is known now.
            while self._crew:
                self._dismiss(self._crew[-1], kill=True)
            raise

    def _fill(self) -> None:
        while self._waiting and (worker := self._available(self._waiting[0][1])):
            case, flavour = self._waiting.popleft()
            if case.result is None:
                worker.start(case, case.next_run(flavour))
                self._send(worker)

    def _available(self, flavour: int) -> Worker | None:
        """A worker for the next run: a free one, a new one, or, if many runs are waiting, one that
        has only one run. None if there is no such worker.
        """
        for lost in [w for w in self._crew if w.flavour == flavour and not w.runs and w.is_gone()]:
            self._bury(lost)  # perhaps the system had run out of memory
        own = [w for w in self._crew if w.flavour == flavour]
        free = [w for w in own if not w.runs]
        if own and not free and flavour >= RUNS:
            return None  # such runs are few: one worker of each of these flavours is enough
        if sum(bool(w.runs) for w in self._crew) < self.workers:
            return free[0] if free else self._hired(flavour)
        if len(self._waiting) > 4 * self.workers:
            busy = (w for w in own if len(w.runs) == 1)
            return next(busy, None)
        return None

    def _hired(self, flavour: int) -> Worker | None:
        """A new worker; None if it cannot be started, but other workers are still busy."""
        try:
            return self._hire(self.isolation, flavour)
        except OSError as error:
            if any(worker.runs for worker in self._crew):
                return None
            raise SandboxError(f"sandbox: no worker can be started: {_with_fix(error)}") from None

    def _hire(self, isolation: str, flavour: int) -> Worker:
        worker = Worker(isolation, flavour)
        self._crew.append(worker)
        self._selector.register(worker.socket, selectors.EVENT_READ, worker)
        return worker

    def _send(self, worker: Worker) -> None:
        with contextlib.suppress(WorkerDied):  # _attend notices a dead worker when it reads
            worker.send()
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.wants_to_send else 0)
        if self._selector.get_key(worker.socket).events != events:
            self._selector.modify(worker.socket, events, worker)

    def _attend(self, timeout: float | None) -> str:
        active = [w for w in self._crew if w.runs or w.hello is None]
        now = time.monotonic()
        if now - self._attended > STALL_S:
            for one in active:
                one.excuse()
        if active:
            latest = max(0.0, min(worker.deadline for worker in active) - now)
            timeout = latest if timeout is None else min(timeout, latest)
        heard, words = self._selector.select(timeout if active else 0.0), ""
        self._attended = now = time.monotonic()
        for key, events in heard:
            worker: Worker = key.data
            if worker not in self._crew:
                continue  # kqueue reports reading and writing apart: it was buried at the first
            try:
                if events & selectors.EVENT_WRITE:
                    self._send(worker)
                if events & selectors.EVENT_READ:
                    for case, outcome in worker.receive():
                        self._failed_starts = 0
                        case.take(worker.flavour, outcome)
            except WorkerDied:
                words = self._bury(worker)
        for worker in [w for w in active if w in self._crew and w.deadline < now]:
            words = self._bury(worker)
        return words

    def _bury(self, worker: Worker) -> str:
        """Remove a worker that has died or hangs, and return why. Its first run is tried once more
        in another worker; if that one dies too, the job counts as killed. A run that had not begun
        just goes to another worker.
        """
        words, blameless = worker.last_words(), worker.blameless
        runs = [case for case, _ in worker.runs]
        self._dismiss(worker, kill=True)
        for case in reversed(runs):
            if case is not runs[0] or blameless or case.worker_died(worker.flavour):
                self._waiting.appendleft((case, worker.flavour))
        self._failed_starts = self._failed_starts + 1 if blameless else 0
        if self._failed_starts >= STARTS:
            raise SandboxError(f"sandbox: no worker can be started: {words}")
        return words

    def _dismiss(self, worker: Worker, kill: bool) -> None:
        """End a worker. It leaves the crew last: if this is interrupted, ``close`` ends it."""
        if worker.socket in self._selector.get_map():
            self._selector.unregister(worker.socket)
        worker.close(kill)
        self._crew.remove(worker)


class JobBatch:
    """Jobs that are submitted one by one while others run, and their results in the same order.

        with sandbox.batch() as batch:
            for completion in completions:      # as they finish
                batch.submit(job_of(completion))
            results = batch.results()

    Workers run on their own, but get new jobs only in ``submit`` and ``poll``. Call ``poll`` now
    and then if submissions are rare. Leaving the block drops jobs that have not run.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._cases: deque[Case | Result] = deque()

    def __enter__(self) -> JobBatch:
        return self

    def __exit__(self, *raised: object) -> None:
        self._sandbox._drop({case for case in self._cases if isinstance(case, Case)})
        self._cases.clear()

    @property
    def pending(self) -> int:
        """Jobs whose results have not been taken."""
        return len(self._cases)

    def submit(self, job: Job) -> None:
        """Queue a job. Does not wait for it, but for others if too many are queued."""
        try:
            case = Case(job, self._sandbox.limits)
        except ValueError as error:
            self._cases.append(Result(job.id, Status.INVALID, detail=f"malformed job: {error}"))
            return
        self._cases.append(case)
        self._sandbox._submit(case)

    def poll(self) -> None:
        """Give waiting jobs to free workers, without waiting."""
        self._sandbox._turn(0.0)

    def wait(self) -> None:
        """Wait until the result that is next in order is known."""
        while self._cases and _result(self._cases[0]) is None:
            self._sandbox._turn(None)

    def ready(self) -> Iterator[Result]:
        """Take the results that are known, in order, up to the first that is not."""
        while self._cases and (result := _result(self._cases[0])) is not None:
            self._cases.popleft()
            yield result

    def results(self) -> list[Result]:
        """Wait for all results that have not been taken yet, and take them."""
        taken: list[Result] = []
        while self._cases:
            self.wait()
            taken += self.ready()
        return taken


def _result(case: Case | Result) -> Result | None:
    return case if isinstance(case, Result) else case.result


_FIXES = {
    errno.EMFILE: "allow more open files (ulimit -n), or fewer sandbox.workers",
    errno.ENFILE: "the system has too many open files: close some programs",
    errno.EAGAIN: "allow more processes (ulimit -u), or fewer sandbox.workers",
    errno.ENOSPC: "free some disk space for temporary files (TMPDIR)",
}


def _with_fix(error: OSError) -> str:
    fix = _FIXES.get(error.errno or 0, "")
    return f"{error}; {fix}" if fix else str(error)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
