"""The first process of a worker. It prepares the isolation, keeps a zygote, watches one job at a
time and ends everything that the job started.

It runs as a script, with the pool's socket as descriptor 0 and four arguments: ``strong`` or
``limits-only``, the folder for scratch directories, how far clocks run ahead (n: by n times
``shifted_clock.AHEAD_S``), and a JSON list of folders to hide. It uses the standard library only,
and never looks into what it passes on.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [path for path in sys.path if path and os.path.abspath(path) != HERE]
sys.path.insert(0, HERE)
import shifted_clock  # type: ignore[import-not-found]  # noqa: E402

AHEAD = int(sys.argv[3])
CLOCK = shifted_clock.shift(AHEAD) if AHEAD else shifted_clock.place()
import child  # type: ignore[import-not-found]  # noqa: E402
import darwin  # type: ignore[import-not-found]  # noqa: E402
import linux  # type: ignore[import-not-found]  # noqa: E402
import namespaces  # type: ignore[import-not-found]  # noqa: E402
import processes  # type: ignore[import-not-found]  # noqa: E402
import scratch  # type: ignore[import-not-found]  # noqa: E402
import watch  # type: ignore[import-not-found]  # noqa: E402
import wire  # type: ignore[import-not-found]  # noqa: E402
import zygote  # type: ignore[import-not-found]  # noqa: E402

del sys.path[0]

# Modules that small programs often import. Each of them makes every fork a little slower; a job
# that imports a module that is not in this list loses some milliseconds.
WARM = """
    bisect collections.abc copy datetime functools heapq itertools json math operator random re
    string time types typing
""".split()  # noqa: SIM905 - a list of quoted words reads worse
_PIPE_BYTES = 512  # what a pipe takes at once on every system
OWN = """
    child codec darwin examiner linux namespaces peer processes remote scratch shifted_clock suite
    vdso watch wire zygote
