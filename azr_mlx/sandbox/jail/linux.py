"""Linux confinement without privileges, through ctypes: prctl, seccomp, Landlock, and namespaces.

Used only in the supervisor, the zygote and the zygote's children. Standard library only; nothing
here runs at import. Each function says what it needs and raises OSError if the kernel refuses.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable
from functools import cache

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP = 1, 4, 22
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
CLONE_VM, CLONE_VFORK, CLONE_THREAD = 0x100, 0x4000, 0x10000
_CLONE_IDS = 0x1300000  # PARENT_SETTID CHILD_CLEARTID CHILD_SETTID: where ids are written
_CLONE_SHARED = 0x4C0E00  # FS FILES SIGHAND SYSVSEM SETTLS DETACHED: what threads share
CLONE_NEWTIME = 0x80
CLONE_NAMESPACES = 0x7E020080  # NEWNS NEWCGROUP NEWUTS NEWIPC NEWUSER NEWPID NEWNET NEWTIME
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18
MNT_DETACH = 2

# name: (x86_64, aarch64); None if the architecture has no such call
_SYSCALLS: dict[str, tuple[int | None, int | None]] = {
    "clone": (56, 220),
    "fork": (57, None),
    "vfork": (58, None),
    "clone3": (435, 435),
    "kill": (62, 129),
    "tgkill": (234, 131),
    "prlimit64": (302, 261),
    "tkill": (200, 130),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "lchown": (94, None),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "fcntl": (72, 25),
    "ioctl": (16, 29),
    "setpgid": (109, 154),
    "setsid": (112, 157),
    "setpriority": (141, 140),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "ioprio_set": (251, 30),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "userfaultfd": (323, 282),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "semget": (64, 190),
    "semop": (65, 193),
    "semctl": (66, 191),
    "semtimedop": (220, 192),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "mq_timedsend": (242, 182),
    "mq_timedreceive": (243, 183),
    "mq_notify": (244, 184),
    "mq_getsetattr": (245, 185),
    "flock": (73, 32),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "inotify_add_watch": (254, 27),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "mincore": (27, 232),
    "cachestat": (451, 451),
    "preadv2": (327, 286),
    "sync": (162, 81),
    "syncfs": (306, 267),
    "syslog": (103, 116),
    "sysinfo": (99, 179),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "clock_gettime": (228, 113),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    "capset": (126, 91),
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
}
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_CLOCKS = ("clock_gettime", "gettimeofday", "time")
_USED_HERE = {"capset", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"}
# The zygote still needs these, or a job before its code starts, so only a job's own filter denies
# them. Files without a name (memfd) would be memory that no limit counts.
_NOT_FOR_JOBS = {"setpgid", "setsid", "memfd_create", "memfd_secret"}
_METADATA = {
    *("chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "lchown", "fchown", "fchownat"),
    *("utime", "utimes", "futimesat", "utimensat"),
    *("setxattr", "lsetxattr", "fsetxattr", "setxattrat"),
    *("removexattr", "lremovexattr", "fremovexattr", "removexattrat"),
}
_RULED_APART = {"fork", "vfork"} | _NOT_FOR_JOBS


@cache
def libc() -> ctypes.CDLL:
    """The C library, set up so that errno can be read after a call."""
    return ctypes.CDLL(None, use_errno=True)


def os_error(what: str) -> OSError:
    """The error of the last failed call."""
    code = ctypes.get_errno()
    return OSError(code, f"{what}: {os.strerror(code)}")


def _check(result: int, what: str) -> int:
    if result < 0:
        raise os_error(what)
    return result


def leave_groups(group: int) -> None:
    """Belong to ``group`` alone."""
    os.setgroups([])
    os.setresgid(group, group, group)


def become(user: int) -> None:
    """Become another user for good."""
    os.setresuid(user, user, user)


def prctl(option: int, value: int = 0, extra: object = 0) -> None:
    """One prctl call; raises OSError."""
    zero = ctypes.c_ulong(0)
    third = extra if not isinstance(extra, int) else ctypes.c_ulong(extra)
    _check(libc().prctl(option, ctypes.c_ulong(value), third, zero, zero), f"prctl {option}")


@cache
def _number(name: str) -> int:
    index = _MACHINES.get(platform.machine(), (None, 0))[0]
    number = None if index is None else _SYSCALLS[name][index]
    if number is None:
        raise OSError(errno.ENOSYS, f"{name}: unknown on {platform.machine()}")
    return number


def syscall(name: str, *args: object) -> int:
    """Make a system call by name. Ints are passed as longs. Raises OSError."""
    values = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    return _check(int(libc().syscall(ctypes.c_long(_number(name)), *values)), name)


def forget_arguments() -> None:
    """Overwrite the memory that the kernel shows as this process's command line and environment:
    a job can read it in /proc. Raises OSError if there is no /proc.
    """
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    for start, end in (map(int, fields[45:47]), map(int, fields[47:49])):  # numbers 48 to 51
        ctypes.memset(ctypes.c_void_p(start), 0, end - start)


def drop_capabilities() -> None:
    """Permanently give up every capability of this process."""
    syscall("capset", _CAP_HEADER, _NO_CAPABILITIES)


_CAP_HEADER = (ctypes.c_uint32 * 2)(0x20080522, 0)
_NO_CAPABILITIES = (ctypes.c_uint32 * 6)()


# --- seccomp: a classic BPF program over (nr, arch, args) ---

_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _AND, _JEQ, _JGE, _JSET, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
_Instruction = tuple[int, int, int, int]
_ALLOWED: _Instruction = (_RETURN, 0, 0, _ALLOW)


def _if_call(number: int, body: list[_Instruction]) -> list[_Instruction]:
    """Run ``body`` if the accumulator holds this call's number. ``body`` must return or load the
    number again.
    """
    return [(_JEQ, 0, len(body), number), *body]


def _deny(code: int) -> _Instruction:
    return (_RETURN, 0, 0, _ERRNO | code)


def _only_for_self(code: int) -> list[_Instruction]:
    """Allow the call if its first argument (low 32 bits) is 0: the caller or its own group."""
    return [(_LOAD, 0, 0, 16), (_JEQ, 1, 0, 0), _deny(code), _ALLOWED]


def _own_priority() -> list[_Instruction]:
    """Allow setpriority only for the caller: its first two arguments (low 32 bits) are 0."""
    allow_or_not = [(_JEQ, 1, 0, 0), _deny(errno.EPERM)]
    return [
        (_LOAD, 0, 0, 16),
        *allow_or_not,
        (_LOAD, 0, 0, 24),
        *allow_or_not,
        (_RETURN, 0, 0, _ALLOW),
    ]


def _all_but(argument: int, values: Iterable[int]) -> list[_Instruction]:
    """Deny the call if an argument (counted from 0, low 32 bits) is one of ``values``."""
    values = sorted(values)
    tests = [(_JEQ, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [(_LOAD, 0, 0, 16 + 8 * argument), *tests, _ALLOWED, _deny(errno.EPERM)]


def _forks_and_threads() -> list[_Instruction]:
    """Allow clone with the flags that ``fork``, ``posix_spawn`` and threads use. A process that
    asks for others is ended: with them a child could get another parent (CLONE_PARENT), share
    memory that is then counted twice, or end without a signal, and so escape those who count
    processes and wait for them. Namespaces are refused like any other call.
    """
    flags, killed = (_LOAD, 0, 0, 16), (_RETURN, 0, 0, _KILL)
    spaces = [(_JSET, 0, 1, CLONE_NAMESPACES), _deny(errno.EPERM)]
    for_threads = CLONE_VM | CLONE_THREAD | _CLONE_SHARED | _CLONE_IDS
    thread = [(_AND, 0, 0, ~for_threads & _WORD), (_JEQ, 0, 1, 0), _ALLOWED, killed]
    for_processes = CLONE_VM | CLONE_VFORK | _CLONE_IDS
    process = [(_AND, 0, 0, ~for_processes & _WORD), (_JEQ, 1, 0, _SIGCHLD), killed]
    memory = [flags, (_AND, 0, 0, CLONE_VM | CLONE_VFORK), (_JEQ, 0, 1, CLONE_VM), killed]
    parts = [(_JSET, 0, len(thread), CLONE_THREAD), *thread, *process, *memory]
    return [flags, *spaces, *parts, _ALLOWED]


def _called_from(start: int, size: int) -> list[_Instruction]:
    """Allow a call only from code in these ``size`` bytes of memory. Without a size: from all."""
    if not size:
        return [_ALLOWED]
    high, low, denied = start >> 32, start & _WORD, _deny(errno.EPERM)
    return [
        *((_LOAD, 0, 0, 12), (_JEQ, 1, 0, high), denied),
        *((_LOAD, 0, 0, 8), (_JGE, 1, 0, low), denied),
        *((_JGE, 0, 1, low + size), denied, _ALLOWED),
    ]


def _file_control(locks: int) -> list[_Instruction]:
    """fcntl without what signals other processes, watches a file or changes it for others. Locks
    on a shared file would block the host and carry data: they get this error (0: seem to succeed).
    """
    tests = [(_JEQ, 0, 1, command) for command in _LOCKS]
    apart = [part for test in tests for part in (test, _deny(locks))]
    return [(_LOAD, 0, 0, 24), *apart, *_all_but(1, _CONTROLS)]


_SIGCHLD, _WORD = 17, 0xFFFFFFFF
_LOCKS = (6, 7, 37, 38)  # F_SETLK F_SETLKW F_OFD_SETLK F_OFD_SETLKW
# F_SETOWN F_SETSIG F_SETOWN_EX F_SETLEASE F_NOTIFY F_SET_RW_HINT F_SET_FILE_RW_HINT F_SETDELEG
_CONTROLS = (8, 10, 15, 1024, 1026, 1036, 1038, 1040)
_NOWAIT = 8  # of preadv2: says whether a page of a file is in the system's cache


def base_program(strong: bool, clock: tuple[int, int] = (0, 0)) -> bytes:
    """The filter of every job, and of the zygote that forks them. It denies signals to other
    processes, tracing, sockets, mounts, namespaces, IPC that outlives a process, watching and
    locking files, what the system's caches hold, and changing the priority of others. Without
    ``strong``, not all visible files are read-only, so it also blocks changes to a file's mode,
    owner, times or attributes, which Landlock allows. ``clock`` is the place (address, size) from
    which alone the time may be asked. Raises OSError on a machine whose system call numbers are not
    listed here.
    """
    if platform.machine() not in _MACHINES:
        raise OSError(errno.ENOSYS, f"seccomp: no filter for {platform.machine()}")
    rules: dict[str, list[_Instruction]] = {
        "clone": _forks_and_threads(),
        "clone3": [_deny(errno.ENOSYS)],  # its flags are behind a pointer; libc falls back to clone
        "kill": _only_for_self(errno.EPERM),
        "prlimit64": _only_for_self(errno.EPERM),
        "setpriority": _own_priority(),
        "fcntl": _file_control(0),
        "flock": [_deny(0)],
        "sync": [_deny(0)],  # honest code may ask for it, but it is the whole machine's
        "syncfs": [_deny(0)],
        "preadv2": [(_LOAD, 0, 0, 56), (_JSET, 0, 1, _NOWAIT), _deny(errno.EOPNOTSUPP), _ALLOWED],
        # A datagram socket could send to any listener.
        "socketpair": [(_LOAD, 0, 0, 24), (_AND, 0, 0, 0xF), (_JEQ, 0, 1, 1), _ALLOWED, _deny(1)],
        # ioctl can make a descriptor send signals to other processes: FIOSETOWN, SIOCSPGRP,
        # FIOASYNC. TIOCSTI types into a terminal.
        "ioctl": _all_but(1, (0x8901, 0x8902, 0x5452, 0x5412)),
        **{name: _called_from(*clock) for name in _CLOCKS},
    }
    ruled_apart = _RULED_APART | (_METADATA if strong else set())
    for name in _SYSCALLS.keys() - _USED_HERE - ruled_apart - rules.keys():
        rules[name] = [_deny(errno.EPERM)]
    if not strong:
        # Let these calls seem to succeed, so that honest code can copy a file with its mode.
        rules |= {name: [_deny(0)] for name in _METADATA}
    start = [
        (_LOAD, 0, 0, 4),
        (_JEQ, 1, 0, _MACHINES[platform.machine()][1]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),
        (_JGE, 0, 1, 0x40000000),  # calls of x86_64's x32 ABI have these numbers
        _deny(errno.ENOSYS),
    ]
    return _assembled(start, rules)


def job_program(children: bool) -> bytes:
    """The filter that a job gets in addition. The job cannot leave its process group and session,
    by which all that it starts can be found, and cannot make files in memory (memfd). Without
    ``children`` it may start threads, but no processes.
    """
    rules = {name: [_deny(errno.EPERM)] for name in _NOT_FOR_JOBS}
    if children:  # they might rely on a lock that only seems to be there
        rules |= {"flock": [_deny(errno.ENOLCK)], "fcntl": _file_control(errno.ENOLCK)}
    else:
        test = [(_JSET, 1, 0, CLONE_THREAD), _deny(errno.EAGAIN), _ALLOWED]
        none = [_deny(errno.EAGAIN)]
        rules |= {"clone": [(_LOAD, 0, 0, 16), *test], "fork": none, "vfork": none}
    return _assembled([(_LOAD, 0, 0, 0)], rules)


def _assembled(start: list[_Instruction], rules: dict[str, list[_Instruction]]) -> bytes:
    index = _MACHINES[platform.machine()][0]
    program = list(start)
    for name, body in sorted(rules.items()):
        number = _SYSCALLS[name][index]
        if number is not None:
            program += _if_call(number, body)
    program.append(_ALLOWED)
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("program", ctypes.c_char_p))


class Filter:
    """A seccomp program, ready to be applied by a single call."""

    def __init__(self, program: bytes) -> None:
        self._filter = _Filter(len(program) // 8, program)
        zero = ctypes.c_ulong(0)
        mode, pointer = ctypes.c_ulong(2), ctypes.byref(self._filter)
        self._arguments = (ctypes.c_int(PR_SET_SECCOMP), mode, pointer, zero, zero)
        self._prctl = libc().prctl

    def install(self) -> None:
        """Apply the filter to this process and all that it starts, permanently. no_new_privs must
        be set before. Raises OSError.
        """
        _check(self._prctl(*self._arguments), "seccomp")


# --- Landlock: which files and folders can be opened ---

_READ = 0b1101  # execute, read file, read directory
_FILE_RIGHTS = 0b1100_0000_0000_0111  # execute, write, read, truncate, device ioctl
_RIGHTS_BY_ABI = ((1, 13), (2, 14), (3, 15), (5, 16))  # (ABI version, how many file rights it has)


def landlock_ruleset(readable: Iterable[str], writable: Iterable[str]) -> int:
    """A descriptor of a ruleset. Only ``readable`` and ``writable`` can be read, only ``writable``
    changed, and signals and abstract unix sockets reach only the process's own children. Raises
    OSError if the kernel has no Landlock.
    """
    abi = syscall("landlock_create_ruleset", ctypes.c_void_p(None), 0, 1)
    count = max(bits for version, bits in _RIGHTS_BY_ABI if version <= abi)
    rights = (1 << count) - 1
    fields = [rights, 0b11 if abi >= 4 else 0, 0b11 if abi >= 6 else 0]
    packed = struct.pack("<QQQ", *fields)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    ruleset = syscall("landlock_create_ruleset", ctypes.c_char_p(packed), len(packed), 0)
    os.set_inheritable(ruleset, False)
    for path in readable:
        _allow(ruleset, path, _READ & rights)
    for path in writable:
        _allow(ruleset, path, rights)
    return ruleset


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        target = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not os.path.isdir(path):
            rights &= _FILE_RIGHTS
        packed = struct.pack("<Qi", rights, target)
        syscall("landlock_add_rule", ruleset, 1, ctypes.c_char_p(packed), 0)
    finally:
        os.close(target)


def landlock_restrict(ruleset: int) -> None:
    """Permanently apply the ruleset to this process. no_new_privs must be set before."""
    syscall("landlock_restrict_self", ruleset, 0)
