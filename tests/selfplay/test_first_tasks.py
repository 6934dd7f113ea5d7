"""The first tasks of a run: a run that gets none says why, and does not begin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from azr_mlx.config import Config
from azr_mlx.errors import AzrError
from azr_mlx.sandbox import Job, Result
from azr_mlx.selfplay import first_tasks
from azr_mlx.selfplay.memory import Memory
from azr_mlx.selfplay.proposer import TaskProposer
from azr_mlx.types import Status, TaskKind

pytestmark = pytest.mark.pure


class Sandbox:
    """Gives the results that ``outcome`` makes of the jobs."""

    def __init__(self, outcome: Callable[[Job], Result]) -> None:
        self.outcome, self.jobs = outcome, 0

    def run(self, jobs: Sequence[Job]) -> list[Result]:
        self.jobs += len(jobs)
        return [self.outcome(job) for job in jobs]

    def batch(self) -> Any:
        raise AssertionError("the gate runs lists")


def broken(job: Job) -> Result:
    return Result(job.id, Status.ERROR, detail="NameError: name 'namespaces' is not defined")


def constant(job: Job) -> Result:
    """Right for deduction and abduction; induction refuses a program that is constant."""
    return Result(job.id, Status.OK, value="1")


def seeded(outcome: Callable[[Job], Result], config: Config) -> Memory:
    memory = Memory(config)
    sandbox = Sandbox(outcome)
    first_tasks.seed(TaskProposer(sandbox, config=config, buffer=memory.tasks), memory)
    return memory


@pytest.mark.parametrize("source", ["templates", "identity"])
def test_jobs_that_all_fail_end_the_run_with_what_they_said(source: str) -> None:
    config = Config(task_types=("deduction", "abduction"))
    config = replace(config, proposer=replace(config.proposer, seed_tasks=source))
    with pytest.raises(AzrError) as error:
        seeded(broken, config)
    lines = str(error.value).splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["self-play"] * 2
    for line, kind in zip(lines, ("deduction", "abduction"), strict=True):
        assert f"a first task of {kind}" in line
        assert "error (NameError: name 'namespaces' is not defined)" in line
        assert line.endswith("doctor"), "how to go on"


def test_one_kind_without_tasks_is_enough() -> None:
    with pytest.raises(AzrError) as error:
        seeded(constant, Config(task_types=("deduction", "induction")))
    [line] = str(error.value).splitlines()
    assert "a first task of induction" in line and "constant" in line


def test_kinds_that_have_tasks_say_nothing() -> None:
    memory = seeded(constant, Config(task_types=("deduction", "abduction")))
    assert memory.tasks.count(TaskKind.DEDUCTION) and memory.tasks.count(TaskKind.ABDUCTION)
