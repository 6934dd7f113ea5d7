"""Judges answers to tasks, and anything else that is graded while more of it is being written."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

from azr_mlx.sandbox import Job, Result, equal, literal, parse_literal
from azr_mlx.tasks.gate import Runner, arguments_of
from azr_mlx.tasks.parse import check_program
from azr_mlx.types import Status, Task, TaskKind, Verdict

Tag = TypeVar("Tag")
MAX_ANSWER_CHARS = 20_000
MOST_KEPT = 4096  # results of jobs that later answers may have in common
# The version of the rules by which answers are read and judged. It rises if the same text may get
# another verdict: 2 judges induction on the shown pairs, too; 3 reads variables above ``f``; 4
# reads completions of several lines, passes over cut programs, and keeps what fills a variable.
GRADING = 4


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
    with the tag that its answer was submitted with, in the order of submission.

    Jobs that say the same run once: those of equal answers to a task, or of a reference solution.
    A result that may come of a machine that was busy for a moment is not given to later answers.

    A context manager: leaving it drops what has not been judged.
    """

    def __init__(self, sandbox: Runner) -> None:
        self._batch = sandbox.batch()
        # Jobs are told apart by what they say: they have no ids here.
        self._open: deque[tuple[Tag, Check, Any, list[Job]]] = deque()
        self._running: deque[Job] = deque()
        self._uses: Counter[Job] = Counter()  # by open answers
        self._known: dict[Job, Result] = {}
        self._kept: dict[Job, Result] = {}  # that no open answer waits for, oldest first

    def __enter__(self) -> Judge[Tag]:
        self._batch.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._batch.__exit__(*raised)

    def submit(self, tag: Tag, check: Check, answer: Any) -> None:
        """Queue an answer. Its verdict may need any number of jobs, even none."""
        jobs = check.jobs(answer)
        said = [replace(job, id="") for job in jobs]
        self._open.append((tag, check, answer, said))
        for job, key in zip(jobs, said, strict=True):
            self._uses[key] += 1
            if key in self._kept:
                self._known[key] = self._kept.pop(key)
            elif self._uses[key] == 1:
                self._running.append(key)
                self._batch.submit(job)

    def ready(self) -> Iterator[tuple[Tag, Any]]:
        """The verdicts that are known by now, without waiting. More answers may be submitted
        meanwhile."""
        self._batch.poll()
        for result in self._batch.ready():
            self._known[self._running.popleft()] = result
        while self._open and all(job in self._known for job in self._open[0][3]):
            tag, check, answer, jobs = self._open.popleft()
            grade = check.grade(answer, [self._known[job] for job in jobs])
            self._release(jobs)
            yield tag, grade

    def _release(self, jobs: Sequence[Job]) -> None:
        """Put aside, or forget, the results that no open answer waits for."""
        for job in jobs:
            self._uses[job] -= 1
            if not self._uses[job]:
                del self._uses[job]
                result = self._known.pop(job)
                if _lasts(result):
                    self._kept[job] = result
        while len(self._kept) > MOST_KEPT:
            del self._kept[next(iter(self._kept))]

    def rest(self) -> Iterator[tuple[Tag, Any]]:
        """All verdicts that are still open, waiting for them; also on what is submitted
        meanwhile."""
        while self._open:
            self._batch.wait()
            yield from self.ready()


def _lasts(result: Result) -> bool:
    """Whether a result is small, and would be the same at any other time."""
    small = result.values is None and len(result.stdout) + len(result.value or "") <= 1000
    return small and result.status not in (Status.TIMEOUT, Status.MEMORY, Status.KILLED)


@dataclass(frozen=True, slots=True)
class TaskCheck:
    """How an answer to a task is judged, as ``parse_answer`` reads it (None: there was none).

    Answers are decoded as literals, never evaluated. Deduction compares by value and exact type,
    here. Abduction runs the task's program on the answer and takes any pre-image. Induction runs
    the answer on every pair, the shown ones as well as the hidden ones. FORMAT: no answer, not a
    literal, or no program that defines ``f``. ``pairs`` are the first pair that induction is judged
    on, and the one before which it ends (None: all the rest).
    """

    task: Task
    max_chars: int = MAX_ANSWER_CHARS
    pairs: tuple[int, int | None] = (0, None)

    def jobs(self, answer: str | None) -> list[Job]:
        task = self.task
        if task.kind is TaskKind.DEDUCTION or answer is None or self._fault(answer):
            return []
        if task.kind is TaskKind.ABDUCTION:
            args = arguments_of(answer, self.max_chars)
            return [_graded("0", task.program, args, task.outputs[0])]
        pairs = list(zip(task.inputs, task.outputs, strict=True))[slice(*self.pairs)]
        return [_graded(str(j), answer, *pair) for j, pair in enumerate(pairs)]

    def grade(self, answer: str | None, results: Sequence[Result]) -> Verdict:
        if results:
            return _combined(results, self.pairs[0], len(self.task.inputs))
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


def _combined(results: Sequence[Result], first: int, pairs: int) -> Verdict:
    """All must pass; the first that does not speaks for them. They are those of ``pairs`` from
    ``first`` on."""
    seconds = sum(result.seconds for result in results)
    for i, result in enumerate(results, first + 1):
        if result.status is not Status.PASS:
            pair = f"pair {i} of {pairs}: " if pairs > 1 else ""
            return Verdict(result.status, pair + result.detail, result.value, seconds)
    return Verdict(Status.PASS, "", results[-1].value, seconds)


def checks_of(task: Task) -> tuple[TaskCheck, ...]:
    """What answers to a task are put to in turn, until they do not pass. In induction the first
    pair comes alone: most wrong answers fail on it, and need not run on the others."""
    if task.kind is not TaskKind.INDUCTION or len(task.inputs) < 2:
        return (TaskCheck(task),)
    return TaskCheck(task, pairs=(0, 1)), TaskCheck(task, pairs=(1, None))
