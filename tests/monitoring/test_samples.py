"""The few rollouts that are shown of a step."""

import json
from dataclasses import replace

import pytest

from azr_mlx.monitoring.samples import LONGEST_CELL, _parsed, of_step
from azr_mlx.types import Experience, Prompt, Role, Status, TaskKind
from tests.experiences import experience

pytestmark = pytest.mark.pure


def rollout(role: Role, kind: TaskKind, status: Status, text: str = "answer") -> Experience:
    prompt = Prompt("x" * LONGEST_CELL + " the task", (1, 2))
    return experience(prompt=prompt, text=text, status=status, role=role, kind=kind, step=4)


def test_one_that_passed_and_one_that_did_not_of_each_role_and_kind():
    given = [
        rollout(Role.SOLVE, TaskKind.DEDUCTION, Status.FAIL, "first"),
        rollout(Role.SOLVE, TaskKind.DEDUCTION, Status.ERROR, "second"),
        rollout(Role.SOLVE, TaskKind.DEDUCTION, Status.PASS),
        rollout(Role.PROPOSE, TaskKind.INDUCTION, Status.PASS, "y" * 2 * LONGEST_CELL),
    ]
    rows = of_step(given)
    assert [(r.step, r.role, r.kind, r.status) for r in rows] == [
        (4, "propose", "induction", "pass"),
        (4, "solve", "deduction", "fail"),
        (4, "solve", "deduction", "pass"),
    ]
    assert rows[1].completion == "first" and len(rows[0].completion) == LONGEST_CELL
    assert all(r.prompt.endswith(" the task") and len(r.prompt) == LONGEST_CELL for r in rows)


def test_the_end_of_a_thought_is_shown_before_the_answer():
    one = rollout(Role.SOLVE, TaskKind.DEDUCTION, Status.PASS, "3")
    thought = "z" * 2 * LONGEST_CELL + "so 3</think>"
    one = replace(one, completion=replace(one.completion, thought=thought))
    shown = of_step([one])[0].completion
    assert shown.endswith("zso 3</think>3") and len(shown) < 1100
    assert _parsed(json.dumps(one.to_json())).completion == shown


def test_nothing_of_nothing():
    assert of_step([]) == []
