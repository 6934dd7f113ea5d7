"""A slim warm interpreter that forks one disposable process per job, watches it, and ends all that
it started.

Run as a script, with the pool's socket as descriptor 0 and four arguments: ``strong`` or
``limits-only``, the folder for scratch directories, 0 or 1 for the clock (1: shifted), and a JSON
list of folders to hide. It imports the standard library only, holds no expected value of call and
program jobs, and never looks into what it relays.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import contextlib
import gc
import json
import os
import resource
import select
import signal
import socket
import stat
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [path for path in sys.path if path and os.path.abspath(path) != HERE]
sys.path.insert(0, HERE)
if sys.argv[3:4] == ["1"]:
    import clock  # type: ignore[import-not-found]

    clock.shift()
import child  # type: ignore[import-not-found]  # noqa: E402
import wire  # type: ignore[import-not-found]  # noqa: E402

if sys.platform == "linux":
    import linux  # type: ignore[import-not-found]
    import namespaces  # type: ignore[import-not-found]
del sys.path[0]

JOB_FD = 3
LEAVE = os._exit  # a job may put something else in its place
OPEN_FILES = 128
FILE_BYTES = 16 << 20
THREADS = 16  # beside the job's main thread, where the kernel counts threads as processes
POLL_S = 0.02
WARM = """
    array abc bisect cmath collections.abc contextlib copy dataclasses datetime decimal enum
    fractions functools heapq io itertools json math numbers operator random re statistics string
    textwrap time types typing unicodedata
""".split()  # noqa: SIM905 - thirty quoted words read worse


class Setting:
    """What every job of this zygote shares: where it runs, as whom, and behind which kernel
    filters.
    """

    def __init__(self, strong: bool, base: str) -> None:
        self.strong = strong
        self.base = self.scratch = base
        self.on_linux = sys.platform == "linux"
        self.uid = os.geteuid()
        self.seccomp = self.capable = False
        self.ruleset: int | None = None
        self.address_space = 0  # bytes that the bare interpreter has mapped


def main() -> int:
    """Prepare, say hello, serve jobs until the pool hangs up."""
    isolation, base, _, hidden = sys.argv[1:5]
    channel = os.dup(0)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    pool = socket.socket(fileno=channel)
    try:
        setting = _prepare(isolation == "strong", base, json.loads(hidden))
    except OSError as error:
        _hello(pool, {"error": str(error)})
        return 1
    os.dup2(null, 2)
    os.close(null)
    _hello(
        pool,
        {
            "isolation": isolation,
            "seccomp": setting.seccomp,
            "landlock": setting.ruleset is not None,
        },
    )
    gc.collect()
    gc.freeze()  # so that a collection in a child does not copy every page
    try:
        _serve(pool, setting)
    finally:
        if not setting.strong:
            _remove(base)
    return 0


def _hello(pool: socket.socket, content: dict[str, Any]) -> None:
    raw = json.dumps(content).encode()
    pool.sendall(struct.pack("<I", len(raw)) + raw)


def _prepare(strong: bool, base: str, hidden: list[str]) -> Setting:
    setting = Setting(strong, base)
    for name in WARM:
        __import__(name)
    child.add_site_builtins()
    child.open_streams()
    for name in ("child", "codec", "wire", "clock", "linux", "namespaces"):
        sys.modules.pop(name, None)
    if strong and not setting.on_linux:
        raise OSError(f"no strong isolation on {sys.platform}")
    if strong:
        setting.uid = namespaces.enter(hidden, base)
        setting.base = setting.scratch = namespaces.SCRATCH
    else:
        setting.scratch = os.path.join(base, "scratch")
    if setting.on_linux:
        _prepare_linux(setting)
    os.environ.clear()
    os.environ.update(
        PATH="/usr/bin:/bin", HOME=setting.scratch, TMPDIR=setting.scratch, LANG="C.UTF-8"
    )
    os.chdir("/")
    return setting


def _prepare_linux(setting: Setting) -> None:
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.prctl(
        linux.PR_SET_DUMPABLE, 0
    )  # no job may read or trace this process, or write to its descriptors
    setting.seccomp = _works(lambda: linux.seccomp(0))
    if setting.seccomp:
        linux.seccomp_program(False), linux.seccomp_program(True)  # prepared here, once
    library = [os.path.dirname(os.path.realpath(os.__file__))]
    system = ["/usr", "/lib", "/lib32", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime"]
    devices = ["/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"]
    if (
        not setting.strong
    ):  # a strong root shows no more than this, and signals stay in its namespace
        readable = library + system + devices + _own_libraries()
        # a kernel without Landlock: hello says so
        with contextlib.suppress(OSError):
            setting.ruleset = linux.landlock_ruleset(readable, [setting.base, "/dev/null"])
    if setting.uid == 0 and _works(_become_nobody):
        setting.uid = namespaces.NOBODY
    setting.capable = (setting.strong or os.geteuid() == 0) and _works(linux.drop_capabilities)
    with (
        open("/proc/self/statm")
        if os.path.exists("/proc/self/statm")
        else contextlib.nullcontext() as file
    ):
        if file is not None:
            setting.address_space = int(file.read().split()[0]) * resource.getpagesize()


def _own_libraries() -> list[str]:
    """A shared libpython outside the system's folders."""
    folder = os.path.join(os.path.realpath(sys.base_prefix), "lib")
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return [
        os.path.join(folder, name) for name in names if ".so" in name or name.endswith(".dylib")
    ]


