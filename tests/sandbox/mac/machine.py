"""Makes a process one of a Mac, as far as Python can tell. Standard library only.

What macOS lacks is taken away; ``sys.platform`` is its; libproc and libsandbox are stand-ins that
read the real /proc and interpret the real profile. A process that has put itself into a profile is
held to it wherever Python says what it is about to do (audit events), and in what is wrapped here.
Code that calls the kernel without Python is not held: that only a Mac can do.
"""

from __future__ import annotations

import _posixsubprocess
import ctypes
import errno
import fcntl
import importlib
import os
import posix
import resource
import select
import signal
import sys
import time
import types
from collections.abc import Callable
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import seatbelt  # type: ignore[import-not-found]  # noqa: E402

del sys.path[0]

PROCESSES_OF_THE_USER = 400  # RLIMIT_NPROC counts them all
_LACKING = {
    os: """
        memfd_create pidfd_open pipe2 setresuid setresgid getresuid getresgid sched_getaffinity
        sched_setaffinity sched_setscheduler sched_getscheduler getxattr setxattr listxattr
        removexattr posix_fadvise posix_fallocate copy_file_range splice eventfd getrandom fdatasync
        O_PATH O_TMPFILE O_DIRECT O_NOATIME O_LARGEFILE
    """,
    signal: "sigtimedwait sigwaitinfo SIGPWR SIGSTKFLT SIGPOLL SIGRTMIN SIGRTMAX",
    resource: """
        prlimit RLIMIT_MSGQUEUE RLIMIT_NICE RLIMIT_RTPRIO RLIMIT_RTTIME RLIMIT_SIGPENDING
        RLIMIT_OFILE
    """,
    select: "epoll EPOLLIN EPOLLOUT EPOLLHUP EPOLL_CLOEXEC",
    time: "pthread_getcpuclockid CLOCK_TAI CLOCK_BOOTTIME",
}


class Mac:
    """The state of this process's machine, which its children inherit."""

    def __init__(self, enforces_address_space: bool) -> None:
        self.enforces_address_space = enforces_address_space
        self.profile: seatbelt.Profile | None = None
        self.most_processes = self.most_cpu_s = resource.RLIM_INFINITY
        self.table: dict[int, dict[int, list[int]]] = {}
        self.table_is_old = 0.0
        self.behind_the_scenes = False  # while this module itself looks at the real machine


mac = Mac(True)
real = {name: getattr(posix, name) for name in "stat lstat readlink getpid kill".split()}  # noqa: SIM905
real_limit, real_limits, real_poll = resource.setrlimit, resource.getrlimit, select.poll
real_wait, real_library, real_control = os.wait4, ctypes.CDLL, fcntl.fcntl


