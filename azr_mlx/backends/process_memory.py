"""The memory that this process itself has used."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def peak_bytes() -> int:
    """The most memory that this process has had resident so far, in bytes.

    On Linux ``getrusage`` also counts what the parent had before this program was started in its
    place: a small command that a large program starts would seem as large. The kernel's own file
    counts from the start of the program.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024
