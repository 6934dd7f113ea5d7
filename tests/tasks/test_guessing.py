"""What a guess is worth, read from a program's text."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azr_mlx.tasks.guessing import above_chance, chance, outcomes
from azr_mlx.types import Task, TaskKind

pytestmark = pytest.mark.pure

DEDUCTION = TaskKind.DEDUCTION


def f(*lines: str) -> str:
    return "\n    ".join(["def f(n):", *lines]) + "\n"


@pytest.mark.parametrize(
    ("lines", "values"),
    [
        (["return n > 3"], "True False"),
        (["return not n"], "True False"),
        (["return n.startswith('a') or n == 'b'"], "True False"),
        (["t = n + 1", "return any(x > t for x in [n])"], "True False"),
        (["return 'odd' if n % 2 else 'even'"], "'odd' 'even'"),
        (["if n > 3:", "    return 'a'", "return 'b'"], "'a' 'b'"),
        (["if n > 3:", "    return 1", "else:", "    return 2"], "1 2"),
        (["if n > 3:", "    return 1"], "1 None"),
        (["for x in n:", "    if x: return x == 2", "return None"], "True False None"),
        (["t = n % 3", "return t"], "0 1 2"),
        (["return 5"], "5"),
        (["g = lambda: n", "def h():", "    return n", "return True"], "True"),
        (["return -1 if n < 0 else 1"], "-1 1"),
        (["return [] if n else {}"], "[] {}"),
        (["return int(n > 3)"], "0 1"),
        (["return -int(n > 3)"], "0 -1"),
        (["return abs(-2 if n else 3)"], "2 3"),
        (["return len('ab' if n else 'abc')"], "2 3"),
        (["return bool(n)"], "True False"),
        (["return str(n > 3)"], "'True' 'False'"),
        (["return ['odd', 'even'][n % 2]"], "'odd' 'even'"),
        (["return ('a', 'b', 'c')[n > 3]"], "'a' 'b'"),
        (["return ('a', 'b', 'c')[-(n % 2)]"], "'a' 'c'"),
        (["return ['a', 'b'][n % 3]"], "'a' 'b'"),
        (["return ['a', 'b'][n]"], "'a' 'b'"),
        (["return 'abc'[n % 3]"], "'a' 'b' 'c'"),
        (["return {True: 'a', False: 'b'}[n > 3]"], "'a' 'b'"),
        (["return {0: 'a', 1: 'b'}.get(n % 3)"], "'a' 'b' None"),
        (["return {0: 'a', 1: 'b'}.get(n % 3, -1)"], "'a' 'b' -1"),
        (["return {0: 'a', 1: 'b'}.get(n % 2, n)"], "'a' 'b'"),
        (["return {'x': 1, 'y': 2}.get(n, 0)"], "1 2 0"),
        (["names = ['odd', 'even']", "t = n % 2", "return names[t]"], "'odd' 'even'"),
    ],
)
def test_outputs_that_the_text_shows(lines, values):
    assert outcomes(f(*lines)) == set(values.split())


@pytest.mark.parametrize(
    "lines",
    [
        ["return n"],
        ["return n + 1"],
        ["return n if n > 3 else 3"],
        ["return 'b' or n"],
        ["return n % 1000"],
        ["return n % k"],
        ["t = 0", "t = t + n", "return t"],
        ["for x in n:", "    t = x", "t = 1", "return t"],
        ["n = 3", "return n"],
        ["t = t", "return t"],
        ["return -n"],
        ["return int(n)"],
        ["return len(n)"],
        ["return int('x' if n else 'y')"],
        ["return ['a', 'b'][n:]"],
        ["return ['a', 'b'][[] if n else {}]"],
        ["return ['a', 'b'][1e999]"],
        ["return ['a', n][n % 2]"],
        ["return [*n, 'a'][n % 2]"],
        ["return {0: 'a', **n}[n % 2]"],
        ["return {0: 'a'}.get(n % 2, n)"],
        ["return {0: 'a'}.get(n, default=1)"],
        ["return n[n % 2]"],
        ["t = []", "t.append(n)", "return t"],
        ["t = ['a']", "t.append(n)", "return t[n % 2]"],
        ["t = {0: []}", "t[0].append(n)", "return t[0]"],
        ["t = {}", "t[0] = n", "return t[0]"],
        ["if n > 3:", "    return 1", "return n"],
    ],
)
def test_outputs_that_the_text_does_not_show(lines):
    assert outcomes(f(*lines)) == frozenset()


@pytest.mark.parametrize("text", ["", "def g(n): return 1", "def f(n) return 1"])
def test_a_text_without_a_function_shows_nothing(text):
    assert outcomes(text) == frozenset()


def task(program: str, output: str, kind: TaskKind = DEDUCTION) -> Task:
    return Task.create(kind, program, ("(1,)",), (output,))


@pytest.mark.parametrize(
    ("program", "output", "wanted"),
    [
        (f("return n > 3"), "False", 1 / 2),
        (f("return g(n)"), "True", 1 / 2),  # a boolean is one of two, wherever it comes from
        (f("return 'a' if n > 3 else 'b' if n else 'c'"), "'b'", 1 / 3),
        (f("return 5"), "5", 1.0),
        (f("return n + 1"), "2", 0.0),
        (f("return n % 3"), "1.5", 0.0),  # n was no integer: the text shows nothing
    ],
)
def test_a_guess_among_few_outputs_is_right_that_often(program, output, wanted):
    assert chance(task(program, output)) == pytest.approx(wanted)
    assert chance(task(program, output, TaskKind.ABDUCTION)) == pytest.approx(wanted)
    assert chance(task(program, output, TaskKind.INDUCTION)) == 0.0, "many pairs have to be right"


@given(st.floats(0, 1), st.floats(0, 0.99))
def test_whoever_knows_a_share_and_guesses_the_rest_is_credited_with_that_share(known, by_chance):
    rate = known + (1 - known) * by_chance
    assert above_chance(rate, by_chance) == pytest.approx(known, abs=1e-9)
    assert above_chance(by_chance / 2, by_chance) == 0.0


def test_a_constant_leaves_nothing_to_know():
    assert above_chance(1.0, 1.0) == above_chance(0.5, 1.0) == 0.0


@pytest.mark.parametrize(
    "program",
    [
        "d = [1, 2]\n" + f("global d", "d = [d[n - 1], d[n - 2]]", "return d[n - 1]"),
        f("a = " + "-" * 250 + "1", "b = " + "-" * 250 + "a", "c = " + "-" * 250 + "b", "return c"),
        f("return 0x" + "f" * 4000),
        f("a = b", "b = a", "return a"),
        f("a = [a[0], a[1]]", "return a[n]"),
    ],
)
def test_a_program_that_leads_nowhere_shows_nothing(program):
    assert outcomes(program) == frozenset()
    assert chance(Task("", DEDUCTION, program, ("(1,)",), ("1",))) == 0.0


@pytest.mark.parametrize("line", ["a{} = a{} if n else a{}", "a{} = (a{}, a{})[n]"])
def test_variables_that_lead_to_each_other_are_looked_at_once(line):
    """Each line would double the time."""
    lines = [line.format(i + 1, i, i) for i in range(60)]
    began = time.perf_counter()
    assert outcomes(f("a0 = 1 if n else 2", *lines, "return a60")) == {"1", "2"}
    assert time.perf_counter() - began < 5
