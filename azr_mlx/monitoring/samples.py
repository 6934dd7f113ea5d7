"""A few rollouts of a step, chosen to be read: for trackers that show tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from azr_mlx.types import Experience

LONGEST = 4000  # characters of a cell


class Sample(NamedTuple):
    """A row of the table: what was asked, what was answered, and what the judge said of it."""

    step: int
    role: str
    kind: str
    verdict: str
    reward: float
    prompt: str
    completion: str


def chosen(experiences: Sequence[Experience]) -> list[Sample]:
    """The first that passed and the first that did not, of each role and kind."""
    found: dict[tuple[str, str, bool], Experience] = {}
    for one in experiences:
        found.setdefault((one.role.value, one.kind.value, one.verdict.passed), one)
    return [_sample(found[key]) for key in sorted(found)]


def _sample(one: Experience) -> Sample:
    return Sample(
        one.step,
        one.role.value,
        one.kind.value,
        one.verdict.status.value,
        one.reward.total,
        one.prompt.text[-LONGEST:],  # the task comes last
        one.completion.text[:LONGEST],
    )
