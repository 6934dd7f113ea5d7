"""Reads what a report shows from a run's folder. A file that cannot be read leads to a note."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from azr_mlx import run_folder
from azr_mlx.config import schema
from azr_mlx.errors import WRONG_VALUES, AzrError, UsageError
from azr_mlx.evaluation.held_out import Lines, Record, RightAnswerLine
from azr_mlx.monitoring.metrics import MetricsFile, is_number
from azr_mlx.run_folder import (
    BUFFER_FILE,
    CONFIG_FILE,
    HELD_OUT_FILE,
    METRICS_FILE,
    OUTPUT_DIR,
    RUN_FILE,
    means_latest,
)
from azr_mlx.tasks.task_files import rows_of
from azr_mlx.types import Float64Array

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class HeldOutFound:
    """The held-out comparison: by way of answering, pass@k by k, and how likely right answers to
    deduction tasks became; empty until both measurements exist. ``waiting`` is what was measured
    before training, as long as that is all: the share of sampled answers that were right, by
    distribution."""

    solved: dict[str, Lines] = field(default_factory=dict)
    passes: dict[int, Lines] = field(default_factory=dict)
    right_answers: dict[str, RightAnswerLine] = field(default_factory=dict)
    waiting: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class ShownRun:
    """A run as read from its files. ``columns`` has the values of each metric over ``steps``, NaN
    if a step has none; ``broken`` counts, by metric, the values that are not finite numbers."""

    path: Path
    steps: Float64Array
    columns: dict[str, Float64Array]
    broken: dict[str, int] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    config_text: str = ""
    starts: list[dict[str, Any]] = field(default_factory=list)
    ended_after: int | None = None  # the step, if the run says so; earlier versions did not
    held_out: HeldOutFound = field(default_factory=HeldOutFound)
    tasks: list[dict[str, Any]] = field(default_factory=list)  # rows of ``task_files``
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def last_step(self) -> int:
        return int(self.steps[-1])

    @property
    def max_steps(self) -> int | None:
        value = self.config.get("max_steps")
        return int(value) if isinstance(value, str) and value.isdecimal() else None

    @property
    def ended(self) -> bool:
        """Whether nothing more is expected: the last step has been taken and, if the run has
        held-out tasks, they have been solved after it."""
        if self.max_steps is None or self.last_step < self.max_steps:
            return False
        measured = flat(self.config).get("held_out.tasks", "0") == "0" or self.held_out.solved
        return bool(measured) or self.ended_after == self.last_step

    def column(self, key: str) -> tuple[Float64Array, Float64Array]:
        """(steps, values) of a metric, at the steps that have finite values."""
        values = self.columns.get(key)
        if values is None:
            return self.steps[:0], self.steps[:0]
        there = np.isfinite(values)
        return self.steps[there], values[there]


def locate(where: str) -> Path:
    """The run folder ``where``; for "latest", the run that wrote metrics last. Raises UsageError if
    there is none."""
    if not means_latest(where, Path(OUTPUT_DIR)):
        path = run_folder.named(where)
        if not os.path.isdir(path):
            raise UsageError(f"report {where}: no such folder; give runs/NAME or latest")
        return path
    runs = Path(OUTPUT_DIR)
    found = run_folder.newest(runs)
    if found is None:
        raise UsageError(
            f"report latest: no run with metrics in {runs}/: they come with a run's first step; "
            "give the folder of a run that has made one"
        )
    return found


def read(path: Path) -> ShownRun:
    """Everything except the rollouts. Raises UsageError if the run has no metrics."""
    steps, columns, broken = _metrics(path)
    run = ShownRun(path, steps, columns, broken)
    run.config_text = _attempt(run, CONFIG_FILE, _text, path / CONFIG_FILE, "")
    run.config = _attempt(run, CONFIG_FILE, _mapping, path / CONFIG_FILE, {})
    run.starts = _attempt(run, RUN_FILE, _starts, path, [])
    run.ended_after = _attempt(run, RUN_FILE, _ended_after, path, None)
    solved = partial(_held_out, step=run.last_step)
    run.held_out = _attempt(run, HELD_OUT_FILE, solved, path, HeldOutFound())
    run.tasks = _attempt(run, BUFFER_FILE, _tasks, path, [])
    return run


def _metrics(path: Path) -> tuple[Float64Array, dict[str, Float64Array], dict[str, int]]:
    """(steps, columns, broken values by metric). If a step has several rows, the last one
    counts."""
    rows: dict[float, Mapping[str, Any]] = {}
    for row in MetricsFile(path / METRICS_FILE).rows():
        rows[float(row["step"])] = row
    if not rows:
        raise UsageError(
            f"report {path}: there is no step in {METRICS_FILE}; train first, or give runs/NAME"
        )
    steps = sorted(rows)
    columns: dict[str, Float64Array] = {}
    broken: dict[str, int] = {}
    for index, step in enumerate(steps):
        for key, value in rows[step].items():
            if key == "step":
                continue
            if not is_number(value):
                broken[key] = broken.get(key, 0) + 1
                continue
            if key not in columns:
                columns[key] = np.full(len(steps), np.nan)
            columns[key][index] = value
    return np.array(steps), columns, broken


def _attempt(run: ShownRun, name: str, reader: Callable[[Any], T], source: Any, otherwise: T) -> T:
    """The content of a file. If it cannot be read, add a note and return ``otherwise``, since the
    curves are worth showing anyway."""
    try:
        return reader(source)
    except (AzrError, OSError, *WRONG_VALUES) as e:
        run.notes.append(f"{name} could not be read ({type(e).__name__})")
        return otherwise


def _text(path: Path) -> str:
    return path.read_text("utf-8-sig", errors="replace") if path.exists() else ""


def _mapping(path: Path) -> dict[str, Any]:
    errors: list[str] = []
    found = schema.read(path, errors) if path.exists() else {}
    if errors:
        raise ValueError(errors[0])
    return found


def _starts(path: Path) -> list[dict[str, Any]]:
    return run_folder.starts(path)


def _ended_after(path: Path) -> int | None:
    step = run_folder.recorded(path, run_folder.ENDED)
    return step if isinstance(step, int) else None


def _held_out(path: Path, step: int) -> HeldOutFound:
    """What was measured before the run, and after this step: a run that goes on still has what was
    measured at its earlier end."""
    record = Record.read(path)
    if record is None:
        return HeldOutFound()
    if record.after_step not in (None, step):
        record = replace(record, after={}, right_after={})
    solved = {way: lines for way, lines in record.compared.items() if lines}
    passes = {k: lines for k in record.ks if (lines := record.pass_at(k))}
    waiting = {} if solved else record.standing.get("sampled", {})
    return HeldOutFound(solved, passes, record.right_answers, waiting)


def _tasks(path: Path) -> list[dict[str, Any]]:
    saved = run_folder.checkpoints(path)
    return rows_of(run_folder.read_buffer(saved[-1])) if saved else []


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested configuration as one dict: dotted keys, and their values as text."""
    found: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            found |= flat(value, f"{name}.")
        else:
            found[name] = str(value)
    return found
