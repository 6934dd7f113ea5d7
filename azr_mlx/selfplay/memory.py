"""What self-play remembers from one step to the next: its tasks, its verified solutions, how hard
tasks should be, and which strategies work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from azr_mlx.config import Config
from azr_mlx.selfplay.curriculum import Curriculum
from azr_mlx.selfplay.round import Round
from azr_mlx.selfplay.strategy_bandit import StrategyBandit
from azr_mlx.tasks.buffer import SolutionBuffer, TaskBuffer, VerifiedSolution
from azr_mlx.types import Experience, Role, Task, TaskKind


class Memory:
    """The buffers, the curriculum and the bandit; all of it is in a checkpoint."""

    def __init__(self, config: Config) -> None:
        c = config
        self.kinds = tuple(TaskKind(k) for k in c.task_types)
        self.buffer_choice = c.solver.buffer_choice
        self.tasks = TaskBuffer(c.task_buffer_size)
        self.solutions = SolutionBuffer(c.distill.buffer_size, c.distill.max_age)
        self.curriculum = Curriculum(
            c.difficulty_schedule,
            c.initial_difficulty,
            c.final_difficulty,
            c.max_steps,
            target=c.proposer.target_solve_rate,
        )
        self.bandit = StrategyBandit(c.solver.strategies, c.solver.strategy_floor)

    def levels(self, step: int) -> dict[TaskKind, float]:
        """The difficulty of each kind that is trained, at a step."""
        return {kind: self.curriculum.difficulty(kind, step) for kind in self.kinds}

    def replay(
        self, r: Round, count: int, *, without: Collection[str] = (), extra: int = 0
    ) -> list[Task]:
        """``count`` tasks to solve again, spread over the kinds; ``without`` are ids to leave out,
        ``extra`` distinguishes several calls of a round."""
        kinds = len(self.kinds)
        share = [count // kinds + ((i + r.step) % kinds < count % kinds) for i in range(kinds)]
        return self._old(share, r.draw("replay", extra), without)

    def filling(self, r: Round, count: int, tasks: Sequence[Task]) -> list[Task]:
        """Old tasks that fill up the new ones of a round: of each kind there are then as many as
        are its part of ``count``, as far as the buffer has them."""
        wanted = Counter(r.in_turn(self.kinds, count))
        wanted.subtract(task.kind for task in tasks)
        share = [max(wanted[kind], 0) for kind in self.kinds]
        return self._old(share, r.draw("replay", 0), {task.id for task in tasks})

    def _old(
        self, share: Sequence[int], draw: np.random.Generator, without: Collection[str]
    ) -> list[Task]:
        """As many tasks of each kind as its ``share``."""
        learnable = self.buffer_choice == "learnable"
        pools = [
            self.tasks.sample(kind, n + len(without), draw, learnable)
            for kind, n in zip(self.kinds, share, strict=True)
        ]
        old = [[task for task in pool if task.id not in without] for pool in pools]
        return [task for pool, n in zip(old, share, strict=True) for task in pool[:n]]

    def absorb(self, step: int, experiences: Sequence[Experience]) -> dict[str, float]:
        """Take in what a step brought; returns the metrics of what is remembered now."""
        metrics = {f"difficulty/{k.value}": level for k, level in self.levels(step).items()}
        solved = [e for e in experiences if e.role is Role.SOLVE]
        for kind in self.kinds:
            self._observe(kind, [e for e in solved if e.kind is kind])
        for task_id, count in Counter(e.task_id for e in solved).items():
            wins = sum(e.verdict.passed for e in solved if e.task_id == task_id)
            self.tasks.record(task_id, count, wins)
        for e in solved:
            if e.verdict.passed and e.completion.finish == "stop":
                ids = e.prompt.token_ids, e.completion.token_ids
                self.solutions.add(VerifiedSolution(e.task_id, *ids, e.reward.total, step))
        self.solutions.evict(step)
        metrics["buffer/solutions"] = len(self.solutions)
        return metrics | {f"buffer/{k.value}": self.tasks.count(k) for k in self.kinds}

    def _observe(self, kind: TaskKind, own: Sequence[Experience]) -> None:
        """The curriculum follows the solve rate, the bandit that of each strategy."""
        if own:
            self.curriculum.observe(kind, sum(e.verdict.passed for e in own) / len(own))
        for strategy in self.bandit.strategies:
            used = [e for e in own if e.prompt.strategy == strategy]
            self.bandit.update(kind, strategy, sum(e.verdict.passed for e in used), len(used))

    # -- state -------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """The state without the tasks, which have rows of their own."""
        return {
            "curriculum": self.curriculum.to_json(),
            "bandit": self.bandit.to_json(),
            "solutions": self.solutions.to_json(),
        }

    def restore(self, row: Mapping[str, Any], tasks: Iterable[Mapping[str, Any]]) -> None:
        """What ``to_json`` gave, and the rows of the task buffer."""
        self.tasks.restore(tasks)
        self.solutions.restore(row["solutions"])
        self.curriculum.from_json(row["curriculum"])
        self.bandit.from_json(row["bandit"])
