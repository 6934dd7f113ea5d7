"""Answers that repeat what their prompt shows."""

from __future__ import annotations

import pytest

from azr_mlx.sandbox import Sandbox
from azr_mlx.tasks.repeats import repeats, solved_by_repeating
from azr_mlx.types import Task, TaskKind


def task(kind: TaskKind, args: str, output: str) -> Task:
    return Task.create(kind, "def f(*a):\n    return 0", (args,), (output,))


@pytest.mark.pure
@pytest.mark.parametrize(
    ("kind", "answer", "expected"),
    [
        (TaskKind.ABDUCTION, "([1, 2],)", True),
        (TaskKind.ABDUCTION, "('x', [1, 2])", True),
        (TaskKind.ABDUCTION, "([2, 1],)", False),
        (TaskKind.ABDUCTION, "((1, 2),)", False),  # a tuple is no list
        (TaskKind.ABDUCTION, "[[1, 2]]", False),  # no tuple of arguments
        (TaskKind.ABDUCTION, "1", False),
        (TaskKind.ABDUCTION, "no literal", False),
        (TaskKind.ABDUCTION, None, False),
        (TaskKind.DEDUCTION, "[3]", True),
        (TaskKind.DEDUCTION, "'ab'", True),
        (TaskKind.DEDUCTION, "'a'", False),
        (TaskKind.DEDUCTION, "print(1)", False),
        (TaskKind.INDUCTION, "[3]", False),
    ],
)
def test_an_answer_repeats_a_value_of_the_prompt(
    kind: TaskKind, answer: str | None, expected: bool
) -> None:
    one = task(kind, "('ab', [3])", "[1, 2]")
    assert repeats(answer, one) is expected


@pytest.mark.sandbox
def test_which_tasks_a_repetition_solves() -> None:
    made = [
        (TaskKind.ABDUCTION, "return sorted(a)", "([2, 1],)", "[1, 2]", True),
        (TaskKind.ABDUCTION, "return a + [1]", "([2],)", "[2, 1]", False),
        # ``max`` gives its second argument back, whatever the first is, up to it
        (TaskKind.ABDUCTION, "return max(a, b)", "(1, 5)", "5", True),
        (TaskKind.ABDUCTION, "return a - b", "(5, 3)", "2", False),
        (TaskKind.DEDUCTION, "return a + b", "(2, 0)", "2", True),
        (TaskKind.DEDUCTION, "return a + b", "(2, 1)", "3", False),
        (TaskKind.INDUCTION, "return a", "(1,)", "1", False),
    ]
    tasks = [
        Task.create(kind, f"def f(a, b=0):\n    {body}", (args,), (output,))
        for kind, body, args, output, _ in made
    ]
    with Sandbox(workers=1) as sandbox:
        assert solved_by_repeating(tasks, sandbox) == [expected for *_, expected in made]
