"""The model writes answers, and each is judged while the others are still being written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from azr_mlx.backends.base import Backend, Policy, Sampling
from azr_mlx.tasks.gate import Runner
from azr_mlx.tasks.verdicts import Check, Graded, Judge
from azr_mlx.types import Completion, Prompt, Status


@dataclass(frozen=True, slots=True)
class Asked:
    """What the model is asked, how its completion is drawn, and how it is judged.

    ``read`` finds the answer in a completion's text. ``checks`` are put to the answer in turn,
    until one of them does not pass it.
    """

    prompt: Prompt
    sampling: Sampling
    key: int
    read: Callable[[str], Any]
    checks: Sequence[Check]


@dataclass(frozen=True, slots=True)
class Judged:
    """A completion, the answer in it, and what the checks said that it was put to."""

    completion: Completion
    answer: Any
    grades: list[Any] = field(default_factory=list)


class Answering:
    """Answers to everything that is asked.

        with Answering(backend, sandbox, asked) as answering:
            answering.write()
            judged = answering.judged()

    ``on_judged(index, judged)`` is called with each answer as soon as its last verdict is known.
    Leaving the block drops what has not been judged.
    """

    def __init__(
        self,
        backend: Backend,
        sandbox: Runner,
        asked: Sequence[Asked],
        *,
        policy: Policy = "current",
        on_judged: Callable[[int, Judged], None] = lambda index, judged: None,
    ) -> None:
        self.backend, self.asked, self.policy, self.on_judged = backend, asked, policy, on_judged
        self._judge = Judge[int](sandbox)
        self._known: dict[int, Judged] = {}

    def __enter__(self) -> Answering:
        self._judge.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._judge.__exit__(*raised)

    def write(self, on_step: Callable[[int], None] = lambda ended: None) -> None:
        """Let the model write all completions. ``on_step(n)`` is called after every decode step
        with the number of completions that have ended so far."""

        def ended(completions: Sequence[tuple[int, Completion]]) -> None:
            for index, completion in completions:
                one = Judged(completion, self.asked[index].read(completion.text))
                self._known[index] = one
                self._judge.submit(index, self.asked[index].checks[0], one.answer)
            self._take_ready()
            on_step(len(self._known))

        self.backend.generate(
            [one.prompt for one in self.asked],
            [one.sampling for one in self.asked],
            [one.key for one in self.asked],
            ended,
            self.policy,
        )

    def judged(self) -> list[Judged]:
        """Everything that has been written, in the order it was asked; waits for the verdicts."""
        for index, grade in self._judge.rest():
            self._take(index, grade)
        return [self._known[index] for index in sorted(self._known)]

    def _take_ready(self) -> None:
        for index, grade in self._judge.ready():
            self._take(index, grade)

    def _take(self, index: int, grade: Graded) -> None:
        one, checks = self._known[index], self.asked[index].checks
        one.grades.append(grade)
        if grade.status is Status.PASS and len(one.grades) < len(checks):
            self._judge.submit(index, checks[len(one.grades)], one.answer)
        else:
            self.on_judged(index, one)
