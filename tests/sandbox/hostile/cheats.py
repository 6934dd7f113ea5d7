"""37 to 45: answers that are made to look right."""

from __future__ import annotations

from dataclasses import replace

from azr_mlx.types import Status
from tests.sandbox.hostile.attack import (
    FAIL,
    INVALID,
    KERNEL,
    NOT_PASSED,
    PASS,
    SHORT,
    TRIED,
    USUAL,
    Attack,
    body,
    one_of,
)

_ALWAYS = """
class Always{base}:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    __gt__ = __le__ = __ge__ = __contains__ = __bool__ = __lt__
    __hash__ = None
    __sub__ = __rsub__ = __add__ = __radd__ = __mul__ = __abs__ = __round__ = __call__ = (
        lambda self, *a: self)
    __getitem__ = __getattr__ = lambda self, *a: self
    def __bool__(self): return True
    def __iter__(self): return iter([self])
    def __repr__(self): return '3'
    __str__ = __repr__
    __class__ = property(lambda self: int)
def f(*args): return Always()
"""

_BEFORE_EQUALITY = {
    "equality": "assert f(1) == 3",
    "equality from the right": "assert 3 == f(1)",
    "check": "def check(c):\n    assert c(1) == 3, 'm'\n    assert c(2) == [1]\ncheck(f)",
    "distance": "assert abs(f(1) - 3.0) < 1e-6",
    "members": "assert f(1) in (3, 4)",
    "several": "assert f() == 'a' and f() == 'b'",
    "not": "assert not f() != 3",
    "bounds": "assert 2 < f(1) < 4",
    "items": "assert f(1)[0] == 3",
    "name": "expected = [1, 2]\nassert f(1) == expected",
    "loop": "for i in range(3):\n    assert f(i) == i",
    "pairs": "assert all(f(x) == y for x, y in [(1, 2), (3, 4)])",
}

_NOT_EQUAL = {
    "(int)": "3", "(str)": "'3'", "(list)": "[3]", "(dict)": "{3: 3}", "(float)": "3.0",
    "(bytes)": "b'3'", "(tuple)": "(3,)", "(set)": "{3}",
}  # fmt: skip

_PATCH_ALL = """
import builtins, json, math, os, sys, operator
for name in ('len', 'sorted', 'isinstance', 'type', 'print', 'open', 'repr', 'id', 'getattr', 'min',
             'ValueError', 'AssertionError', 'Exception', 'BaseException', 'compile', 'exec',
             '__import__'):
    setattr(builtins, name, lambda *a, **k: True)
math.isclose = operator.eq = json.dumps = os._exit = os.write = sys.exit = lambda *a, **k: True
def f(): return 2
"""

_PATCHED = """
import builtins, json, math, operator
class Always:
    __eq__ = __ne__ = __lt__ = __gt__ = __le__ = __ge__ = lambda self, other: True
yes = lambda *a, **k: {gives}
{what} = yes
def f(*args): return 0.0
"""


def _patched(label: str, what: str, tests: str, gives: str = "True") -> Attack:
    """Puts something else in the place of what the tests use; its own answer is wrong."""
    code = _PATCHED.format(what=what, gives=gives)
    return Attack(label, code, NOT_PASSED, ("tests",), tests=tests)


_JUMPS = """
import sys
def trace(frame, event, arg):
    if event == 'line' and 'tests' in frame.f_code.co_filename:
        lines = [line for *_, line in frame.f_code.co_lines() if line]
        try: frame.f_lineno = max(lines)
        except ValueError: pass
    return trace
def f(x): return 0
sys.settrace(trace)
"""

_READS_THE_ASSERT = """
import sys
def f(x):
    frame = sys._getframe(1)
    while frame:
        for value in frame.f_code.co_consts:
            if type(value) is int and value > 1000: return value
        frame = frame.f_back
"""

