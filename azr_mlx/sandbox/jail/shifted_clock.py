"""A clock that runs ahead, for the second of the two runs of a deterministic job.

Without it, the two runs would see the same year and mostly the same minute. With it, every field of
the date differs. Standard library only. Call ``shift`` before anything imports ``datetime``.
"""

from __future__ import annotations

import sys
import time
from typing import Any

AHEAD_S = (
    400 * 86_400 + 7 * 3_600 + 11 * 60 + 13
)  # another year, month, day, weekday, hour, minute, second


def shift() -> None:
    """Shift ``time`` and ``datetime`` in this process and in all that it forks."""
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
    # The C implementation of datetime reads the system's clock; the Python one calls time.time.
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