def _become_nobody() -> None:
    """Leave root; fails where another user cannot read the standard library."""
    _drop_user(namespaces.NOBODY)
    with open(os.__file__, "rb") as file:
        file.read(1)


def _drop_user(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _works(action: Callable[[], None]) -> bool:
    """Whether ``action`` goes through in a process of its own."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _serve(pool: socket.socket, setting: Setting) -> None:
    wake_read, wake_write = os.pipe()
    for fd in (wake_read, wake_write):
        os.set_blocking(fd, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    while pool.recv(1, socket.MSG_PEEK):
        _make_scratch(setting)
        # forked before the request is read: the job's process never holds the tests or the proof
        # early
        watch = Watch(pool, setting, wake_read)
        watch.run()
        _clear_scratch(setting)
        watch.answer()


# --- the job's own process ---


def _become_job(job: int, out: int, setting: Setting) -> NoReturn:
    try:
        signal.set_wakeup_fd(-1)
        # the wrapper in ``signal`` makes enums, which costs a fresh process more than the call
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        os.setsid()
        os.dup2(job, 100)
        os.dup2(out, 1)
        os.dup2(100, JOB_FD)
        head = _read_exactly(JOB_FD, wire.NONCE_BYTES + 8)
        spec_bytes, late_bytes = struct.unpack("<II", head[wire.NONCE_BYTES :])

        def confine(spec: dict[str, Any]) -> None:
            _confine(spec, setting)

        child.run(JOB_FD, head[: wire.NONCE_BYTES], spec_bytes, late_bytes, confine)
    finally:
        LEAVE(70)


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
    if spec["stdin"] is not None:
        _give_stdin(spec["stdin"])
    _set_limits(spec, setting)
    if setting.on_linux:
        _confine_linux(spec["processes"], setting)
    os.closerange(JOB_FD + 1, 256)


def _give_stdin(text: str) -> None:
    fd = os.open("stdin", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.unlink("stdin")
    data = text.encode("utf-8", "surrogatepass")
    while data:
        data = data[os.write(fd, data) :]
    os.lseek(fd, 0, os.SEEK_SET)
    os.dup2(fd, 0)
    os.close(fd)


def _set_limits(spec: dict[str, Any], setting: Setting) -> None:
    _limit(resource.RLIMIT_CPU, max(1, -int(-spec["cpu_s"] // 1)))
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, OPEN_FILES)
    _limit(resource.RLIMIT_FSIZE, FILE_BYTES)
    if not setting.seccomp and spec["processes"] == 0:
        _limit(resource.RLIMIT_NPROC, 0)
    elif setting.strong:
        _limit(resource.RLIMIT_NPROC, 1 + spec["processes"] + THREADS)
    # macOS accepts the call or not, by version, and does not enforce it
    with contextlib.suppress(OSError, ValueError):
        _limit(resource.RLIMIT_AS, setting.address_space + (spec["memory_mb"] << 20))


def _limit(which: int, value: int) -> None:
    hard = resource.getrlimit(which)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))


def _confine_linux(processes: int, setting: Setting) -> None:
    if setting.uid != os.geteuid():
        _drop_user(setting.uid)
        linux.prctl(linux.PR_SET_DUMPABLE, 0)
    elif setting.capable:
        linux.drop_capabilities()
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    if setting.ruleset is not None:
        linux.landlock_restrict(setting.ruleset)
    if setting.seccomp:
        linux.seccomp(processes)


# --- watching it ---


class Watch:
    """One job from its fork to its answer."""

    def __init__(self, pool: socket.socket, setting: Setting, wake: int) -> None:
        self.pool, self.setting, self.wake = pool, setting, wake
        self.frame, self.out = bytearray(), bytearray()
        self.cut, self.cause, self.status = 0, wire.ENDED, 0
        self.usage: resource.struct_rusage | None = None
        self.started = time.monotonic()
        self.job, self.stdout, self.pid = self._fork()

    def _fork(self) -> tuple[int, int, int]:
        ours, theirs = socket.socketpair()
        out_read, out_write = os.pipe()
        job, job_end = ours.detach(), theirs.detach()
        pid = os.fork()
        if pid == 0:
            _become_job(job_end, out_write, self.setting)
        os.close(job_end)
        os.close(out_write)
        os.set_blocking(job, False)
        os.set_blocking(out_read, False)
        return job, out_read, pid

    def run(self) -> None:
        request, spec, self.late = self._read_request()
        self.request = request
        self.pending = request.nonce + struct.pack("<II", len(spec), len(self.late)) + spec
        self.late += request.proof if self.late else b""
        reads = {self.job, self.stdout}
        deadline = self.started + request.wall_s
        while self.usage is None:
            self._step(reads, deadline)
        self._end_everything()
        for fd in sorted(reads):
            while self._take(fd):
                pass
        os.close(self.job)
        os.close(self.stdout)
        if len(self.frame) > wire.MAX_FRAME:
            self.cause = wire.BAD_FRAME
            self.frame.clear()
        self.wall = time.monotonic() - self.started

    def _read_request(self) -> tuple[Any, bytes, bytes]:
        request = wire.Request.unpack(self._from_pool(wire.REQUEST_BYTES))
        return request, self._from_pool(request.spec_bytes), self._from_pool(request.late_bytes)

    def _from_pool(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = self.pool.recv(min(size - len(data), 1 << 20))
            if not part:
                self._abandon()
            data += part
        return bytes(data)

    def _abandon(self) -> NoReturn:
        """The pool has hung up: end the job and this process."""
        self._kill()
        os.wait4(self.pid, 0)
        self._end_everything()
        raise SystemExit(0)

    def _step(self, reads: set[int], deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            self._stop(wire.TIMED_OUT)
            return
        if self.request.processes:
            left = min(left, POLL_S)
        readable, writable, _ = select.select(
            [*reads, self.wake, self.pool.fileno()], [self.job] if self.pending else [], [], left
        )
        if self.wake in readable:
            with contextlib.suppress(BlockingIOError):
                os.read(self.wake, 4096)
            self._look()
        if self.pool.fileno() in readable:
            self._abandon()
        if writable and self.usage is None:
            self._give()
        for fd in reads & set(readable):
            if not self._take(fd):
                reads.discard(fd)
        if len(self.frame) > wire.MAX_FRAME or not self._begins_well():
            self._stop(wire.BAD_FRAME)
        elif self.request.processes and len(_descendants(self.pid)) > self.request.processes:
            self._stop(wire.TOO_MANY_PROCESSES)

    def _look(self) -> None:
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        if pid:
            self.status, self.usage = os.waitstatus_to_exitcode(status), usage

    def _stop(self, cause: int) -> None:
        if self.usage is None:
            self.cause = cause
            self._kill()
            _, status, self.usage = os.wait4(self.pid, 0)
            self.status = os.waitstatus_to_exitcode(status)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _give(self) -> None:
        try:
            self.pending = self.pending[os.write(self.job, self.pending) :]
        except BlockingIOError:
            return
        except OSError:
            self.pending = b""  # the job has closed its end

    def _take(self, fd: int) -> bool:
        """Read once; whether there may be more to come."""
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return self.usage is None
        except OSError:
            return False
        if fd == self.job:
            self.frame += data
            self._release_tests()
            return bool(data) and len(self.frame) <= wire.MAX_FRAME
        room = self.request.stdout_bytes - len(self.out)
        self.out += data[:room]
        self.cut |= len(data) > room
        return bool(data)

    def _begins_well(self) -> bool:
        """Other bytes before the nonce would leave a job waiting for its tests until its time is
        up.
        """
        begin = bytes(self.frame[: wire.NONCE_BYTES])
        return not self.late or self.request.nonce.startswith(begin)

    def _release_tests(self) -> None:
        ready = self.request.nonce + wire.READY
        if self.late and self.frame[: len(ready)] == ready:
            del self.frame[: len(ready)]
            self.pending += self.late
            self.late = b""

    def _end_everything(self) -> None:
        """Kill and reap whatever the job left, wherever it has hidden in the process tree."""
        if not self.setting.on_linux:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        while True:
            try:
                if os.waitpid(-1, os.WNOHANG)[0]:
                    continue
            except ChildProcessError:
                return
            if self.setting.strong:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(-1, signal.SIGKILL)
            else:
                for pid in _descendants(os.getpid()):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(0.0005)

    def answer(self) -> None:
        usage = self.usage
        assert usage is not None  # run() has returned
        scale = 1024 if self.setting.on_linux else 1
        response = wire.Response(
            self.status,
            self.cause,
            self.cut,
            self.wall,
            usage.ru_utime + usage.ru_stime,
            usage.ru_maxrss * scale,
            len(self.frame),
            len(self.out),
        )
        self.pool.sendall(response.pack() + self.frame + self.out)


def _descendants(root: int) -> list[int]:
    """Process ids below ``root`` (itself excluded), from /proc; empty where there is none."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
                if fields[0] != b"Z":
                    parents[int(name)] = int(fields[1])
    found = {root}
    while True:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            return sorted(found - {root})
        found |= more


# --- the scratch directory ---


def _make_scratch(setting: Setting) -> None:
    if not setting.strong:
        os.mkdir(setting.scratch, 0o700)
        if setting.uid != os.geteuid():
            os.chown(setting.scratch, setting.uid, setting.uid)


def _clear_scratch(setting: Setting) -> None:
    if not setting.strong:
        _remove(setting.scratch)
    elif os.listdir(setting.scratch):
        namespaces.unmount(setting.scratch)
        namespaces.mount_scratch()


def _remove(top: str) -> None:
    """Remove a tree of any depth and any modes: what lies deeper is first moved up, so paths stay
    short.
    """
    moved = 0
    while True:
        try:
            os.chmod(top, 0o700)
            entries = list(os.scandir(top))
        except FileNotFoundError:
            return
        if not entries:
            os.rmdir(top)
            return
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            os.chmod(entry.path, 0o700)
            for inner in list(os.scandir(entry.path)):
                moved += 1
                if stat.S_ISDIR(os.lstat(inner.path).st_mode):
                    os.chmod(inner.path, 0o700)
                os.rename(inner.path, os.path.join(top, f".{os.getpid()}.{moved}"))
            os.rmdir(entry.path)


if __name__ == "__main__":
    sys.exit(main())
