"""The buffers: verified tasks, from which references and induction programs are drawn, and verified
solutions.

When a buffer is full its oldest entry leaves; a new one always enters. A JSON round trip restores
both exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from azr_mlx.tasks.parse import skeleton
from azr_mlx.types import Task, TaskKind


@dataclass(slots=True)
class _Entry:
    task: Task
    shape: str
    attempts: int = 0
    successes: int = 0


class TaskBuffer:
    """Verified tasks, at most ``capacity`` per kind, oldest first.

    Within a kind no two tasks share an id, nor a program shape (``parse.skeleton``).
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"task_buffer_size = {capacity}: must be at least 1")
        self.capacity = capacity
        self._entries: dict[TaskKind, dict[str, _Entry]] = {kind: {} for kind in TaskKind}
        self._shapes: dict[TaskKind, set[str]] = {kind: set() for kind in TaskKind}

    def __len__(self) -> int:
        return sum(len(entries) for entries in self._entries.values())

    def __contains__(self, task_id: str) -> bool:
        return any(task_id in entries for entries in self._entries.values())

    def count(self, kind: TaskKind) -> int:
        return len(self._entries[kind])

    def tasks(self, kind: TaskKind) -> list[Task]:
        """The tasks of a kind, oldest first."""
        return [entry.task for entry in self._entries[kind].values()]

    def new(self, kind: TaskKind, step: int) -> list[Task]:
        """The tasks of a kind that came in at ``step``, and no others."""
        return [task for task in self.tasks(kind) if task.origin_step == step]

    def is_duplicate(self, kind: TaskKind, program: str) -> bool:
        """Whether a task of this kind has a program of the same shape."""
        return skeleton(program) in self._shapes[kind]

    def add(self, task: Task) -> bool:
        """Take a task in, unless it is a duplicate or a near-duplicate: then False."""
        return self._insert(_Entry(task, skeleton(task.program)))

    def _insert(self, entry: _Entry) -> bool:
        kind = entry.task.kind
        entries, shapes = self._entries[kind], self._shapes[kind]
        if entry.task.id in entries or entry.shape in shapes:
            return False
        if len(entries) >= self.capacity:
            oldest = entries.pop(next(iter(entries)))
            shapes.discard(oldest.shape)
        entries[entry.task.id] = entry
        shapes.add(entry.shape)
        return True

    def record(self, task_id: str, attempts: int, successes: int) -> None:
        """Count solver rollouts of a task; one that has left the buffer is left alone."""
        if not 0 <= successes <= attempts:
            raise ValueError(f"{successes} successes of {attempts} attempts cannot be")
        for entries in self._entries.values():
            if task_id in entries:
                entries[task_id].attempts += attempts
                entries[task_id].successes += successes

    def solve_rate(self, task_id: str) -> float | None:
        """The measured solve rate of a task; None if it was never tried or is not here."""
        for entries in self._entries.values():
            if task_id in entries:
                return _rate(entries[task_id])
        return None

    def references(
        self,
        kind: TaskKind,
        k: int,
        difficulty: float,
        rng: np.random.Generator,
        solve_rate: float | None = None,
    ) -> list[Task]:
        """Up to ``k`` distinct tasks, drawn by how near their solve rate is to ``solve_rate``; a
        task that was never tried counts as right at it.

        Without ``solve_rate`` they are drawn by how near their measured difficulty, 1 - solve rate,
        is to ``difficulty``; a task that was never tried counts with its own estimate.
        """
        entries = list(self._entries[kind].values())
        if not entries or k < 1:
            return []
        if solve_rate is None:
            off = np.array([_difficulty(entry) for entry in entries]) - difficulty
        else:
            rates = [_rate(entry) for entry in entries]
            off = np.array([0.0 if rate is None else rate - solve_rate for rate in rates])
        weights = np.exp(-0.5 * (off / 0.2) ** 2) + 0.02
        size = min(k, len(entries))
        chosen = rng.choice(len(entries), size=size, replace=False, p=weights / weights.sum())
        return [entries[int(i)].task for i in chosen]

    def sample(
        self, kind: TaskKind, n: int, rng: np.random.Generator, learnable: bool = False
    ) -> list[Task]:
        """Up to ``n`` distinct tasks: uniformly, or by p(1 - p) of their solve rate p, which is how
        much there is to learn from them (Rutherford et al., arXiv 2408.15099). p is estimated as
        (successes + 1) / (attempts + 2), so what was tried little is likely to be tried again.
        """
        entries = list(self._entries[kind].values())
        count = min(max(n, 0), len(entries))
        if learnable and count:
            p = np.array([(e.successes + 1) / (e.attempts + 2) for e in entries])
            weights = p * (1 - p)
            chosen = rng.choice(len(entries), count, replace=False, p=weights / weights.sum())
        else:
            chosen = rng.permutation(len(entries))[:count]
        return [entries[int(i)].task for i in chosen]

    def programs(self) -> list[Task]:
        """Tasks to make induction tasks of: deduction's and abduction's, each program shape once,
        and none that induction already has.
        """
        found: dict[str, Task] = {}
        for kind in (TaskKind.DEDUCTION, TaskKind.ABDUCTION):
            for entry in self._entries[kind].values():
                if entry.shape not in self._shapes[TaskKind.INDUCTION]:
                    found.setdefault(entry.shape, entry.task)
        return list(found.values())

    def to_json(self) -> list[dict[str, Any]]:
        """One row per task, oldest first within a kind."""
        return [
            {"task": e.task.to_json(), "attempts": e.attempts, "successes": e.successes}
            for entries in self._entries.values()
            for e in entries.values()
        ]

    def restore(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replace the content by what the rows hold."""
        for kind in TaskKind:
            self._entries[kind].clear()
            self._shapes[kind].clear()
        for row in rows:
            task = Task.from_json(row["task"])
            shape = skeleton(task.program)
            self._insert(_Entry(task, shape, int(row["attempts"]), int(row["successes"])))


def _rate(entry: _Entry) -> float | None:
    return entry.successes / entry.attempts if entry.attempts else None


def _difficulty(entry: _Entry) -> float:
    rate = _rate(entry)
    return entry.task.difficulty if rate is None else 1.0 - rate


@dataclass(frozen=True, slots=True)
class VerifiedSolution:
    """A completion that the judge passed, with the prompt it answered."""

    task_id: str
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    reward: float
    step: int


class SolutionBuffer:
    """Own verified solutions to learn from again: one per task and prompt, the best and shortest of
    them.

    Holds at most ``capacity``; the oldest leaves first, and ``evict`` drops those past ``max_age``
    steps.
    """

    def __init__(self, capacity: int = 512, max_age: int = 200) -> None:
        if capacity < 1:
            raise ValueError(f"distill.buffer_size = {capacity}: must be at least 1")
        self.capacity, self.max_age = capacity, max_age
        self._rows: dict[tuple[str, tuple[int, ...]], VerifiedSolution] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, solution: VerifiedSolution) -> bool:
        """Take a solution in, unless a better or equally good and shorter one of its prompt is
        here.
        """
        key = (solution.task_id, solution.prompt_ids)
        held = self._rows.get(key)
        if held is not None and _quality(held) <= _quality(solution):
            return False
        self._rows.pop(key, None)
        if len(self._rows) >= self.capacity:
            del self._rows[min(self._rows, key=lambda k: self._rows[k].step)]
        self._rows[key] = solution
        return True

    def evict(self, step: int) -> int:
        """Drop what is older than ``max_age`` steps at ``step``; the number dropped."""
        old = [key for key, row in self._rows.items() if step - row.step > self.max_age]
        for key in old:
            del self._rows[key]
        return len(old)

    def best(self) -> list[VerifiedSolution]:
        """All solutions: highest reward first, then shortest, then in order of arrival."""
        return sorted(self._rows.values(), key=_quality)

    def sample(self, n: int, rng: np.random.Generator) -> list[VerifiedSolution]:
        """Up to ``n`` distinct solutions; the r-th best weighs 1 / (r + n), best first."""
        rows = self.best()
        if not rows or n < 1:
            return []
        weights = 1.0 / (np.arange(len(rows)) + n)
        size = min(n, len(rows))
        chosen = rng.choice(len(rows), size=size, replace=False, p=weights / weights.sum())
        return [rows[int(i)] for i in chosen]

    def to_json(self) -> list[dict[str, Any]]:
        return [
            {
                "task_id": row.task_id,
                "prompt_ids": list(row.prompt_ids),
                "completion_ids": list(row.completion_ids),
                "reward": row.reward,
                "step": row.step,
            }
            for row in self._rows.values()
        ]

    def restore(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replace the content by what the rows hold."""
        self._rows.clear()
        for row in rows:
            ids = {name: _ids(row[name]) for name in ("prompt_ids", "completion_ids")}
            reward, step = float(row["reward"]), int(row["step"])
            solution = VerifiedSolution(row["task_id"], reward=reward, step=step, **ids)
            self.add(solution)


def _quality(row: VerifiedSolution) -> tuple[float, int]:
    return -row.reward, len(row.completion_ids)


def _ids(values: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(v) for v in values)
