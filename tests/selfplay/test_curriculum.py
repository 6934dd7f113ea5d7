"""Difficulty follows what is measured; strategies are drawn by what works; both come back from
JSON.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter

import numpy as np
import pytest

from azr_mlx.selfplay.curriculum import HIGHEST, LOWEST, SCHEDULES, Curriculum
from azr_mlx.selfplay.strategy_bandit import StrategyBandit
from azr_mlx.types import TaskKind

pytestmark = pytest.mark.pure

KIND = TaskKind.DEDUCTION


@pytest.mark.parametrize("schedule", ["linear", "exponential", "step"])
def test_schedules_rise_from_initial_to_final(schedule: str) -> None:
    curriculum = Curriculum(schedule, 0.2, 0.8, 100)
    path = [curriculum.difficulty(KIND, step) for step in range(0, 131)]
    assert path[0] == pytest.approx(0.2) and path[100] == path[130] == pytest.approx(0.8)
    assert all(a <= b for a, b in itertools.pairwise(path))
    curriculum.observe(KIND, 1.0)
    assert curriculum.difficulty(KIND, 50) == path[50]


def test_schedules_differ_half_way() -> None:
    at = {s: Curriculum(s, 0.2, 0.8, 100, stairs=4).difficulty(KIND, 50) for s in SCHEDULES[:3]}
    assert at["linear"] == pytest.approx(0.5)
    assert at["exponential"] == pytest.approx(0.4)
    assert at["step"] == pytest.approx(0.4), "the last step of the second of four stairs"
    assert Curriculum("step", 0.2, 0.8, 100, stairs=4).difficulty(KIND, 51) == pytest.approx(0.6)
    assert len(set(Curriculum("step", 0.1, 0.9, 100).difficulty(KIND, s) for s in range(100))) == 5


@pytest.mark.parametrize(("steps", "stairs"), [(10, 5), (100, 4), (1000, 5)])
def test_every_stair_has_as_many_steps_as_any_other(steps: int, stairs: int) -> None:
    """The steps of a run count from 1: counted from 0, the last stair was two steps longer than
    the first."""
    curriculum = Curriculum("step", 0.1, 0.9, steps, stairs=stairs)
    count = Counter(curriculum.difficulty(KIND, step) for step in range(1, steps + 1))
    assert list(count.values()) == [steps // stairs] * stairs
    assert curriculum.difficulty(KIND, 0) == curriculum.difficulty(KIND, 1) == min(count)


@pytest.mark.parametrize("strength", [0.35, 0.55, 0.75])
@pytest.mark.parametrize("start", [0.1, 0.9])
def test_adaptive_difficulty_holds_the_solve_rate_in_the_band(
    strength: float, start: float
) -> None:
    """A solver whose success falls with difficulty, half at ``strength``, measured with noise."""
    rng = np.random.default_rng(3)
    curriculum = Curriculum("adaptive", start, 0.9)
    rates = []
    for _ in range(200):
        p = 1 / (1 + np.exp(8 * (curriculum.difficulty(KIND, 0) - strength)))
        rates.append(p)
        curriculum.observe(KIND, rng.binomial(16, p) / 16)
    late = np.array(rates[60:])
    assert abs(late.mean() - 0.5) < 0.05
    assert ((late > 0.3) & (late < 0.7)).mean() > 0.95


def test_adaptive_difficulty_moves_one_kind_and_keeps_its_bounds() -> None:
    curriculum = Curriculum("adaptive", 0.3, 0.6)
    for _ in range(100):
        curriculum.observe(TaskKind.DEDUCTION, 1.0)
        curriculum.observe(TaskKind.ABDUCTION, 0.0)
    assert curriculum.difficulty(TaskKind.DEDUCTION, 0) == 0.6
    assert curriculum.difficulty(TaskKind.ABDUCTION, 0) == LOWEST
    assert curriculum.difficulty(TaskKind.INDUCTION, 0) == 0.3
    assert curriculum.solve_rate(TaskKind.INDUCTION) is None
    assert Curriculum("linear", 0.0, 1.0, 10).difficulty(KIND, 99) == HIGHEST


def test_adaptive_moves_faster_outside_the_band() -> None:
    inside, outside = Curriculum("adaptive", 0.5), Curriculum("adaptive", 0.5)
    inside.observe(KIND, 0.69)
    outside.observe(KIND, 0.71)
    assert outside.difficulty(KIND, 0) - 0.5 > 1.5 * (inside.difficulty(KIND, 0) - 0.5) > 0


def test_curriculum_round_trip_is_exact() -> None:
    one, rng = Curriculum("adaptive"), np.random.default_rng(0)
    for _ in range(7):
        one.observe(KIND, rng.random())
    two = Curriculum("adaptive").from_json(json.loads(json.dumps(one.to_json())))
    for _ in range(5):
        rate = rng.random()
        one.observe(KIND, rate)
        two.observe(KIND, rate)
        assert one.difficulty(KIND, 0) == two.difficulty(KIND, 0)
    assert one.to_json() == two.to_json()


def test_bad_settings_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="difficulty_schedule = 'cosine'"):
        Curriculum("cosine")
    with pytest.raises(ValueError, match="solve_rate"):
        Curriculum().observe(KIND, 1.2)
    with pytest.raises(ValueError, match=r"strategy_floor = 0\.5"):
        StrategyBandit(["a", "b", "c"], floor=0.5)
    with pytest.raises(ValueError, match="at least one"):
        StrategyBandit([])
    with pytest.raises(ValueError, match="must be one of a, b"):
        StrategyBandit(["a", "b"]).update(KIND, "c", 1, 1)
    with pytest.raises(ValueError, match="cannot be"):
        StrategyBandit(["a", "b"]).update(KIND, "a", 2, 1)


def _drawn(bandit: StrategyBandit, kind: TaskKind, n: int = 2000) -> Counter[str]:
    rng = np.random.default_rng(5)
    return Counter(bandit.draw(kind, rng) for _ in range(n))


def test_bandit_prefers_what_works_and_keeps_the_floor() -> None:
    bandit = StrategyBandit(["a", "b", "c", "d"], floor=0.05, discount=1.0)
    for _ in range(50):
        for name, wins in (("a", 8), ("b", 2), ("c", 1), ("d", 0)):
            bandit.update(KIND, name, wins, 10)
    drawn = _drawn(bandit, KIND)
    assert drawn["a"] > 0.8 * 2000
    assert all(drawn[name] > 0.035 * 2000 for name in "bcd")
    other = _drawn(bandit, TaskKind.INDUCTION)
    assert max(other.values()) < 0.35 * 2000  # nothing is known of another kind


def test_bandit_without_a_floor_gives_up_on_what_fails() -> None:
    bandit = StrategyBandit(["a", "b"], floor=0.0, discount=1.0)
    bandit.update(KIND, "a", 500, 500)
    bandit.update(KIND, "b", 0, 500)
    assert _drawn(bandit, KIND) == {"a": 2000}


def test_bandit_follows_a_change() -> None:
    bandit = StrategyBandit(["a", "b"], discount=0.95)
    for turn in range(200):
        bandit.update(KIND, "a", 9 if turn < 100 else 1, 10)
        bandit.update(KIND, "b", 1 if turn < 100 else 9, 10)
    assert bandit.mean(KIND, "b") > 0.75 > 0.25 > bandit.mean(KIND, "a")
    assert _drawn(bandit, KIND)["b"] > 1700


def test_bandit_round_trip_is_exact() -> None:
    one = StrategyBandit(["a", "b", "c"])
    for i in range(11):
        one.update(KIND, "abc"[i % 3], i % 4, 5)
    two = StrategyBandit(["a", "b", "c"]).from_json(json.loads(json.dumps(one.to_json())))
    assert _drawn(one, KIND, 200) == _drawn(two, KIND, 200)
    one.update(KIND, "a", 1, 3)
    two.update(KIND, "a", 1, 3)
    assert one.to_json() == two.to_json()
