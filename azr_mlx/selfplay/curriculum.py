"""How hard the tasks are: a difficulty per task kind, restored exactly by a JSON round trip."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from azr_mlx.types import TaskKind

SCHEDULES = ("linear", "exponential", "step", "adaptive")
LOWEST, HIGHEST = 0.1, 0.9


class Curriculum:
    """A difficulty in [0.1, 0.9] per task kind.

    ``linear``, ``exponential`` and ``step`` (``stairs`` levels, each for equally many steps) go
    from ``initial`` to ``final`` in ``max_steps`` steps. ``adaptive`` starts at ``initial`` and
    follows the measured solve rate: an integral controller on its running mean,
    ``d += gain * (rate - target)``, twice as fast if the rate has left the band; so it holds the
    rate near the target, whatever the model's strength. Its range ends at the larger of ``initial``
    and ``final``.
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
        """The difficulty at ``step``: from 1 to ``max_steps``; 0 is before the first one."""
        if self.schedule == "adaptive":
            return self._difficulty[kind]
        part = min(max(step / self.max_steps, 0.0), 1.0)
        if self.schedule == "step":
            climbed = math.ceil(step * self.stairs / self.max_steps) - 1
            part = min(max(climbed, 0), self.stairs - 1) / max(1, self.stairs - 1)
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
