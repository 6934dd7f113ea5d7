"""Forks one disposable process per job, from a started interpreter that runs no job itself.

The zygote is forked from the supervisor and does nothing but fork and wait. So few of its memory
pages change between two jobs, and few have to be copied. All confinement that jobs can share is
already in force in it; a job adds its own limits. Standard library only.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn

import child  # type: ignore[import-not-found]
import examiner  # type: ignore[import-not-found]
import linux  # type: ignore[import-not-found]
import namespaces  # type: ignore[import-not-found]
import wire  # type: ignore[import-not-found]

JOB_FD, PEER_FD = 3, 4
FORK_ATTEMPTS = 12
LEAVE = os._exit  # kept here, since a job may replace os._exit
OPEN_FILES = 128
FILE_BYTES = 16 << 20
OTHER_TASKS = 512  # how many other processes and threads the user may start later
THREADS = 32  # of a job, in addition to its main thread
_PID = struct.Struct("<i")
_END = struct.Struct("<idQ")
_SIZE = 4  # bytes that say how long the zygote's first message is


class Setting:
    """What all jobs of a worker share: the folder that they run in, their user, and the kernel
    filters that confine them.
    """

    def __init__(self, strong: bool, base: str) -> None:
        self.strong = strong
        self.base = base
        self.scratch = os.path.join(base, "scratch")
        self.on_linux = sys.platform == "linux"
        self.namespaced = strong and self.on_linux
        self.uid = os.geteuid()
        self.seccomp = self.capable = False
        self.base_filter: Any = None
        self.job_filters: dict[bool, Any] = {}  # by whether the job may have children
        self.ruleset: int | None = None
        self.profiles: dict[bool, Any] = {}  # macOS: by whether the job may have children
        self.scratch_ctime = 0
        self.tasks = 0  # processes and threads of the jobs' user when this started
        self.address_space = 0  # bytes that the bare interpreter has mapped

    def features(self, isolation: str) -> dict[str, Any]:
        """The isolation in force, for the pool."""
        return {
            "isolation": isolation,
            "seccomp": self.seccomp,
            "landlock": self.ruleset is not None,
            "seatbelt": bool(self.profiles),
            "other_user": self.uid != os.geteuid(),
        }


class End(NamedTuple):
    """How a job's process ended. ``status`` is the exit status or minus the signal, ``peak_rss`` is
    in bytes.
    """

    status: int
    cpu_s: float
    peak_rss: int


class Unbegun(SystemExit):
    """The zygote died before it got the job, which has nothing to do with it."""


class Zygote:
    """The supervisor's handle on the zygote: starts it and asks it for jobs. A context manager."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._start()

    def _start(self) -> None:
        self.socket, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self.socket.close()
                _serve(theirs, self.setting)
            finally:
                LEAVE(72)
        theirs.close()
        self._is_ready = False

    def __enter__(self) -> Zygote:
        return self

    def __exit__(self, *raised: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the zygote. If it still waits for a job, the caller must end that job."""
        self.socket.close()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def restart(self) -> None:
        """Start another zygote after ``stop``."""
        self._start()

    def fork(self, job: int, out: int, examined: bool) -> int:
        """Start a job's process and return its id. ``job`` and ``out`` are its ends of the job's
        socket and of its stdout. If ``examined``, that process runs the tests, and starts another
        one for the code. Raises OSError, and Unbegun.
        """
        with _ending_with_it(Unbegun):
            if not self._is_ready:
                self._await_readiness()
            socket.send_fds(self.socket, [b"e" if examined else b"j"], [job, out])
        with _ending_with_it(SystemExit):
            pid = int(_PID.unpack(self._receive(_PID.size))[0])
        if pid < 0:
            raise OSError(-pid, f"fork: {os.strerror(-pid)}")
        return pid

    def _await_readiness(self) -> None:
        refusal = self._receive(int.from_bytes(self._receive(_SIZE), "little")).decode()
        if refusal:
            raise OSError(f"no process could be prepared for jobs: {refusal}")
        self._is_ready = True

    def end(self) -> End:
        """Wait until the job's process ends."""
        with _ending_with_it(SystemExit):
            return End._make(_END.unpack(self._receive(_END.size)))

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            if not part:
                raise BrokenPipeError
            data += part
        return data


@contextlib.contextmanager
def _ending_with_it(way: type[SystemExit]) -> Iterator[None]:
    """End the supervisor if its zygote was killed. The pool then starts another worker."""
    try:
        yield
    except (BrokenPipeError, ConnectionResetError):
        raise way("the zygote ended") from None


# --- the zygote's own process ---


def _serve(link: socket.socket, setting: Setting) -> NoReturn:
    try:
        child.protect_others(os.path.realpath(setting.scratch))
        _limit(resource.RLIMIT_CORE, 0)
        _limit(resource.RLIMIT_FSIZE, FILE_BYTES)
        if setting.on_linux:
            _confine_linux(setting)
        refusal = b""
    except Exception as error:
        refusal = wire.told(error).encode("utf-8", "replace")
    link.sendall(len(refusal).to_bytes(_SIZE, "little") + refusal)
    if refusal:
        LEAVE(72)
    scale = 1024 if setting.on_linux else 1
    while True:
        message, fds, _, _ = socket.recv_fds(link, 1, 2)
        if not message:
            LEAVE(0)
        pid = _forked()
        if pid == 0:
            _become_job(fds[0], fds[1], setting, message == b"e")
        os.close(fds[0])
        os.close(fds[1])
        link.send(_PID.pack(pid))
        if pid < 0:
            continue
        _, status, usage = os.wait4(pid, 0)
        cpu_s = usage.ru_utime + usage.ru_stime
        link.send(_END.pack(os.waitstatus_to_exitcode(status), cpu_s, usage.ru_maxrss * scale))


def _forked() -> int:
    """Like ``os.fork``, but tries several times. If all fail, returns minus the error's number."""
    for attempt in range(FORK_ATTEMPTS):
        try:
            return os.fork()
        except OSError as error:
            code = error.errno or 1
            time.sleep(0.01 * attempt)
    return -code


def _confine_linux(setting: Setting) -> None:
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    if setting.uid != os.geteuid():  # each job changes its own user id
        linux.leave_groups(namespaces.NOBODY)
    elif setting.capable:
        linux.drop_capabilities()
    if setting.ruleset is not None:
        linux.landlock_restrict(setting.ruleset)
    if setting.seccomp:
        setting.base_filter.install()


# --- a job's process ---


def _become_job(job: int, out: int, setting: Setting, examined: bool) -> NoReturn:
    def confine(spec: dict[str, Any]) -> None:
        _confine(spec, setting)

    try:
        os.setpgid(0, 0)  # stays in the supervisor's session, so the pool can find what outlives it
        os.dup2(out, 1)
        code = _start_code(confine) if examined else None
        os.dup2(job, JOB_FD)
        if code is not None:
            os.dup2(code.fd, PEER_FD)
        os.closerange(JOB_FD + 1 if code is None else PEER_FD + 1, 256)
        head = _read_exactly(JOB_FD, wire.NONCE_BYTES + 4)
        channel = child.Channel(JOB_FD, head[: wire.NONCE_BYTES])
        spec = marshal.loads(channel.read(struct.unpack("<I", head[wire.NONCE_BYTES :])[0]))
        if code is not None:
            examiner.run(channel, spec, confine, examiner.Code(PEER_FD, code.pid))
        child.run(channel, spec, confine)
    finally:
        LEAVE(70)


def _start_code(confine: Callable[[dict[str, Any]], None]) -> examiner.Code:
    """Start the process of the code. It cannot use the job's socket: it gets what it is to run from
    this process, through another socket.
    """
    ours, theirs = (end.detach() for end in socket.socketpair())
    pid = _forked()
    if pid < 0:
        raise OSError(-pid, "fork")
    if pid == 0:
        os.dup2(theirs, JOB_FD)
        os.closerange(JOB_FD + 1, 256)
        examiner.serve(JOB_FD, confine)
    os.dup2(ours, 255)  # a number that does not collide with the fixed ones
    return examiner.Code(255, pid)


def _read_exactly(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = os.read(fd, size - len(data))
        if not part:
            os._exit(71)
        data += part
    return data


def _confine(spec: dict[str, Any], setting: Setting) -> None:
    os.chdir(setting.scratch)
    _open_files(spec["stdin"])
    _set_limits(spec, setting)
    if not setting.on_linux:
        if setting.profiles:
            setting.profiles[spec["processes"] > 0]()
        return
    if spec["processes"] > 0:
        os.nice(10)  # so that the supervisor gets CPU time to end them, however many there are
    if setting.uid != os.geteuid():
        linux.become(setting.uid)
    if not setting.strong:  # with it, all others end when process 1 ends
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    if not setting.seccomp:
        linux.prctl(linux.PR_SET_DUMPABLE, 0)
    else:
        setting.job_filters[spec["processes"] > 0].install()


def _open_files(stdin: str | None) -> None:
    """Give the job open files of its own. A flag or a lock that it sets on them is gone with it; on
    an inherited one it would stay for the next job.
    """
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 2)
    if stdin is None:
        os.dup2(null, 0)
    else:
        _give_stdin(stdin)
    os.close(null)


def _give_stdin(text: str) -> None:
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("stdin")
    else:
        name = f"stdin.{os.getpid()}"  # a job's two processes get theirs at the same time
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.unlink(name)
    data = text.encode("utf-8", "surrogatepass")
    while data:
        data = data[os.write(fd, data) :]
    os.lseek(fd, 0, os.SEEK_SET)
    os.dup2(fd, 0)
    os.close(fd)


def _set_limits(spec: dict[str, Any], setting: Setting) -> None:
    _limit(resource.RLIMIT_CPU, max(1, -int(-spec["cpu_s"] // 1)))
    _limit(resource.RLIMIT_NOFILE, OPEN_FILES)
    if not setting.seccomp and spec["processes"] == 0:
        _limit(resource.RLIMIT_NPROC, 0)
    elif setting.namespaced:
        # The supervisor, the zygote, the job, and perhaps the process of its tests. Without
        # namespaces, all processes of the user would count.
        _limit(resource.RLIMIT_NPROC, 4 + spec["processes"] + 2 * THREADS)
    elif setting.on_linux and spec["processes"] > 0:
        # This limit counts all processes of the user. The kernel does not enforce it for root.
        _limit(resource.RLIMIT_NPROC, setting.tasks + spec["processes"] + OTHER_TASKS)
    # Versions of macOS that do not enforce this limit may refuse it; watch checks memory there.
    with contextlib.suppress(OSError, ValueError):
        _limit(resource.RLIMIT_AS, setting.address_space + (spec["memory_mb"] << 20))


def _limit(which: int, value: int) -> None:
    hard = resource.getrlimit(which)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))
