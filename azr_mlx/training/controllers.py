"""Two weights of the loss that are adapted to measurements: the weight of the penalty for drifting
from the reference policy, and the weight of the entropy bonus."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

MAX_ERROR = 0.2
STEP = 1.5  # factor by which the extra entropy weight changes per training step
LEAST, MOST = 1e-3, 0.1  # the first and the largest value of the extra entropy weight
LEAST_BETA = 1e-4  # a smaller weight of the KL penalty changes nothing that is worth a forward pass


@dataclass(slots=True)
class AdaptiveKL:
    """Proportional control of beta in log space (Ziegler et al., arXiv 1909.08593, section 2.2).

        error = clip((kl - target) / target, -0.2, 0.2);  beta <- beta * (1 + error / horizon)

    ``target`` is the desired KL(pi || pi_ref) per token, in nats. ``horizon`` is in updates; 10
    corresponds to the paper's K_beta of 0.1. A beta of 0 stays 0. Raises ValueError if beta is
    negative, the target is not positive, or the horizon is below 1.
    """

    coef: float
    target: float
    horizon: float = 10.0

    def __post_init__(self) -> None:
        if not self.coef >= 0.0:
            raise ValueError(f"ppo.kl_coef {self.coef}: negative; it must be 0 or more")
        if not self.target > 0.0:
            raise ValueError(f"target_kl {self.target}: not positive; the error is relative to it")
        if not self.horizon >= 1.0:
            raise ValueError(f"horizon {self.horizon}: less than 1 update")

    @property
    def in_force(self) -> float:
        """The beta to use: 0 once it is so small that the penalty no longer matters. Then the KL is
        not measured any more, so that beta stays as it is."""
        return self.coef if self.coef >= LEAST_BETA else 0.0

    def update(self, kl: float) -> float:
        """The new beta after an update whose mean KL was ``kl``. Raises ValueError if that is
        NaN."""
        if math.isnan(kl):
            raise ValueError("kl_ref is NaN: the policy diverged; lower learning_rate")
        error = min(max((kl - self.target) / self.target, -MAX_ERROR), MAX_ERROR)
        self.coef *= 1.0 + error / self.horizon
        return self.coef

    def to_json(self) -> dict[str, float]:
        return asdict(self)

    def restore(self, row: Mapping[str, Any]) -> None:
        """Restore only the coefficient; the target is taken from the configuration."""
        self.coef = float(row["coef"])


@dataclass(slots=True)
class EntropyFloor:
    """The weight of the entropy bonus, raised while the policy's entropy is below a floor.

    ``coef`` is ``base`` plus an extra weight, which grows from ``LEAST`` to at most ``MOST`` while
    the entropy is below ``floor`` (nats per token). Otherwise it shrinks, finally to 0. With a
    floor of 0, ``coef`` is always ``base``. (Similar to the adaptive temperature of arXiv
    1812.05905, with a bounded multiplicative step.)
    """

    base: float
    floor: float
    extra: float = 0.0

    @property
    def coef(self) -> float:
        return self.base + self.extra

    def update(self, entropy: float) -> None:
        """Adapt the weight after a step whose rollouts had this mean entropy, in nats per token."""
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
