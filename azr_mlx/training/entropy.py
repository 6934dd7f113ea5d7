"""The weight of the entropy bonus, raised while the policy's entropy is below a floor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

STEP = 1.5  # what the extra weight is multiplied or divided by, once a training step
LEAST, MOST = 1e-3, 0.1


@dataclass(slots=True)
class EntropyFloor:
    """``coef`` is ``base``, and above it an extra weight between ``LEAST`` and ``MOST`` that grows
    while the entropy is below ``floor`` nats a token and shrinks, at last to 0, while it is not.

    A floor of 0 leaves ``base`` alone. (In the manner of an adaptive temperature, arXiv 1812.05905,
    with a bounded multiplicative step.)
    """

    base: float
    floor: float
    extra: float = 0.0

    @property
    def coef(self) -> float:
        return self.base + self.extra

    def update(self, entropy: float) -> None:
        """After a step whose rollouts had ``entropy`` nats a token in the mean."""
        if not self.floor:
            return
        if entropy < self.floor:
            self.extra = min(max(self.extra * STEP, LEAST), MOST)
        else:
            self.extra = self.extra / STEP if self.extra > LEAST else 0.0

    def to_json(self) -> dict[str, float]:
        return {"extra": self.extra}

    def restore(self, row: Mapping[str, Any]) -> None:
        self.extra = float(row["extra"]) if self.floor else 0.0
