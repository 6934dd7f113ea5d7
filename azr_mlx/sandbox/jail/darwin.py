"""macOS confinement without privileges: writes a Seatbelt profile as text, and reads a process's
memory and children through libproc.

Standard library only; nothing here runs at import, and the profile can be written on any system.
There are two ways into a profile. ``command`` starts a program inside one, through sandbox-exec.
``compiled`` returns a function that puts the calling process into one; a forked child calls it just
before it runs its job. The second way allows a stricter profile: a process that will not start
anything needs no exec, no fork and no session. Children inherit a profile. It cannot be left, and
cannot be combined with a second one.

Apple does not document Seatbelt's language, and no result of this module from a Mac is on record
yet. The rules follow profiles that other projects use on many releases:

- https://github.com/chromium/chromium/blob/main/sandbox/policy/mac/common.sb
- https://github.com/openai/codex, seatbelt_base_policy.sbpl
- https://github.com/NixOS/nix, sandbox-defaults.sb
- https://github.com/WebKit/WebKit/blob/main/Source/WebKit/WebProcess/com.apple.WebProcess.sb.in

The kernel's side of the system calls used here is in
https://github.com/apple-oss-distributions/xnu
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

SANDBOX_EXEC = "/usr/bin/sandbox-exec"

# Every program reads these: the loader's cache (its place depends on the release), the system's
# libraries, time zones and locales.
_SYSTEM = (
    "/System/Cryptexes/OS",
    "/System/Library",
    "/System/Volumes/Preboot/Cryptexes/OS",
    "/private/etc/localtime",
    "/private/var/db/dyld",
    "/private/var/db/timezone",
    "/usr/lib",
    "/usr/share/icu",
    "/usr/share/locale",
    "/usr/share/zoneinfo",
    "/usr/share/zoneinfo.default",
)
_LINKS = ("/etc", "/tmp", "/var", "/dev")  # what is passed on the way to allowed files
_READ_DEVICES = ("/dev/null", "/dev/random", "/dev/urandom", "/dev/zero")
# The default denies these already. They are listed so that they stay closed even if a folder above
# one of them is opened.
_HIDDEN = (
    "/Library/Keychains",
    "/Users",
    "/Volumes",
    "/private/tmp",
    "/private/var/folders",
    "/private/var/root",
    "/private/var/tmp",
)
# Facts about hardware and kernel. kern.proc* and kern.procargs* are left out, because they show the
# arguments and environments of other processes.
_SYSCTLS = (
    "kern.argmax",
    "kern.hostname",
    "kern.maxfilesperproc",
    "kern.ngroups",
    "kern.osproductversion",
    "kern.osrelease",
    "kern.ostype",
    "kern.osvariant_status",
    "kern.osversion",
    "kern.secure_kernel",
    "kern.usrstack64",
    "kern.version",
    "machdep.cpu.brand_string",
    "security.mac.lockdown_mode_state",
    "sysctl.proc_cputype",
)
# Folders in which package managers keep the libraries that their interpreters link.
_STORES = {
    "/opt/homebrew": ("/opt/homebrew/Cellar", "/opt/homebrew/opt"),
    "/usr/local/Cellar": ("/usr/local/Cellar", "/usr/local/opt"),
    "/opt/local": ("/opt/local/lib",),
    "/nix/store": ("/nix/store",),
}
# Places of interpreters that bring their libraries along, or have them in a store of their own. A
# Python that was built from source (pyenv, mise, asdf) links those of Homebrew.
_SELF_CONTAINED = ("/Applications", "/Library", "/System", "/nix/store", "/opt/local")
_HOMEBREW = ("/opt/homebrew", "/usr/local")
# What a running interpreter reads in its prefix. A framework's library has no folder of its own.
_PARTS = (
    "lib",
    "share/terminfo",
    "share/zoneinfo",
    "Frameworks",
    "Resources",
    "Python",
    "Python3",
    "PythonT",
)
_MOST_LINKS = 32  # MAXSYMLINKS of the system
_SHARED_PREFIXES = ("/", "/usr", "/usr/local", "/opt", "/opt/homebrew", "/opt/local")


# --- the profile ---


def profile(
    scratch: str,
    readable: Sequence[str],
    writable: Sequence[str] = (),
    *,
    hidden: Sequence[str] = (),
    executables: Sequence[str] = (),
    children: bool = False,
    sessions: bool = False,
) -> str:
    """A Seatbelt profile (SBPL version 1) that denies everything except what is named here and what
    any Python needs.

    ``scratch`` and ``writable`` can be read and changed, and ``readable`` can be read; the folder
    ``scratch`` itself cannot be removed. ``hidden``, all home folders, temporary folders and other
    volumes cannot be read or changed. If one of these paths lies inside another, the deeper one
    decides: an interpreter inside the home folder opens only itself. ``executables`` may be
    executed; a process that is already running needs none. ``children`` allows fork, and signals to
    the process's own children only. ``sessions`` allows leaving the process group (setsid, setpgid,
    posix_spawn). Without it, killpg reaches everything that the leader of a group has started.

    Paths are resolved here, since Seatbelt compares paths after symbolic links are followed (/tmp
    is /private/tmp). The links that were followed can be read as links. Raises ValueError for the
    root folder, and for a path that is relative, cannot be written in a profile, or would be both
    open and hidden.
    """
    opened = {
        **dict.fromkeys(_resolved(readable), "(allow file-read* file-map-executable {})"),
        **dict.fromkeys(_resolved([scratch, *writable]), _WRITABLE),
    }
    shut = _resolved([*_HIDDEN, *hidden])
    for path in opened:
        if path in (*shut, "/"):
            raise ValueError(f"{path}: cannot be open to a job and hidden from it")
    programs = _resolved(executables)
    rules = {
        **dict.fromkeys(_SYSTEM, "(allow file-read* file-map-executable {})"),
        **dict.fromkeys(shut, "(deny file-read* file-write* file-map-executable {})"),
        **opened,
    }
    named = [scratch, *writable, *readable, *executables]
    passed = {*_LINKS, *_ancestors([*_SYSTEM, *opened, *programs])}.union(*map(_passed, named))
    by_depth = sorted(rules, key=lambda path: (path.count("/") if path != "/" else 0, path))
    lines = [
        *_base(children, sessions),
        *(rules[path].format(f"(subpath {_quoted(path)})") for path in by_depth),
        *_literals(f"deny {_OF_THE_FOLDER}", _resolved([scratch])),
        *_literals("allow file-read-metadata", sorted(passed)),
        # The loader opens the root folder itself, and aborts if it cannot:
        # https://github.com/akitaonrails/ai-jail/issues/77
        *_literals("allow file-read*", ["/", *_READ_DEVICES]),
        *_literals("allow file-write-data", ["/dev/null", "/dev/zero"]),
        *_literals("allow file-read-data file-write-data file-ioctl", ["/dev/dtracehelper"]),
        *_literals("allow file-read* file-map-executable process-exec", programs),
    ]
    return "\n".join(lines) + "\n"


# Files that jobs can write cannot be mapped as code, and jobs cannot protect them from removal
# (chflags uchg, access lists).
_WRITABLE = (
    "(allow file-read* file-write* {0})\n"
    "(deny file-map-executable file-write-setugid file-write-flags file-write-acl {0})"
)


# The next job needs the folder as it was.
_OF_THE_FOLDER = "file-write-unlink file-write-mode file-write-owner file-write-times"


def _base(children: bool, sessions: bool) -> list[str]:
    """The rules that do not depend on paths."""
    lines = [
        "(version 1)",
        "(deny default)",
        "(deny network*)",
        "(deny system-socket)",
        "(deny mach-lookup)",
        "(deny mach-register)",
        "(deny signal)",
        # Not covered by the default: arguments and environments of others stayed readable.
        "(deny process-info*)",
        "(allow process-info* (target self))",
        "(deny process-info* (target others))",
        f"({'allow' if children else 'deny'} process-fork)",
        "(allow syscall-unix)",
    ]
    if children:
        lines.append("(allow signal (target children))")
    if not sessions:
        # posix_spawn can start a session inside the kernel, without a call of setsid.
        names = "SYS_setsid SYS_setpgid SYS_posix_spawn"
        lines.append(f"(deny syscall-unix (syscall-number {names}))")
    names = " ".join(f"(sysctl-name {_quoted(name)})" for name in _SYSCTLS)
    lines.append("(deny sysctl-read)")
    lines.append(f'(allow sysctl-read (sysctl-name-prefix "hw.") {names})')
    return lines


def _literals(rule: str, paths: Sequence[str]) -> list[str]:
    return [f"({rule} (literal {_quoted(path)}))" for path in paths]


def _resolved(paths: Sequence[str]) -> list[str]:
    for path in paths:
        if not os.path.isabs(path):
            raise ValueError(f"{path!r}: not an absolute path; a profile has no working directory")
    # POSIX lets a path begin with two slashes, and realpath keeps both.
    real = ["/" + os.path.realpath(path).lstrip("/") for path in paths]
    return list(dict.fromkeys(map(_as_stored, real)))


def _as_stored(path: str) -> str:
    """The path in the letters that the file system has for it. Seatbelt compares the letters, but
    most volumes of a Mac do not tell capital ones from small ones.
    """
    if sys.platform != "darwin" or not os.path.exists(path):
        return path
    try:
        fd = os.open(path, os.O_EVTONLY)
    except OSError:
        return path
    try:
        return os.fsdecode(fcntl.fcntl(fd, fcntl.F_GETPATH, bytes(1024)).partition(b"\0")[0])
    except OSError:
        return path
    finally:
        os.close(fd)


def _passed(path: str) -> Iterator[str]:
    """The folders and symbolic links that the system passes when it looks ``path`` up."""
    here, left, links = "/", _parts(path), 0
    while left:
        part = left.pop(0)
        step = os.path.dirname(here) if part == ".." else os.path.join(here, part)
        yield step
        if os.path.islink(step) and links < _MOST_LINKS:
            target, links = os.readlink(step), links + 1
            here, left = "/" if os.path.isabs(target) else here, [*_parts(target), *left]
        else:
            here = step


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _ancestors(paths: Sequence[str]) -> list[str]:
    """Every folder above one of ``paths``, except the root."""
    found: set[str] = set()
    for path in paths:
        while (path := os.path.dirname(path)) != "/":
            found.add(path)
    return sorted(found)


def _quoted(text: str) -> str:
    """The text as a string of the profile's language, which has the syntax of Scheme. Raises
    ValueError for characters that such a string cannot contain.
    """
    codes = [ord(character) for character in text]
    if any(code < 0x20 or code == 0x7F or 0xD800 <= code <= 0xDFFF for code in codes):
        raise ValueError(
            f"{text!r}: a sandbox profile cannot contain control characters or undecodable bytes"
        )
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


# --- the interpreter ---


def interpreter_paths() -> list[str]:
    """The paths that this interpreter must read, as it spells them: its library, and the parts of
    its prefix that belong to it; of a prefix that other programs share, only the libraries named
    libpython; and where package managers keep libraries that it links. Virtual environments are not
    included.
    """
    library = os.path.dirname(os.__file__)
    binary = os.path.join(sys.base_exec_prefix, "lib", os.path.basename(library), "lib-dynload")
    found = [library, *([binary] if os.path.isdir(binary) else [])]
    if os.path.realpath(sys.base_prefix) in _SHARED_PREFIXES:
        found += _libraries(os.path.join(sys.base_prefix, "lib"))
    else:
        parts = [os.path.join(sys.base_prefix, part) for part in _PARTS]
        found += [part for part in parts if os.path.exists(part)]
    for root, stores in _STORES.items():
        if _within(os.path.realpath(library), root):
            found += [store for store in stores if os.path.isdir(store)]
    if _may_be_from_source(os.path.realpath(sys.base_prefix)):
        stores = tuple(f"{root}/{part}" for root in _HOMEBREW for part in ("Cellar", "opt"))
        found += [store for store in stores if os.path.isdir(store)]
    return list(dict.fromkeys(found))


def _may_be_from_source(prefix: str) -> bool:
    """Whether the interpreter may link libraries of Homebrew (lzma, ssl, sqlite3), though it lies
    elsewhere. Those of the system, of uv and of conda do not."""
    if any(_within(prefix, folder) for folder in _SELF_CONTAINED):
        return False
    return "/uv/python/" not in prefix and not os.path.isdir(os.path.join(prefix, "conda-meta"))


def _libraries(folder: str) -> list[str]:
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    return [os.path.join(folder, name) for name in names if name.startswith("libpython")]


def package_paths() -> list[str]:
    """Folders of installed packages, to be hidden although ``interpreter_paths`` covers them."""
    library = os.path.dirname(os.path.realpath(os.__file__))
    folders = [os.path.join(library, name) for name in ("site-packages", "dist-packages")]
    return [os.path.realpath(folder) for folder in folders if os.path.isdir(folder)]


def interpreters() -> list[str]:
    """The programs that run when this interpreter starts. The ``python`` of a framework is only a
    stub, which executes the program inside Python.app.
    """
    started = [sys.executable, getattr(sys, "_base_executable", "")]
    app = os.path.join(sys.base_prefix, "Resources/Python.app/Contents/MacOS/Python")
    paths = [os.path.realpath(path) for path in [*started, app] if path and os.path.isfile(path)]
    return list(dict.fromkeys(paths))


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def job_profile(scratch: str, hidden: Sequence[str], *, children: bool = False) -> str:
    """The profile for jobs of this interpreter. ``hidden`` are folders of the user. A folder of the
    interpreter is not hidden, though the user may work in it; a folder around it is. Raises
    ValueError as ``profile`` does.
    """
    own = interpreter_paths()
    opened = _resolved(own)
    shut = [path for path in _resolved(hidden) if path not in opened]
    return profile(scratch, own, hidden=[*shut, *package_paths()], children=children)


# --- putting a process into a profile ---


def available() -> bool:
    """Whether this system has sandbox-exec."""
    return sys.platform == "darwin" and os.access(SANDBOX_EXEC, os.X_OK)


def command(profile_text: str, argv: Sequence[str]) -> list[str]:
    """The command that runs ``argv`` inside the profile. ``argv[0]`` is an absolute path."""
    return [SANDBOX_EXEC, "-p", profile_text, *argv]


class _Profile(ctypes.Structure):
    """libsandbox's compiled profile (https://github.com/chromium/chromium/blob/main/sandbox/mac/
    seatbelt.cc); only its address is used.
    """


@cache
def _libsandbox() -> Any:
    _need_darwin("Seatbelt")
    library = ctypes.CDLL("/usr/lib/libsandbox.1.dylib", use_errno=True)
    library.sandbox_create_params.restype = ctypes.c_void_p
    library.sandbox_create_params.argtypes = []
    library.sandbox_free_params.argtypes = [ctypes.c_void_p]
    library.sandbox_free_params.restype = None
    library.sandbox_compile_string.restype = ctypes.POINTER(_Profile)
    library.sandbox_compile_string.argtypes = [
        ctypes.c_char_p,
        ctypes.c_void_p,
        ctypes.POINTER(ctypes.c_char_p),
    ]
    library.sandbox_apply.restype = ctypes.c_int
    library.sandbox_apply.argtypes = [ctypes.POINTER(_Profile)]
    return library


def compiled(profile_text: str) -> Callable[[], None]:
    """A function that permanently puts the process that calls it, and what this process starts
    later, into the profile.

    Compiling is the slow part, and may be done before a fork; the function itself is one system
    call. Raises OSError if the profile is not understood. The function raises OSError if the
    process is already in a profile
    (https://github.com/anthropic-experimental/sandbox-runtime/issues/67).
    """
    library = _libsandbox()
    reason = ctypes.c_char_p()
    params = library.sandbox_create_params()
    try:
        result = library.sandbox_compile_string(profile_text.encode(), params, ctypes.byref(reason))
    finally:
        library.sandbox_free_params(params)
    if not result:
        text = (reason.value or b"no reason given").decode("utf-8", "replace").strip()
        raise OSError(errno.EINVAL, f"the sandbox profile was not understood: {text}")

    def confine() -> None:
        if library.sandbox_apply(result) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"the sandbox profile could not be applied: {os.strerror(code)}")

    return confine


# --- memory and children of a process ---

_RUSAGE_INFO_V2 = 2
_PROC_PGRP_ONLY, _PROC_UID_ONLY, _PROC_PPID_ONLY = 2, 4, 6  # xnu, bsd/sys/proc_info.h
_PROC_PIDTASKINFO = 4
_MIB = 1 << 20
_LARGEST = 1 << 47  # no address is larger


class RusageInfo(ctypes.Structure):
    """struct rusage_info_v2 (xnu, bsd/sys/resource.h)."""

    _fields_ = (
        ("ri_uuid", ctypes.c_uint8 * 16),
        ("ri_user_time", ctypes.c_uint64),
        ("ri_system_time", ctypes.c_uint64),
        ("ri_pkg_idle_wkups", ctypes.c_uint64),
        ("ri_interrupt_wkups", ctypes.c_uint64),
        ("ri_pageins", ctypes.c_uint64),
        ("ri_wired_size", ctypes.c_uint64),
        ("ri_resident_size", ctypes.c_uint64),
        ("ri_phys_footprint", ctypes.c_uint64),
        ("ri_proc_start_abstime", ctypes.c_uint64),
        ("ri_proc_exit_abstime", ctypes.c_uint64),
        ("ri_child_user_time", ctypes.c_uint64),
        ("ri_child_system_time", ctypes.c_uint64),
        ("ri_child_pkg_idle_wkups", ctypes.c_uint64),
        ("ri_child_interrupt_wkups", ctypes.c_uint64),
        ("ri_child_pageins", ctypes.c_uint64),
        ("ri_child_elapsed_abstime", ctypes.c_uint64),
        ("ri_diskio_bytesread", ctypes.c_uint64),
        ("ri_diskio_byteswritten", ctypes.c_uint64),
    )


class TaskInfo(ctypes.Structure):
    """struct proc_taskinfo (xnu, bsd/sys/proc_info.h)."""

    _fields_ = (
        ("pti_virtual_size", ctypes.c_uint64),
        ("pti_resident_size", ctypes.c_uint64),
        ("pti_total_user", ctypes.c_uint64),
        ("pti_total_system", ctypes.c_uint64),
        ("pti_threads_user", ctypes.c_uint64),
        ("pti_threads_system", ctypes.c_uint64),
        ("pti_policy", ctypes.c_int32),
        ("pti_faults", ctypes.c_int32),
        ("pti_pageins", ctypes.c_int32),
        ("pti_cow_faults", ctypes.c_int32),
        ("pti_messages_sent", ctypes.c_int32),
        ("pti_messages_received", ctypes.c_int32),
        ("pti_syscalls_mach", ctypes.c_int32),
        ("pti_syscalls_unix", ctypes.c_int32),
        ("pti_csw", ctypes.c_int32),
        ("pti_threadnum", ctypes.c_int32),
        ("pti_numrunning", ctypes.c_int32),
        ("pti_priority", ctypes.c_int32),
    )


@cache
def _libproc() -> Any:
    _need_darwin("libproc")
    library = ctypes.CDLL(None, use_errno=True)
    library.proc_pid_rusage.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
    library.proc_pid_rusage.restype = ctypes.c_int
    library.proc_listpids.argtypes = [
        ctypes.c_uint32,
        ctypes.c_uint32,
        ctypes.c_void_p,
        ctypes.c_int,
    ]
    library.proc_listpids.restype = ctypes.c_int
    library.proc_pidinfo.argtypes = [
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_uint64,
        ctypes.c_void_p,
        ctypes.c_int,
    ]
    library.proc_pidinfo.restype = ctypes.c_int
    return library


def _need_darwin(what: str) -> None:
    if sys.platform != "darwin":
        raise OSError(errno.ENOSYS, f"{what} is part of macOS; this is {sys.platform}")


def resident_bytes(pid: int) -> int | None:
    """The memory that the system counts for a process (its physical footprint, including compressed
    pages), in bytes; None if there is no such process. Raises OSError if the system refuses.
    """
    usage = RusageInfo()
    if _libproc().proc_pid_rusage(pid, _RUSAGE_INFO_V2, ctypes.byref(usage)) == 0:
        return int(usage.ri_phys_footprint)
    code = ctypes.get_errno()
    if code == errno.ESRCH:
        return None
    raise OSError(code, f"the memory of process {pid}: {os.strerror(code)}")


def threads(pid: int) -> int:
    """How many threads a process has; 0 if it has ended, or runs a program as another user."""
    info = TaskInfo()
    size = ctypes.sizeof(info)
    if _libproc().proc_pidinfo(pid, _PROC_PIDTASKINFO, 0, ctypes.byref(info), size) < size:
        return 0
    return int(info.pti_threadnum)


def children(pid: int) -> list[int]:
    """The processes whose parent is ``pid``, including zombies. Raises OSError if the system
    refuses.
    """
    return _listed(_PROC_PPID_ONLY, pid, "the children of process")


def _listed(kind: int, of: int, what: str) -> list[int]:
    """The processes of a parent, group or user, including zombies.

    This makes the call that is inside proc_listchildpids (xnu,
    libsyscall/wrappers/libproc/libproc.c). It counts in bytes, and only errno distinguishes a
    refusal from no processes.
    """
    size = 64
    while True:
        buffer = (ctypes.c_int * size)()
        ctypes.set_errno(0)
        used = _libproc().proc_listpids(kind, of, buffer, ctypes.sizeof(buffer))
        code = ctypes.get_errno()
        if used <= 0 and code:
            raise OSError(code, f"{what} {of}: {os.strerror(code)}")
        count = used // ctypes.sizeof(ctypes.c_int)
        if count < size:
            return sorted(buffer[:count])
        size *= 2  # if the buffer is full, the list may be incomplete


def descendants(pid: int) -> list[int]:
    """The processes below ``pid``. A process whose parent has ended is not found, because it is now
    a child of process 1.
    """
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        new = set(children(waiting.pop())) - found - {pid}
        found |= new
        waiting += new
    return sorted(found)


def of_job(leader: int) -> list[int]:
    """The live processes of the group that ``leader`` leads and below it, without the leader. Those
    whose parent has ended are found in the group, which they cannot leave under a profile.
    """
    group = _listed(_PROC_PGRP_ONLY, leader, "the process group")
    found = {*group, *descendants(leader)} - {leader}
    return sorted(pid for pid in found if _session_of(pid) is not None)


def in_session(leader: int) -> list[int]:
    """This user's live processes in the session that ``leader`` leads or led."""
    own = _listed(_PROC_UID_ONLY, os.geteuid(), "the processes of user")
    return [pid for pid in own if _session_of(pid) == leader]


def _session_of(pid: int) -> int | None:
    """The session of a process; None for a zombie, and if there is no such process."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def mapped_bytes() -> int:
    """The size of this process's address space as RLIMIT_AS counts it, rounded up to a MiB. With a
    limit of this size plus ``n`` bytes, the process can allocate ``n`` more.

    The kernel (xnu, osfmk/vm/vm_map.c) refuses a limit below the present size, which is hundreds of
    GiB on Apple silicon (https://github.com/eclipse-omr/omr/pull/7069), and enforces any limit
    above it. No call returns the size that the kernel compares, so a binary search finds it. Raises
    OSError on systems that accept every limit and enforce none.
    """
    _need_darwin("this use of RLIMIT_AS")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    low, high = 1, _LARGEST // _MIB
    try:
        if _accepted(low, hard):
            raise OSError(errno.ENOTSUP, "this version of macOS does not enforce RLIMIT_AS")
        while high - low > 1:
            middle = (low + high) // 2
            if _accepted(middle, hard):
                high = middle
            else:
                low = middle
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    return high * _MIB


def _accepted(mib: int, hard: int) -> bool:
    try:
        resource.setrlimit(resource.RLIMIT_AS, (mib * _MIB, hard))
    except (OSError, ValueError):
        return False
    return True
