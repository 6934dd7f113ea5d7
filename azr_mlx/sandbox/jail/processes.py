"""Which processes a job has and what they use, on Linux (from /proc) and macOS (from libproc).
Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys

import darwin  # type: ignore[import-not-found]


def descendants(root: int) -> list[int]:
    """The ids of live processes below ``root`` (without it); none if the system does not say."""
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


def of_job(leader: int) -> list[int]:
    """The ids of the other live processes of a job, where no namespace or subreaper keeps them
    together; none if the system does not say.
    """
    return list(darwin.of_job(leader)) if sys.platform == "darwin" else []


def tasks_of(uid: int) -> int:
    """How many processes and threads a user has; 0 if the system does not say."""
    count = 0
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                if os.fstat(file.fileno()).st_uid == uid:
                    count += int(file.read().rpartition(b")")[2].split()[17])
    return count


def threads(pid: int) -> int:
    """How many threads a process has; 0 if it has ended, or the system does not say."""
    if sys.platform == "darwin":
        return int(darwin.threads(pid))
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[17])
    except OSError:
        return 0


def memory(pids: list[int]) -> int:
    """Bytes of memory that the processes hold together. Processes that have ended count as 0."""
    return sum(map(_memory, pids))


def _memory(pid: int) -> int:
    if sys.platform == "darwin":
        try:
            return darwin.resident_bytes(pid) or 0
        except PermissionError:  # it runs a program as another user, as sudo does
            return 0
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            _, resident, shared = map(int, file.read().split()[:3])
    except OSError:
        return 0
    return (resident - shared) * resource.getpagesize()