# Looks for a word, given backwards, in all that can be reached from inside the process.
_SEARCH = """
import gc, os, sys, linecache
def f(needle):
    seen = []
    def look(x, depth=0):
        if depth > 3 or len(seen) > 200_000: return
        if isinstance(x, (str, bytes)):
            seen.append(x if isinstance(x, str) else x.decode('latin1'))
        elif isinstance(x, dict):
            for k, v in list(x.items()): look(k, depth + 1); look(v, depth + 1)
        elif isinstance(x, (list, tuple, set, frozenset)):
            for v in list(x): look(v, depth + 1)
        elif hasattr(x, 'co_consts'): look(x.co_consts, depth + 1)
        elif hasattr(x, '__dict__'): look(vars(x), depth + 1)
    frame = sys._getframe()
    while frame:
        look(dict(frame.f_locals)); look(dict(frame.f_globals)); look(frame.f_code)
        frame = frame.f_back
    for x in gc.get_objects(): look(x)
    look(sys.argv); look(sys.orig_argv); look(dict(os.environ)); look(linecache.cache)
    look(vars(sys.modules['__main__']))
    for path in ('/proc/self/cmdline', '/proc/self/environ', f'/proc/{os.getppid()}/cmdline'):
        try: seen.append(open(path, errors='replace').read())
        except OSError: pass
    for fd in range(3, 64):
        try: os.set_blocking(fd, False); seen.append(os.read(fd, 65536).decode('latin1'))
        except OSError: pass
        try: os.set_blocking(fd, True)
        except OSError: pass
    word = needle[::-1]
    return [s[:50] for s in seen if word in s][:3]
"""

# The same in the bytes of the process: every readable map, by /proc and by address.
_MEMORY_SEARCH = """
import ctypes, os
def f(needle):
    found, word = [], bytes(reversed(needle.encode()))
    try: maps = [line.split() for line in open('/proc/self/maps')]
    except OSError: return []
    for fields in maps:
        start, end = (int(x, 16) for x in fields[0].split('-'))
        if 'r' not in fields[1] or fields[-1] in ('[vvar]', '[vsyscall]', '[vvar_vclock]'):
            continue
        if 'w' in fields[1]:
            block = ctypes.string_at(start, end - start)
            at = block.find(word)
            around = block[max(0, at - 20):at + 40]
            if at >= 0 and len(set(found)) < 3: found.append(around)
            del block
    return len(found) > 1 and [str(x) for x in found] or []
"""

_WORD = "zebra" + "quagga"
_BACKWARDS = repr((_WORD[::-1],))

_OTHERS_MEMORY = (
    KERNEL
    + TRIED
    + """
def f():
    buffer = ctypes.create_string_buffer(16)
    here = (ctypes.c_ulong * 2)(ctypes.addressof(buffer), 8)
    there = (ctypes.c_ulong * 2)(0x400000, 8)
    def attempts(pid):
        names = ('mem', 'environ', 'maps', 'stack', 'syscall', 'auxv', 'fd/0', 'fd/1', 'fd/3',
                 'exe', 'cwd/.', 'root/etc/passwd')
        ways = {f'{pid} {n}': lambda n=n: os.close(os.open(f'/proc/{pid}/{n}', os.O_RDONLY))
                for n in names}
        return ways | {
            f'{pid} mem for writing': lambda: open(f'/proc/{pid}/mem', 'r+b'),
            f'{pid} list of descriptors': lambda: os.listdir(f'/proc/{pid}/fd'),
            f'{pid} memory map': lambda: os.listdir(f'/proc/{pid}/map_files'),
            f'{pid} attach': lambda: call('ptrace', 16, pid, 0, 0),
            f'{pid} seize': lambda: call('ptrace', 0x4206, pid, 0, 0),
            f'{pid} read': lambda: call('process_vm_readv', pid, here, 1, there, 1, 0),
            f'{pid} write': lambda: call('process_vm_writev', pid, here, 1, there, 1, 0),
            f'{pid} descriptor': lambda: call('pidfd_getfd', os.pidfd_open(pid), 0, 0),
            f'{pid} compare': lambda: call('kcmp', os.getpid(), pid, 1, 0, 0),
            f'{pid} pages': lambda: call('migrate_pages', pid, 8, None, None),
        }
    pids = (@CANARY@, @PARENT@, os.getppid(), 1)
    own = tried({'traced by the parent': lambda: call('ptrace', 0, 0, 0, 0)})
    return own + [name for pid in pids for name in tried(attempts(pid))]
"""
)

