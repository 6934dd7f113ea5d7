"""The messages between the pool and its workers. Both sides import this module, so it uses the
standard library only.

A request is a header and ``spec``, which is everything that the job's process gets (in marshal
format, since the pool is trusted). A response is a header, the frame bytes and the stdout bytes;
the supervisor passes both on without looking into them. A hello, sent once, is a u32 length and
JSON.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

NONCE_BYTES = 16
# Bytes of an encoded frame: kind, steps, detail, and a value or the reports of the tests.
MAX_BODY = 1 << 20
MAX_CALLS = 2048  # most values of calls, or reports of assertions, in one frame
MAX_REPORTED = MAX_BODY - 64 * MAX_CALLS  # bytes of values in one frame; more become opaque
MAX_STEPS = 100_000  # most lines of the job's own code that are counted
MAX_FRAME = MAX_BODY + NONCE_BYTES

_REQUEST = struct.Struct("<16sdQIIBI")
_RESPONSE = struct.Struct("<iBBddQII")
REQUEST_BYTES = _REQUEST.size
RESPONSE_BYTES = _RESPONSE.size
MAX_STDOUT = 1 << 24


class RunRequest(NamedTuple):
    """``nonce`` begins the job's frame. ``examined``: the tests get a process of their own."""

    nonce: bytes
    wall_s: float
    memory_bytes: int
    stdout_bytes: int
    processes: int
    examined: bool
    spec_bytes: int

    def pack(self) -> bytes:
        return _REQUEST.pack(*self)

    @classmethod
    def unpack(cls, header: bytes) -> RunRequest:
        return cls._make(_REQUEST.unpack(header))


def told(error: BaseException) -> str:
    """An exception as text for the pool. If it is not the operating system's, it is a fault of this
    program, and the text also says where it was raised.
    """
    if isinstance(error, OSError):
        return str(error) or type(error).__name__
    trace, place = error.__traceback__, ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        place = f" ({file.rpartition('/')[2]}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return f"{type(error).__name__}: {error}{place}"


# What ended the job. BROKEN: the sandbox could not run it, and the frame says why. UNBEGUN: the
# worker was damaged before the job began, and ends.
ENDED, TIMED_OUT, BAD_FRAME, BROKEN = range(4)
TOO_MANY_PROCESSES, TOO_MANY_THREADS, TOO_MUCH_MEMORY, UNBEGUN = range(4, 8)


class RunResponse(NamedTuple):
    """``exit`` is the exit status or minus the signal; times in seconds, ``peak_rss`` in bytes."""

    exit: int
    cause: int
    stdout_cut: int
    wall_s: float
    cpu_s: float
    peak_rss: int
    frame_bytes: int
    stdout_bytes: int

    def pack(self) -> bytes:
        return _RESPONSE.pack(*self)

    @classmethod
    def unpack(cls, header: bytes) -> RunResponse:
        return cls._make(_RESPONSE.unpack(header))
