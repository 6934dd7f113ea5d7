"""How far an evaluation is, on stderr: a bar on a terminal, a line from time to time elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from azr_mlx.text import duration

QUIET_S = 30.0  # the longest time in seconds without a line while samples come


class Reporter(Protocol):
    """What reports the progress of an evaluation. What is counted is samples; with held-out tasks,
    tasks that are made and answers that are written."""

    def start(self, label: str, total: int, done: int) -> None:
        """Begin; ``done`` of ``total`` exist already."""
        ...

    def advance(self, count: int = 1) -> None:
        """So many more are there; samples, when they are graded."""
        ...

    def chunk(self) -> None:
        """All samples that were generated together are graded."""
        ...

    def close(self) -> None: ...


class Silent:
    """Reports nothing."""

    def start(self, label: str, total: int, done: int) -> None: ...

    def advance(self, count: int = 1) -> None: ...

    def chunk(self) -> None: ...

    def close(self) -> None: ...


SILENT = Silent()


@contextmanager
def reported(reporter: Reporter, label: str, total: int) -> Iterator[None]:
    """Report the work of the block."""
    reporter.start(label, total, 0)
    try:
        yield
    finally:
        reporter.close()


class _TimeLeft(ProgressColumn):
    """The time left in the words that lines and the live view use."""

    max_refresh = 0.5  # seconds; a figure that changes more often cannot be read

    def render(self, task: Task) -> Text:
        left = task.time_remaining
        return Text("" if left is None or task.finished else f"{duration(left)} left")


class Bar:
    """A bar with an estimate of the time left, in place."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _TimeLeft(),
            console=console,
            speed_estimate_period=600.0,
        )
        self._task = self._progress.add_task("", visible=False)

    def start(self, label: str, total: int, done: int) -> None:
        self._progress.start()
        self._progress.remove_task(self._task)
        # Only the work of this session shows its speed, so the estimate starts from ``done``.
        self._task = self._progress.add_task(label, total=total, completed=done)

    def advance(self, count: int = 1) -> None:
        self._progress.advance(self._task, count)

    def chunk(self) -> None: ...

    def close(self) -> None:
        self._progress.stop()


class Lines:
    """Whole lines for logs and pipes: one a chunk, and one after every half a minute."""

    def start(self, label: str, total: int, done: int) -> None:
        self.label, self.total, self.done = label, total, done
        self.before, self.began = done, time.monotonic()
        self.said = self.began
        if done:
            self._say("already there")

    def advance(self, count: int = 1) -> None:
        self.done += count
        if time.monotonic() - self.said > QUIET_S:
            self.chunk()

    def chunk(self) -> None:
        fresh, spent = self.done - self.before, time.monotonic() - self.began
        left = (self.total - self.done) * spent / fresh if fresh else 0.0
        self._say(f"about {duration(left)} left" if left else f"in {duration(spent)}")

    def close(self) -> None: ...

    def _say(self, more: str) -> None:
        self.said = time.monotonic()
        sys.stderr.write(f"{self.label}: {self.done} of {self.total}, {more}\n")
        sys.stderr.flush()


def reporter(quiet: bool = False) -> Reporter:
    """The reporter that suits this process's stderr."""
    if quiet:
        return Silent()
    console = Console(file=sys.stderr)
    return Bar(console) if console.is_terminal else Lines()