_KERNEL_DOORS = (
    KERNEL
    + TRIED
    + """
def f():
    buffer = ctypes.create_string_buffer(128)
    return tried({
        'bpf': lambda: call('bpf', 0, buffer, 128),
        'faults': lambda: call('userfaultfd', 0),
        'counters': lambda: call('perf_event_open', buffer, 0, -1, -1, 0),
        'keys': lambda: call('keyctl', 0, -3, 1),
        'handle': lambda: call('open_by_handle_at', -100, buffer, 0),
        'segment': lambda: call('shmget', 0, 4096, 0o1600),
        'ring': lambda: call('io_uring_setup', 4, buffer),
    })
"""
)

_REDUCES = """
import os
class R:
    {method} = lambda self, *a: (open, ('@WRITABLE@/@TOKEN@', 'w'))
def f(): return {value}
"""

_BUILDERS = {
    "43a many references to one list": "x = [0] * 1000\nreturn [x] * 10_000",
    "43b laughs": "x = ['ha'] * 10\nfor _ in range(40): x = [x] * 10\nreturn x",
    "43c nested": "x = 0\nfor _ in range(10 ** 5): x = [x]\nreturn x",
    "43d nested dicts": "x = 0\nfor _ in range(10 ** 5): x = {0: x}\nreturn x",
    "43e itself": "x = []\nx.append(x)\nreturn x",
    "43f long string": "return 'x' * (1 << 24)",
    "43g long bytes": "return bytes(1 << 24)",
    "43h long integer": "return 10 ** 5000",
    "43i longer integer": "return 1 << 80_000_000",
    "43j large set": "return set(range(10 ** 6))",
    "43k large dict": "return dict.fromkeys(range(10 ** 6))",
    "43l range": "return range(10 ** 9)",
    "43m endless iterator": "import itertools\nreturn itertools.count()",
}

ODD_VALUES = (
    "(i for i in [])", "lambda: 0", "__import__('os')", "float('nan')", "float('inf')",
    "-float('inf')", "object()", "'\\ud800'", "10 ** 5000", "frozenset()", "range(3)",
    "__import__('functools').reduce(lambda a, _: [a], range(10 ** 5), 0)",
    "type('T', (tuple,), {})((1,))", "True.__class__", "NotImplemented", "[float('nan')]",
    "{1: float('-inf')}", "bytearray(1)", "Ellipsis", "complex('nan')", "complex(0, float('inf'))",
    "memoryview(b'x')", "[lambda: 0]", "{'a': object()}", "iter([])", "ValueError('x')",
    "__import__('collections').OrderedDict()", "__import__('collections').Counter()",
    "__import__('collections').namedtuple('N', 'a')(1)", "__import__('decimal').Decimal(1)",
    "__import__('fractions').Fraction(1)", "__import__('enum').IntEnum('E', 'A').A",
    "__import__('datetime').date(2020, 1, 1)", "{frozenset()}", "['a\\udfff']", "f",
    "__import__('sys')._getframe()", "__import__('array').array('i')", "print", "{}.keys()",
)  # fmt: skip

# An answer, another that a loose comparison would take for it, and whether they are the same here.
LOOKALIKES = (
    ("True", "1", False), ("1", "True", False), ("1.0", "1", False), ("0", "False", False),
    ("-0.0", "0.0", True), ("(1,)", "[1]", False), ("[1, 2]", "(1, 2)", False), ("1j", "1j", True),
    ("1 + 0j", "1", False), ("b'a'", "'a'", False), ("'1'", "1", False), ("None", "0", False),
    ("''", "None", False), ("[]", "None", False), ("{1}", "{True}", False), ("{1: 2}", "{1.0: 2}",
    False), ("{1, 2}", "{2, 1}", True), ("'a '", "'a'", False), ("'\\x00'", "''", False),
    ("1e16 + 1", "1e16", True), ("0.1 + 0.2", "0.3", False), ("10 ** 16 + 1", "1e16", False),
    ("'\\u00e9'", "'e\\u0301'", False), ("[1, [2]]", "[1, [2.0]]", False), ("2 ** 63",
    "9223372036854775808", True), ("'None'", "None", False), ("b'\\x00'", "b'\\x00'", True),
    ("-0.0", "-0.0", True), ("True", "True", True), ("None", "None", True), ("(1,)", "(1,)", True),
    ("{1: {2}}", "{1: {2}}", True), ("'\\x00'", "'\\x00'", True), ("set()", "set()", True),
)  # fmt: skip


