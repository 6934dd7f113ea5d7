# ruff: noqa: E501
"""Whatever a job asks for the time, the runs of a deterministic job get different answers; what it
does with time otherwise works in all of them."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import azr_mlx.sandbox
from azr_mlx.sandbox import Job, Sandbox
from azr_mlx.types import Status

pytestmark = pytest.mark.sandbox
JAIL = Path(azr_mlx.sandbox.__file__).parent / "jail"
SHIFTED_BELOW_PYTHON = sys.platform == "linux" and platform.machine() == "x86_64"
below_python = pytest.mark.skipif(
    not SHIFTED_BELOW_PYTHON, reason="the vDSO is replaced on Linux for x86-64 alone"
)

_C = "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.time.restype = ctypes.c_long\n"
_NEW = "import os\nopen('new', 'w').close()\n"
# Programs whose value is the day, by the clock that they ask.
DAYS: dict[str, str] = {
    "time": "import time\ndef f(): return time.time() // 86400",
    "clock_gettime": "import time\ndef f(): return time.clock_gettime(0) // 86400",
    "monotonic": "import time\ndef f(): return time.clock_gettime(1) // 86400",
    "now": "import datetime\ndef f(): return str(datetime.datetime.now().date())",
    "strftime": "import time\ndef f(): return time.strftime('%Y-%m-%d')",
    "elapsed": "import os\ndef f(): return os.times()[4] // 86400",
    "a file's time": f"{_NEW}def f(): return os.stat('new').st_mtime // 86400",
    "a file's time in nanoseconds": f"{_NEW}def f(): return os.stat('new').st_mtime_ns // 86400 // 10 ** 9",
    "a time found by scandir": f"{_NEW}def f(): return next(os.scandir('.')).stat().st_mtime // 86400",
    "a time found by getmtime": f"{_NEW}def f(): return os.path.getmtime('new') // 86400",
}  # fmt: skip
BELOW: dict[str, str] = {
    "sqlite": "import sqlite3\ndef f(): return sqlite3.connect(':memory:').execute(\"select date('now')\").fetchone()[0]",
    "the C library": f"{_C}def f(): return libc.time(None) // 86400",
    "gettimeofday": f"{_C}def f():\n    t = (ctypes.c_long * 2)()\n    libc.gettimeofday(t, None)\n    return t[0] // 86400",
}  # fmt: skip


@pytest.fixture(scope="module", params=["strong", "limits-only"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with Sandbox(workers=2, isolation=request.param) as box:
        yield box


@pytest.mark.parametrize(
    "name", [*DAYS, *[pytest.param(name, marks=below_python) for name in BELOW]]
)
def test_a_day_is_never_the_same_twice(sandbox: Sandbox, name: str) -> None:
    code = (DAYS | BELOW)[name]
    result = sandbox.run([Job(name, code, call="f", deterministic=True)])[0]
    assert result.status is Status.NONDETERMINISTIC, result


@below_python
@pytest.mark.parametrize("call", ["228, 0, t", "96, t, 0", "201, 0", "159, ctypes.byref(t)"])
def test_the_kernel_tells_the_time_to_nobody_else(sandbox: Sandbox, call: str) -> None:
    code = f"{_C}def f():\n    t = (ctypes.c_long * 64)()\n    return libc.syscall({call}), t[0]"
    assert sandbox.run([Job("a", code, call="f")])[0].value == "(-1, 0)"


SHIFTED = """import sys
sys.path.insert(0, sys.argv[1])
import shifted_clock, time
before = time.time()
shifted_clock.shift(1)
import json, datetime  # Python looks for their files, by the functions that were replaced
print(time.time() - before > shifted_clock.AHEAD_S - 1, datetime.datetime.now().year > 1969)"""


def interpreters() -> list[str]:
    """The Pythons of this machine that the package is for, one of each version."""
    found = {}
    names = [shutil.which(f"python3.{minor}") for minor in range(10, 20)]
    for path in [*filter(None, names), *Path.home().glob(".pyenv/versions/3.*/bin/python3")]:
        asked = [path, "-c", "import sys; print(*sys.version_info[:2])"]
        done = subprocess.run(asked, capture_output=True, text=True)
        version = tuple(map(int, done.stdout.split())) if done.returncode == 0 else ()
        if version >= (3, 10):
            found.setdefault(version, str(path))
    return [found[version] for version in sorted(found)]


@pytest.mark.parametrize("python", interpreters())
def test_clocks_can_be_shifted_on_every_python(python: str) -> None:
    """3.13 is stricter about the fields that a file's times are put into; without the clocks no
    task can be checked."""
    done = subprocess.run([python, "-c", SHIFTED, str(JAIL)], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("True True\n", "")


HONEST: dict[str, str] = {
    "sleeps": "import time\ndef f(): time.sleep(0.01); return 1",
    "measures": "import time\ndef f():\n    t = time.perf_counter()\n    time.sleep(0.02)\n    return 0.01 < time.perf_counter() - t < 2",
    "waits for a lock": "import threading\ndef f(): return threading.Lock().acquire(timeout=0.05), threading.Event().wait(0.05)",
    "waits in a queue": "import queue\ndef f():\n    try: queue.Queue().get(timeout=0.05)\n    except queue.Empty: return 'empty'",
    "waits by select": "import select\ndef f(): return select.select([], [], [], 0.02)",
    "runs a loop": "import asyncio\ndef f(): return asyncio.run(asyncio.sleep(0.02, 7))",
    "sets a file's time": f"{_NEW}def f():\n    os.utime('new', (5, 5))\n    return os.stat('new').st_mtime",
    "reads a library file's time": "import os\ndef f(): return os.stat(os.__file__).st_mtime_ns",
    "a fixed date": "import datetime\ndef f(): return str(datetime.datetime.fromtimestamp(0, datetime.timezone.utc))",
}  # fmt: skip


@pytest.mark.parametrize("name", HONEST)
def test_programs_that_wait_and_measure_are_deterministic(sandbox: Sandbox, name: str) -> None:
    if name == "sets a file's time" and sandbox.isolation != "strong":
        pytest.skip("a file's time cannot be set there: docs/security.md")
    result = sandbox.run([Job(name, HONEST[name], call="f", deterministic=True)])[0]
    assert result.status is Status.OK, result
