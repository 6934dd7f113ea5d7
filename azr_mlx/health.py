"""Signs that a run is collapsing, from the metrics of its last steps: what is wrong, and what to
change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from azr_mlx.types import TaskKind

WINDOW = 5  # steps that have to agree
QUIET = 20  # steps without the same warning again

# Bounds of the means over the window.
FEW_VALID = 0.1
FEW_DISTINCT = 0.3
MANY_FLAT_GROUPS = 0.9
MANY_CUT = 0.5
LONGER = 3.0  # times the mean length of the first window
LOW_ENTROPY = 0.02  # nats a token

WATCHED = ("valid", "distinct", "flat_groups", "cut", "length", "entropy")

Row = Mapping[str, float]


@dataclass(slots=True)
class Health:
    """Takes in a step's metrics; its state is a part of a checkpoint."""

    recent: list[dict[str, float]] = field(default_factory=list)
    first_length: float = 0.0
    warned: dict[str, int] = field(default_factory=dict)

    def observe(self, row: Row) -> tuple[dict[str, float], list[str]]:
        """(metrics ``health/NAME``, 1 where a sign is there; what to say that was not said lately).

        Nothing is said before a whole window of steps has been seen.
        """
        self.recent = [*self.recent, _signs(row)][-WINDOW:]
        found: dict[str, str] = {}
        if len(self.recent) == WINDOW:
            means = {name: _mean(self.recent, name) for name in WATCHED}
            self.first_length = self.first_length or means["length"] or 0.0
            found = {name: text for name, text in self._found(means) if text}
        step = int(row["step"])
        fresh = [name for name in found if step - self.warned.get(name, -QUIET) >= QUIET]
        self.warned |= dict.fromkeys(fresh, step)
        metrics = {f"health/{name}": float(name in found) for name in WATCHED}
        return metrics, [found[name] for name in fresh]

    def _found(self, m: Mapping[str, float | None]) -> list[tuple[str, str]]:
        def is_below(name: str, bound: float) -> bool:
            value = m[name]
            return value is not None and value < bound

        def is_above(name: str, bound: float) -> bool:
            value = m[name]
            return value is not None and value > bound

        longest = LONGER * self.first_length
        return [
            (
                "valid",
                f"only {_percent(m['valid'])} of the proposals are valid: lower learning_rate or "
                "initial_difficulty, or raise proposer.references"
                if is_below("valid", FEW_VALID)
                else "",
            ),
            (
                "distinct",
                f"only {_percent(m['distinct'])} of the well-formed proposals are new programs: "
                "raise rollout.temperature, ppo.entropy_floor or proposer.templates_per_step"
                if is_below("distinct", FEW_DISTINCT)
                else "",
            ),
            (
                "flat_groups",
                f"{_percent(m['flat_groups'])} of the groups have one reward only, and teach "
                "nothing: raise rollout.group_size or rollout.resample, or change "
                "initial_difficulty"
                if is_above("flat_groups", MANY_FLAT_GROUPS)
                else "",
            ),
            (
                "cut",
                f"{_percent(m['cut'])} of the completions are cut off: raise "
                "rollout.max_solve_tokens and rollout.max_propose_tokens, or set "
                "rollout.overlong_buffer"
                if is_above("cut", MANY_CUT)
                else "",
            ),
            (
                "length",
                f"completions have grown to {m['length'] or 0:.0f} tokens, more than {LONGER:.0f} "
                "times what they were: set rollout.overlong_buffer"
                if longest and is_above("length", longest)
                else "",
            ),
            (
                "entropy",
                f"the policy's entropy is down to {m['entropy'] or 0:.3f} nats a token: set "
                "ppo.entropy_floor, or lower learning_rate"
                if is_below("entropy", LOW_ENTROPY)
                else "",
            ),
        ]

    def to_json(self) -> dict[str, Any]:
        return {"recent": self.recent, "first_length": self.first_length, "warned": self.warned}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Health:
        return cls(list(row["recent"]), float(row["first_length"]), dict(row["warned"]))


def _signs(row: Row) -> dict[str, float]:
    """The watched values of one step; one that the step does not have is left out."""
    found: dict[str, float] = {}
    rates = [row[k] for k in (f"propose/valid_rate/{kind.value}" for kind in TaskKind) if k in row]
    if rates:
        found["valid"] = fmean(rates)
    duplicates, valid = row.get("propose/reject/duplicate", 0.0), found.get("valid", 0.0)
    if duplicates + valid > 0:
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


def _mean(rows: Sequence[Row], name: str) -> float | None:
    values = [row[name] for row in rows if name in row]
    return fmean(values) if values else None


def _percent(value: float | None) -> str:
    return f"{value or 0.0:.0%}"
