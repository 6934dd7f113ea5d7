"""14 to 19: memory, crashes, and text that is hard to read."""

from __future__ import annotations

from dataclasses import replace

from azr_mlx.types import Status
from tests.sandbox.hostile.attack import (
    ALL_STYLES,
    ERROR,
    KILLED,
    MEMORY,
    PASS,
    SHORT,
    SMALL,
    USUAL,
    Attack,
    Verdicts,
    body,
    one_of,
)

_ENDED: Verdicts = one_of(Status.KILLED, Status.MEMORY, Status.ERROR, Status.TIMEOUT)
_REFUSED: Verdicts = one_of(Status.ERROR, Status.MEMORY)


def _memory(label: str, code: str, *styles: str, verdicts: Verdicts = MEMORY) -> Attack:
    """Address space has no limit on Darwin, so these stay away from it."""
    return Attack(label, code, verdicts, styles or ("call",), limits=SMALL, linux=True)


def _text(label: str, code: str, verdicts: Verdicts, *styles: str) -> Attack:
    return Attack(label, code, verdicts, styles or ("call",))


CRASHES = (
    _memory("14a one block", body("return 'a' * (1 << 34)"), *ALL_STYLES),
    _memory("14b list", body("return len([0] * (1 << 31))")),
    _memory("14c doubled", body("x = [0]", "for _ in range(200): x = x + x", "return x")),
    _memory("14d map", body("import mmap", "return len(mmap.mmap(-1, 1 << 34))"),
            verdicts=_REFUSED),
    _memory("14e integer", body("return (1 << (1 << 34)).bit_length()")),
    _memory("14f format", body("return len('%*d' % (2_000_000_000, 1))")),
    _memory("14g decompressed", body(
        "import zlib", "made, zeros = zlib.compressobj(), bytes(1 << 20)",
        "small = b''.join(made.compress(zeros) for _ in range(70)) + made.flush()",
        "return len(zlib.decompress(small))")),
    _memory("15a slow leak", body("kept = []", "while True: kept.append('x' * 100_000)"),
            *ALL_STYLES),
    _memory("15b global leak", "kept = []\ndef f():\n    while True: kept.append([0] * 1000)\n"),
    _memory("15c leak that goes on", """
kept = []
def f():
    for _ in range(10 ** 6):
        try: kept.append(bytearray(1 << 20))
        except MemoryError: break
    return len(kept) < 64 and 1
""", verdicts=one_of(Status.PASS, Status.MEMORY)),
    _memory("15d leak in unnamed files", """
import os
def f():
    held = 0
    for _ in range(12):
        try:
            fd = os.memfd_create('kept')
            held += sum(os.write(fd, bytes(1 << 20)) for _ in range(16)) >> 20
        except (OSError, MemoryError):
            break
    return 1 if held <= 64 else held
""", verdicts=one_of(Status.PASS, Status.MEMORY, Status.ERROR)),
    Attack("16a recursion with a raised limit", body(
        "import sys", "sys.setrecursionlimit(10 ** 9)",
        "g = lambda n: [g(n + 1)]", "return g(0)"), _ENDED, ALL_STYLES, limits=SHORT),
    Attack("16b recursion in C", body(
        "import sys", "sys.setrecursionlimit(10 ** 9)", "class A:",
        "    def __repr__(self): return repr(self)", "return repr(A())"), _ENDED),
    Attack("16c deep value freed", body(
        "x = None", "for _ in range(10 ** 6): x = (x,)", "del x", "return 1"),
        one_of(Status.PASS, Status.MEMORY)),
    Attack("16d deep value compared", body(
        "import sys", "sys.setrecursionlimit(10 ** 9)", "x, y = [], []",
        "for _ in range(10 ** 5): x, y = [x], [y]", "return x == y"),
        _ENDED | one_of(Status.FAIL)),
    Attack("16e plain recursion", body("return f()"), ERROR, ALL_STYLES),
    Attack("16f deep JSON", body(
        "import json, sys", "sys.setrecursionlimit(10 ** 9)",
        "return len(json.loads('[' * 10 ** 6 + ']' * 10 ** 6))"),
        _ENDED | one_of(Status.PASS)),
    Attack("17a reads address 0", body("import ctypes", "ctypes.string_at(0)"), KILLED, ALL_STYLES),
    Attack("17b raises SIGSEGV", body("import signal", "signal.raise_signal(signal.SIGSEGV)"),
           one_of(Status.KILLED, Status.ERROR)),
    Attack("17c broken code object", body(
        "code = f.__code__.replace(co_code=bytes([255, 255] * 40), co_stacksize=1)",
        "return type(f)(code, {})()"), _ENDED | one_of(Status.FAIL)),
    Attack("18a abort", body("import os", "os.abort()"), KILLED, ALL_STYLES),
    Attack("18b fatal error", body("import ctypes", "ctypes.pythonapi.Py_FatalError(b'no')"),
           KILLED),
    _text("19a long expression", "def f(): return " + "+".join(["1"] * 300_000),
          _ENDED | one_of(Status.FAIL), "call", "tests"),
    _text("19b deep parentheses", "def f(): return " + "(" * 100_000 + "1" + ")" * 100_000,
          _REFUSED, *ALL_STYLES),
    _text("19c deep lists", "def f(): return " + "[" * 100_000 + "]" * 100_000, _REFUSED),
    Attack("19d signs", "def f(): return " + "-" * 200_000 + "1", _ENDED),
    _text("19e null byte", "def f(): return 1\0", ERROR, *ALL_STYLES),
    _text("19f null byte in a string", "def f(): return len('\0')", ERROR),
    _text("19g another coding", "# coding: rot13\nqrs s(): erghea 1", ERROR, *ALL_STYLES),
    _text("19h coding that hides code", "# coding: utf-7\ndef f(): return 1 #+AAo-    return 2",
          PASS, *ALL_STYLES),
    _text("19i unknown coding", "# coding: no-such-coding\ndef f(): return 1",
          one_of(Status.PASS, Status.ERROR)),
    _text("19j lone surrogate", "def f(): return len('\ud800')",
          one_of(Status.ERROR, Status.INVALID), *ALL_STYLES),
    _text("19k byte order mark", "\ufeffdef f(): return 1", one_of(Status.PASS, Status.ERROR)),
    _text("19l carriage returns", "def f():\r    x = 1\r\n    return x\r", PASS),
    _text("19m form feed and bidirectional marks",
          "\x0cdef f(): return len('\u202e') # \u2066 return 2\n", PASS),
    _text("19n 5,000-digit literal", "def f(): return " + "9" * 5000 + " % 2", ERROR),
    _text("19o long string", "def f(): return len('" + "x" * (3 << 20) + "') // (3 << 20)", PASS),
    _text("19p hundred blocks",
          "def f():\n" + "".join(" " * i + "if 1:\n" for i in range(1, 150)), ERROR),
    _text("19q long dotted name", "def f(): return a" + ".a" * 200_000, _ENDED),
    _text("19r unfinished", "def f(): return '''", ERROR, *ALL_STYLES),
    _text("19s nothing", "", ERROR, "call", "tests"),
    Attack("19t slow to compile", "def f(): return " + " if 1 else ".join(["1"] * 20_000),
           _ENDED | one_of(Status.PASS), limits=SHORT),
    Attack("19u big constant folded", "def f(): return len(((('x' * 999) * 999) * 999) * 999)",
           _ENDED, limits=replace(USUAL, memory_mb=64), linux=True),
)  # fmt: skip
