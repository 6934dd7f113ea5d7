# ruff: noqa: E501
"""Suites of tests as people write them: the sandbox must say of right and wrong programs what plain
CPython says that runs program and suite in one namespace; and a suite that asserts nothing proves
nothing."""

from __future__ import annotations

import ast
import copy
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from azr_mlx.sandbox import Job, Limits, Sandbox
from azr_mlx.types import Status

pytestmark = pytest.mark.sandbox

FIXTURES = Path(__file__).parent / "fixtures"
HONEST = yaml.safe_load((FIXTURES / "honest_suites.yaml").read_text("utf-8"))
WRONG = 3  # how many wrong programs are tried for each suite

# Runs the file's program and suite, as exec of both in one namespace, and then the test cases and
# functions that the suite only defines.
REFERENCE = """
import sys, types, unittest
code, tests = sys.argv[1:]
sys.argv[1:] = []
main = sys.modules["__main__"] = types.ModuleType("__main__")
names = main.__dict__
failed, ran, run = [], set(), unittest.TestCase.run
def watched(case, result=None):
    ran.add(type(case))
    result = result or unittest.TestResult()
    before = len(result.failures) + len(result.errors)
    run(case, result)
    failed.extend([case] * (len(result.failures) + len(result.errors) - before))
    return result
unittest.TestCase.run = watched
names["__name__"] = "builtins"
exec(code, names)
names["__name__"] = "__main__"
try:
    exec(tests, names)
except SystemExit as end:
    if end.code:
        raise
for name, value in list(names.items()):
    if isinstance(value, type) and issubclass(value, unittest.TestCase) and value not in ran:
        unittest.defaultTestLoader.loadTestsFromTestCase(value).run(unittest.TestResult())
    elif isinstance(value, type) and name.startswith("Test"):
        for method in [m for m in dir(value) if m.startswith("test")]:
            one = value()
            getattr(one, "setup_method", lambda: None)()
            getattr(one, method)()
    elif isinstance(value, types.FunctionType) and name.startswith("test"):
        value()
sys.exit(bool(failed))
"""


