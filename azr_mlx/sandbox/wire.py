"""The messages between the pool and its zygotes. Both sides import this module: standard library
only.

A request is a header, ``spec`` (marshal, as the pool is trusted: all that the job's process is
given at the start) and ``late`` (the tests, which it is given only after the code has run). A
response is a header, the frame bytes and the stdout bytes; the zygote relays both without looking
into them. A hello, sent once, is a u32 length and JSON.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

NONCE_BYTES = 16
READY = (
    b"\0"  # after the nonce: the code has run, the tests may come; no encoded value starts with it
)
MAX_BODY = 1 << 20  # an encoded frame: kind, steps, detail, and a value or the tests' reports
MAX_FRAME = MAX_BODY + NONCE_BYTES

_REQUEST = struct.Struct("<16s16sdQIIII")
_RESPONSE = struct.Struct("<iBBddQII")
REQUEST_BYTES = _REQUEST.size
RESPONSE_BYTES = _RESPONSE.size
MAX_STDOUT = 1 << 24


class Request(NamedTuple):
    """``nonce`` opens the job's frames, ``proof`` the frame that says the last test was reached."""

    nonce: bytes
    proof: bytes
    wall_s: float
    memory_bytes: int
    stdout_bytes: int
    processes: int
    spec_bytes: int
    late_bytes: int

    def pack(self) -> bytes:
        return _REQUEST.pack(*self)

    @classmethod
    def unpack(cls, header: bytes) -> Request:
        return cls._make(_REQUEST.unpack(header))


# What was seen to end a job; BROKEN: the sandbox could not run it, and the frame says why.
ENDED, TIMED_OUT, BAD_FRAME, TOO_MANY_PROCESSES, TOO_MUCH_MEMORY, BROKEN = range(6)


class Response(NamedTuple):
    """``exit`` is the exit status, or minus the signal; times in seconds, ``peak_rss`` in bytes."""

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
    def unpack(cls, header: bytes) -> Response:
        return cls._make(_RESPONSE.unpack(header))
