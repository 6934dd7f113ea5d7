"""Strong isolation on Linux: user, mount, pid, network, IPC and UTS namespaces around one zygote.

The supervisor becomes process 1 of its own pid namespace: jobs cannot signal it, nothing outlives
it, and it can end everything that a job started with one call. It has its own root folder, with the
standard library and the system's libraries (read-only), a few devices, and one writable tmpfs, the
scratch. Jobs see no home, no project, no data and no network.

Standard library only. Root rights are not needed. With root rights, jobs run as a different user
than the zygote.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import sys
from typing import NoReturn

from linux import (  # type: ignore[import-not-found]
    CLONE_NAMESPACES,
    CLONE_NEWTIME,
    MNT_DETACH,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    PR_SET_CHILD_SUBREAPER,
    PR_SET_DUMPABLE,
    PR_SET_PDEATHSIG,
    libc,
    os_error,
    prctl,
    syscall,
)

NOBODY = 65534
SCRATCH = "/scratch"
_SCRATCH_OPTIONS = "mode=1777,size=64m,nr_inodes=4096"
_SIGKILL = 9
_SHARED_DIRS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
_SHARED_FILES = (
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
)
_UNSHARED = CLONE_NAMESPACES & ~CLONE_NEWTIME & ~0x02000000  # all except time and cgroup


def enter(hidden: list[str], folder: str, ahead_s: int) -> int:
    """Make new namespaces and return in a new process, their process 1. Returns the user id for
    jobs. The clocks that count from the start of the machine run ``ahead_s`` seconds ahead there.

    The calling process itself stays outside and never returns. It waits for process 1 to exit,
    removes the empty ``folder`` and exits too. ``hidden`` are folders that jobs must not see even
    if they lie inside a shared folder. Raises OSError before anything has changed for the caller,
    or in process 1 if the root cannot be built.
    """
    as_root = os.geteuid() == 0
    prctl(PR_SET_DUMPABLE, 1)  # otherwise the maps in /proc could not be written
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    ready, go = os.pipe(), os.pipe()
    middle = os.fork()
    if middle:
        _stay_outside(middle, ready, go, as_root, folder)
    os.close(ready[0])
    os.close(go[1])
    _unshare()
    os.write(ready[1], b"u")
    if os.read(go[0], 1) != b"m":
        raise OSError("user namespace: the id maps could not be written")
    _move_clocks(ahead_s)
    if os.fork():
        os._exit(0)  # process 1 then becomes a child of the outer process
    os.read(go[0], 1)
    prctl(PR_SET_PDEATHSIG, _SIGKILL)
    os.close(ready[1])
    os.close(go[0])
    _scatter_pids()
    _build_root(hidden)
    return NOBODY if as_root else os.geteuid()


def _unshare() -> None:
    if libc().unshare(ctypes.c_int(_UNSHARED)) < 0:
        raise os_error("unshare (user, mount, pid, network, IPC, UTS namespaces)")


def _move_clocks(ahead_s: int) -> None:
    """Make a time namespace for the processes that this one starts. It also moves what /proc says
    about their start, which no other way of shifting a clock reaches.
    """
    if not ahead_s or libc().unshare(ctypes.c_int(CLONE_NEWTIME)) < 0:
        return  # a kernel before 5.6
    with contextlib.suppress(OSError):
        _write("/proc/self/timens_offsets", f"monotonic {ahead_s} 0\nboottime {ahead_s} 0\n")


def _stay_outside(
    middle: int, ready: tuple[int, int], go: tuple[int, int], as_root: bool, folder: str
) -> NoReturn:
    """What the outer process does: write the id maps, then wait until process 1 of the namespace
    ends, and exit.
    """
    os.close(ready[1])
    os.close(go[0])
    status = 1
    try:
        if os.read(ready[0], 1) == b"u":
            _write_maps(middle, as_root)
            os.write(go[1], b"m")
        os.waitpid(middle, 0)
        os.write(go[1], b"g")
        for fd in map(int, os.listdir("/proc/self/fd")):
            _close_quietly(fd)
        _, waited = os.wait()
        status = os.waitstatus_to_exitcode(waited)
        os.rmdir(folder)
    except (OSError, ChildProcessError):
        status = 1
    os._exit(status if status >= 0 else 1)


def _close_quietly(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        return  # the descriptor that listdir used is closed already


def _write_maps(pid: int, as_root: bool) -> None:
    uid, gid = os.geteuid(), os.getegid()
    extra = f"\n{NOBODY} {NOBODY} 1" if as_root else ""
    if not as_root:
        _write(f"/proc/{pid}/setgroups", "deny")
    _write(f"/proc/{pid}/uid_map", f"{uid} {uid} 1{extra}")
    _write(f"/proc/{pid}/gid_map", f"{gid} {gid} 1{extra}")


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _scatter_pids() -> None:
    """Let process ids start at a random number in each namespace. A job that returns its pid then
    gives two different values in two runs, and is found to be nondeterministic.
    """
    start = 300 + int.from_bytes(os.urandom(2), "little") % 30_000
    try:
        _write("/proc/sys/kernel/ns_last_pid", str(start))
    except OSError:
        return  # then ids differ only by how many jobs ran before


# --- the root that jobs see ---


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """mount(2). Raises OSError."""
    args = [text.encode() for text in (source, target, kind)]
    if libc().mount(*args, ctypes.c_ulong(flags), options.encode()) < 0:
        raise os_error(f"mount {target}")


def _build_root(hidden: list[str]) -> None:
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    shared = [*_SHARED_DIRS, *_library_folders()]
    root = _mount_point(shared)
    mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m,nr_inodes=1024")
    for path in shared:
        _share(path, root)
    for path in _SHARED_FILES:
        _share(path, root)
    needed = [*shared, os.path.dirname(os.path.realpath(os.__file__))]
    for path in map(os.path.realpath, [*hidden, *_package_folders()]):
        if not any((one + "/").startswith(path + "/") for one in needed):
            _hide(root + path)
    os.mkdir(root + "/proc")
    _mount_proc(root + "/proc")
    os.mkdir(root + SCRATCH)
    os.symlink(SCRATCH, root + "/tmp")
    os.chdir(root)
    syscall("pivot_root", ctypes.c_char_p(b"."), ctypes.c_char_p(b"."))
    unmount(".")
    os.chdir("/")
    mount("none", "/", "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def _library_folders() -> list[str]:
    """The folders of the standard library that are not inside a folder that is shared anyway."""
    folders = {os.path.dirname(os.path.realpath(os.__file__)), os.path.realpath(sys.base_prefix)}
    folders.add(os.path.realpath(sys.base_exec_prefix))
    outside = sorted(
        f for f in folders if not f.startswith(("/usr/", "/lib/")) and f not in ("/", "/usr")
    )
    return [f for f in outside if not any(f.startswith(other + "/") for other in outside)]


def _package_folders() -> list[str]:
    """Folders of installed packages, which are hidden: jobs get only the standard library, and the
    user's project may be installed as a package.
    """
    library = os.path.dirname(os.path.realpath(os.__file__))
    return [
        f"{library}/site-packages",
        f"{library}/dist-packages",
        "/usr/lib/python3/dist-packages",
        f"/usr/local/lib/{os.path.basename(library)}",
    ]


def _mount_point(shared: list[str]) -> str:
    for path in ("/mnt", "/media", "/srv", "/opt", "/tmp", "/var"):
        if os.path.isdir(path) and not any((s + "/").startswith(path + "/") for s in shared):
            return path
    raise OSError("there is no folder on which the jobs' root can be built")


def _share(path: str, root: str) -> None:
    """Show ``path`` read-only at the same place under ``root``."""
    target = root + path
    if not os.path.lexists(path) or os.path.lexists(target):
        return
    _make_parents(os.path.dirname(path), root)
    if os.path.islink(path) and os.path.isdir(path):
        os.symlink(os.readlink(path), target)
        return
    if os.path.isdir(path):
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    mount(os.path.realpath(path), target, "", MS_BIND | MS_REC)
    # A user namespace may not drop flags of the original mount.
    kept = os.statvfs(target).f_flag & (MS_NOEXEC | 1024 | 2048 | 4096)
    atime = (
        (1024 if kept & 1024 else 0)
        | (2048 if kept & 2048 else 0)
        | (1 << 21 if kept & 4096 else 0)
    )
    # A device can be written to on a read-only mount, but its times and mode cannot be changed.
    device = stat.S_ISCHR(os.stat(target).st_mode)
    flags = MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | (0 if device else MS_NODEV) | atime
    mount("none", target, "", flags | (kept & MS_NOEXEC))


def _make_parents(path: str, root: str) -> None:
    """Make the folders above something shared. Jobs cannot list them, since the names in them say
    something about the machine.
    """
    if path != "/" and not os.path.lexists(root + path):
        _make_parents(os.path.dirname(path), root)
        os.mkdir(root + path, 0o711)
        os.chmod(root + path, 0o111)


def _hide(target: str) -> None:
    if os.path.isdir(target):
        mount(
            "tmpfs",
            target,
            "tmpfs",
            MS_RDONLY | MS_NOSUID | MS_NODEV,
            "mode=0755,size=4k,nr_inodes=2",
        )


def _mount_proc(target: str) -> None:
    """Mount /proc of this pid namespace, if possible with the entries of other users hidden, but
    not from this user's group: without root rights, the supervisor could otherwise not count the
    processes of a job. A container may forbid it; then there is no /proc.
    """
    for options in (f"hidepid=2,gid={os.getegid()},subset=pid", "hidepid=2", ""):
        try:
            mount("proc", target, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, options)
        except OSError:
            continue
        return


def mount_scratch() -> None:
    """Mount an empty scratch with a limit on its size and its number of files."""
    mount("tmpfs", SCRATCH, "tmpfs", MS_NOSUID | MS_NODEV, _SCRATCH_OPTIONS)


def unmount(target: str) -> None:
    """Detach a mount at once. It is freed when nothing uses it any longer. Raises OSError."""
    if libc().umount2(target.encode(), MNT_DETACH) < 0:
        raise os_error(f"unmount {target}")