def unseen(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, to which this module's own rules do not apply while it runs."""

    def looking(*args: Any, **named: Any) -> Any:
        before, mac.behind_the_scenes = mac.behind_the_scenes, True
        try:
            return function(*args, **named)
        finally:
            mac.behind_the_scenes = before

    return looking


# --- a process in a profile ---


def refuse(operation: str, path: object = None) -> None:
    raise PermissionError(errno.EPERM, f"{os.strerror(errno.EPERM)} ({operation})", path)


def need(operation: str, **facts: Any) -> None:
    if mac.profile is not None and not mac.profile.allows(operation, **facts):
        refuse(operation, facts.get("path"))


def place(path: Any, folder: int = -1) -> str:
    """The resolved path, if every link on the way can be read. The last part may be missing."""
    if folder >= 0:
        path = os.path.join(real["readlink"](f"/proc/self/fd/{folder}"), os.fsdecode(path))
    left = os.path.join(os.getcwd(), os.fsdecode(path)).split("/")
    here, links = "/", 0
    while left:
        part = left.pop(0)
        if part in ("", "."):
            continue
        step = os.path.dirname(here) if part == ".." else os.path.join(here, part)
        target = link(step)
        if target is None:
            here = step
            continue
        need("file-read-metadata", path=step)
        links += 1
        if links > 32:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        here, left = "/" if target.startswith("/") else here, [*target.split("/"), *left]
    return here


def link(path: str) -> str | None:
    try:
        return os.fsdecode(real["readlink"](path))
    except OSError:
        return None


def opened(path: Any, _: object, flags: int) -> None:
    if isinstance(path, int):
        return
    where = place(path)
    if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
        new = not os.path.lexists(where)
        need("file-write-create" if new else "file-write-data", path=where)
        if flags & os.O_WRONLY:
            return
    need("file-read-data", path=where)


def listed(path: Any = None) -> None:
    if not isinstance(path, int):
        need("file-read-data", path=place("." if path is None else path))


def is_child(pid: int) -> bool:
    fields = stat_of(pid)
    return bool(fields) and int(fields[PARENT]) == real["getpid"]()


def signalled(pid: int, _: object) -> None:
    own = real["getpid"]()
    target = "self" if pid == own else "children" if is_child(pid) else "others"
    need("signal", target=target)


def imported(_: str, path: str | None, *__: object) -> None:
    if path is not None:
        need("file-map-executable", path=place(path))


def loaded(name: Any) -> None:
    if name is not None and "/" in os.fsdecode(name):
        need("file-map-executable", path=place(name))


def changes(operation: str) -> Callable[..., None]:
    def changed(path: Any, *rest: Any) -> None:
        if not isinstance(path, int):
            folder = rest[-1] if rest and isinstance(rest[-1], int) else -1
            need(operation, path=place(path, folder))

    return changed


def moved(source: Any, target: Any, from_folder: int = -1, to_folder: int = -1) -> None:
    need("file-write-unlink", path=parted(source, from_folder))
    need("file-write-create", path=parted(target, to_folder))


def parted(path: Any, folder: int) -> str:
    """Like ``place``, but a link at the end stays one."""
    head, tail = os.path.split(os.fsdecode(path).rstrip("/"))
    return os.path.join(place(head or ".", folder), tail)


def removed(path: Any, folder: int = -1) -> None:
    need("file-write-unlink", path=parted(path, folder))


def made(path: Any, *rest: Any) -> None:
    need("file-write-create", path=parted(path, rest[-1] if rest else -1))


def linked(_: Any, target: Any, *folders: int) -> None:
    need("file-write-create", path=parted(target, folders[-1] if folders else -1))


def hard_linked(source: Any, target: Any, *folders: int) -> None:
    need("file-link", path=parted(source, folders[0] if folders else -1))
    linked(source, target, *folders)


def forked(*_: object) -> None:
    if PROCESSES_OF_THE_USER > mac.most_processes >= 0:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    need("process-fork")


def simply(operation: str) -> Callable[..., None]:
    return lambda *_: need(operation, path="/usr/bin/anything")


EVENTS: dict[str, Callable[..., None]] = {
    "open": opened,
    "os.listdir": listed,
    "os.scandir": listed,
    "os.mkdir": made,
    "os.symlink": linked,
    "os.link": hard_linked,
    "os.rename": moved,
    "os.remove": removed,
    "os.rmdir": removed,
    "os.chmod": changes("file-write-mode"),
    "os.chown": changes("file-write-owner"),
    "os.utime": changes("file-write-times"),
    "os.truncate": lambda path, length: changes("file-write-data")(path),
    "os.fork": forked,
    "os.forkpty": forked,
    "os.exec": simply("process-exec"),
    "os.posix_spawn": forked,
    "os.system": forked,
    "subprocess.Popen": forked,
    "os.kill": signalled,
    "os.killpg": signalled,
    "import": imported,
    "ctypes.dlopen": loaded,
    "socket.bind": simply("network-bind"),
    "socket.connect": simply("network-outbound"),
    "socket.sendto": simply("network-outbound"),
    "socket.sendmsg": simply("network-outbound"),
    "socket.getaddrinfo": simply("mach-lookup"),
    "socket.gethostbyname": simply("mach-lookup"),
}


def audit(event: str, args: tuple[Any, ...]) -> None:
    check = EVENTS.get(event)
    if check is None or mac.behind_the_scenes:
        return
    if event in ("open", "os.listdir", "os.scandir") and is_proc(args[0]):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), args[0])
    if mac.profile is not None or check is forked:
        unseen(check)(*args)


def is_proc(path: Any) -> bool:
    return isinstance(path, (str, bytes)) and (os.fsdecode(path) + "/").startswith("/proc/")


# --- functions of the system ---