def passes_in_cpython(code: str, tests: str) -> bool:
    """The programs are those of the fixtures, a little changed: not a model's."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", REFERENCE, code, tests], capture_output=True, timeout=10
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def changed(code: str) -> Iterator[str]:
    """Programs that differ from this one in one place."""
    tree = ast.parse(code)
    places = [i for i, node in enumerate(ast.walk(tree)) if _change(copy.deepcopy(node))]
    random.Random(len(code)).shuffle(places)
    for place in places:
        other = copy.deepcopy(tree)
        _change(list(ast.walk(other))[place])
        yield ast.unparse(ast.fix_missing_locations(other))


def _change(node: ast.AST) -> bool:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            node.value = value + 1
        case ast.Constant(value=str() as value) if value:
            node.value = value + "x"
        case ast.BinOp():
            node.op = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        case ast.Return(value=ast.expr()):
            node.value = ast.Constant(None)
        case ast.Compare(ops=[ast.Eq() | ast.NotEq() as operator]):
            node.ops = [ast.Eq() if isinstance(operator, ast.NotEq) else ast.NotEq()]
        case _:
            return False
    return True


@pytest.fixture(scope="module", params=["strong", "limits-only"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    limits = Limits(wall_s=4.0, cpu_s=3, memory_mb=256)
    with Sandbox(workers=2, isolation=request.param, limits=limits) as box:
        yield box


def test_right_programs_pass(sandbox: Sandbox) -> None:
    assert len(HONEST) >= 60
    jobs = [Job(row["name"], row["code"], tests=row["tests"]) for row in HONEST]
    wrong = {r.id: r.detail for r in sandbox.run(jobs) if r.status is not Status.PASS}
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("row", HONEST, ids=lambda row: row["name"])
def test_other_programs_get_cpython_s_verdict(row: dict[str, str]) -> None:
    assert passes_in_cpython(row["code"], row["tests"])
    others = [code for code, _ in zip(changed(row["code"]), range(WRONG), strict=False)]
    with Sandbox(workers=1, limits=Limits(wall_s=4.0, cpu_s=3, memory_mb=256)) as box:
        results = box.run([Job("a", code, tests=row["tests"]) for code in others])
    for code, result in zip(others, results, strict=True):
        passed = passes_in_cpython(code, row["tests"])
        assert (result.status is Status.PASS) == passed, f"{result}\n{code}"


SAME = "def g(x):\n    return x\n"
NEXT = "def g(x):\n    return x + 1\n"
_CASE = "import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        {body}\n"
_EQUAL = _CASE.format(body="self.assertEqual(g(1), 2)")
# name: (code, tests, verdict)
SUITES: dict[str, tuple[str, str, Status]] = {
    "a test case that nobody runs": (SAME, _EQUAL, Status.FAIL),
    "a test case that nobody runs, right": (NEXT, _EQUAL, Status.PASS),
    "a test case under a main guard": (
        SAME, _EQUAL + "if __name__ == '__main__':\n    unittest.main()", Status.FAIL),
    "main": (SAME, _EQUAL + "unittest.main()", Status.FAIL),
    "main, right": (NEXT, _EQUAL + "unittest.main()", Status.PASS),
    "main without exit": (SAME, _EQUAL + "unittest.main(exit=False)", Status.FAIL),
    "a test case with an error": (
        SAME, _CASE.format(body="g(); self.assertTrue(1)"), Status.ERROR),
    "a test case that asserts nothing": (SAME, _CASE.format(body="g(1)"), Status.INVALID),
    "a test case that is skipped": (
        SAME, _CASE.format(body="self.skipTest('x'); self.assertEqual(g(1), 2)"), Status.INVALID),
    "a function": (SAME, "def test_a():\n    assert g(1) == 2", Status.FAIL),
    "a function, right": (NEXT, "def test_a():\n    assert g(1) == 2", Status.PASS),
    "a function with a fixture": (
        SAME, "def test_a(tmp_path):\n    assert g(1) == 2", Status.INVALID),
    "an async function": (SAME, "async def test_a():\n    assert g(1) == 2", Status.FAIL),
    "a class": (
        SAME, "class TestG:\n    def setup_method(self):\n        self.n = 2\n"
        "    def test_a(self):\n        assert g(1) == self.n", Status.FAIL),
    "two classes with a method of one name": (
        NEXT, "class TestA:\n    def test_a(self):\n        assert g(1) == 2\n"
        "class TestB:\n    def test_a(self):\n        assert g(1) == 3", Status.FAIL),
    "unittest within a function": (
        NEXT, "def test_a():\n    import unittest\n    unittest.TestCase().assertEqual(g(1), 2)",
        Status.PASS),
    "check": (SAME, "def check(candidate):\n    assert candidate(1) == 2", Status.FAIL),
    "check, right": (NEXT, "def check(candidate):\n    assert candidate(1) == 2", Status.PASS),
    "check of two functions": (
        SAME + "def h(x):\n    return x\n", "def check(candidate):\n    assert candidate(1) == 2",
        Status.INVALID),
    "empty": (SAME, "", Status.INVALID),
    "a comment": (SAME, "# to do", Status.INVALID),
    "a call": (SAME, "g(1)", Status.INVALID),
    "a constant": (SAME, "assert True", Status.INVALID),
    "a loop over nothing": (SAME, "for a in []:\n    assert g(a) == 2", Status.INVALID),
    "a raise": (SAME, "if g(1) != 2:\n    raise ValueError('wrong')", Status.ERROR),
    "a raise, right": (NEXT, "if g(1) != 2:\n    raise ValueError('wrong')", Status.PASS),
    "an expected error": (
        SAME, "try:\n    g(1)\nexcept ValueError:\n    pass\nelse:\n    raise AssertionError('x')",
        Status.FAIL),
    "the tests exit": (
        NEXT, "import sys\nfor n in [1]:\n    assert g(n) == 2\nsys.exit(0)", Status.PASS),
    "the tests exit too soon": (SAME, "import sys\nsys.exit()\nassert g(1) == 2", Status.INVALID),
    "the code exits": (
        "import sys\ndef g(x):\n    sys.exit(0)", "for n in [1]:\n    assert g(n) == 2",
        Status.ERROR),
}  # fmt: skip


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_that_asserts_nothing_proves_nothing(sandbox: Sandbox, name: str) -> None:
    code, tests, verdict = SUITES[name]
    result = sandbox.run([Job(name, code, tests=tests)])[0]
    assert result.status is verdict, result


# What hides behind objects of the code: none of it may pass a suite that names its classes.
_ALWAYS = (
    "class N:\n"
    + "".join(
        f"    def __{name}__(self, *a): return True\n"
        for name in "eq ne lt le gt ge bool contains call instancecheck".split()  # noqa: SIM905
    )
    + "".join(
        f"    def __{name}__(self, *a): return {value}\n"
        for name, value in [
            *[(n, "self") for n in ("sub", "rsub", "add", "mul", "mod", "neg", "getitem")],
            *[(n, "0") for n in ("abs", "int", "index", "round", "len", "hash")],
            ("float", "0.0"),
            ("str", "'5'"),
            ("repr", "'5'"),
            ("iter", "iter([])"),
        ]
    )
    + "    def add(self, *a): return self\n"
)
CHEATS = [
    "assert n.add(2, 3) == 5",
    "assert 5 == n.add(2, 3)",
    "assert n.add(2, 3) - 5 == 0",
    "assert abs(n.add(2, 3) - 5) < 1e-6",
    "assert abs(5 - n.add(2, 3)) < 1e-6",
    "assert round(n.add(2, 3) - 5, 3) == 0",
    "assert -(n.add(2, 3) - 5) == 0",
    "assert not (n.add(2, 3) - 5)",
    "assert n.add(2, 3) >= 5",
    "assert n.add(2, 3) in [5]",
    "assert 5 in n.add(2, 3)",
    "assert n.add(2, 3) in {5: 1}",
    "assert n.add([2], [3]) == [2, 3]",
    "assert sorted(n.add(2, 3)) == [5]",
    "assert max(n.add(2, 3), 5) == 5",
    "assert isinstance(n.add(2, 3), int)",
    "import math; assert math.isclose(n.add(2, 3), 5)",
    "import unittest; unittest.TestCase().assertEqual(n.add(2, 3), 5)",
    "import unittest; unittest.TestCase().assertAlmostEqual(n.add(2, 3), 5)",
]


@pytest.mark.parametrize("line", CHEATS)
def test_objects_of_named_classes_decide_nothing(sandbox: Sandbox, line: str) -> None:
    tests = f"n = N()\nfor _ in [1]:\n    {line}"
    result = sandbox.run([Job("a", _ALWAYS, tests=tests)])[0]
    assert result.status in (Status.FAIL, Status.ERROR), result


_REACH = """
import operator
def apply(cb, *more):
    M = type(cb)
    tries = [
        lambda: M(operator.attrgetter, "__func__.__builtins__")()(cb),
        lambda: M(operator.attrgetter, "__globals__")()(cb),
        lambda: M(type, "X")((), {"__eq__": type})(),
        lambda: M(M(type, "X"))((), {"__eq__": type})(),
        lambda: next(M(type, ["X"], [()], [{"__eq__": type}]))(),
    ]
    for attempt in tries:
        try:
            return attempt()
        except (TypeError, AttributeError):
            continue
    return None
