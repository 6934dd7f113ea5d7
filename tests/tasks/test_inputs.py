"""Arguments as models write them, read as Python reads them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azr_mlx.tasks.inputs import MAX_INPUTS, arguments_in, arguments_of_call
from azr_mlx.tasks.parse import parse_answer, parse_proposal
from azr_mlx.types import TaskKind

pytestmark = pytest.mark.pure

ONE = "def f(values):\n    return values\n"
TWO = "def f(xs, k):\n    return xs\n"
SOME = "def f(xs, k=2, m=3):\n    return xs\n"
ANY = "def f(*xs):\n    return xs\n"


@pytest.mark.parametrize(
    ("text", "program", "found"),
    [
        ("values = [3, 1]", ONE, ["([3, 1],)"]),
        ("f(values=[3, 1])", ONE, ["([3, 1],)"]),
        ("values: list = [1]", ONE, ["([1],)"]),
        ("[3], k=1", TWO, ["([3], 1)"]),
        ("k=1, xs=[3]", TWO, ["([3], 1)"]),
        ("# it isn't sorted\n[3, 1]", ONE, ["([3, 1],)"]),
        ("'''it's'''", ONE, ['("it\'s",)']),
        ("[3, 1]  # (", ONE, ["([3, 1],)"]),
        ("f('a)b', 2)  # ) or so", TWO, ["('a)b', 2)"]),
        ("([3, 1], 2)", TWO, ["([3, 1], 2)"]),
        ("(1, 2)", ONE, ["((1, 2),)"]),
        ("(1, 2)", ANY, ["((1, 2),)"]),
        ("1, 2", ANY, ["(1, 2)"]),
        ("[\n  1,\n  2,\n]", ONE, ["([1, 2],)"]),
        ("[3]\n1", TWO, ["([3], 1)"]),
        ("xs = [3]\nk = 1", TWO, ["([3], 1)"]),
        ("a = [3]\nb = 1", TWO, ["([3], 1)"]),
        ("xs = [3],\nk = 1", TWO, ["([3], 1)"]),
        ("f([3], 1) == [3]", TWO, ["([3], 1)"]),
        ("xs = [3]\nf(xs, k=1)", TWO, ["([3], 1)"]),
        ("xs = [3]\nk = 1\nxs = [4]\nk = 2", TWO, ["([3], 1)", "([4], 2)"]),
        ("f([1], m=4)", SOME, ["([1], 2, 4)"]),
        ("f(m=4)", SOME, []),
        ("f([1], z=4)", SOME, []),
        ("f([1], xs=4)", SOME, []),
        ("f(*[1])", ONE, []),
        ("f(**{'values': 1})", ONE, []),
        ("assert f([1], 2) == [1]", TWO, ["([1], 2)"]),
        ("Here it is:\n[3], 1", TWO, ["([3], 1)"]),
        ("1) or (2", ONE, []),
        ("", ONE, []),
        ("x = 1", "", ["(1,)"]),
    ],
)
def test_what_the_arguments_are(text: str, program: str, found: list[str]) -> None:
    assert arguments_in(text, program) == found


@pytest.mark.parametrize(
    "line", ["[{0}, 1]", "f([{0}, 1])", "values = [{0}, 1]", "f(values=[{0}, 1])"]
)
def test_ten_inputs_one_a_line(line: str) -> None:
    text = "\n".join(line.format(i) for i in range(10))
    assert arguments_in(text, ONE) == [f"([{i}, 1],)" for i in range(10)]
    assert len(arguments_in("\n".join(line.format(i) for i in range(999)), ONE)) == MAX_INPUTS


def test_answers_and_proposals_name_parameters() -> None:
    answer = "<answer>\n```input\nk = 1\nxs = [3]\n```"
    assert parse_answer(answer, TaskKind.ABDUCTION, "chat", TWO) == "([3], 1)"
    assert parse_answer("(k=1, xs=[3]) == 3", TaskKind.ABDUCTION, "few_shot", TWO) == "([3], 1)"
    written = parse_proposal(
        "(xs, k):\n    return k\nassert f(k=1, xs='a)') == 1", TaskKind.DEDUCTION, "few_shot"
    )
    assert written is not None and written.inputs == ("('a)', 1)",)


@given(st.text(alphabet="f(xs=k,1[]){}'\"#\\ \n\t*:", max_size=120))
def test_any_text_is_read(text: str) -> None:
    for args in arguments_in(text, TWO):
        assert args.startswith("(")
    assert isinstance(arguments_of_call(f"f({text})", TWO), str | None)


@pytest.mark.parametrize("mark", ["- ", "1. ", "> ", "* ", "Answer: ", "Input: - ", "- f("])
@pytest.mark.parametrize(("times", "lines"), [(1500, 1), (760, 60), (20_000, 1), (3, 3000)])
@pytest.mark.parametrize("end", ["x y", "1", ""])
def test_many_marks_are_read_in_time(mark: str, times: int, lines: int, end: str) -> None:
    text = ((mark * times + end + "\n") * lines)[:100_000]
    began = time.process_time()
    assert isinstance(arguments_in(text, ONE), list)
    assert time.process_time() - began < 2, "0.1 s on a machine with nothing else to do"


def test_a_line_of_marks_costs_no_proposal() -> None:
    text = "message\n" + "- " * 1500 + "x y\nf([3])\n"
    proposal = parse_proposal(text, TaskKind.INDUCTION, "few_shot", ONE)
    assert proposal is not None and proposal.inputs == ("([3],)",)
    for line in ("- 1. Input: `f([3])`", "> - f([3])", "- Answer: values = [3]"):
        assert arguments_in(f"It is:\n{line}", ONE) == arguments_in(line, ONE) == ["([3],)"]
