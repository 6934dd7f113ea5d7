"""Clocks that run ahead, for all runs of a deterministic job but the first.

Without them, two runs would see the same year and mostly the same minute. With them, every field of
the date differs. Standard library only. Call ``shift`` before anything imports ``datetime``.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from typing import Any

import vdso  # type: ignore[import-not-found]

# Another year, month, day, hour, minute and second. 401 is prime, and so is the whole: otherwise
# what is left of a division by a factor would be the same.
AHEAD_S = 401 * 86_400 + 3_667
_NS = 1_000_000_000
_CALENDAR = ("CLOCK_REALTIME", "CLOCK_TAI")


def place() -> tuple[int, int]:
    """The place (address, size) from which alone this process asks for the time, if its clocks are
    right; a size of 0 if that is not known."""
    try:
        return tuple(vdso.find())
    except OSError:
        return 0, 0


def shift(times: int) -> tuple[int, int]:
    """Let all clocks of this process and of all that it forks run ``times`` AHEAD_S ahead. Returns
    the same as ``place``.
    """
    ahead, start = times * AHEAD_S, time.time()
    try:
        asks_from = tuple(vdso.shift(ahead))
    except OSError:
        asks_from = 0, 0
        _shift_calendar(ahead)
    _shift_counters(ahead, calendar=not asks_from[1])
    _shift_files(ahead, start)
    return asks_from


def _shift_calendar(ahead: int) -> None:
    """Shift ``time`` and ``datetime`` as Python modules: C code still sees the system's time."""
    now, now_ns = time.time, time.time_ns

    def shifted() -> float:
        return now() + ahead

    for name in ("localtime", "gmtime", "ctime"):
        setattr(time, name, _defaulting(getattr(time, name), 0, shifted))
    time.strftime = _defaulting(time.strftime, 1, time.localtime)
    time.asctime = _defaulting(time.asctime, 0, time.localtime)
    time.time, time.time_ns = shifted, _later(now_ns, ahead * _NS)
    # The C implementation of datetime reads the system's clock; the Python one calls time.time.
    sys.modules["_datetime"] = None  # type: ignore[assignment]


def _shift_counters(ahead: int, calendar: bool) -> None:
    """Shift the clocks that count from some start. The C library itself must see them as they are:
    it waits until a time on them. ``calendar``: also the calendar clocks, asked for by number.
    """
    for name in ("monotonic", "perf_counter", "process_time", "thread_time"):
        setattr(time, name, _later(getattr(time, name), ahead))
        setattr(time, f"{name}_ns", _later(getattr(time, f"{name}_ns"), ahead * _NS))
    apart = set() if calendar else {getattr(time, name, None) for name in _CALENDAR}
    for name, step in (("clock_gettime", ahead), ("clock_gettime_ns", ahead * _NS)):
        setattr(time, name, _later(getattr(time, name), step, apart))
    elapsed = os.times

    def times() -> os.times_result:
        return os.times_result((*elapsed()[:4], elapsed()[4] + ahead))

    os.times = sys.modules["posix"].times = times  # type: ignore[attr-defined]


def _later(clock: Any, ahead: int, apart: Any = ()) -> Any:
    def later(*which: Any) -> Any:
        return clock(*which) + (0 if which and which[0] in apart else ahead)

    return later


def _defaulting(function: Any, position: int, default: Any) -> Any:
    """``function`` with its optional argument at ``position`` filled from the shifted clock."""

    def filled(*args: Any) -> Any:
        if len(args) == position or (len(args) == position + 1 and args[position] is None):
            args = (*args[:position], default())
        return function(*args)

    return filled


def _shift_files(ahead: int, start: float) -> None:
    """Shift the times of files that are newer than ``start``: the kernel sets them, and it has no
    other clock. Times that a program has set itself stay as they are.
    """
    system: Any = sys.modules["posix"]
    now, ahead_of_now = time.time, ahead

    def shifted(found: os.stat_result) -> os.stat_result:
        hidden = {name: getattr(found, name) for name in _hidden_names(found)}
        whole = list(found)
        for position, name in enumerate(("st_atime", "st_mtime", "st_ctime"), 7):
            if start - 1 <= hidden[name] <= now() - ahead_of_now + 1:
                whole[position] += ahead
                hidden[name] += ahead
                hidden[f"{name}_ns"] += ahead * _NS
        return os.stat_result(whole, hidden)

    def wrapped(function: Any) -> Any:
        return lambda *args, **named: shifted(function(*args, **named))

    for name in ("stat", "lstat", "fstat"):
        setattr(system, name, wrapped(getattr(system, name)))
        setattr(os, name, getattr(system, name))
    _replace_method(system.DirEntry, "stat", wrapped(system.DirEntry.stat))


def _hidden_names(found: os.stat_result) -> list[str]:
    """Those of the fields that are not among the ten of the sequence. Python 3.13 takes no
    others."""
    seen = type(found).__match_args__
    return [name for name in dir(found) if name.startswith("st_") and name not in seen]


def _replace_method(kind: type, name: str, method: Any) -> None:
    """Replace a method of a builtin class, which has no setter for it."""
    import gc

    [members] = [m for m in gc.get_referents(kind.__dict__) if isinstance(m, dict)]
    members[name] = method
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(kind))
