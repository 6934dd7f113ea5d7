"""Sandboxes at every level that this machine has, and the invariants that no job may break."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from weakref import WeakKeyDictionary

import pytest

from azr_mlx.sandbox import Job, Limits, Result, Sandbox, SandboxError
from azr_mlx.sandbox.worker import Worker
from azr_mlx.types import Status
from benchmarks.sandbox_soak import descendants
from tests.sandbox.hostile.targets import Targets

LIMITS = Limits(wall_s=1.5, cpu_s=1, memory_mb=256, output_kb=16)
HONEST = Job("honest", "def f(x): return sorted(x)", call="f", args="([2, 1],)", expect="[1, 2]")
GRACE_S = 0.5  # what a verdict may take beyond the limits of its runs
MAX_WAIT_S = 3.0  # how much waiting for a core can excuse
ON_LINUX = sys.platform == "linux"

# An honest job that tells what an earlier one could have changed for it.
_NEXT = """
import builtins, colorsys, decimal, gc, math, os, random, resource, signal, sys, threading, warnings
def f(x):
    here = os.stat('.')
    marks = [here.st_mode, here.st_mtime < 10, getattr(os, 'listxattr', lambda path: [])('.')]
    marks += [hasattr(m, 'mark') for m in (builtins, math, random, sys)]
    limits = [resource.getrlimit(getattr(resource, n))[0]
              for n in sorted(dir(resource)) if n.startswith('RLIMIT_')]
    for fd in range(64):
        try: marks.append((fd, os.fstat(fd).st_mode, os.get_blocking(fd)))
        except OSError: pass
    return (sorted(x), marks, os.listdir('.'), os.umask(0), sorted(os.environ),
            len(sys.path), len(sys.meta_path), len(sys.modules), sys.getrecursionlimit(),
            decimal.getcontext().prec, gc.isenabled(), len(warnings.filters),
            str(signal.getsignal(signal.SIGTERM)), len(signal.pthread_sigmask(0, [])),
            threading.active_count(), os.getpriority(os.PRIO_PROCESS, 0), limits,
            hasattr(colorsys, 'rgb_to_hls'), math.sqrt(4.0))
"""
NEXT = Job("next", _NEXT, call="f", args="([2, 1],)")


@pytest.fixture(scope="session")
def targets() -> Iterator[Targets]:
    """What attacks aim at. The secret is in this process's environment before any sandbox is."""
    with pytest.MonkeyPatch.context() as patch:
        made = Targets()
        patch.setenv("AZR_TESTS_TOKEN", made.secret)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture(scope="session", params=["limits-only", "strong"])
def sandbox(request: pytest.FixtureRequest, targets: Targets) -> Iterator[Sandbox]:
    with folders_in(targets.temp):
        try:
            made = Sandbox(workers=2, isolation=request.param, limits=LIMITS)
        except SandboxError as error:
            pytest.skip(f"no {request.param} isolation on this machine: {error}")
        # one worker of each kind is there before the first test measures anything
        made.run([Job("warm", "def f(): return 1", call="f", deterministic=True)] * 2)
    with made:
        yield made


@contextlib.contextmanager
def folders_in(folder: Path) -> Iterator[None]:
    """Sandboxes make their folders here meanwhile, apart from those of other processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        yield


@pytest.fixture
def confined(sandbox: Sandbox) -> Sandbox:
    """A sandbox that shields the machine from its jobs: only there may a test attack it."""
    if not is_confined(sandbox):
        pytest.skip(
            "limits-only without seccomp and Landlock does not keep jobs from the user's files"
        )
    return sandbox


def is_confined(sandbox: Sandbox) -> bool:
    return sandbox.isolation == "strong" or bool(
        sandbox.features["seccomp"] and sandbox.features["landlock"]
    )


def crew(sandbox: Sandbox) -> list[Worker]:
    """The pool's end of the processes that are there now."""
    return list(sandbox._crew)


def expected_processes(sandbox: Sandbox) -> int:
    """A worker is a supervisor and a zygote; under strong, one more outside their namespaces."""
    return len(crew(sandbox)) * (3 if sandbox.isolation == "strong" else 2)


def check_nothing_left(sandbox: Sandbox) -> None:
    """For sandboxes of a test's own; ``judge`` looks closer at the session's."""
    if ON_LINUX:
        own = {worker.process.pid for worker in crew(sandbox)}
        below = [pid for pid in descendants() if _under(pid, own)]
        assert len(below) == expected_processes(sandbox), "a job's process outlived its verdict"
    for worker in crew(sandbox):
        left = {path.name for path in Path(worker.base).rglob("*")}
        assert left <= {"scratch"}, "a job's files outlived its verdict"


def _under(pid: int, roots: set[int]) -> bool:
    while pid > 1 and pid not in roots:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
        except OSError:
            return False
    return pid in roots


# --- the judge: one job, and what it may not have touched ---