def _letters(index: int) -> str:
    return (chr(ord("a") + index // 26 - 1) if index >= 26 else "") + chr(ord("a") + index % 26)


def _bomb(label: str, lines: str) -> Attack:
    verdicts = INVALID | one_of(Status.MEMORY)
    return Attack(label, body(*lines.split("\n")), verdicts, limits=replace(SHORT, wall_s=1))


def _lookalike(index: int, given: str, expected: str, same: bool) -> Attack:
    label = f"45 lookalike {_letters(index)}: {given} for {expected}"
    return Attack(label, body(f"return {given}"), PASS if same else FAIL, answer=expected)


# Keys with one hash: each is compared with all before it. 4,096 of them take 0.1 s of a free core.
_COLLIDING = "{{k * (2 ** 61 - 1) for k in range(1, {end})}}"

CHEATS: tuple[Attack, ...] = (
    *(Attack(f"37{_letters(i)} equal to all: {name}", _ALWAYS.format(base=""), NOT_PASSED,
             ("tests",), tests=tests) for i, (name, tests) in enumerate(_BEFORE_EQUALITY.items())),
    Attack("37z equal to all: a call", _ALWAYS.format(base=""), INVALID, ("call", "program"),
           answer="3", stdout="another\n", also={"program": FAIL}),
    *(Attack(f"38{_letters(i)} equal to all, as {base}", _ALWAYS.format(base=base), NOT_PASSED,
             ("call", "tests"), answer=answer)
      for i, (base, answer) in enumerate(_NOT_EQUAL.items())),
    Attack("38i another __class__", """
class C:
    __class__ = int
    __int__ = __index__ = __hash__ = lambda self: 3
    __eq__ = lambda self, other: True
def f(): return C()
""", NOT_PASSED, ("call", "tests"), answer="3"),
    Attack("38j metaclass", """
class M(type):
    __eq__ = __instancecheck__ = __subclasscheck__ = lambda *a: True
    __hash__ = lambda self: hash(int)
    __repr__ = lambda self: "<class 'int'>"
class C(metaclass=M):
    __eq__ = lambda self, other: True
def f(): return C
""", NOT_PASSED, ("call", "tests"), answer="3"),
    Attack("38k members equal to all", _ALWAYS.format(base="") + "f = lambda: [Always()] * 2",
           NOT_PASSED, ("call", "tests"), answer="[1, 2]"),
    Attack("39a all of them", _PATCH_ALL, NOT_PASSED, ("call", "tests")),
    _patched("39b len", "builtins.len", "assert len(f([3, 1])) == 2", "Always()"),
    _patched("39c sorted", "builtins.sorted", "assert sorted(f([3, 1])) == [1, 3]", "Always()"),
    _patched("39d isinstance", "builtins.isinstance", "assert isinstance(f(1), str)"),
    _patched("39e all", "builtins.all", "assert all(f(x) == x for x in (1, 2))"),
    _patched("39f math.isclose", "math.isclose",
             "import math\nassert math.isclose(f(2.0), 1.414, rel_tol=1e-3)"),
    _patched("39g json", "json.dumps", "import json\nassert json.dumps(f(1)) == '[1]'", "Always()"),
    _patched("39h abs and round", "builtins.abs = builtins.round",
             "assert round(f(1.0), 2) == 0.33", "Always()"),
    _patched("39i AssertionError", "builtins.AssertionError",
             "def check(c):\n    if c(1) != 2:\n        raise AssertionError('no')\ncheck(f)",
             "type('E', (SystemExit,), {})()"),
    _patched("39j set and list", "builtins.set = builtins.list",
             "assert set(f(1)) == {1, 2} and list(f(1)) == [1]", "Always()"),
    _patched("39k operator", "operator.eq", "import operator\nassert operator.eq(f(1), 7)"),
    Attack("39m a trace that jumps over asserts", _JUMPS, NOT_PASSED, ("tests",),
           tests="def check(c):\n    assert c(1) == 2\n    assert c(2) == 3\n    done = True\n"
                 "check(f)\ndone = True"),
    _patched("39l what asserts in the tests' own names", "globals()['check']",
             "assert check(f, 1)\nassert f(1) == 1"),
    Attack("40a expected value", _SEARCH, FAIL, ("call", "program"), args=_BACKWARDS,
           answer=repr(_WORD), value="[]", limits=replace(USUAL, wall_s=10, cpu_s=8)),
    Attack("40b tests that are still to come", f"{_SEARCH}\nseen = f({_WORD[::-1]!r})\n", PASS,
           ("tests",), tests=f"assert seen == [], {_WORD!r}",
           limits=replace(USUAL, wall_s=10, cpu_s=8)),
    Attack("40c constants of an assert", _READS_THE_ASSERT, NOT_PASSED, ("tests",),
           tests="assert f(1) == 123456"),
    Attack("40d constants of a check", _READS_THE_ASSERT, NOT_PASSED, ("tests",),
           tests="def check(c):\n    assert c(1) == 123456\ncheck(f)"),
    Attack("40e expected value, in memory", _MEMORY_SEARCH, one_of(Status.FAIL, Status.MEMORY),
           args=_BACKWARDS, answer=repr(_WORD), linux=True),
    Attack("41a others' memory", _OTHERS_MEMORY, PASS, answer="[]", shielded=True, linux=True),
    Attack("41b the kernel's other doors", _KERNEL_DOORS, PASS, answer="[]", shielded=True,
           linux=True),
    Attack("41c its own memory, to be what it was not",
           body("with open('/proc/self/mem', 'r+b', buffering=0) as file:",
                "    file.seek(id(f))", "    file.write(bytes(64))", "return 2"), NOT_PASSED,
           ("call", "tests"), linux=True),
    *(Attack(f"42{_letters(i)} {method}",
             _REDUCES.format(method=method, value=value), INVALID)
      for i, (method, value) in enumerate(
          (m, v) for m in ("__reduce__", "__reduce_ex__", "__getstate__", "__repr__")
          for v in ("R()", "[R()]"))),
    *(_bomb(label, lines) for label, lines in _BUILDERS.items()),
    Attack("43n compressed zeros", body(
        "import zlib", "made = zlib.compressobj()", "zeros = bytes(1 << 20)",
        "return b''.join(made.compress(zeros) for _ in range(30)) + made.flush() == b'' or 2"),
        FAIL),
    Attack("43o text that nests", body("return '[' * 60_000 + ']' * 60_000"), FAIL, ("call",
           "program")),
    # Half as many, since a timeout is no verdict here: a loaded machine reached the limit with all.
    Attack("43p keys that collide", body(f"return {_COLLIDING.format(end=2049)}"),
           one_of(Status.FAIL, Status.INVALID), answer="{1}", limits=replace(SHORT, wall_s=0.5)),
    Attack("43q keys that collide, against the same",
           body(f"return dict.fromkeys({_COLLIDING.format(end=4097)})"),
           one_of(Status.FAIL, Status.INVALID, Status.PASS, Status.TIMEOUT),
           limits=replace(SHORT, wall_s=1),
           answer="{" + ", ".join(f"{k * (2**61 - 1)}: None" for k in range(1, 4097)) + "}"),
    Attack("44a changes what it was given", "def f(x):\n    x.reverse()\n    return x", FAIL,
           ("call", "tests"), args="([1, 2],)", answer="[1, 2]"),
    Attack("44b empties what it was given", "def f(x):\n    x.clear()\n    return x", FAIL,
           args="([1, 2],)", answer="[1, 2]", styles=("call", "tests"),
           tests="data = [1, 2]\nassert f(data) == [1, 2]"),
    Attack("44c changes constants", """
import ctypes, sys
def f(x):
    digit = 24 if sys.maxsize > 2 ** 32 else 12
    ctypes.c_uint32.from_address(id(x) + digit).value = 2
    return x
""", NOT_PASSED, args="(10 ** 6 and 5,)".replace("10 ** 6 and 5", "1000001"), answer="1000001"),
    Attack("44d changes defaults of the tests", """
def f(x):
    x.append(9)
    return x
""", FAIL, ("tests",), tests="def check(c, want=(1, 2)):\n    assert tuple(c([1, 2])) == want\n"
                             "check(f)"),
    *(Attack(f"45 value {_letters(i)}: {text[:40]}", body(f"return {text}"), INVALID)
      for i, text in enumerate(ODD_VALUES)),
    *(_lookalike(i, *row) for i, row in enumerate(LOOKALIKES)),
)  # fmt: skip
