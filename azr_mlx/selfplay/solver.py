"""The solver: the model answers tasks, and the judge says which answers are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from azr_mlx.backends.base import Backend, Sampling
from azr_mlx.config import Config
from azr_mlx.selfplay.answering import Answering, Asked, Judged
from azr_mlx.selfplay.memory import Memory
from azr_mlx.selfplay.rewards import has_contrast
from azr_mlx.selfplay.round import CUT, Round, Solution
from azr_mlx.selfplay.strategy_bandit import StrategyBandit
from azr_mlx.tasks.gate import Runner
from azr_mlx.tasks.parse import parse_answer
from azr_mlx.tasks.prompts import PromptForm, chosen_form, render
from azr_mlx.tasks.verdicts import checks_of
from azr_mlx.types import Task, Verdict


def _verdict(done: Judged) -> Verdict:
    verdict: Verdict = done.grades[-1]
    return replace(verdict, detail=CUT) if done.completion.cut_before_answer else verdict


class _Place(NamedTuple):
    """A task in the plan of a round, and how many times it is to be solved."""

    task: Task
    attempts: int
    measures: bool = False


class TaskSolver:
    """Has the model solve tasks, and judges what it answers.

    Raises UsageError if the prompt form is unknown, or the model cannot be asked by it.
    """

    def __init__(
        self,
        backend: Backend,
        sandbox: Runner,
        form: PromptForm | str | None = None,
        *,
        config: Config | None = None,
        seed: int = 0,
    ) -> None:
        self.backend, self.sandbox, self.seed = backend, sandbox, seed
        self.config = config or Config()
        self.form = chosen_form(form, self.config)
        rollout = self.config.rollout
        self.sampling = Sampling(rollout.max_solve_tokens, rollout.temperature, rollout.top_p)
        self._calls = 0

    def solve(self, task: Task, strategy: str = "direct") -> Solution:
        """One attempt with one strategy. Raises ValueError if the form lacks the strategy."""
        self._calls += 1
        r = Round(self.seed, 0, self._calls)
        return self.solve_all(r, [(task, strategy)], self.sampling, [r.key("solve")])[0]

    def solve_all(
        self,
        r: Round,
        posed: Sequence[tuple[Task, str]],
        sampling: Sampling,
        keys: Sequence[int],
    ) -> list[Solution]:
        """One attempt at each (task, strategy), in order; ``keys`` are those of its draws."""
        with r.phase("solve"):
            asked = [self._asked(*one, sampling, key) for one, key in zip(posed, keys, strict=True)]
        with Answering(self.backend, self.sandbox, asked) as answering:
            with r.phase("solve"):
                answering.write(lambda ended: r.progress("solve", ended, len(asked)))
            with r.phase("verify"):  # what was not judged while others were written
                judged = answering.judged()
        return [
            Solution(task, one.prompt, done.completion, done.answer, _verdict(done))
            for (task, _), one, done in zip(posed, asked, judged, strict=True)
        ]

    def _asked(self, task: Task, strategy: str, sampling: Sampling, key: int) -> Asked:
        output, thinking = self.form.solve(task, strategy), self.config.rollout.thinks
        prompt = render(output, self.backend.tokenizer, thinking=thinking)

        def read(text: str) -> str | None:
            return parse_answer(text, task.kind, self.form, task.program, task.inputs)

        return Asked(prompt, sampling, key, read, checks_of(task))

    # -- the rollouts of a round -------------------------------------------------------------------

    def solve_batch(self, r: Round, tasks: Sequence[Task], memory: Memory) -> list[Solution]:
        """The rollouts of a round: groups for new tasks and for some old ones, and further groups
        of old tasks if no group had any contrast."""
        solutions = self._solve_groups(r, 0, self._plan(r, tasks, memory), memory.bandit)
        for extra in range(1, self.config.rollout.resample + 1):
            if has_contrast(solutions, self.config):
                break
            old = memory.replay(r, self.config.tasks_per_round, extra=extra)
            plan = [_Place(task, self.config.rollout.group_size) for task in old]
            solutions += self._solve_groups(r, extra, plan, memory.bandit)
        return solutions

    def _plan(self, r: Round, tasks: Sequence[Task], memory: Memory) -> list[_Place]:
        """Every task in a group of ``group_size``. If groups are not reused, they only measure:
        every new task is solved once more, and old ones fill up the batch, kind by kind (the
        paper's section 3.3)."""
        c, new = self.config, {t.id for t in tasks}
        size, count = c.rollout.group_size, c.solver.buffer_tasks_per_step
        if c.rollout.reuse_rollouts:
            again = memory.replay(r, count, without=new)
            return [_Place(task, size) for task in [*tasks, *again]]
        filling = memory.filling(r, c.tasks_per_round, tasks)
        again = max(filling, memory.replay(r, count, without=new), key=len)
        measured = [_Place(task, size, measures=True) for task in tasks]
        return measured + [_Place(task, 1) for task in [*tasks, *again]]

    def _solve_groups(
        self, r: Round, extra: int, plan: Sequence[_Place], bandit: StrategyBandit
    ) -> list[Solution]:
        """The planned attempts; each draws its strategy from the bandit."""
        if not plan:
            return []
        groups = [r.new_group() for _ in plan]
        rows = [i for i, place in enumerate(plan) for _ in range(place.attempts)]
        draws = [r.draw("strategies", extra, row) for row in range(len(rows))]
        posed = [
            (plan[i].task, bandit.draw(plan[i].task.kind, draw))
            for i, draw in zip(rows, draws, strict=True)
        ]
        keys = [r.key("solve", extra, row) for row in range(len(rows))]
        solved = self.solve_all(r, posed, self.sampling, keys)
        return [
            replace(one, group=groups[i], measures=plan[i].measures, extra=extra)
            for i, one in zip(rows, solved, strict=True)
        ]
