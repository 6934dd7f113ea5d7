"""Judges answers to tasks, and anything else that is graded while more of it is being written."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from azr_mlx.sandbox import Job, Result, equal, literal, parse_literal
from azr_mlx.tasks.gate import Runner, arguments_of
from azr_mlx.tasks.parse import check_program
from azr_mlx.types import Status, Task, TaskKind, Verdict

Tag = TypeVar("Tag")
MAX_ANSWER_CHARS = 20_000
# The version of the rules by which answers are read and judged. It rises if the same text may get
# another verdict: 2 judges induction on the shown pairs, too.
GRADING = 2


class Graded(Protocol):
    """What a check says: at least whether the answer passed."""

    @property
    def status(self) -> Status: ...


class Check(Protocol):
    """How an answer is judged. It holds what is expected, which never enters the sandbox."""

    def jobs(self, answer: Any) -> list[Job]:
        """What to run; nothing if the answer's text alone decides."""
        ...

    def grade(self, answer: Any, results: Sequence[Result]) -> Any:
        """The verdict (``Graded``), from the results of those jobs in their order."""
        ...


class Judge(Generic[Tag]):
    """Judges answers in the sandbox while others are still being written. Each verdict comes back
    with the tag that its answer was submitted with, in the order of submission. A job that several
    open answers have in common (the run of a benchmark's reference) runs once.

    A context manager: leaving it drops what has not been judged.
    """

    def __init__(self, sandbox: Runner) -> None:
        self._batch = sandbox.batch()
        self._open: deque[tuple[Tag, Check, Any, list[Job]]] = deque()
        self._running: deque[Job] = deque()
        # By the identity of a job, which its open answers keep alive.
        self._uses: Counter[int] = Counter()
        self._known: dict[int, Result] = {}

    def __enter__(self) -> Judge[Tag]:
        self._batch.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._batch.__exit__(*raised)

    def submit(self, tag: Tag, check: Check, answer: Any) -> None:
        """Queue an answer. Its verdict may need any number of jobs, even none."""
        jobs = check.jobs(answer)
        self._open.append((tag, check, answer, jobs))
        for job in jobs:
            self._uses[id(job)] += 1
            if self._uses[id(job)] == 1:
                self._running.append(job)
                self._batch.submit(job)

    def ready(self) -> Iterator[tuple[Tag, Any]]:
        """The verdicts that are known by now, without waiting. More answers may be submitted
        meanwhile."""
        self._batch.poll()
        for result in self._batch.ready():
            self._known[id(self._running.popleft())] = result
        while self._open and all(id(job) in self._known for job in self._open[0][3]):
            tag, check, answer, jobs = self._open.popleft()
            grade = check.grade(answer, [self._known[id(job)] for job in jobs])
            self._release(jobs)
            yield tag, grade

    def _release(self, jobs: Sequence[Job]) -> None:
        """Forget the results that no open answer waits for."""
        for job in jobs:
            self._uses[id(job)] -= 1
            if not self._uses[id(job)]:
                del self._uses[id(job)], self._known[id(job)]

    def rest(self) -> Iterator[tuple[Tag, Any]]:
        """All verdicts that are still open, waiting for them; also on what is submitted
        meanwhile."""
        while self._open:
            self._batch.wait()
            yield from self.ready()


@dataclass(frozen=True, slots=True)
class TaskCheck:
    """How an answer to a task is judged, as ``parse_answer`` reads it (None: there was none).

    Answers are decoded as literals, never evaluated. Deduction compares by value and exact type,
    here. Abduction runs the task's program on the answer and takes any pre-image. Induction runs
    the answer on every pair, the shown ones as well as the hidden ones. FORMAT: no answer, not a
    literal, or no program that defines ``f``.
    """

    task: Task
    max_chars: int = MAX_ANSWER_CHARS

    def jobs(self, answer: str | None) -> list[Job]:
        task = self.task
        if task.kind is TaskKind.DEDUCTION or answer is None or self._fault(answer):
            return []
        if task.kind is TaskKind.ABDUCTION:
            args = arguments_of(answer, self.max_chars)
            return [_graded("0", task.program, args, task.outputs[0])]
        pairs = zip(task.inputs, task.outputs, strict=True)
        return [_graded(str(j), answer, *pair) for j, pair in enumerate(pairs)]

    def grade(self, answer: str | None, results: Sequence[Result]) -> Verdict:
        if results:
            return _combined(results)
        if answer is None:
            return Verdict(Status.FORMAT, "no answer in the text")
        if fault := self._fault(answer):
            return Verdict(Status.FORMAT, fault)
        value = parse_literal(answer, self.max_chars)
        same = equal(value, parse_literal(self.task.outputs[0]))
        return Verdict(Status.PASS if same else Status.FAIL, "", literal(value))

    def _fault(self, answer: str) -> str:
        """Why the answer is not well-formed; empty if it is."""
        if self.task.kind is TaskKind.INDUCTION:
            fault = check_program(answer, (), self.max_chars)
            return fault if fault in ("too_large", "syntax", "no_f", "no_params") else ""
        try:
            parse_literal(answer, self.max_chars)
            if self.task.kind is TaskKind.ABDUCTION:
                arguments_of(answer, self.max_chars)
        except ValueError as error:
            return str(error)
        return ""


def _graded(name: str, code: str, args: str, expect: str) -> Job:
    return Job(id=name, code=code, call="f", args=args, expect=expect)


def _combined(results: Sequence[Result]) -> Verdict:
    """All must pass; the first that does not speaks for them."""
    seconds = sum(result.seconds for result in results)
    for i, result in enumerate(results):
        if result.status is not Status.PASS:
            pair = f"pair {i + 1} of {len(results)}: " if len(results) > 1 else ""
            return Verdict(result.status, pair + result.detail, result.value, seconds)
    return Verdict(Status.PASS, "", results[-1].value, seconds)
