"""Completions that are graded while others are still being written."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Generic, TypeVar

from azr_mlx.evaluation.benchmarks import Check, Grade
from azr_mlx.sandbox import Result, Sandbox

Tag = TypeVar("Tag")


class Judge(Generic[Tag]):
    """A batch of checks in the sandbox; each answer comes back with the tag it was submitted with,
    in the order of submission. What a check expects stays on this side.

    A context manager: leaving it drops what has not been graded.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._batch = sandbox.batch()
        self._open: deque[tuple[Tag, Check, str, int]] = deque()
        self._results: deque[Result] = deque()

    def __enter__(self) -> Judge[Tag]:
        self._batch.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._batch.__exit__(kind, error, trace)

    def submit(self, tag: Tag, check: Check, code: str) -> None:
        """Queue a program. Its verdict may need any number of jobs, none among them."""
        jobs = check.jobs(code)
        self._open.append((tag, check, code, len(jobs)))
        for job in jobs:
            self._batch.submit(job)

    def ready(self) -> Iterator[tuple[Tag, Grade]]:
        """What is known by now, without waiting; more may be submitted meanwhile."""
        self._batch.poll()
        self._results.extend(self._batch.ready())
        while self._open and len(self._results) >= self._open[0][3]:
            tag, check, code, count = self._open.popleft()
            yield tag, check.grade(code, [self._results.popleft() for _ in range(count)])

    def rest(self) -> Iterator[tuple[Tag, Grade]]:
        """Everything, waiting for it; what is submitted meanwhile as well."""
        while self._open:
            self._batch.wait()
            yield from self.ready()
