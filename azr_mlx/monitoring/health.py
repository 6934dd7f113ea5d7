"""Looks for signs of a collapse in the metrics of a run's last steps, and says what to change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, NamedTuple

from azr_mlx.monitoring.metrics import MetricsRow

WINDOW = 5  # a sign is the mean of this many steps
QUIET = 20  # this many steps pass before a warning is repeated

FEW_VALID = 0.1
FEW_DISTINCT = 0.3
MANY_FLAT_GROUPS = 0.9
MANY_CUT = 0.5
LONGER = 3.0  # times the mean length of completions in the first window
LOW_ENTROPY = 0.02  # nats per token


class Sign(NamedTuple):
    """``trips`` decides from the mean over the window whether the sign is there. ``text`` is the
    warning, which says what to change."""

    trips: Callable[[float], bool]
    text: str


SIGNS = {
    "valid": Sign(
        lambda mean: mean < FEW_VALID,
        "only {:.0%} of the proposals are valid: lower learning_rate or initial_difficulty, or "
        "raise proposer.references",
    ),
    "distinct": Sign(
        lambda mean: mean < FEW_DISTINCT,
        "only {:.0%} of the well-formed proposals are new programs: raise rollout.temperature, "
        "ppo.entropy_floor or proposer.templates_per_step",
    ),
    "flat_groups": Sign(
        lambda mean: mean > MANY_FLAT_GROUPS,
        "in {:.0%} of the groups all rewards are equal, and teach nothing: raise "
        "rollout.group_size or rollout.resample, or change initial_difficulty",
    ),
    "cut": Sign(
        lambda mean: mean > MANY_CUT,
        "{:.0%} of the completions are cut off: raise rollout.max_solve_tokens and "
        "rollout.max_propose_tokens, or set rollout.overlong_buffer",
    ),
    "length": Sign(
        lambda mean: mean > LONGER,
        "completions are {:.1f} times as long as at the start: set rollout.overlong_buffer",
    ),
    "entropy": Sign(
        lambda mean: mean < LOW_ENTROPY,
        "the policy's entropy is down to {:.3f} nats per token: set ppo.entropy_floor, or lower "
        "learning_rate",
    ),
}


@dataclass(slots=True)
class Health:
    """Looks at the metrics of each step. Its state is saved in the checkpoints."""

    recent: list[dict[str, float]] = field(default_factory=list)
    first_length: float = 0.0
    warned: dict[str, int] = field(default_factory=dict)

    def observe(self, row: MetricsRow) -> tuple[dict[str, float], list[str]]:
        """Returns (the metrics ``health/NAME``, 1 if the sign is there; the warnings to show,
        without those already given in the last ``QUIET`` steps).

        No sign is reported before a whole window of steps has been seen.
        """
        self.recent = [*self.recent, _watched(row)][-WINDOW:]
        means = self._means() if len(self.recent) == WINDOW else {}
        found = {
            name: sign.text.format(means[name])
            for name, sign in SIGNS.items()
            if name in means and sign.trips(means[name])
        }
        step = int(row["step"])
        fresh = [name for name in found if step - self.warned.get(name, -QUIET) >= QUIET]
        self.warned = {**self.warned, **dict.fromkeys(fresh, step)}
        metrics = {f"health/{name}": float(name in found) for name in SIGNS}
        return metrics, [found[name] for name in fresh]

    def _means(self) -> dict[str, float]:
        """Each value's mean over those steps of the window that have it. The length is relative to
        its mean in the first window."""
        values = {name: [row[name] for row in self.recent if name in row] for name in SIGNS}
        means = {name: fmean(found) for name, found in values.items() if found}
        if "length" in means:
            self.first_length = self.first_length or means["length"]
            means["length"] /= max(self.first_length, 1.0)
        return means

    def to_json(self) -> dict[str, Any]:
        return {"recent": self.recent, "first_length": self.first_length, "warned": self.warned}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Health:
        return cls(list(row["recent"]), float(row["first_length"]), dict(row["warned"]))


def _watched(row: MetricsRow) -> dict[str, float]:
    """The values of one step that the signs are computed from; missing ones are left out."""
    found: dict[str, float] = {}
    if count := row.get("propose/count", 0):
        # Shares of all proposals: the mean of the kinds would count a kind of which there is one
        # proposal like one of which there are many.
        valid = row["propose/valid"] / count
        reserved, duplicates = (
            row.get(f"propose/reject/{reason}", 0.0) for reason in ("reserved", "duplicate")
        )
        if reserved < 1:
            found["valid"] = valid / (1 - reserved)
        if valid + duplicates > 0:
            found["distinct"] = valid / (valid + duplicates)
    for name, key in (
        ("flat_groups", "frac_reward_zero_std"),
        ("cut", "len/truncated_rate"),
        ("length", "len/mean"),
        ("entropy", "entropy"),
    ):
        if key in row:
            found[name] = row[key]
    return found
