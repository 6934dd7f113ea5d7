"""Answers that repeat what their prompt shows."""

from __future__ import annotations

import pytest

from azr_mlx.tasks.repeats import repeats
from azr_mlx.types import Task, TaskKind

pytestmark = pytest.mark.pure


def task(kind: TaskKind, args: str, output: str) -> Task:
    return Task.create(kind, "def f(*a):\n    return 0", (args,), (output,))


@pytest.mark.parametrize(
    ("kind", "answer", "expected"),
    [
        (TaskKind.ABDUCTION, "([1, 2],)", True),
        (TaskKind.ABDUCTION, "('x', [1, 2])", True),
        (TaskKind.ABDUCTION, "([2, 1],)", False),
        (TaskKind.ABDUCTION, "((1, 2),)", False),  # a tuple is no list
        (TaskKind.ABDUCTION, "[1, 2]", False),  # no tuple of arguments: 1 and 2 are its items
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
