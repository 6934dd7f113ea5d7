"""Nano's lessons: what is taught is true, in the very form that self-play asks in, and not what is
held out."""

from __future__ import annotations

import ast
import time
from itertools import islice

import pytest

from azr_mlx.nano import lessons as made
from azr_mlx.nano.lessons import N_INPUTS, lessons, plan, traced
from azr_mlx.tasks import parse
from azr_mlx.tasks.prompts import load_form
from azr_mlx.types import TaskKind

pytestmark = pytest.mark.pure
FORM = load_form("compact")


@pytest.fixture(scope="module")
def many():
    return list(islice(lessons(FORM, 0, 5), 1800))


def programs(many):
    texts = ["".join(text for text, _ in one) for one in many]
    return [t.split("\nassert")[0] for t in texts if t.startswith("def f")]


def value_of(program, args):
    space = {}
    exec(program, space)  # a template's
    return space["f"](*ast.literal_eval(args))


def test_a_seed_gives_the_same_lessons_and_another_stream_others(many):
    assert list(islice(lessons(FORM, 0, 5), 50)) == many[:50]
    assert list(islice(lessons(FORM, 0, 6), 50)) != many[:50]
    assert list(islice(lessons(FORM, 1, 5), 50)) != many[:50]


def test_no_lesson_shows_a_reserved_shape(many):
    seen = programs(many)
    assert len(seen) > 300
    assert not any(parse.is_reserved(p) for p in seen if parse.parse_proposal(
        p.removeprefix("def f") + "\nassert f(1)", TaskKind.DEDUCTION, FORM))  # fmt: skip


def test_about_one_in_eight_shapes_is_reserved():
    import numpy as np

    from azr_mlx.tasks import templates

    draw = np.random.default_rng(3)
    shapes = {
        parse.shape(p): parse.is_reserved(p)
        for p in (
            templates.draw(TaskKind.DEDUCTION, 0.2, draw, 1, "chains").program for _ in range(6000)
        )
    }
    assert 0.1 < sum(shapes.values()) / len(shapes) < 0.15


@pytest.mark.parametrize(
    "other",
    [
        "def f(n):\n    t = n - 3\n    return t * t",
        "def f(n):\n    n = n - 3\n    return n * n",
        "def f(a):\n    b = a\n    c = b - 9\n    return c * (a - 1)",
        "def f(n):\n    n -= 3\n    return n * n",
        "def f(n: int) -> int:\n    t: int\n    t: int = n - 3\n    return t * t",
        "g = 1\ndef f(n):\n    t = n - 3\n    return t * t",
    ],
)
def test_a_temporary_variable_does_not_change_a_shape(other):
    assert parse.shape(other) == parse.shape("def f(n):\n    return (n - 3) * (n - 3)")


@pytest.mark.parametrize(
    "other",
    [
        "def f(n):\n    return (n - 3) * 3",
        "def f(n):\n    t = n - 3\n    return n * n",
        "def f(n):\n    t = n - 3\n    return max(t, t)",
        "g = 3\ndef f(n):\n    t = n - g\n    return t * t",
        "def (",
    ],
)
def test_another_computation_is_another_shape(other):
    assert parse.shape(other) != parse.shape("def f(n):\n    return (n - 3) * (n - 3)")


@pytest.mark.alone
def test_a_shape_is_told_of_hostile_programs_in_no_time():
    doubled = "def f(n):\n" + "    n = n + n\n" * 60 + "    return n"
    deep = "def f(n):\n    return " + " + ".join("n" * 6000)
    began = time.perf_counter()
    assert len({parse.shape(doubled), parse.shape(deep)}) == 2
    for depth in (600, 900):  # the parser takes these; what walks the tree must, too
        for text in (" + ".join("n" * depth), "-" * depth + "n", "n" + ".a" * depth):
            parse.shape(f"def f(n: int):\n    t: int = {text}\n    return t")
    assert time.perf_counter() - began < 5