""".split()  # noqa: SIM905


def main() -> int:
    """Prepare, send a hello, and serve jobs until the pool closes the connection."""
    isolation, base, _, hidden = sys.argv[1:5]
    # The caller may have ignored or blocked signals, and this process inherits both.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    channel = os.dup(0)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    pool = socket.socket(fileno=channel)
    try:
        setting = _prepare(isolation == "strong", base, json.loads(hidden))
        os.dup2(null, 2)
        os.close(null)
        gc.collect()
        gc.freeze()  # otherwise a collection in a child would copy every memory page
        # Measure only now, when the memory that only the start needed has been freed.
        if os.path.exists("/proc/self/statm"):
            with open("/proc/self/statm") as file:
                setting.address_space = int(file.read().split()[0]) * resource.getpagesize()
        forks = zygote.Zygote(setting)
    except Exception as error:
        _hello(pool, {"error": wire.told(error)})
        return 1
    try:
        with forks:
            _hello(pool, setting.features(isolation))
            watch.serve(pool, setting, forks)
    finally:
        if not setting.namespaced:
            scratch.remove(base)
    return 0


def _hello(pool: socket.socket, content: dict[str, Any]) -> None:
    raw = json.dumps(content).encode()
    pool.sendall(struct.pack("<I", len(raw)) + raw)


def _prepare(strong: bool, base: str, hidden: list[str]) -> zygote.Setting:
    setting = zygote.Setting(strong, base)
    _warm()
    child.limit_threads(zygote.THREADS)
    child.look_like_a_program()
    for name in OWN:
        sys.modules.pop(name, None)
    if sys.platform == "darwin":
        _prepare_darwin(setting, hidden)
    elif strong and not setting.on_linux:
        raise OSError(f"no strong isolation on {sys.platform}")
    elif strong:
        setting.uid = namespaces.enter(hidden, base, AHEAD * shifted_clock.AHEAD_S)
        setting.scratch = namespaces.SCRATCH
    if setting.on_linux:
        _prepare_linux(setting)
    else:
        scratch.make(setting)
    os.environ.clear()
    os.environ.update(
        PATH="/usr/bin:/bin", HOME=setting.scratch, TMPDIR=setting.scratch, LANG="C.UTF-8"
    )
    os.chdir("/")
    return setting


def _warm() -> None:
    """Import what jobs will need. ``random`` would seed itself again at every fork, which takes as
    long as the fork. So that is switched off, and a job does it only if it needs it.
    """
    register, os.register_at_fork = os.register_at_fork, lambda **_: None
    for name in WARM:
        __import__(name)
    os.register_at_fork = register


def _prepare_linux(setting: zygote.Setting) -> None:
    with contextlib.suppress(OSError):  # there may be no /proc
        linux.forget_arguments()
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    # No job may read or trace this process or the zygote, or write to their descriptors.
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    base = linux.Filter(linux.base_program(setting.strong, CLOCK))
    setting.seccomp = _works(base.install)
    if setting.seccomp:
        setting.base_filter = base
        setting.job_filters = {
            children: linux.Filter(linux.job_program(children)) for children in (False, True)
        }
    if setting.uid == 0 and _works(lambda: _become_nobody(setting)):
        setting.uid = namespaces.NOBODY
    scratch.make(setting)
    # With strong isolation, jobs see no other files and have their own process ids anyway.
    if not setting.strong:
        with contextlib.suppress(OSError):  # The kernel may have no Landlock; hello reports that.
            setting.ruleset = linux.landlock_ruleset(_readable(), [setting.scratch, "/dev/null"])
        setting.tasks = processes.tasks_of(setting.uid)
    setting.capable = (setting.strong or os.geteuid() == 0) and _works(linux.drop_capabilities)


def _prepare_darwin(setting: zygote.Setting, hidden: list[str]) -> None:
    # Some versions of macOS do not enforce a limit on address space.
    with contextlib.suppress(OSError):
        setting.address_space = darwin.mapped_bytes()
    if not setting.strong:
        return
    for children in (False, True):
        text = darwin.job_profile(setting.scratch, hidden, children=children)
        setting.profiles[children] = darwin.compiled(text)
        if reason := _failure(setting.profiles[children]):
            raise OSError(reason)


def _readable() -> list[str]:
    """The paths that jobs may read: the interpreter, its libraries, and a few devices."""
    library = [os.path.dirname(os.path.realpath(os.__file__))]
    system = ["/usr", "/lib", "/lib32", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime"]
    devices = ["/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"]
    # A shared libpython may lie outside the system's folders.
    folder = os.path.join(os.path.realpath(sys.base_prefix), "lib")
    names = os.listdir(folder) if os.path.isdir(folder) else []
    own = [os.path.join(folder, name) for name in names if ".so" in name]
    return library + system + devices + own


def _become_nobody(setting: zygote.Setting) -> None:
    """Stop being root. Fails if another user cannot read the standard library or reach the scratch
    folder.
    """
    linux.leave_groups(namespaces.NOBODY)
    linux.become(namespaces.NOBODY)
    with open(os.__file__, "rb") as file:
        file.read(1)
    if not setting.strong:
        os.stat(os.path.join(setting.base, "."))


def _works(action: Callable[[], None]) -> bool:
    """Whether ``action`` succeeds. It is tried in a separate process."""
    return not _failure(action)


def _failure(action: Callable[[], None]) -> str:
    """Why ``action`` fails in a separate process; an empty string if it succeeds there."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            action()
        except Exception as error:
            os.write(theirs, wire.told(error).encode("utf-8", "replace")[:_PIPE_BYTES])
        finally:
            os._exit(0)
    os.close(theirs)
    with open(ours, "rb") as pipe:
        reason = pipe.read().decode("utf-8", "replace")
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return reason if code == 0 else reason or f"its process was ended by signal {-code}"


if __name__ == "__main__":
    sys.exit(main())
