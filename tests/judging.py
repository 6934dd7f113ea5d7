"""Verdicts on answers that are all there, as self-play and the evaluator judge them."""

from __future__ import annotations

from collections.abc import Sequence

from azr_mlx.evaluation.benchmarks import Grade, Problem
from azr_mlx.tasks.gate import Runner
from azr_mlx.tasks.verdicts import Judge, TaskCheck
from azr_mlx.types import Status, Task, Verdict


def check_answers(pairs: Sequence[tuple[Task, str | None]], sandbox: Runner) -> list[Verdict]:
    """One verdict on each (task, answer), in order."""
    with Judge[None](sandbox) as judge:
        for task, answer in pairs:
            judge.submit(None, TaskCheck(task), answer)
        return [verdict for _, verdict in judge.rest()]


def grade(
    sandbox: Runner, candidates: Sequence[tuple[Problem, str]], *, visible: bool = False
) -> list[Grade]:
    """The verdict on each (problem, completion), in order; if ``visible``, by the examples that the
    model was shown, INVALID if there are none."""
    grades = [Grade(Status.INVALID, 0.0, "no visible tests") for _ in candidates]
    with Judge[int](sandbox) as judge:
        for i, (problem, text) in enumerate(candidates):
            check = problem.visible if visible else problem.check
            if check is not None:
                judge.submit(i, check, problem.program_with(text))
        for i, found in judge.rest():
            grades[i] = found
    return grades
