"""Verdicts on answers that are all there, as self-play judges them."""

from __future__ import annotations

from collections.abc import Sequence

from azr_mlx.tasks.answers import Judge, TaskCheck
from azr_mlx.tasks.gate import Runner
from azr_mlx.types import Task, Verdict


def check_answers(pairs: Sequence[tuple[Task, str | None]], sandbox: Runner) -> list[Verdict]:
    """One verdict on each (task, answer), in order."""
    with Judge[None](sandbox) as judge:
        for task, answer in pairs:
            judge.submit(None, TaskCheck(task), answer)
        return [verdict for _, verdict in judge.rest()]
