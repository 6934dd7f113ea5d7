"""Sudden deaths, full disks, tiny limits and odd places to run in.

Whatever the machine does to the sandbox, a verdict is right or there is none: the run goes on, or
ends with one line that says why.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from azr_mlx.sandbox import Job, Limits, Result, Sandbox, SandboxError, case
from azr_mlx.types import Status
from benchmarks.sandbox_soak import Killer, adopt_orphans, descendants, is_zygote
from tests.conftest import ROOT
from tests.sandbox.conftest import HONEST, LIMITS

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(sys.platform != "linux", reason="finds processes in Linux's /proc"),
]

LEVELS = ("limits-only", "strong")


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> str:
    reason = _refusal(request.param)
    if reason:
        pytest.skip(f"no {request.param} isolation on this machine: {reason}")
    return str(request.param)


@cache
def _refusal(level: str) -> str:
    try:
        Sandbox(1, level).close()
    except SandboxError as error:
        return str(error)
    return ""


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder of the test's own, which a job of another user can pass through."""
    with tempfile.TemporaryDirectory(prefix="azr-test-") as folder:
        os.chmod(folder, 0o711)
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


class Watched:
    """The processes that a test starts, whoever is their parent."""

    def __init__(self) -> None:
        self._before = descendants()

    def now(self) -> set[int]:
        return descendants() - self._before

    def settle(self, least: int) -> set[int]:
        """Those that there are once there are ``least``, and for half a second no more."""
        deadline, counts = time.monotonic() + 10, [0]
        while time.monotonic() < deadline:
            time.sleep(0.1)
            counts.append(len(self.now()))
            if counts[-1] >= least and len(counts) > 5 and len(set(counts[-5:])) == 1:
                return self.now()
        raise AssertionError(f"the jobs did not start: {counts[-1]} processes, not {least}")

    def left(self, wait_s: float = 3.0) -> set[int]:
        """Those that are still there after a while."""
        deadline = time.monotonic() + wait_s
        while self.now() and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.now()


@pytest.fixture(autouse=True)
def watched() -> Iterator[Watched]:
    """Orphans come to this process for the time of the test; none may be left after it."""
    adopt_orphans()
    seen = Watched()
    yield seen
    left = seen.left()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    adopt_orphans(False)
    assert not left, "processes outlived the test"


# --- sudden deaths ---


def _numbered(count: int, sleep_s: float = 0.01) -> list[Job]:
    code = f"import time\ndef f(i):\n    time.sleep({sleep_s})\n    return i * i\n"
    return [
        Job(str(i), code, call="f", args=f"({i},)", expect=str(i * i), deterministic=i % 10 == 0)
        for i in range(count)
    ]


def test_zygotes_that_die_lose_double_and_swap_nothing(
    level: str, temporary: Path, watched: Watched
) -> None:
    before, jobs = descendants(), _numbered(400)
    with Sandbox(2, level, LIMITS) as sandbox:
        with Killer(1, before, every_s=0.3) as killer:
            results = sandbox.run(jobs)
        assert sandbox.run([HONEST])[0].status is Status.PASS, "the sandbox must recover"
    twice = _check_pass_or_killed(jobs, results)
    assert killer.kills >= 3, "the test must have killed something"
    assert 2 * twice <= killer.kills, (
        f"{twice} jobs count as killed after {killer.kills} deaths: only one whose process died "
        f"twice may"
    )
    _check_nothing_left(watched, temporary)


def test_deaths_of_jobs_themselves_are_never_passed_on(
    level: str, temporary: Path, watched: Watched
) -> None:
    before, jobs = descendants(), _numbered(200)
    with Sandbox(2, level, LIMITS) as sandbox:
        # If all die faster than a worker can start, there is nothing that a sandbox could do.
        pace = max(0.15, _start_s(level))
        with Killer(3, before, every_s=pace, jobs_too=True) as killer:
            results = sandbox.run(jobs)
        assert sandbox.run([HONEST])[0].status is Status.PASS, "the sandbox must recover"
    assert _check_pass_or_killed(jobs, results) <= killer.kills
    _check_nothing_left(watched, temporary)


def _start_s(level: str) -> float:
    """Seconds until a new worker has run a job."""
    begin = time.monotonic()
    with Sandbox(1, level, LIMITS) as sandbox:
        sandbox.run([HONEST])
    return time.monotonic() - begin


