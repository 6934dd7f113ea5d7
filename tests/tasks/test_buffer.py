"""Buffers: duplicates stay out, new entries always come in, and JSON brings everything back."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from azr_mlx.tasks.buffer import SolutionBuffer, TaskBuffer, VerifiedSolution
from azr_mlx.types import Task, TaskKind

pytestmark = pytest.mark.pure

DEDUCTION, ABDUCTION, INDUCTION = TaskKind.DEDUCTION, TaskKind.ABDUCTION, TaskKind.INDUCTION


def _task(i: int, kind: TaskKind = DEDUCTION, difficulty: float = 0.5, step: int = 0) -> Task:
    """A task whose program has a shape of its own: i additions."""
    program = f"def f(x):\n    return x{' + 1' * i}\n"
    return Task.create(
        kind, program, ("(1,)",), (str(1 + i),), difficulty=difficulty, origin_step=step
    )


def test_duplicates_and_near_duplicates_stay_out_per_kind() -> None:
    buffer = TaskBuffer(8)
    assert buffer.add(_task(1))
    assert not buffer.add(_task(1))
    near = Task.create(DEDUCTION, "def f(y):  # new\n    return y + 99\n", ("(5,)",), ("104",))
    assert near.id not in buffer and buffer.is_duplicate(DEDUCTION, near.program)
    assert not buffer.add(near)
    assert buffer.add(_task(1, ABDUCTION)) and buffer.add(_task(1, INDUCTION))
    assert [buffer.count(kind) for kind in TaskKind] == [1, 1, 1] and len(buffer) == 3


def test_a_full_buffer_takes_new_tasks_and_lets_the_oldest_go() -> None:
    buffer = TaskBuffer(3)
    for i in range(1, 8):
        assert buffer.add(_task(i, step=i)), "a full buffer must not drop a new task"
    assert [task.origin_step for task in buffer.tasks(DEDUCTION)] == [5, 6, 7]
    assert buffer.add(_task(1, step=9)), "the shape of a task that left is free again"


def test_stale_tasks_are_not_served_as_new() -> None:
    buffer = TaskBuffer(2)
    for i in range(1, 5):
        buffer.add(_task(i, step=i))
    assert [t.origin_step for t in buffer.new(DEDUCTION, 4)] == [4]
    buffer.add(_task(4, step=5))  # a duplicate: nothing came in at step 5
    assert buffer.new(DEDUCTION, 5) == []


def test_solve_rates_are_measured() -> None:
    buffer = TaskBuffer(4)
    task = _task(1)
    buffer.add(task)
    assert buffer.solve_rate(task.id) is None
    buffer.record(task.id, 8, 2)
    buffer.record(task.id, 8, 4)
    buffer.record("gone", 8, 8)
    assert buffer.solve_rate(task.id) == 6 / 16
    assert buffer.solve_rate("gone") is None
    with pytest.raises(ValueError, match="cannot be"):
        buffer.record(task.id, 1, 2)


def test_references_are_near_the_difficulty_by_measured_rate() -> None:
    buffer = TaskBuffer(64)
    tasks = [_task(i, difficulty=0.5) for i in range(1, 31)]
    for i, task in enumerate(tasks):
        buffer.add(task)
        buffer.record(task.id, 10, 9 if i < 15 else 1)  # the first half turned out easy
    rng = np.random.default_rng(0)
    easy = {task.id for task in tasks[:15]}
    for difficulty, expected in ((0.1, True), (0.9, False)):
        drawn = [t for _ in range(40) for t in buffer.references(DEDUCTION, 6, difficulty, rng)]
        assert np.mean([(t.id in easy) is expected for t in drawn]) > 0.85
    picked = buffer.references(DEDUCTION, 6, 0.5, rng)
    assert len({t.id for t in picked}) == 6
    assert len(buffer.references(DEDUCTION, 99, 0.5, rng)) == 30
    assert buffer.references(ABDUCTION, 6, 0.5, rng) == []


def test_untried_tasks_count_with_their_own_difficulty() -> None:
    buffer = TaskBuffer(64)
    for i in range(1, 21):
        buffer.add(_task(i, difficulty=0.1 if i <= 10 else 0.9))
    rng = np.random.default_rng(1)
    drawn = [t for _ in range(50) for t in buffer.references(DEDUCTION, 3, 0.9, rng)]
    assert np.mean([t.difficulty == 0.9 for t in drawn]) > 0.85


def test_references_are_near_a_solve_rate() -> None:
    """Not near 1 - a level that means length, which preferred tasks that are nearly always solved.
    A task that was never tried is as likely as one right at the rate."""
    buffer = TaskBuffer(64)
    tasks = [_task(i, difficulty=0.2) for i in range(1, 31)]
    solved: dict[str, int | None] = {}
    for i, task in enumerate(tasks):
        buffer.add(task)
        wins = (8, 3, None)[i // 10]
        solved[task.id] = wins
        if wins is not None:
            buffer.record(task.id, 10, wins)
    rng = np.random.default_rng(0)
    for rate, counts in ((None, (8, 3, None)), (0.35, (3, None, 8))):
        drawn = [t for _ in range(200) for t in buffer.references(DEDUCTION, 1, 0.2, rng, rate)]
        share = Counter(solved[t.id] for t in drawn)
        found = [share[wins] / len(drawn) for wins in counts]
        if rate is None:
            assert found[0] > 0.4 > 0.1 > found[1], found
        else:
            assert min(found[:2]) > 0.35 and found[2] < 0.15, found


def test_sample_is_distinct_and_repeatable() -> None:
    buffer = TaskBuffer(16)
    for i in range(1, 11):
        buffer.add(_task(i))
    one = buffer.sample(DEDUCTION, 4, np.random.default_rng(7))
    assert one == buffer.sample(DEDUCTION, 4, np.random.default_rng(7))
    assert len({t.id for t in one}) == 4
    assert len(buffer.sample(DEDUCTION, 40, np.random.default_rng(7))) == 10


def test_learnable_tasks_are_those_that_are_sometimes_solved() -> None:
    buffer = TaskBuffer(16)
    solved = {_task(i).id: rate for i, rate in enumerate((0, 4, 8, None), 1)}
    for i, wins in enumerate(solved.values(), 1):
        buffer.add(_task(i))
        if wins is not None:
            buffer.record(_task(i).id, 8, wins)
    rng = np.random.default_rng(0)
    drawn = Counter(
        solved[t.id] for _ in range(400) for t in buffer.sample(DEDUCTION, 1, rng, learnable=True)
    )
    # (successes + 1) / (attempts + 2) is 0.1, 0.5, 0.9, 0.5: weights of 9, 25, 9 and 25.
    assert [round(drawn[wins] / 400 * 68) for wins in (0, 4, 8, None)] == pytest.approx(
        [9, 25, 9, 25], abs=4
    )
    both = buffer.sample(DEDUCTION, 9, rng, learnable=True)
    assert sorted(t.id for t in both) == sorted(solved)
    assert TaskBuffer(4).sample(DEDUCTION, 2, rng, learnable=True) == []


def test_induction_programs_come_from_the_other_two_and_are_unused() -> None:
    buffer = TaskBuffer(8)
    for kind, i in ((DEDUCTION, 1), (ABDUCTION, 1), (ABDUCTION, 2), (DEDUCTION, 3), (INDUCTION, 3)):
        buffer.add(_task(i, kind))
    assert sorted(len(t.program) for t in buffer.programs()) == [
        len(_task(i).program) for i in (1, 2)
    ]


def test_task_buffer_round_trip_is_exact() -> None:
    buffer = TaskBuffer(5)
    for i in range(1, 9):
        for kind in TaskKind:
            buffer.add(_task(i, kind, step=i))
    buffer.record(buffer.tasks(ABDUCTION)[1].id, 8, 3)
    rows = [json.loads(json.dumps(row)) for row in buffer.to_json()]
    again = TaskBuffer(5)
    again.restore(rows)
    assert again.to_json() == buffer.to_json()
    draws = [b.references(ABDUCTION, 3, 0.4, np.random.default_rng(2)) for b in (buffer, again)]
    assert draws[0] == draws[1]
    for b in (buffer, again):
        assert b.add(_task(20)) and not b.add(_task(8))
    assert again.to_json() == buffer.to_json()


def test_capacity_must_hold_something() -> None:
    with pytest.raises(ValueError, match="task_buffer_size = 0"):
        TaskBuffer(0)
    with pytest.raises(ValueError, match="buffer_size = 0"):
        SolutionBuffer(0)


def _solution(task: str, length: int = 3, reward: float = 1.0, step: int = 0) -> VerifiedSolution:
    return VerifiedSolution(task, (1, 2), tuple(range(length)), reward, step)


def test_solutions_keep_the_best_and_shortest_per_prompt() -> None:
    buffer = SolutionBuffer(8)
    assert buffer.add(_solution("a", 5))
    assert not buffer.add(_solution("a", 6))
    assert buffer.add(_solution("a", 4))
    assert buffer.add(_solution("a", 9, reward=2.0))
    assert buffer.add(_solution("b", 2)) and buffer.add(_solution("c", 1))
    assert [(s.task_id, len(s.completion_ids)) for s in buffer.best()] == [
        ("a", 9),
        ("c", 1),
        ("b", 2),
    ]


def test_old_solutions_leave() -> None:
    buffer = SolutionBuffer(3, max_age=10)
    for step in range(5):
        assert buffer.add(_solution(f"t{step}", step=step))
    assert [s.task_id for s in buffer.best()] == ["t2", "t3", "t4"]
    assert buffer.evict(12) == 0
    assert buffer.evict(13) == 1
    assert len(buffer) == 2


def test_samples_prefer_the_best() -> None:
    buffer = SolutionBuffer(100)
    for i in range(100):
        buffer.add(_solution(f"t{i}", length=i + 1))
    rng = np.random.default_rng(0)
    lengths = [len(s.completion_ids) for _ in range(200) for s in buffer.sample(4, rng)]
    assert np.mean(lengths) < 40  # 50.5 if all were equal
    assert len({s.task_id for s in buffer.sample(50, rng)}) == 50
    assert SolutionBuffer().sample(4, rng) == []


def test_solution_buffer_round_trip_is_exact() -> None:
    buffer = SolutionBuffer(8, max_age=5)
    for i in range(6):
        buffer.add(_solution(f"t{i}", length=7 - i, reward=0.1 * i, step=i))
    rows = json.loads(json.dumps(buffer.to_json()))
    again = SolutionBuffer(8, 5)
    again.restore(rows)
    assert again.to_json() == buffer.to_json() and again.best() == buffer.best()
    draws = [b.sample(3, np.random.default_rng(4)) for b in (buffer, again)]
    assert draws[0] == draws[1]
