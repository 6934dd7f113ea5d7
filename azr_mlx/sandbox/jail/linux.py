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
CLONE_THREAD = 0x10000
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
    "msgget": (68, 186),
    "semget": (64, 190),
    "capset": (126, 91),
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
}
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
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


def base_program(strong: bool) -> bytes:
    """The filter of every job, and of the zygote that forks them. It denies signals to other
    processes, tracing, sockets, mounts, namespaces, System V IPC, and changing the priority of
    others. Without ``strong``, not all visible files are read-only, so it also blocks changes to a
    file's mode, owner, times or attributes, which Landlock allows. Raises OSError on a machine
    whose system call numbers are not listed here.
    """
    if platform.machine() not in _MACHINES:
        raise OSError(errno.ENOSYS, f"seccomp: no filter for {platform.machine()}")
    no_namespaces = [(_JSET, 0, 1, CLONE_NAMESPACES), _deny(errno.EPERM), _ALLOWED]
    rules: dict[str, list[_Instruction]] = {
        "clone": [(_LOAD, 0, 0, 16), *no_namespaces],
        "clone3": [_deny(errno.ENOSYS)],  # its flags are behind a pointer; libc falls back to clone
        "kill": _only_for_self(errno.EPERM),
        "prlimit64": _only_for_self(errno.EPERM),
        "setpriority": _own_priority(),
        # fcntl and ioctl can make a descriptor send signals to other processes: F_SETOWN, F_SETSIG,
        # F_SETOWN_EX; FIOSETOWN, SIOCSPGRP, FIOASYNC. TIOCSTI types into a terminal.
        "fcntl": _all_but(1, (8, 10, 15)),
        # A datagram socket could send to any listener.
        "socketpair": [(_LOAD, 0, 0, 24), (_AND, 0, 0, 0xF), (_JEQ, 0, 1, 1), _ALLOWED, _deny(1)],
        "ioctl": _all_but(1, (0x8901, 0x8902, 0x5452, 0x5412)),
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
    if not children:
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
