"""A round of self-play: what all its parts share (the keys of random draws, the clock, the
announcements), and the records that go from one part to the next."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np

from azr_mlx import rng
from azr_mlx.tasks.gate import Draft, GateResult
from azr_mlx.types import Completion, Experience, Prompt, Task, TaskKind, Verdict

PHASES = ("propose", "solve", "verify", "score", "update", "evaluate", "save")

CUT = "cut: the limit came within the thought"  # why there is no answer in a completion


class Clock:
    """The wall time of a step, by phase. Phases do not nest."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.spent = dict.fromkeys(PHASES, 0.0)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.spent[name] += time.perf_counter() - began

    def metrics(self) -> dict[str, float]:
        total = time.perf_counter() - self.start
        return {"time/step": total, **{f"time/{k}": v for k, v in self.spent.items()}}


class Announce(Protocol):
    """Hears which phase begins, and how many of its rollouts are done."""

    def __call__(self, name: str, step: int, done: int = 0, total: int = 0) -> None: ...


def _silently(name: str, step: int, done: int = 0, total: int = 0) -> None:
    """The default: announce nothing."""


@dataclass(frozen=True, slots=True)
class Round:
    """The ``number``-th round of ``step``. A step has one round, or as many as gradients are
    accumulated over; they share the clock, and no two of their groups have the same id.

    Every random draw is keyed by (seed, stream, step, number, index): what a round draws does not
    depend on what was drawn before it.
    """

    seed: int
    step: int
    number: int = 0
    clock: Clock = field(default_factory=Clock)
    announce: Announce = _silently
    _groups: Iterator[int] = field(default_factory=itertools.count)

    def rounds(self, count: int) -> Iterator[Round]:
        """The first ``count`` rounds of this step."""
        return (replace(self, number=number) for number in range(count))

    def key(self, stream: str, *index: int) -> int:
        """A 64-bit key for one sequence of draws."""
        return rng.key(self.seed, stream, self.step, self.number, *index)

    def draw(self, stream: str, *index: int) -> np.random.Generator:
        """A generator for one sequence of draws."""
        return rng.generator(self.seed, stream, self.step, self.number, *index)

    def draw_of_step(self, stream: str, *index: int) -> np.random.Generator:
        """A generator that all rounds of the step have in common."""
        return rng.generator(self.seed, stream, self.step, *index)

    def in_turn(self, kinds: Sequence[TaskKind], count: int) -> list[TaskKind]:
        """``count`` kinds in turn. Another begins at every step, so that none is always left
        over."""
        return [kinds[(i + self.step) % len(kinds)] for i in range(count)]

    def new_group(self) -> int:
        """The id of a group of rollouts that share a baseline."""
        return next(self._groups)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Announce and time a phase."""
        self.announce(name, self.step)
        with self.clock.phase(name):
            yield

    def progress(self, name: str, done: int, total: int) -> None:
        """Announce how many rollouts of a phase are done."""
        self.announce(name, self.step, done, total)


@dataclass(frozen=True, slots=True)
class Proposed:
    """A proposal before the gate. One from a template has no prompt, and belongs to no group.
    ``references`` are the tasks that the prompt shows."""

    draft: Draft
    prompt: Prompt | None = None
    completion: Completion | None = None
    group: int = -1
    references: tuple[Task, ...] = ()


class Validated(NamedTuple):
    """A proposal, and the gate's verdict on it."""

    proposed: Proposed
    result: GateResult

    @property
    def by_model(self) -> bool:
        """Whether the model wrote it."""
        return self.proposed.completion is not None

    @property
    def task(self) -> Task | None:
        return self.result.task


@dataclass(frozen=True, slots=True)
class Solution:
    """One attempt at a task: what the solver answered (None: nothing that could be read), and the
    judge's verdict. Attempts at one task in one round form a ``group``; those of a group that only
    ``measures`` the task are not trained on. ``extra`` counts the further groups of a round, for
    want of contrast in the first."""

    task: Task
    prompt: Prompt
    completion: Completion
    answer: str | None
    verdict: Verdict
    group: int = -1
    measures: bool = False
    extra: int = 0


class Paid(NamedTuple):
    """A rollout with its reward, and whether it is trained on. Of a proposal also what the gate
    said, and the solve rate that was measured on its task (None: it has none)."""

    experience: Experience
    trains: bool
    validated: Validated | None = None
    solve_rate: float | None = None
