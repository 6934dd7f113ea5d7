"""What a run came to: held-out tasks before and after it, on the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from azr_mlx.evaluation import held_out
from azr_mlx.evaluation.held_out import (
    NAMES,
    WAYS,
    HeldOut,
    Line,
    Record,
)
from azr_mlx.evaluation.passk import Estimate
from azr_mlx.monitoring.terminal import Display

HEADINGS = ("tasks", "before", "after", "gain in points (95 %)")


class Outcome:
    """The comparison of one run. A run that goes on keeps what it measured at its start."""

    def __init__(
        self, run_dir: Path, held: HeldOut, record: Record | None, display: Display
    ) -> None:
        self.run_dir, self.held, self.display = run_dir, held, display
        self.record = record or Record(held_out.settings(held.config), held.tasks)

    def begin(self) -> None:
        """Solve the tasks, if that has not been done; says so where there are fewer than asked."""
        c = self.held.config
        for name, tasks in self.held.tasks.items():
            wanted = c.held_out.tasks * len(c.task_types)
            if len(tasks) < wanted:
                self.display.warn(
                    f"held_out.tasks: {NAMES[name]}: {len(tasks)} tasks instead of {wanted}, for "
                    "the templates have no more reserved shapes of that difficulty"
                )
        if not self.record.before:
            self.display.note("held-out tasks before training")
            self.record.before = self.held.measure()
            self.record.write(self.run_dir)

    def finish(self) -> None:
        """Measure again, and say what changed."""
        self.display.note("held-out tasks after training")
        self.record.after = self.held.measure()
        self.record.write(self.run_dir)
        for way, how in WAYS.items():
            found = held_out.compare(self.held.tasks, self.record.before, self.record.after, way)
            self.display.table(table(f"held-out tasks solved, {how}", found))


def table(title: str, found: dict[str, list[Line]]) -> Table:
    """Shares and gains on 80 columns; the report has the intervals of the shares as well."""
    made = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    made.add_column("")
    for heading in HEADINGS:
        made.add_column(heading, justify="right", no_wrap=True)
    for name, lines in found.items():
        made.add_row(NAMES[name])
        for line in lines:
            shares = [f"{one.value:.1%}" for one in (line.before, line.after)]
            cells = [str(line.tasks), *shares, _points(line.gain)]
            made.add_row(f"  {line.name}", *cells, end_section=line is lines[-1])
    return made


def _points(one: Estimate) -> str:
    return f"{100 * one.value:+.1f} ({100 * one.low:+.1f} to {100 * one.high:+.1f})"
