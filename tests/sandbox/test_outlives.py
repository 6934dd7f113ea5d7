# ruff: noqa: E501
"""What one job could leave for the next one, or for the host: each row of the list in
docs/security.md. Two jobs run one after the other in the same worker: the first leaves a mark, the
second looks for it, and must find what it would find without the first."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from azr_mlx.sandbox import Job, Limits, Sandbox
from azr_mlx.types import Status

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(sys.platform != "linux", reason="what Linux's kernel keeps"),
]

C = "import ctypes, fcntl, os, struct, sys\nlibc = ctypes.CDLL(None, use_errno=True)\n"
LIBRARY = "os.__file__"  # a file that all jobs see
LOCK = "fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)"
_OFD = "fcntl.fcntl(file, 37, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 3, 1, 0))"


def _on(path: str, mode: str, action: str) -> str:
    return f"{C}def f():\n    file = open({path}, {mode!r}, buffering=0)\n    keep.append(file)\n    {action}\n    return 1\nkeep = []\n"


# name: (what the first job does, what the second one finds, what that must be)
CHANNELS: dict[str, tuple[str, str, str]] = {
    "flags of descriptor 0": (
        f"{C}def f(): fcntl.fcntl(0, fcntl.F_SETFL, os.O_APPEND | os.O_NONBLOCK); return 1",
        f"{C}def f(): return fcntl.fcntl(0, fcntl.F_GETFL) & (os.O_APPEND | os.O_NONBLOCK)", "0"),
    "flags of descriptor 2": (
        f"{C}def f(): fcntl.fcntl(2, fcntl.F_SETFL, os.O_RDWR | os.O_APPEND); return 1",
        f"{C}def f(): return fcntl.fcntl(2, fcntl.F_GETFL) & os.O_APPEND", "0"),
    "flock on descriptor 2": (
        f"{C}def f(): fcntl.flock(2, fcntl.LOCK_EX); return 1",
        _on("'/dev/null'", "wb", "fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)"), "1"),
    "an open file's lock on descriptor 2": (
        f"{C}def f(): file = 2; {_OFD}; return 1",
        f"{C}def f():\n    file = open('/dev/null', 'r+b', buffering=0)\n"
        "    found = fcntl.fcntl(file, 36, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 9, 0))\n"
        "    return struct.unpack('hhqqi4x', found)[0] == fcntl.F_UNLCK", "True"),
    "a lock on a library file": (
        _on(LIBRARY, "rb", "fcntl.flock(file, fcntl.LOCK_SH)"),
        _on(LIBRARY, "rb", "fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)"), "1"),
    "a message queue": (
        f"{C}def f():\n    q = libc.mq_open(b'/box', os.O_RDWR | os.O_CREAT, 0o666, (ctypes.c_long * 8)(0, 1, 32))\n"
        "    return libc.mq_send(q, b'x', 1, 0)",
        f"{C}def f(): return libc.mq_open(b'/box', os.O_RDONLY)", "-1"),
    "shared memory by number": (
        f"{C}def f(): return libc.shmget(77, 4096, 0o1666)", f"{C}def f(): return libc.shmget(77, 4096, 0)", "-1"),
    "a semaphore by number": (
        f"{C}def f(): return libc.semget(77, 1, 0o1666)", f"{C}def f(): return libc.semget(77, 1, 0)", "-1"),
    "messages by number": (
        f"{C}def f(): return libc.msgget(77, 0o1666)", f"{C}def f(): return libc.msgget(77, 0)", "-1"),
    "a named semaphore": (
        f"{C}def f(): return bool(libc.sem_open(b'/box', os.O_CREAT, 0o666, 1))",
        f"{C}def f(): return bool(libc.sem_open(b'/box', 0))", "False"),
    "a file in shared memory": (
        "def f():\n    try: open('/dev/shm/box', 'w').write('x')\n    except OSError: pass\n    return 1",
        "import os\ndef f(): return os.path.exists('/dev/shm/box')", "False"),
    "a key": (
        f"{C}def f(): return libc.syscall(248, b'user', b'box', b'x', 1, -3)",
        f"{C}def f(): return libc.syscall(249, b'user', b'box', 0, -3)", "-1"),
    "an abstract socket": (
        "import socket\ndef f():\n    try: s = socket.socket(socket.AF_UNIX); s.bind('\\0box'); s.listen()\n"
        "    except OSError: pass\n    return 1",
        "import socket\ndef f():\n    try: s = socket.socket(socket.AF_UNIX); s.connect('\\0box'); return 1\n"
        "    except OSError: return 0", "0"),
    "a file in the scratch": (
        "def f(): open('box', 'w').write('x'); return 1", "import os\ndef f(): return os.listdir('.')", "[]"),
    "the mode of the scratch": (
        "import os\ndef f(): os.chmod('.', 0o500); return 1", "def f(): return open('box', 'w').write('x')", "1"),
    "an attribute of the scratch": (
        "import os\ndef f():\n    try: os.setxattr('.', 'user.box', b'x')\n    except OSError: pass\n    return 1",
        "import os\ndef f():\n    try: return os.listxattr('.')\n    except OSError: return []", "[]"),
    "the priority": ("import os\ndef f(): return os.nice(5)", "import os\ndef f(): return os.nice(0)", str(os.nice(0))),
    "a limit": (
        "import resource\ndef f(): resource.setrlimit(resource.RLIMIT_NOFILE, (9, 9)); return 1",
        "import resource\ndef f(): return resource.getrlimit(resource.RLIMIT_NOFILE)[0]", "128"),
    "a timer": (
        "import signal\ndef f(): signal.setitimer(signal.ITIMER_REAL, 0.05); return 1",
        "import time\ndef f(): time.sleep(0.1); return 1", "1"),
    "the mask of new files": ("import os\ndef f(): return os.umask(0o77)", "import os\ndef f(): return os.umask(0) == 0o77", "False"),
    "a thread": (
        "import threading, time\ndef f(): threading.Thread(target=time.sleep, args=(9,), daemon=True).start(); return 1",
        "import threading\ndef f(): return threading.active_count()", "1"),
    "a module's attribute": ("import math\ndef f(): math.box = 1; return 1", "import math\ndef f(): return hasattr(math, 'box')", "False"),
    "an environment variable": ("import os\ndef f(): os.environ['BOX'] = 'x'; return 1", "import os\ndef f(): return 'BOX' in os.environ", "False"),
    "the working directory": ("import os\ndef f(): os.mkdir('d'); os.chdir('d'); return 1", "import os\ndef f(): return os.listdir('.')", "[]"),
    "watching a library file": (f"{C}def f(): return libc.inotify_init()", f"{C}def f(): return libc.inotify_init1(0)", "-1"),
    "what the system's cache holds": (
        f"{C}def f(): return open({LIBRARY}, 'rb').read(1) != b''",
        f"{C}def f():\n    file = os.open({LIBRARY}, os.O_RDONLY)\n"
        "    try: return os.preadv(file, [bytearray(1)], 0, 8)\n    except OSError: return -1", "-1"),
}  # fmt: skip


@pytest.fixture(scope="module", params=["strong", "limits-only"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    limits = Limits(wall_s=3.0, cpu_s=2, memory_mb=256)
    with Sandbox(workers=1, isolation=request.param, limits=limits) as box:
        yield box


@pytest.mark.parametrize("name", CHANNELS)
def test_a_job_leaves_nothing_for_the_next_one(sandbox: Sandbox, name: str) -> None:
    leave, look, nothing = CHANNELS[name]
    left, found = sandbox.run([Job("leaves", leave, call="f"), Job("looks", look, call="f")])
    assert left.status in (Status.OK, Status.ERROR, Status.KILLED), left
    assert (found.status, found.value) == (Status.OK, nothing), found


@pytest.mark.parametrize(
    "change",
    [
        "os.utime('/dev/null')", "os.utime('/dev/zero', (1, 1))", "os.chmod('/dev/null', 0o600)",
        "os.utime(os.__file__)", "os.chown('/dev/full', 0, 0)",
        "ctypes.CDLL(None).utimensat(-100, b'/dev/null', None, 0)",
    ],
)  # fmt: skip
def test_devices_and_libraries_keep_their_times_and_modes(sandbox: Sandbox, change: str) -> None:
    paths = ("/dev/null", "/dev/zero", "/dev/full", os.__file__)
    before = [os.stat(path) for path in paths]
    code = f"import ctypes, os\ndef f():\n    {change}\n    return 1\n"
    result = sandbox.run([Job("a", code, call="f")])[0]
    if change.startswith("os."):
        assert result.status is Status.ERROR and "PermissionError" in result.detail
    for old, path in zip(before, paths, strict=True):
        now = os.stat(path)
        assert (now.st_mode, now.st_mtime_ns, now.st_uid) == (
            old.st_mode,
            old.st_mtime_ns,
            old.st_uid,
        )


def test_no_job_holds_up_a_lock_of_the_host(sandbox: Sandbox) -> None:
    code = f"{C}def f():\n    fcntl.flock(2, fcntl.LOCK_EX)\n    import time\n    time.sleep(1)\n    return 1\n"
    with sandbox.batch() as batch, open("/dev/null", "w") as null:
        batch.submit(Job("a", code, call="f"))
        batch.poll()
        fcntl.flock(null, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert batch.results()[0].status is Status.OK


CLONE = "import ctypes\nlibc = ctypes.CDLL(None)\ndef f(flags): return libc.syscall(56, ctypes.c_long(flags), 0, 0, 0, 0)\n"


@pytest.mark.parametrize("processes", [0, 2])
@pytest.mark.parametrize(
    "flags", [0x8000 | 17, 0x2000 | 17, 0x400 | 17, 0x100 | 17, 0, 10, 0x80000000 | 17]
)
def test_children_by_other_means_than_fork_end_the_job(
    sandbox: Sandbox, flags: int, processes: int
) -> None:
    """CLONE_PARENT, CLONE_PTRACE, CLONE_FILES, CLONE_VM, no signal or another at the end, CLONE_IO."""
    limits = Limits(wall_s=3.0, cpu_s=2, memory_mb=256, processes=processes)
    bad = Job("a", CLONE, call="f", args=f"({flags},)", limits=limits)
    honest = Job(
        "b",
        "import threading\ndef f():\n    t = threading.Thread(target=print)\n    t.start()\n    t.join()\n    return 1\n",
        call="f",
        expect="1",
    )
    killed, passed = sandbox.run([bad, honest])
    assert (killed.status, passed.status) == (Status.KILLED, Status.PASS), (killed, passed)


def test_children_whose_parent_has_ended_are_counted(sandbox: Sandbox) -> None:
    code = (
        "import os, time\ndef f(n):\n    for _ in range(n):\n        if os.fork() == 0:\n"
        "            if os.fork() == 0:\n                time.sleep(2)\n            os._exit(0)\n"
        "        os.wait()\n    time.sleep(1)\n    return n\n"
    )
    limits = Limits(wall_s=4.0, cpu_s=2, memory_mb=256, processes=3)
    few, many = sandbox.run(
        [Job("a", code, call="f", args=f"({n},)", limits=limits) for n in (2, 8)]
    )
    assert few.status is Status.OK and many.status is Status.KILLED, (few, many)


def test_the_ways_that_programs_start_others_still_work(sandbox: Sandbox) -> None:
    code = (
        "import os, subprocess, sys\ndef f():\n"
        "    pid = os.posix_spawn('/bin/sh', ['sh', '-c', 'exit 3'], {})\n"
        "    first = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])\n"
        "    return first, subprocess.run(['/bin/sh', '-c', 'echo x'], capture_output=True).stdout\n"
    )
    limits = Limits(wall_s=4.0, cpu_s=2, memory_mb=512, processes=3)
    result = sandbox.run([Job("a", code, call="f", limits=limits)])[0]
    assert result.value == "(3, b'x\\n')", result


THREADS = "import threading\ndef f(n):\n    gate = threading.Event()\n    group = [threading.Thread(target=gate.wait) for _ in range(n)]\n    try:\n        for t in group: t.start()\n    finally:\n        gate.set()\n    return n\n"


def test_the_number_of_threads_is_the_same_at_every_level(sandbox: Sandbox) -> None:
    jobs = [Job("a", THREADS, call="f", args=f"({n},)", limits=Limits()) for n in (32, 33)]
    enough, too_many = sandbox.run(jobs)
    assert enough.value == "32", enough
    assert too_many.status is Status.ERROR and "can't start new thread" in too_many.detail


def test_no_word_of_a_job_reaches_a_terminal_unseen(sandbox: Sandbox) -> None:
    code = "def f(x):\n    raise ValueError('\\x1b[2K\\x9b1Gpass\\u202e')\n"
    jobs = [
        Job("a", code, call="f", args="(1,)"),
        Job("b", code, tests="assert f(1)"),
        Job("c", code + "f(1)"),
    ]
    for result in sandbox.run(jobs):
        assert result.detail.isprintable() and "pass" in result.detail, result


def test_a_job_cannot_read_how_its_sandbox_was_started(sandbox: Sandbox) -> None:
    code = "def f():\n    out = ''\n    for name in ('cmdline', 'environ'):\n        try: out += open(f'/proc/self/{name}').read().strip('\\0')\n        except OSError: pass\n    return out\n"
    assert sandbox.run([Job("a", code, call="f")])[0].value == "''"
    folder = str(Path(__file__).resolve().parents[2])
    seen = sandbox.run(
        [Job("a", "import sys\ndef f(): return [*sys.argv, *sys.orig_argv]", call="f")]
    )[0]
    assert folder not in (seen.value or ""), seen