def looked_up(name: str) -> Callable[..., Any]:
    """``stat`` and its kin, which no audit event announces."""

    def look(path: Any, *args: Any, **named: Any) -> Any:
        if not mac.behind_the_scenes and not isinstance(path, int):
            if is_proc(path):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            if mac.profile is not None:
                folder = named.get("dir_fd")
                at_link = name != "stat" or named.get("follow_symlinks") is False
                where = unseen(parted if at_link else place)(path, -1 if folder is None else folder)
                need("file-read-metadata", path=where)
        return real[name](path, *args, **named)

    return look


def called(name: str, number: str) -> Callable[..., Any]:
    function = getattr(os, name)

    def call(*args: Any, **named: Any) -> Any:
        need("syscall-unix", number=number)
        return function(*args, **named)

    return call


def new(name: str) -> Callable[..., Any]:
    """``mkfifo`` and ``mknod``, which no audit event announces."""
    function = getattr(os, name)

    def make(path: Any, *args: Any, **named: Any) -> Any:
        unseen(made)(path, named.get("dir_fd") or -1)
        return function(path, *args, **named)

    return make


def limit(which: int, limits: tuple[int, int]) -> None:
    """Macs count all processes of a user, send SIGXCPU once, and enforce RLIMIT_AS or do not."""
    soft, hard = limits
    if which == resource.RLIMIT_NPROC:
        mac.most_processes = soft
    elif which == resource.RLIMIT_CPU:
        if mac.most_cpu_s >= 0 and not 0 <= soft <= mac.most_cpu_s:
            raise ValueError("not allowed to raise maximum limit")
        mac.most_cpu_s = hard
        real_limit(which, (soft, resource.RLIM_INFINITY))  # the real hard limit would kill
    elif which != resource.RLIMIT_AS:
        real_limit(which, limits)
    elif mac.enforces_address_space:
        if soft != resource.RLIM_INFINITY and soft < mapped():
            raise ValueError("current limit exceeds maximum limit")
        real_limit(which, limits)


def limits_of(which: int) -> tuple[int, int]:
    if which == resource.RLIMIT_CPU:
        return real_limits(which)[0], mac.most_cpu_s
    if which == resource.RLIMIT_NPROC:
        return mac.most_processes, resource.RLIM_INFINITY
    return real_limits(which)


@unseen
def mapped() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


class Poll:
    """``poll`` as macOS has it: what asks for nothing is told nothing, not even a hang-up."""

    def __init__(self) -> None:
        self._poll = real_poll()

    def register(self, fd: Any, events: int = select.POLLIN) -> None:
        if events:
            self._poll.register(fd, events)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._poll, name)


def waited(pid: int, options: int) -> tuple[int, int, Any]:
    """``wait4``; a Mac counts memory in bytes."""
    ended, status, usage = real_wait(pid, options)
    fields = list(usage)
    fields[2] *= 1024
    return ended, status, resource.struct_rusage(fields)


F_GETPATH = 50


def control(fd: int, command: int, argument: Any = 0) -> Any:
    if command != F_GETPATH:
        return real_control(fd, command, argument)
    return os.fsencode(real["readlink"](f"/proc/self/fd/{fd}")).ljust(len(argument), b"\0")


# --- libproc and libsandbox ---


class Libraries:
    """What ``ctypes.CDLL`` gives: the C library, with the parts of a Mac."""

    def __init__(self, name: Any = None, **options: Any) -> None:
        self._real = None
        if name is None or "libsandbox" not in str(name):
            self._real = real_library(name, **options)
        if name is None:
            self.proc_pid_rusage, self.proc_listpids = proc_pid_rusage, proc_listpids
            self.proc_pidinfo = proc_pidinfo
        elif self._real is None:
            self.sandbox_create_params, self.sandbox_free_params = lambda: 1, lambda params: None
            self.sandbox_compile_string, self.sandbox_apply = compile_string, apply

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def compile_string(text: bytes, _: object, reason: Any) -> Any:
    try:
        return seatbelt.Profile(text.decode())
    except seatbelt.ProfileError as error:
        reason._obj.value = str(error).encode()
        return None


def apply(profile: seatbelt.Profile) -> int:
    if mac.profile is not None:
        ctypes.set_errno(errno.EPERM)
        return -1
    mac.profile = profile
    return 0


