"""A clock that runs ahead, for the second of the two runs that a deterministic job must agree in.

Two runs a moment apart agree on the year and mostly on the minute; this makes every field of the
date differ. Standard library only; call ``shift`` before anything imports ``datetime``.
"""

from __future__ import annotations

import sys
import time
from typing import Any

AHEAD_S = (
    400 * 86_400 + 7 * 3_600 + 11 * 60 + 13
)  # another year, month, day, weekday, hour, minute, second


def shift() -> None:
    """Shift ``time`` and ``datetime`` of this process and of what it forks."""
    now, now_ns = time.time, time.time_ns

    def shifted() -> float:
        return now() + AHEAD_S

    def shifted_ns() -> int:
        return now_ns() + AHEAD_S * 1_000_000_000

    for name in ("localtime", "gmtime", "ctime"):
        setattr(time, name, _defaulting(getattr(time, name), 0, shifted))
    time.strftime = _defaulting(time.strftime, 1, time.localtime)
    time.asctime = _defaulting(time.asctime, 0, time.localtime)
    time.time, time.time_ns = shifted, shifted_ns
    for name in ("monotonic", "perf_counter", "process_time", "thread_time"):
        setattr(time, name, _later(getattr(time, name), AHEAD_S))
        setattr(time, f"{name}_ns", _later(getattr(time, f"{name}_ns"), AHEAD_S * 1_000_000_000))
    # the C implementation reads the system's clock itself; the Python one asks time.time
    sys.modules["_datetime"] = None  # type: ignore[assignment]


def _later(clock: Any, ahead: int) -> Any:
    def later() -> Any:
        return clock() + ahead

    return later


def _defaulting(function: Any, position: int, default: Any) -> Any:
    """``function`` with its optional argument at ``position`` filled from the shifted clock."""

    def filled(*args: Any) -> Any:
        if len(args) == position or (len(args) == position + 1 and args[position] is None):
            args = (*args[:position], default())
        return function(*args)

    return filled