"""
_ZERO = "class Z(int): pass\n"
_F = "class f:\n    def __init__(self, *a): pass\n"
_LOOP = "for a, b in [(1, 2.5)]:\n    "
# name: (code, tests); none of them may pass
ATTACKS: dict[str, tuple[str, str]] = {
    "the class of a bound method": (
        _REACH, "class R:\n    def on(self, x): return x\nfor a in [1]:\n    assert apply(R().on, a) == 2"),
    "the class of a partial function": (
        _REACH, "import functools\nfor a in [1]:\n    assert apply(functools.partial(abs), a) == 2"),
    "the class of an iterator": (
        _REACH, "for a in [1]:\n    assert apply(map(abs, [1]), a) == 2"),
    "the class of a mock's method": (
        _REACH, "from unittest.mock import Mock\nfor a in [1]:\n    assert apply(Mock().x, a) == 2"),
    "a class as an argument": (
        "def f(apply, on):\n    M = type(on)\n    try: return apply(M, apply, on)(lambda *a: 2)\n"
        "    except TypeError: return None",
        "class R:\n    def on(self, x): return x\ndef apply(g, *a): return g(*a)\n"
        "for a in [1]:\n    assert f(apply, R().on) is not None"),
    "the class of what it is given": (
        "def f(on):\n    try: type(on)(on, 1)\n    except TypeError: return 'refused'",
        "class R:\n    def on(self, x): return x\nfor a in [1]:\n    assert f(R().on) != 'refused'"),
    "a class of the library by name": (
        "import operator\ndef f(apply):\n    try: apply(operator.attrgetter, '__globals__')\n"
        "    except TypeError: return 'refused'",
        "def apply(g, *a): return g(*a)\nfor a in [1]:\n    assert f(apply) != 'refused'"),
    "an object that returns itself": (
        "class Calc:\n    def items(self): return self\n    def __contains__(self, x): return True",
        "c = Calc()\nfor a in [7]:\n    assert a in c.items()"),
    "a difference that is a plain value": (
        _ZERO + _F + "    def __sub__(self, o): return Z(0)", _LOOP + "assert abs(f(a) - b) < 1e-6"),
    "a difference of a named class": (
        _ZERO + "class Calc:\n    def add(self, *a): return self\n    def __sub__(self, o): return Z(0)",
        "c = Calc()\n" + _LOOP + "assert abs(c.add(a) - b) < 1e-6"),
    "a difference without a length": (
        "class E:\n    def __len__(self): return 0\n" + _F + "    def __sub__(self, o): return E()",
        _LOOP + "assert not f(a) - b"),
    "a function that is a class": (
        _F + "    def __contains__(self, o): return True", _LOOP + "assert b in f(a)"),
    "a builtin of its own": (
        "class sum:\n    def __call__(self, it): return 0\nsum = sum()\ndef f(x): return [0, 0]",
        "def check(candidate):\n    for a, b in [(1, [1, 2])]:\n"
        "        assert sum(abs(x - y) for x, y in zip(candidate(a), b)) < 1e-6"),
    "a context manager that swallows": (
        "class Acc:\n    def __enter__(self): return self\n    def __exit__(self, *a): return True\n"
        "    def total(self): return 0", _LOOP + "with Acc() as c:\n        assert c.total() == b"),
    "an async one": (
        "class Acc:\n    async def __aenter__(self): return self\n"
        "    async def __aexit__(self, *a): return True\n",
        "import asyncio\nasync def main():\n    async with Acc() as c:\n        assert c == 2\nasyncio.run(main())"),
    "a callback whose failure it catches": (
        "def run(cb, x):\n    try: cb(0)\n    except BaseException: pass",
        "def cb(x):\n    assert x == 4\nfor _ in [1]:\n    run(cb, 2)"),
    "a mock whose assertion it replaces": (
        "def notify(m, x):\n    m.assert_called_once_with = lambda *a, **k: None",
        "from unittest.mock import Mock\nfor a in [1]:\n    m = Mock()\n    notify(m, a)\n    m.assert_called_once_with(a)"),
    "a mock whose calls it counts": (
        "def notify(m, x):\n    m.call_count = 2",
        "from unittest.mock import Mock\nfor a in [1]:\n    m = Mock()\n    notify(m, a)\n    assert m.call_count == 2"),
    "the end of an async loop": (
        "def f(x): raise StopAsyncIteration",
        "import asyncio\nclass It:\n    def __aiter__(self): return self\n    async def __anext__(self): return f(1)\n"
        "async def main():\n    async for x in It():\n        assert x == 2\nassert 1 == int('1')\nasyncio.run(main())"),
    "a method named send": (
        "class G:\n    def send(self, x): raise StopIteration",
        "g = G()\nassert int('1') == 1\nfor r in map(g.send, [1]):\n    assert r == 7"),
    "a test that it skips": (
        "import unittest\ndef f(x): raise unittest.SkipTest('x')",
        "import unittest\nassert int('1') == 1\nclass T(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(f(1), 2)"),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_no_way_around_the_tests_passes_them(sandbox: Sandbox, name: str) -> None:
    code, tests = ATTACKS[name]
    result = sandbox.run([Job(name, code, tests=tests)])[0]
    assert result.status in (Status.FAIL, Status.ERROR), result


MORE_HONEST: dict[str, tuple[str, str]] = {
    "an exception class of the tests": (
        "def need(x, exc):\n    if x < 0:\n        raise exc('neg')\n    return x",
        "class Neg(Exception): pass\nassert need(1, Neg) == 1\ntry:\n    need(-1, Neg)\n    assert False\n"
        "except Neg as e:\n    assert str(e) == 'neg'"),
    "a decorator on a function of the tests": (
        "import functools\ndef twice(fn):\n    @functools.wraps(fn)\n    def w(x):\n        return fn(fn(x))\n    return w",
        "@twice\ndef inc(x):\n    return x + 1\nassert inc(1) == 3"),
    "an exception of a library": (
        "import dataclasses\n@dataclasses.dataclass(frozen=True)\nclass P:\n    x: int",
        "import dataclasses\np = P(1)\ntry:\n    p.x = 3\n    assert False\nexcept dataclasses.FrozenInstanceError:\n    pass\nassert p.x == 1"),
    "a seed": (
        "import random\ndef f():\n    return [random.randint(0, 99) for _ in range(5)]",
        "import random\nrandom.seed(3)\na = f()\nrandom.seed(3)\nassert f() == a"),
}  # fmt: skip


@pytest.mark.parametrize("name", MORE_HONEST)
def test_more_honest_suites_pass(sandbox: Sandbox, name: str) -> None:
    code, tests = MORE_HONEST[name]
    assert passes_in_cpython(code, tests)
    result = sandbox.run([Job(name, code, tests=tests)])[0]
    assert result.status is Status.PASS, result