def table() -> dict[int, dict[int, list[int]]]:
    """The real processes by the columns that libproc lists by, and their value there. It is read
    anew after some milliseconds, since reading takes longer than a Mac's kernel does.
    """
    if time.monotonic() > mac.table_is_old:
        mac.table = {GROUP: {}, PARENT: {}}
        for pid in [int(name) for name in unseen(os.listdir)("/proc") if name.isdigit()]:
            if fields := stat_of(pid):
                for column, found in mac.table.items():
                    found.setdefault(int(fields[column]), []).append(pid)
        mac.table_is_old = time.monotonic() + 0.005
    return mac.table


@unseen
def stat_of(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


STATE, PARENT, GROUP, THREADS = 0, 1, 2, 17


def proc_listpids(kind: int, of: int, buffer: Any, size: int) -> int:
    column = {2: GROUP, 6: PARENT}[kind]
    found = table()[column].get(of, [])[: size // 4]
    buffer[: len(found)] = found
    return 4 * len(found)


def proc_pid_rusage(pid: int, flavor: int, target: Any) -> int:
    assert flavor == 2
    try:
        target._obj.ri_phys_footprint = footprint(pid)
    except OSError:
        ctypes.set_errno(errno.ESRCH)
        return -1
    return 0


@unseen
def footprint(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        _, resident, shared = map(int, file.read().split()[:3])
    return (resident - shared) * resource.getpagesize()


def proc_pidinfo(pid: int, flavor: int, argument: int, target: Any, size: int) -> int:
    assert (flavor, argument, size) == (4, 0, 96)
    fields = stat_of(pid)
    if not fields or fields[STATE] == "Z":
        return 0
    target._obj.pti_threadnum = int(fields[THREADS])
    return size


def session_of(pid: int) -> int:
    """``getsid``; a Mac finds no zombie."""
    fields = stat_of(pid)
    if not fields or fields[STATE] == "Z":
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
    return int(fields[3])


# --- the change ---


def forks(function: Callable[..., Any]) -> Callable[..., Any]:
    def fork(*args: Any) -> Any:
        unseen(forked)()
        return function(*args)

    return fork


def _add_modules() -> None:
    """What the standard library of a Mac has besides: how urllib asks for the settings of the
    network, and how the interpreter was built.
    """
    proxies: Any = types.ModuleType("_scproxy")
    proxies._get_proxies = proxies._get_proxy_settings = dict
    built: Any = types.ModuleType("_sysconfigdata")
    built.__getattr__ = lambda name: getattr(importlib.import_module(_BUILT.format("linux")), name)
    sys.modules |= {"_scproxy": proxies, _BUILT.format("darwin"): built}


_BUILT = f"_sysconfigdata_{sys.abiflags}_{{}}_{getattr(sys.implementation, '_multiarch', '')}"


def become(enforces_address_space: bool) -> None:
    """Turn this process into one of a Mac, whose release enforces RLIMIT_AS or does not."""
    mac.enforces_address_space = enforces_address_space
    for module, names in _LACKING.items():
        for name in names.split():
            for holder in (module, posix) if module is os else (module,):
                if hasattr(holder, name):
                    delattr(holder, name)
    sys.platform = "darwin"
    os.O_EVTONLY, fcntl.F_GETPATH, fcntl.fcntl = 0, F_GETPATH, control  # type: ignore[attr-defined]
    wrapped = {name: new(name) for name in ("mkfifo", "mknod")}
    wrapped |= {name: called(name, f"SYS_{name}") for name in ("setsid", "setpgid")}
    wrapped |= {name: looked_up(name) for name in ("stat", "lstat", "readlink")}
    for holder in (os, posix):
        for name, function in wrapped.items():
            setattr(holder, name, function)
        holder.getsid = session_of  # type: ignore[attr-defined]
        holder.lchflags = holder.chflags = lambda path, flags: None  # type: ignore[attr-defined]
        holder.wait4 = waited  # type: ignore[attr-defined]
    resource.setrlimit, resource.getrlimit = limit, limits_of
    select.poll = Poll  # type: ignore[assignment, misc]
    ctypes.CDLL = Libraries  # type: ignore[assignment, misc]
    _add_modules()
    _posixsubprocess.fork_exec = forks(_posixsubprocess.fork_exec)  # no audit event announces it
    sys.addaudithook(audit)
    for name in ("machine", "seatbelt"):
        sys.modules.pop(name, None)