class _Machine:
    """What a job could leave on the machine: taken before it and after it."""

    def __init__(self, targets: Targets) -> None:
        self.processes = descendants() if ON_LINUX else set()
        self.files = Counter(
            f"{'folder' if path.is_dir() else 'file'} at depth {depth}"
            for path in targets.temp.rglob("*")
            for depth in [len(path.relative_to(targets.temp).parts)]
        )
        folder = Path("/proc/self/fd" if ON_LINUX else "/dev/fd")
        self.descriptors = len(os.listdir(folder)) if folder.is_dir() else 0
        self.here, self.mask = os.getcwd(), os.umask(0o22)
        os.umask(self.mask)

    def check_after(self, before: _Machine) -> None:
        new = self.processes - before.processes
        assert len(self.processes) <= len(before.processes), (
            f"processes outlived their verdict: {[_name(pid) for pid in new]}"
        )
        left = self.files - before.files
        assert not left, f"files outlived their verdict: {dict(left)}"
        assert self.descriptors <= before.descriptors, "a descriptor leaked"
        assert (self.here, self.mask) == (before.here, before.mask), "this process was changed"


def _dismiss_workers(sandbox: Sandbox, targets: Targets) -> None:
    """End the workers, so that what spoiled them stays with one test: others take their place."""
    for pid in descendants() if ON_LINUX else ():
        if str(targets.temp) in _name(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    for _ in range(8):
        if sandbox.run([replace(HONEST, deterministic=True)])[0].status is Status.PASS:
            return


def _name(pid: int) -> str:
    try:
        return f"{pid} {Path(f'/proc/{pid}/cmdline').read_bytes()[:200]!r}"
    except OSError:
        return str(pid)


@contextlib.contextmanager
def _orphans_come_here() -> Iterator[None]:
    """Whatever loses its parent below becomes a child of this process, and is seen (Linux)."""
    if not ON_LINUX:
        yield
        return
    prctl = ctypes.CDLL(None).prctl
    prctl(36, ctypes.c_ulong(1), *[ctypes.c_ulong(0)] * 3)  # PR_SET_CHILD_SUBREAPER
    try:
        yield
    finally:
        prctl(36, *[ctypes.c_ulong(0)] * 4)


def _waiting_s() -> float:
    """Seconds for which some task on this machine has waited for a core; 0 where it is not said."""
    try:
        line = Path("/proc/pressure/cpu").read_text().splitlines()[0]
    except OSError:
        return 0.0
    return int(line.rpartition("=")[2]) / 1e6


Judge = Callable[..., Result]
# An id would be used again after its sandbox.
_next_values: WeakKeyDictionary[Sandbox, str] = WeakKeyDictionary()


@pytest.fixture
def judge(sandbox: Sandbox, targets: Targets) -> Judge:
    """Runs one job and checks the invariants.

    The parent lives and answers; the wall limit holds, for each run and in all; no process and no
    file is left; the next honest job passes and finds everything as the first one did; nothing that
    attacks aim at was touched.
    """

    def run(code: str, **rest: object) -> Result:
        job = Job("hostile", code, **rest)  # type: ignore[arg-type]
        with folders_in(targets.temp), _orphans_come_here():
            _first_next(sandbox)
            before = _Machine(targets)
            try:
                result = _timed(sandbox, job)
                after = _Machine(targets)
                harm = targets.harm()
                assert not harm, f"{harm[:5]} ({result})"
                _check_next(sandbox, job)
                after.check_after(before)
            except AssertionError:
                _dismiss_workers(sandbox, targets)
                raise
        assert len(result.stdout) <= (job.limits or LIMITS).output_kb << 10, "too much stdout kept"
        return result

    return run


def _timed(sandbox: Sandbox, job: Job) -> Result:
    """The result, in time. On a loaded machine, the time for which tasks waited for a core is
    excused, up to MAX_WAIT_S; on one that is not loaded it is next to nothing.
    """
    limits = job.limits or LIMITS
    started, waited = time.monotonic(), _waiting_s()
    result = sandbox.run([job])[0]
    took = time.monotonic() - started
    excuse = min(_waiting_s() - waited, MAX_WAIT_S)
    runs = 2 if job.deterministic or job.tests is not None else 1
    assert result.seconds <= limits.wall_s + GRACE_S + excuse, (
        f"a run took {result.seconds:.2f} s of {limits.wall_s:g} s (excused: {excuse:.2f} s)"
    )
    assert took <= runs * limits.wall_s + GRACE_S + excuse, (
        f"the verdict took {took:.2f} s, where {runs} runs of {limits.wall_s:g} s may take "
        f"{GRACE_S:g} s more (excused: {excuse:.2f} s): {result}"
    )
    return result


def _first_next(sandbox: Sandbox) -> None:
    if sandbox not in _next_values:
        found = sandbox.run([NEXT])[0]
        assert found.status is Status.OK and found.value is not None, f"an honest job: {found}"
        _next_values[sandbox] = found.value


def _check_next(sandbox: Sandbox, job: Job) -> None:
    """Of the kind of worker that ran the job; of both where both did."""
    if job.deterministic:
        again = sandbox.run([replace(HONEST, deterministic=True)])[0]
        assert again.status is Status.PASS, f"the next honest job was spoiled: {again}"
    before = _next_values[sandbox]
    found = sandbox.run([replace(NEXT, expect=before)])[0]
    assert found.status is Status.PASS, f"the next job found things changed: {found}, was {before}"
