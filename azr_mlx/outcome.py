"""What a run came to: held-out tasks before and after it, on the terminal and in its report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from rich.box import SIMPLE_HEAD
from rich.table import Table

from azr_mlx import held_out
from azr_mlx.display import Display
from azr_mlx.held_out import HeldOut, Line, Record
from azr_mlx.passk import Estimate
from azr_mlx.types import TaskKind

REPORT = "report.md"
HEADINGS = ("tasks", "before", "after", "gain in points (95 %)")
NAMES = {"in_range": "in range", "harder": "one step harder"}
WAYS = {"sampled": "sampled as in training", "greedy": "greedy"}


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

    def finish(self) -> Path:
        """Measure again, say what changed, write the report; returns its path."""
        self.display.note("held-out tasks after training")
        self.record.after = self.held.measure()
        self.record.write(self.run_dir)
        before, after = self.record.before, self.record.after
        compared = {way: self.held.compare(before, after, way) for way in WAYS}
        for way, found in compared.items():
            self.display.table(table(f"held-out tasks solved, {WAYS[way]}", found))
        path = self.run_dir / REPORT
        path.write_text(markdown(self.run_dir, compared), encoding="utf-8")
        return path


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


def _cells(line: Line) -> list[str]:
    return [str(line.tasks), _share(line.before), _share(line.after), _points(line.gain)]


def _share(one: Estimate) -> str:
    return f"{one.value:.1%} ({one.low:.0%} to {one.high:.0%})"


def _points(one: Estimate) -> str:
    return f"{100 * one.value:+.1f} ({100 * one.low:+.1f} to {100 * one.high:+.1f})"


# -- the report ------------------------------------------------------------------------------------

CURVES = (
    *(f"solve_rate/{kind.value}" for kind in TaskKind),
    *(f"propose/valid_rate/{kind.value}" for kind in TaskKind),
    *(f"difficulty/{kind.value}" for kind in TaskKind),
    "program/ast_nodes",
    "program/depth",
    "program/cyclomatic",
    "program/steps",
    "entropy",
    "frac_reward_zero_std",
    "len/mean",
    "tok_s/rollout",
    "time/step",
)
PARTS = 5  # stretches of the run that the table of curves shows


def markdown(run_dir: Path, compared: dict[str, dict[str, list[Line]]]) -> str:
    rows = [
        json.loads(line) for line in (run_dir / "metrics.jsonl").read_text("utf-8").splitlines()
    ]
    lines = [f"# {run_dir.name}", ""]
    for way, found in compared.items():
        lines += [f"Held-out tasks solved, {WAYS[way]}; 95 % intervals, gains paired by task.", ""]
        lines += ["| | " + " | ".join(HEADINGS) + " |", "|---|---:|---:|---:|---:|"]
        for name, group in found.items():
            lines += [f"| {NAMES[name]}: {x.name} | {' | '.join(_cells(x))} |" for x in group]
        lines.append("")
    return "\n".join([*lines, *_curves(rows), ""])


def _curves(rows: Sequence[dict[str, float]]) -> list[str]:
    """Means of what was measured, over equal stretches of the run."""
    count = min(PARTS, len(rows))
    ends = [len(rows) * i // count for i in range(count + 1)]
    parts = [rows[a:b] for a, b in pairwise(ends)]
    spans = [f"steps {int(part[0]['step'])} to {int(part[-1]['step'])}" for part in parts]
    lines = ["Means over the run.", "", f"| | {' | '.join(spans)} |", "|---|" + "---:|" * count]
    for name in CURVES:
        values = [[row[name] for row in part if name in row] for part in parts]
        if any(values):
            shown = " | ".join(f"{fmean(v):.3g}" if v else "" for v in values)
            lines.append(f"| {name} | {shown} |")
    return lines
