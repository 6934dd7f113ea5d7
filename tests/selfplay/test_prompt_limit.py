"""The prompt of a proposal is no longer than ``rollout.max_prompt_tokens``: tasks that it refers to
are dropped to fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from azr_mlx.config import Config, Rollout
from azr_mlx.selfplay.proposer import TaskProposer
from azr_mlx.selfplay.round import Round
from azr_mlx.tasks.buffer import TaskBuffer
from azr_mlx.types import Task, TaskKind
from tests.fake import FakeBackend

pytestmark = pytest.mark.pure


def proposer(most: int) -> tuple[TaskProposer, FakeBackend]:
    buffer = TaskBuffer(64)
    for i in range(8):
        program = "def f(x):\n    return x" + " + x" * (20 + i)
        buffer.add(Task.create(TaskKind.DEDUCTION, program, (f"({i},)",), (f"{i}",)))
    backend = FakeBackend(lambda prompt, n: "")
    config = Config(rollout=replace(Rollout(), form="few_shot", max_prompt_tokens=most))
    no_sandbox = cast(Any, None)  # nothing is run
    return TaskProposer(no_sandbox, backend=backend, config=config, buffer=buffer), backend


def asked(most: int) -> tuple[int, int]:
    """(tokens of a prompt, how many tasks it refers to) of the proposals of one round."""
    made, backend = proposer(most)
    found = made._from_model(Round(0, 1), [TaskKind.DEDUCTION] * 2, {TaskKind.DEDUCTION: 0.5})
    (length,) = {len(prompt.token_ids) for prompt in backend.prompts}
    (count,) = {len(one.draft.parents) for one in found}
    return length, count


def test_tasks_that_a_prompt_refers_to_are_dropped_to_fit() -> None:
    alone, none = asked(1)
    longest, all_of_them = asked(100_000)
    assert (none, all_of_them) == (0, 6)
    most = (alone + longest) // 2
    length, some = asked(most)
    assert alone < length <= most and 0 < some < 6
    assert asked(longest) == (longest, 6) and asked(longest - 1)[1] == 5
