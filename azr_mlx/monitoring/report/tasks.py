"""The tasks of a run in its report: how many are solved at each level of difficulty, and from which
earlier tasks the newest ones come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from azr_mlx.evaluation.statistics import estimate
from azr_mlx.monitoring.report import charts
from azr_mlx.monitoring.report.data import ShownRun
from azr_mlx.monitoring.report.tables import table
from azr_mlx.tasks.prompts import arguments
from azr_mlx.text import clip, escape
from azr_mlx.types import TaskKind

LONGEST_PROGRAM, LONGEST_PAIR = 1000, 200  # characters
COLUMNS = ("step", "by", "solved", "program and an example")

Row = Mapping[str, Any]  # see ``task_files.row_of``


def html(runs: Sequence[ShownRun]) -> str:
    """The section; empty if no run has a checkpoint with tasks."""
    parts = []
    for run in runs:
        of = f"{run.name}: " if len(runs) > 1 else ""
        if ladder := _ladder(run.tasks, of):
            parts.append(f'<div class="charts">{ladder}</div>')
        parts += [_lineage(line, of) for line in lineages(run.tasks).values()]
    return "".join(parts)


# -- the ladder ------------------------------------------------------------------------------------


def _ladder(rows: Sequence[Row], of: str) -> str:
    """Solve rates by level, a line for each kind; empty if no task was tried."""
    series = [one for kind in TaskKind if (one := _rung(rows, kind)).places]
    if not series:
        return ""
    title = f"{of}Solved, by level of difficulty"
    drawn = charts.bands(title, "level", series, 1.0, log=False)
    return (
        f"<figure><h3>{escape(title)}</h3>{drawn.legend}{''.join(drawn.svgs)}"
        f"<figcaption>{len(rows)} tasks of the newest checkpoint, with all answers that they got "
        "in the run. <b>Healthy:</b> lines fall to the right, and reach neither 0 nor 100 %. "
        "<small>Bands are 95 % intervals over tasks.</small></figcaption></figure>"
    )


def _rung(rows: Sequence[Row], kind: TaskKind) -> charts.Banded:
    tried = [row for row in rows if row["kind"] == kind.value and row["attempts"]]
    levels: dict[float, list[Row]] = {}
    for row in sorted(tried, key=lambda row: row["difficulty"]):
        levels.setdefault(round(row["difficulty"], 1), []).append(row)
    estimates = [
        estimate([row["solve_rate"] for row in own], sum(row["attempts"] for row in own))
        for own in levels.values()
    ]
    return charts.Banded(f"{kind.value}, {len(tried)} tasks", list(levels), estimates)


# -- lineages --------------------------------------------------------------------------------------


def lineages(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """By kind, the longest line of tasks of which each was shown to the model when it wrote the
    next, oldest first; none if no task has a parent among the rows."""
    known = {row["id"]: row for row in rows}
    lines: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["step"]):
        before = [
            lines[name]
            for name in row["parents"]
            if name in lines and known[name]["step"] < row["step"]
        ]
        lines[row["id"]] = [*max(before, key=len, default=[]), row]
    longest: dict[str, list[Row]] = {}
    for line in lines.values():  # of equally long ones the newest
        kind = line[-1]["kind"]
        if len(line) > 1 and len(line) >= len(longest.get(kind, ())):
            longest[kind] = line
    return longest


def _lineage(line: Sequence[Row], of: str) -> str:
    said = f"{of}{line[-1]['kind']}: each task was shown to the model when it wrote the next"
    return table(COLUMNS, [_task(row) for row in line], said, classes="lineage")


def _task(row: Row) -> str:
    rate = "-" if row["solve_rate"] is None else f"{row['solve_rate']:.0%} of {row['attempts']}"
    pair = f"f({arguments(row['inputs'][0])}) == {row['outputs'][0]}"
    return (
        f"<tr><td>{escape(row['step'])}</td><td>{escape(row['origin'])}</td><td>{rate}</td>"
        f"<td><pre>{escape(clip(row['program'], LONGEST_PROGRAM))}</pre>"
        f'<pre class="prompt">{escape(clip(pair, LONGEST_PAIR))}</pre></td></tr>'
    )
