"""How hard the tasks are, and how they are solved: a difficulty per task kind, a bandit over
strategies.

Both are plain numbers: a JSON round trip restores them exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from azr_mlx.types import TaskKind

SCHEDULES = ("linear", "exponential", "step", "adaptive")
LOWEST, HIGHEST = 0.1, 0.9


class Curriculum:
    """A difficulty in [0.1, 0.9] per task kind.

    ``linear``, ``exponential`` and ``step`` (``stairs`` equal steps) go from ``initial`` to
    ``final`` in ``max_steps`` steps. ``adaptive`` starts at ``initial`` and follows the measured
    solve rate: an integral controller on its running mean, ``d += gain * (rate - target)``, twice
    as fast where the rate has left the band; so it holds the rate near the target, whatever the
    model's strength. Its range ends at the larger of ``initial`` and ``final``.
    """

    def __init__(
        self,
        schedule: str = "adaptive",
        initial: float = 0.3,
        final: float = 0.9,
        max_steps: int = 1000,
        *,
        target: float = 0.5,
        band: tuple[float, float] = (0.3, 0.7),
        gain: float = 0.1,
        decay: float = 0.7,
        stairs: int = 5,
    ) -> None:
        if schedule not in SCHEDULES:
            raise ValueError(
                f"difficulty_schedule = {schedule!r}: must be one of {', '.join(SCHEDULES)}"
            )
        self.schedule, self.initial, self.final = schedule, initial, final
        self.max_steps, self.stairs = max(1, max_steps), max(1, stairs)
        self.target, self.band, self.gain, self.decay = target, band, gain, decay
        self._difficulty = {kind: _clip(initial) for kind in TaskKind}
        self._rate: dict[TaskKind, float | None] = dict.fromkeys(TaskKind)

    def difficulty(self, kind: TaskKind, step: int) -> float:
        """The difficulty at ``step`` (counted from 0)."""
        if self.schedule == "adaptive":
            return self._difficulty[kind]
        part = min(max(step / self.max_steps, 0.0), 1.0)
        if self.schedule == "step":
            part = min(math.floor(part * self.stairs), self.stairs - 1) / max(1, self.stairs - 1)
        if self.schedule == "exponential":
            low, high = _clip(self.initial), _clip(self.final)
            return _clip(low * (high / low) ** part)
        return _clip(self.initial + (self.final - self.initial) * part)

    def observe(self, kind: TaskKind, solve_rate: float) -> None:
        """Take in one step's mean solve rate of a kind, a fraction."""
        if not 0.0 <= solve_rate <= 1.0:
            raise ValueError(f"solve_rate = {solve_rate!r}: must lie in [0, 1]")
        before = self._rate[kind]
        rate = solve_rate if before is None else self.decay * before + (1 - self.decay) * solve_rate
        self._rate[kind] = rate
        inside = self.band[0] <= rate <= self.band[1]
        move = self.gain * (rate - self.target) * (1.0 if inside else 2.0)
        top = max(_clip(self.initial), _clip(self.final))
        self._difficulty[kind] = min(_clip(self._difficulty[kind] + move), top)

    def solve_rate(self, kind: TaskKind) -> float | None:
        """The running mean of the observed solve rates, None before the first."""
        return self._rate[kind]

    def to_json(self) -> dict[str, Any]:
        return {
            "difficulty": {kind.value: d for kind, d in self._difficulty.items()},
            "rate": {kind.value: rate for kind, rate in self._rate.items()},
        }

    def from_json(self, row: Mapping[str, Any]) -> Curriculum:
        """This curriculum with the state that ``to_json`` gave; settings are the constructor's."""
        for kind in TaskKind:
            self._difficulty[kind] = float(row["difficulty"][kind.value])
            rate = row["rate"][kind.value]
            self._rate[kind] = None if rate is None else float(rate)
        return self


def _clip(difficulty: float) -> float:
    return min(max(difficulty, LOWEST), HIGHEST)


class StrategyBandit:
    """Thompson sampling (Thompson, 1933) over solving strategies, per task kind, on verified
    success.

    Beta(1 + successes, 1 + failures) posteriors; every update first multiplies a kind's counts by
    ``discount``, so that old evidence fades and the choice follows a model that changes. Each
    strategy keeps at least the probability ``floor``.
    """

    def __init__(
        self, strategies: Sequence[str], floor: float = 0.05, discount: float = 0.98
    ) -> None:
        if not strategies:
            raise ValueError("solver.strategies = []: name at least one strategy")
        if not 0.0 <= floor * len(strategies) <= 1.0:
            most = 1 / len(strategies)
            raise ValueError(
                f"solver.strategy_floor = {floor}: "
                f"at most {most:.3g} with {len(strategies)} strategies"
            )
        self.strategies, self.floor, self.discount = tuple(strategies), floor, discount
        self._counts: dict[TaskKind, dict[str, list[float]]] = {
            kind: {strategy: [0.0, 0.0] for strategy in self.strategies} for kind in TaskKind
        }

    def draw(self, kind: TaskKind, rng: np.random.Generator) -> str:
        """A strategy for one rollout. Takes equal draws from ``rng`` whichever way it decides."""
        coin, uniform = rng.random(), int(rng.integers(len(self.strategies)))
        arms = self._counts[kind]
        samples = [rng.beta(1.0 + wins, 1.0 + losses) for wins, losses in arms.values()]
        explore = coin < self.floor * len(self.strategies)
        return self.strategies[uniform if explore else int(np.argmax(samples))]

    def update(self, kind: TaskKind, strategy: str, successes: int, trials: int) -> None:
        """Take in ``successes`` verified of ``trials`` rollouts. Raises ValueError on an unknown
        strategy.
        """
        if strategy not in self.strategies:
            raise ValueError(f"strategy {strategy!r}: must be one of {', '.join(self.strategies)}")
        if not 0 <= successes <= trials:
            raise ValueError(f"{successes} successes of {trials} trials cannot be")
        if trials == 0:
            return
        for counts in self._counts[kind].values():
            counts[0], counts[1] = counts[0] * self.discount, counts[1] * self.discount
        self._counts[kind][strategy][0] += successes
        self._counts[kind][strategy][1] += trials - successes

    def mean(self, kind: TaskKind, strategy: str) -> float:
        """The posterior mean of a strategy's success."""
        wins, losses = self._counts[kind][strategy]
        return (1.0 + wins) / (2.0 + wins + losses)

    def to_json(self) -> dict[str, Any]:
        return {
            kind.value: {name: list(counts) for name, counts in arms.items()}
            for kind, arms in self._counts.items()
        }

    def from_json(self, row: Mapping[str, Any]) -> StrategyBandit:
        """This bandit with the counts that ``to_json`` gave; a strategy that is new since starts at
        zero.
        """
        for kind in TaskKind:
            saved = row[kind.value]
            self._counts[kind] = {
                name: [float(c) for c in saved.get(name, (0.0, 0.0))] for name in self.strategies
            }
        return self