def test_reserved_is_told_by_shape_alone():
    pairs = [("def f(x):\n    return x + %d", "def f(yy):\n    # note\n    return yy + %d")]
    for a, b in pairs:
        assert parse.is_reserved(a % 1) == parse.is_reserved(b % 7)


def test_answers_are_what_programs_give(many):
    checked = dict.fromkeys(("deduction", "abduction"), 0)
    for one in many:
        (prompt, _), (answer, is_answer) = one[0], one[1]
        assert is_answer
        program, _, last = prompt.rpartition("\n")
        if last.startswith("assert f(") and last.endswith("=="):
            said = parse.parse_answer(answer, TaskKind.DEDUCTION, FORM)
            args = "(" + last.removeprefix("assert f(").removesuffix(") ==") + ",)"
            assert repr(value_of(program, args)) == repr(ast.literal_eval(said))
            checked["deduction"] += 1
        elif last == "assert f" and "# f(?) == " in prompt:
            program, _, wanted = program.rpartition("\n# f(?) == ")
            said = parse.parse_answer(answer, TaskKind.ABDUCTION, FORM)
            assert repr(value_of(program, said)) == repr(ast.literal_eval(wanted))
            checked["abduction"] += 1
    assert min(checked.values()) > 100


def test_every_answer_can_be_read_as_self_play_reads_it(many):
    kinds = {
        " ==": TaskKind.DEDUCTION,
        "):": TaskKind.DEDUCTION,
        "assert f": TaskKind.ABDUCTION,
        "# back:": TaskKind.ABDUCTION,
        "# plan:": TaskKind.INDUCTION,
    }
    read = 0
    for one in many:
        prompt, answer = one[0][0], one[1][0]
        kind = next((k for end, k in kinds.items() if prompt.endswith(end)), None)
        if kind is not None:
            assert parse.parse_answer(answer, kind, FORM) is not None, (prompt, answer)
            read += 1
        elif prompt.endswith("\ndef f") and prompt.splitlines()[-2].startswith("# f("):
            assert parse.parse_answer(answer, TaskKind.INDUCTION, FORM) is not None
            read += 1
        elif prompt.endswith("# calls:"):
            found = parse.parse_proposal(
                answer, TaskKind.INDUCTION, FORM, "def f(x):\n    return x"
            )
            assert found is not None and len(found.inputs) == N_INPUTS
            read += 1
        elif prompt.splitlines()[-2].startswith("# ") and prompt.splitlines()[-2][2:].isdigit():
            assert parse.parse_proposal(answer, TaskKind.DEDUCTION, FORM) is not None
            read += 1
    assert read > 0.9 * len(many)


def test_work_is_the_values_on_the_way():
    program = "def f(a):\n    t0 = a * 3\n    return abs(t0 - 10) + 1"
    assert traced(program, "(2,)") == ("5", ["6", "-4", "4", "5"])
    assert traced("def f(a):\n    return a", "(2,)") == ("2", ["2"])
    assert plan("def f(a):\n    return abs(a * 3)") == "abs *"
    long = "def f(xs):\n    t = 0\n    for x in xs:\n        t = t + x * 2\n    return t"
    assert len(traced(long, "([1, 2, 3, 4, 5, 6, 7, 8],)")[1]) == made.MOST_STEPS


def test_slips_are_wrong_answers_and_only_where_they_are_asked_for(many):
    def right(found):
        checked = []
        for one in found:
            (prompt, _), (answer, _) = one[0], one[1]
            program, _, last = prompt.rpartition("\n")
            if last.startswith("assert f(") and last.endswith("=="):
                said = ast.literal_eval(parse.parse_answer(answer, TaskKind.DEDUCTION, FORM))
                args = "(" + last.removeprefix("assert f(").removesuffix(") ==") + ",)"
                checked.append(repr(value_of(program, args)) == repr(said))
        return sum(checked) / len(checked)

    assert right(many) == 1.0
    assert 0.4 < right(list(islice(lessons(FORM, 0, 5, slips=0.5), 1800))) < 0.6
