"""The choice of a solving strategy for every rollout of self-play: a bandit, which a JSON round
trip restores exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from azr_mlx.types import TaskKind


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