@pytest.mark.parametrize("zygotes_only", [True, False])
def test_a_job_is_not_blamed_for_a_worker_that_died_before_it(
    level: str, temporary: Path, watched: Watched, zygotes_only: bool
) -> None:
    """A system without memory kills what waits, too. The job after that found two dead workers, and
    counted as killed.
    """
    both = [replace(HONEST, id=str(i), deterministic=True) for i in range(2)]
    with Sandbox(2, level, LIMITS) as sandbox:
        assert [r.status for r in sandbox.run(both)] == [Status.PASS] * 2
        waiting = watched.now()
        _shoot(waiting - set(map(_parent, waiting)) if zygotes_only else waiting)
        again = sandbox.run(both)
    assert [(r.status, r.detail) for r in again] == [(Status.PASS, "")] * 2
    _check_nothing_left(watched, temporary)


def test_a_worker_that_is_gone_costs_no_try(
    level: str, temporary: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(case, "ATTEMPTS", 1)
    both = [replace(HONEST, id=str(i), deterministic=True) for i in range(2)]
    with Sandbox(2, level, LIMITS) as sandbox:
        assert [r.status for r in sandbox.run(both)] == [Status.PASS] * 2
        shot = watched.now()
        _shoot(shot)
        deadline = time.monotonic() + 10
        while not all(map(_is_dead, shot)) and time.monotonic() < deadline:
            time.sleep(0.02)
        again = sandbox.run(both)
    assert [(r.status, r.detail) for r in again] == [(Status.PASS, "")] * 2
    _check_nothing_left(watched, temporary)


def _shoot(pids: set[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it has gone with another
            os.kill(pid, signal.SIGKILL)


def _is_dead(pid: int) -> bool:
    """Whether a process has ended; its parent may not have asked yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in b"ZX"
    except FileNotFoundError:
        return True


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])


def _check_pass_or_killed(jobs: list[Job], results: list[Result]) -> int:
    """How many count as killed."""
    assert [r.id for r in results] == [job.id for job in jobs], "results in the order of the jobs"
    wrong = [r for r in results if r.status not in (Status.PASS, Status.KILLED)]
    assert not wrong, f"a death must never become another verdict: {wrong[:3]}"
    return sum(r.status is Status.KILLED for r in results)


def _check_nothing_left(watched: Watched, temporary: Path) -> None:
    assert not watched.left(), f"processes live on: {_described(watched.now())}"
    deadline = time.monotonic() + 3
    while list(temporary.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(temporary.iterdir()) == [], "a folder was left"


def _described(pids: set[int]) -> list[str]:
    """Where each waits in the kernel: what a failure says."""
    return [f"{pid} in {Path(f'/proc/{pid}/wchan').read_text()}" for pid in pids]


_DAEMON = (
    "import os, time\n"
    "if os.fork() == 0:\n"
    "    try: os.setsid()\n"
    "    except OSError: pass\n"
    "    if os.fork() == 0:\n"
    "        time.sleep(60)\n"
    "    os._exit(0)\n"
    "os.wait()\n"
    "time.sleep(60)\n"
)


def test_daemons_die_with_a_killed_zygote(level: str, temporary: Path, watched: Watched) -> None:
    """What a job has left behind must not outlive the process that would have ended it."""
    job = Job("daemon", _DAEMON, limits=Limits(wall_s=3, processes=4))
    with Sandbox(1, level) as sandbox:
        first = watched.settle(1)
        running = threading.Thread(target=sandbox.run, args=([job],))
        running.start()
        watched.settle(len(first) + 2)
        for pid in first:
            with contextlib.suppress(ProcessLookupError):  # it has gone with another
                os.kill(pid, signal.SIGKILL)
        running.join()
    _check_nothing_left(watched, temporary)


def test_jobs_that_have_not_begun_die_with_a_killed_zygote(
    level: str, temporary: Path, watched: Watched
) -> None:
    """The moment between a job's fork and its limits is short, so it is aimed at."""
    for _ in range(8):
        with Sandbox(1, level, LIMITS) as sandbox:
            started = watched.now()
            running = threading.Thread(target=sandbox.run, args=([HONEST],))
            running.start()
            while running.is_alive() and not any(map(_has_a_job, started)):
                pass
            for pid in started:
                with contextlib.suppress(ProcessLookupError):  # it has gone with another
                    os.kill(pid, signal.SIGKILL)
            running.join()
        _check_nothing_left(watched, temporary)


def _has_a_job(zygote: int) -> bool:
    try:
        below = Path(f"/proc/{zygote}/task/{zygote}/children").read_text().split()
    except OSError:
        return False
    return not all(is_zygote(int(pid)) for pid in below)


# --- full disks ---

_FILL = """
import os
i = 0
while True:
    with open(f'file{i}', 'wb', buffering=0) as file:
        for _ in range(16):
            if file.write(b'x' * (1 << 20)) != 1 << 20:
                raise OSError('written in part')
    i += 1
"""
_FILL_INODES = """
for i in range(10 ** 6):
    open(f'empty{i}', 'w').close()
"""
_WRITE = (
    "def f():\n"
    "    with open('file', 'w') as file:\n        file.write('x' * 1000)\n"
    "    with open('file') as file:\n        return len(file.read())\n"
)


@pytest.mark.parametrize("fill", [_FILL, _FILL_INODES], ids=["blocks", "inodes"])
def test_a_full_scratch_is_the_jobs_error(fill: str) -> None:
    """Only strong bounds the size of the scratch; else it is as large as the disk under it."""
    if _refusal("strong"):
        pytest.skip(f"no strong isolation on this machine: {_refusal('strong')}")
    jobs = [
        Job("fill", fill, limits=Limits(wall_s=10, cpu_s=10)),
        Job("next", _WRITE, call="f", expect="1000"),
    ]
    with Sandbox(1, "strong") as sandbox:
        results = sandbox.run(jobs)
    assert results[0].status is Status.ERROR, results[0]
    assert results[1].status is Status.PASS, f"the next job has a scratch of its own: {results[1]}"


# --- the command, in odd places ---

# id: the job and its status
ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "value": ({"code": "def f(x): return x * 2", "call": "f", "args": "(4,)"}, "ok"),
    "right": (
        {"code": "def f(x): return [x]", "call": "f", "args": "('a',)", "expect": "['a']"},
        "pass",
    ),
    "wrong": ({"code": "def f(): return 1", "call": "f", "expect": "2"}, "fail"),
    "raises": ({"code": "def f(): return [][0]", "call": "f", "expect": "2"}, "error"),
    "tests": ({"code": "def f(x): return x", "tests": "assert f(1) == 1"}, "pass"),
    "failed tests": ({"code": "def f(x): return x", "tests": "assert f(1) == 2"}, "fail"),
    "program": (
        {"code": "print(int(input()) + 1)", "stdin": "1\n", "expect_stdout": "2\n"},
        "pass",
    ),
    "deterministic": ({"code": "def f(): return 3", "call": "f", "deterministic": True}, "ok"),
    "file": ({"code": _WRITE, "call": "f", "expect": "1000"}, "pass"),
}
RUN = """
import runpy, sys
sys.argv[0] = 'sandbox'
runpy.run_module('azr_mlx.sandbox', run_name='__main__')
"""


def _lines(rows: dict[str, tuple[dict[str, Any], str]]) -> str:
    return "".join(json.dumps({"id": name, **row}) + "\n" for name, (row, _) in rows.items())


def _command(
    prelude: str,
    *options: str,
    rows: dict[str, tuple[dict[str, Any], str]] = ROWS,
    env: dict[str, str | None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """``python -m azr_mlx.sandbox``, jobs on stdin and results on stdout, after ``prelude``."""
    given = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", **(env or {})}
    return subprocess.run(
        [sys.executable, "-c", prelude + RUN, "--jobs", "-", "--out", "-", *options],
        input=_lines(rows),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={name: value for name, value in given.items() if value is not None},
    )


def _check_right_or_one_line(done: subprocess.CompletedProcess[str]) -> bool:
    """Every verdict that is there is right; all are, or one line says why not. Whether all are."""
    statuses = {row["id"]: row["status"] for row in map(json.loads, done.stdout.splitlines())}
    due = {name: status for name, (_, status) in ROWS.items()}
    assert list(statuses) == list(due)[: len(statuses)], "results in the order of the jobs"
    wrong = {name: status for name, status in statuses.items() if status != due[name]}
    assert not wrong, f"wrong verdicts: {wrong}\n{done.stdout[:600]}\n{done.stderr[-600:]}"
    if done.returncode == 0:
        assert len(statuses) == len(due), "an exit status of 0 promises every result"
        return True
    _check_one_line(done)
    return False


def _check_one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The error line. Stderr holds nothing else but what is said about the level."""
    level = ("sandbox: ", "warning: sandbox.isolation: ")
    lines = [line for line in done.stderr.splitlines() if not line.startswith(level)]
    assert done.returncode in (1, 2), (done.returncode, done.stderr[-600:])
    assert len(lines) == 1 and lines[0].startswith("error: "), f"one clear line: {lines[-6:]}"
    return lines[0]


def _check_right(done: subprocess.CompletedProcess[str]) -> None:
    assert _check_right_or_one_line(done), done.stderr


_LIMIT = "import resource\nresource.setrlimit(resource.RLIMIT_{name}, ({value}, {value}))\n"


@pytest.mark.parametrize("files", [64, 20, 8])
def test_few_descriptors(level: str, files: int, temporary: Path) -> None:
    done = _command(_LIMIT.format(name="NOFILE", value=files), "--workers=4", "--isolation", level)
    worked = _check_right_or_one_line(done)
    assert worked or files < 64, f"64 descriptors are enough for four workers: {done.stderr}"
    assert list(temporary.iterdir()) == [], "a folder was left"


# Another user than root, whom the kernel would not hold to a number of processes. The right to read
# everything stays, wherever the interpreter lies.
_ANOTHER_USER = """
import ctypes, os
if os.geteuid() == 0:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
    os.setgroups([])
    os.setresgid(23456, 23456, 23456)
    os.setresuid(23456, 23456, 23456)
    header, rights = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(6, 6, 6)
    for result in (
        libc.capset(header, rights),
        libc.prctl(47, 2, 1, 0, 0),  # PR_CAP_AMBIENT_RAISE: CAP_DAC_OVERRIDE
        libc.prctl(47, 2, 2, 0, 0),  # CAP_DAC_READ_SEARCH
    ):
        if result:
            raise OSError(ctypes.get_errno(), 'the rights of root could not be kept')
"""


@pytest.mark.parametrize("processes", [1, 2, 4, 9])
def test_few_processes(processes: int) -> None:
    done = _command(_ANOTHER_USER + _LIMIT.format(name="NPROC", value=processes), "--workers=2")
    _check_right_or_one_line(done)


def test_a_user_without_name_and_home() -> None:
    _check_right(_command(_ANOTHER_USER, "--workers=1", env={"HOME": None}))


INHERITED = {
    "ignored SIGCHLD": "import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n",
    "blocked signals": (
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n"
    ),
    "strict umask": "import os\nos.umask(0o077)\n",
    "working directory that is gone": (
        "import os, tempfile\nhere = tempfile.mkdtemp()\nos.chdir(here)\nos.rmdir(here)\n"
    ),
    "small files": _LIMIT.format(name="FSIZE", value=4096),
    "private temporary folder": "import tempfile\ntempfile.tempdir = tempfile.mkdtemp()\n",
}


@pytest.mark.parametrize("name", INHERITED)
def test_what_the_parent_hands_down(level: str, name: str, temporary: Path) -> None:
    done = _command(INHERITED[name], "--workers=2", "--isolation", level)
    _check_right(done)


# --- no user namespaces ---

# unshare and clone with CLONE_NEWUSER are denied, clone3 is unknown: as in many containers
_NO_NAMESPACES = """
import ctypes, platform, struct
unshare, clone = {'x86_64': (272, 56), 'aarch64': (97, 220)}[platform.machine()]
program = b''.join(struct.pack('<HBBI', *line) for line in [
    (0x20, 0, 0, 0),
    (0x15, 4, 0, unshare),
    (0x15, 5, 0, 435),
    (0x15, 0, 3, clone),
    (0x20, 0, 0, 16),
    (0x45, 0, 1, 0x10000000),
    (0x06, 0, 0, 0x00050001),
    (0x06, 0, 0, 0x7FFF0000),
    (0x06, 0, 0, 0x00050026),
])
class Filter(ctypes.Structure):
    _fields_ = (('length', ctypes.c_ushort), ('program', ctypes.c_char_p))
libc = ctypes.CDLL(None, use_errno=True)
given = ctypes.byref(Filter(len(program) // 8, program))
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, given):
    raise OSError(ctypes.get_errno(), 'the filter could not be set')
"""
# the sysctl of a user namespace of its own, in which no more may be made
_NONE_ALLOWED = """
import os
uid, gid = os.getuid(), os.getgid()
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x10000000):
    raise OSError(ctypes.get_errno(), 'no user namespace')
def write(name, text):
    with open('/proc/self/' + name, 'w') as file:
        file.write(text)
write('setgroups', 'deny')
write('uid_map', f'{uid} {uid} 1')
write('gid_map', f'{gid} {gid} 1')
with open('/proc/sys/user/max_user_namespaces', 'w') as file:
    file.write('0')
"""
DENIALS = {"filter": _NO_NAMESPACES, "sysctl": _NONE_ALLOWED}


@pytest.mark.parametrize("denial", DENIALS)
def test_strong_refuses_without_user_namespaces(denial: str) -> None:
    _skip_unless_possible(DENIALS[denial])
    done = _command(DENIALS[denial], "--workers=1", "--isolation=strong")
    line = _check_one_line(done)
    assert done.stdout == "", "no verdict where the level asked for cannot be had"
    assert "strong" in line and "limits-only" in line, f"what is wrong, and the fix: {line}"


@pytest.mark.parametrize("denial", DENIALS)
def test_auto_says_that_it_is_limits_only(denial: str) -> None:
    _skip_unless_possible(DENIALS[denial])
    done = _command(DENIALS[denial], "--workers=1")
    _check_right(done)
    assert "isolation limits-only" in done.stderr, "never silently lower than asked"


# --- file systems ---

_MOUNTS = """
import ctypes, os, tempfile
libc = ctypes.CDLL(None, use_errno=True)
def mount(source, target, kind, flags, options=''):
    if libc.mount(source.encode(), target.encode(), kind.encode(), flags, options.encode()):
        raise OSError(ctypes.get_errno(), f'mount {target}')
if libc.unshare(0x20000):
    raise OSError(ctypes.get_errno(), 'no mount namespace')
mount('none', '/', '', 16384 | 1 << 18)
"""
_SMALL = (
    _MOUNTS
    + """
small = tempfile.mkdtemp()
mount('tmpfs', small, 'tmpfs', 0, 'mode=1777,OPTIONS')
tempfile.tempdir = os.environ['TMPDIR'] = small
"""
)


@cache
def _impossible(prelude: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", prelude], capture_output=True, text=True, check=False
    )
    return done.stderr.strip().rpartition("\n")[2] if done.returncode else ""


def _skip_unless_possible(prelude: str) -> None:
    reason = _impossible(prelude)
    if reason:
        pytest.skip(f"cannot be simulated here: {reason}")


@pytest.fixture
def mounts(temporary: Path) -> None:
    """Only where this user may mount."""
    _skip_unless_possible(_MOUNTS)


@pytest.mark.usefixtures("mounts")
def test_a_full_small_scratch_is_the_jobs_error(level: str) -> None:
    rows = {
        "fill": ({"code": _FILL, "limits": {"wall_s": 20, "cpu_s": 20}}, "error"),
        "next": ({"code": _WRITE, "call": "f", "expect": "1000"}, "pass"),
        "again": ({"code": _FILL, "limits": {"wall_s": 20, "cpu_s": 20}}, "error"),
        "last": ({"code": _WRITE, "call": "f", "expect": "1000"}, "pass"),
    }
    small = _SMALL.replace("OPTIONS", "size=8m")
    done = _command(small, "--workers=1", "--isolation", level, rows=rows)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [r["status"] for r in results] == [s for _, s in rows.values()], done.stdout


FULL = {
    "no block": ("size=64k", "with open(small + '/full', 'wb') as f: f.write(b'x' * 65_536)\n"),
    "no inode": ("size=1m,nr_inodes=2", "open(small + '/full', 'wb').close()\n"),
    "one inode": ("size=1m,nr_inodes=2", ""),
    "two inodes": ("size=1m,nr_inodes=3", ""),
    "four inodes": ("size=1m,nr_inodes=5", ""),
    "six inodes": ("size=1m,nr_inodes=7", ""),
}


@pytest.mark.usefixtures("mounts")
@pytest.mark.parametrize("name", FULL)
def test_a_full_disk_under_the_sandbox(level: str, name: str) -> None:
    """The machine's fault is never a job's: right verdicts, or one line. (A job that writes a file
    of its own on a full disk does fail, so there is none here.)
    """
    options, fill = FULL[name]
    rows = {k: v for k, v in ROWS.items() if k != "file"}
    prelude = _SMALL.replace("OPTIONS", options) + fill
    done = _command(prelude, "--workers=2", "--isolation", level, rows=rows)
    statuses = [json.loads(line)["status"] for line in done.stdout.splitlines()]
    assert statuses == [s for _, s in rows.values()][: len(statuses)], done.stdout
    if done.returncode:
        _check_one_line(done)
    else:
        assert len(statuses) == len(rows), "an exit status of 0 promises every result"


_FILLS_UP = """
import json, sys
from azr_mlx.sandbox import Job, Sandbox, SandboxError
def judged(**style):
    try:
        result = sandbox.run([Job('a', 'print(1)\\ndef f(): return 1', **style)])[0]
    except SandboxError as error:
        return 'error: ' + str(error)
    return result.status.value
with Sandbox(1, sys.argv[1]) as sandbox:
    seen = [judged(call='f', expect='1')]
    i = 0
    try:
        while True:
            with open(f'{small}/{i}', 'wb') as file:
                file.write(b'x' * 4096)
            i += 1
    except OSError:
        seen += [judged(call='f', expect='1'), judged(stdin='1', expect_stdout='1')]
    os.unlink(f'{small}/0')
    seen.append(judged(call='f', expect='1'))
print(json.dumps(seen))
"""


@pytest.mark.usefixtures("mounts")
@pytest.mark.parametrize("options", ["size=256k", "size=8m,nr_inodes=50"])
def test_a_disk_that_fills_up_meanwhile(level: str, options: str) -> None:
    """Jobs that write nothing are judged rightly, or not at all; then all goes on."""
    done = subprocess.run(
        [sys.executable, "-c", _SMALL.replace("OPTIONS", options) + _FILLS_UP, level],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    first, *full, last = json.loads(done.stdout)
    assert first == last == "pass", f"with room there is a verdict: {first}, {last}"
    assert all(w == "pass" or w.startswith("error: ") for w in full), f"not the job's fault: {full}"


@pytest.mark.usefixtures("mounts")
def test_no_proc() -> None:
    hidden = _MOUNTS + "mount('tmpfs', '/proc', 'tmpfs', 0)\n"
    _check_right(_command(hidden, "--workers=2"))
    _check_right_or_one_line(_command(hidden, "--workers=2", "--isolation=strong"))


@pytest.mark.usefixtures("mounts")
def test_no_proc_and_a_daemon(watched: Watched) -> None:
    """Without /proc, finding what a job has started needs another way."""
    code = _DAEMON.replace("time.sleep(60)\n", "time.sleep(30)\n", 1).rpartition("time.sleep")[0]
    rows = {
        "daemon": ({"code": code, "limits": {"wall_s": 1, "processes": 4}}, "ok"),
        "next": ({"code": "def f(): return 1", "call": "f", "expect": "1"}, "pass"),
    }
    hidden = _MOUNTS + "mount('tmpfs', '/proc', 'tmpfs', 0)\n"
    done = _command(hidden, "--workers=1", "--isolation=limits-only", rows=rows)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert not watched.left(), "the daemon lives on"
    if done.returncode:
        _check_one_line(done)
    else:
        assert results[1]["status"] == "pass" and results[0]["status"] != "timeout", results


@pytest.mark.usefixtures("mounts")
def test_no_place_for_temporary_files() -> None:
    """Read-only, not hidden: the checkout and its Python may themselves lie in one of them."""
    read_only = (
        _MOUNTS
        + """
for path in ('/var/tmp', '/usr/tmp', '/tmp'):
    if os.path.isdir(path):
        mount(path, path, '', 4096 | 16384)
        mount('none', path, '', 1 | 32 | 4096)
os.chdir('/tmp')
os.environ['TMPDIR'] = '/tmp'
"""
    )
    done = _command(read_only, "--workers=1")
    assert "temporary" in _check_one_line(done)
    assert done.stdout == ""


def test_a_temporary_folder_that_is_not_there(level: str, temporary: Path) -> None:
    missing = str(temporary / "missing")
    _check_right(_command("", "--workers=1", "--isolation", level, env={"TMPDIR": missing}))


@pytest.mark.usefixtures("mounts")
def test_a_temporary_folder_that_is_read_only(level: str, temporary: Path) -> None:
    read_only = _MOUNTS + f"mount('tmpfs', {str(temporary)!r}, 'tmpfs', 1)\n"
    _check_right(_command(read_only, "--workers=1", "--isolation", level))


# --- closed and broken streams ---


def _shell(tmp_path: Path, redirections: str, out: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "jobs.jsonl").write_text(_lines(ROWS))
    command = f'exec "{sys.executable}" -m azr_mlx.sandbox --jobs jobs.jsonl --workers 2'
    return subprocess.run(
        ["/bin/sh", "-c", f"{command} --out {out} {redirections}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_that_are_not_needed(tmp_path: Path, closed: str) -> None:
    done = _shell(tmp_path, closed, "out.jsonl")
    assert done.returncode == 0, done.stderr
    done.stdout = (tmp_path / "out.jsonl").read_text()
    _check_right(done)


@pytest.mark.parametrize("redirection", [">&-", "> /dev/full"])
def test_results_that_cannot_be_written(tmp_path: Path, redirection: str) -> None:
    _check_one_line(_shell(tmp_path, redirection, "-"))


def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    """``| head -1`` closes the pipe: no traceback, and nothing is left."""
    reading, writing = os.pipe()
    os.close(reading)
    (tmp_path / "jobs.jsonl").write_text(_lines(ROWS))
    done = subprocess.run(
        [sys.executable, "-m", "azr_mlx.sandbox", "--jobs", "jobs.jsonl", "--out", "-"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )
    os.close(writing)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr, done.stderr


# --- the end of the command ---

LONG_S = 60
RUNNING = {
    "sleeps": {"code": "import time\ntime.sleep(60)", "limits": {"wall_s": LONG_S}},
    "daemon": {"code": _DAEMON, "limits": {"wall_s": LONG_S, "processes": 4}},
    "writes": {"code": "open('f', 'w').write('x')\nwhile True: pass", "limits": {"wall_s": LONG_S}},
}


def _hear_signals() -> None:
    """Under nohup, or in the background of a script, they would be ignored."""
    for one in (signal.SIGHUP, signal.SIGINT):
        signal.signal(one, signal.SIG_DFL)


@pytest.fixture
def running(
    level: str, temporary: Path, watched: Watched
) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts the command with jobs that go on for a minute, and waits until they run."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        jobs = temporary / "jobs.jsonl"
        jobs.write_text("".join(json.dumps({"id": k, **row}) + "\n" for k, row in RUNNING.items()))
        command = [sys.executable, "-m", "azr_mlx.sandbox", "--jobs", str(jobs), "--out", "-"]
        process = subprocess.Popen(
            [*command, "--workers=3", "--isolation", level],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_hear_signals,
        )
        started.append(process)
        watched.settle(1 + 3 + 3 + 1)  # itself, zygotes, jobs, the daemon
        jobs.unlink()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT", "SIGKILL"])
def test_the_end_of_the_command_is_the_end_of_all(
    running: Callable[[], subprocess.Popen[str]], temporary: Path, watched: Watched, name: str
) -> None:
    process = running()
    process.send_signal(signal.Signals[name])
    process.communicate(timeout=15)
    assert process.returncode != 0
    _check_nothing_left(watched, temporary)


def test_an_impatient_interrupt(
    running: Callable[[], subprocess.Popen[str]], temporary: Path, watched: Watched
) -> None:
    """Twice Ctrl-C ends the command, without a traceback, and all that it has started."""
    process = running()
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    _, stderr = process.communicate(timeout=15)
    _check_nothing_left(watched, temporary)
    assert "Traceback" not in stderr, stderr[-600:]
