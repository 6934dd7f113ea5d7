"""``azr-mlx tasks``: the verified tasks of a run, as JSON lines or as a folder with a card."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from azr_mlx import run_folder
from azr_mlx.commands.cards import CARD, PROJECT, code, front_matter, origin
from azr_mlx.errors import WRONG_VALUES, AzrError, UsageError, first_line
from azr_mlx.files import json_lines, whole_folder, write_whole
from azr_mlx.tasks.task_files import TASKS_FILE, rows_of
from azr_mlx.types import TaskKind

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))  # the hub's names


@dataclass(frozen=True, slots=True)
class Filters:
    """Which tasks are wanted. A bound of the solve rate leaves out tasks that were never tried;
    ``limit`` keeps the newest."""

    kinds: tuple[TaskKind, ...] = tuple(TaskKind)
    min_solve_rate: float | None = None
    max_solve_rate: float | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        low, high = self.min_solve_rate, self.max_solve_rate
        if low is not None and high is not None and low > high:
            raise UsageError(
                f"--min-solve-rate {low:g}: more than --max-solve-rate {high:g}, so that no task "
                "is left; give less"
            )

    def of(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows that are wanted, oldest first."""
        wanted = {kind.value for kind in self.kinds}
        rows = [row for row in rows if row["kind"] in wanted and self._rate(row["solve_rate"])]
        rows = sorted(rows, key=lambda row: row["step"])
        return rows if self.limit is None else rows[-self.limit :]

    def _rate(self, rate: float | None) -> bool:
        low, high = self.min_solve_rate, self.max_solve_rate
        if rate is None:
            return low is None and high is None
        return (low is None or rate >= low) and (high is None or rate <= high)


def kinds_of(text: str) -> tuple[TaskKind, ...]:
    """The kinds that ``--kind`` names, separated by commas. Raises UsageError."""
    known = {kind.value: kind for kind in TaskKind}
    names = [name.strip() for name in text.split(",")]
    if wrong := [name for name in names if name not in known]:
        raise UsageError(f"--kind {wrong[0]}: no such kind; take {', '.join(known)}")
    return tuple(known[name] for name in names)


def tasks_of(run: str, filters: Filters, asked: str = "tasks") -> tuple[Path, list[dict[str, Any]]]:
    """(checkpoint, rows) of a run's tasks (see ``task_files.row_of``), oldest first.

    ``run`` is a run's folder (its newest checkpoint counts), a checkpoint's, or ``latest``. In
    messages ``asked`` stands before it.

    Raises:
        UsageError: there is no such run, its tasks cannot be read, or none is wanted.
    """
    _, checkpoint = run_folder.find(run, Path(run_folder.OUTPUT_DIR), asked)
    if wrong := run_folder.damage(checkpoint):
        good = run_folder.previous_good(checkpoint, asked)
        raise UsageError(f"{checkpoint}: {wrong}; {good}")
    try:
        rows = rows_of(run_folder.read_buffer(checkpoint))
    except (OSError, *WRONG_VALUES) as error:
        raise UsageError(
            f"{checkpoint / run_folder.BUFFER_FILE}: cannot be read: {first_line(error)}; "
            f"{run_folder.previous_good(checkpoint, asked)}"
        ) from error
    wanted = filters.of(rows)
    if not wanted:
        raise UsageError(
            f"{asked} {run}: none of its {len(rows)} tasks is wanted; filter less"
            if rows
            else f"{asked} {run}: it has no tasks yet; take a later checkpoint, or let it go on"
        )
    return checkpoint, wanted


def write(checkpoint: Path, rows: Sequence[dict[str, Any]], out: Path) -> Path:
    """Write the rows, completely or not at all: into a file if the name ends in ``.jsonl``, which
    replaces an earlier one; otherwise into a new folder that ``datasets.load_dataset`` reads.

    Raises:
        UsageError: the folder exists.
        AzrError: nothing can be written there.
    """
    try:
        if out.suffix == ".jsonl":
            write_whole(out, json_lines(rows))
            return out
        if out.exists() or out.is_symlink():
            raise UsageError(f"--out {out}: already exists; name another folder or remove it")
        with whole_folder(out) as folder:
            fill(folder, checkpoint, rows)
    except OSError as error:
        why = error.strerror or str(error)
        raise AzrError(f"--out {out}: {why}; choose a place that can be written") from error
    return out


def fill(folder: Path, checkpoint: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Make the folder with the rows and their card. Raises OSError."""
    folder.mkdir()
    (folder / TASKS_FILE).write_text(json_lines(rows), encoding="utf-8")
    (folder / CARD).write_text(card(checkpoint, rows), encoding="utf-8")


def counts(rows: Sequence[dict[str, Any]]) -> str:
    """How many tasks there are of each kind, in words."""
    found = Counter(row["kind"] for row in rows)
    return ", ".join(f"{found[kind.value]} {kind.value}" for kind in TaskKind if found[kind.value])


def card(checkpoint: Path, rows: Sequence[dict[str, Any]]) -> str:
    """The folder's README.md: front matter as the Hugging Face hub reads it, and what the tasks
    are. What the run's files do not say is "unknown"."""
    made = origin(checkpoint.parent.parent)
    size = next((name for most, name in SIZES if len(rows) < most), "n>100K")
    front = {
        "license": "unknown",
        "task_categories": ["text-generation"],
        "tags": ["code", "azr-mlx", "synthetic"],
        "size_categories": [size],
        "configs": [{"config_name": "default", "data_files": TASKS_FILE}],
    }
    return _CARD.format(
        front=front_matter(front),
        project=PROJECT,
        count=len(rows),
        kinds="\n".join(f"| {k.value} | {_count(rows, k)} |" for k in TaskKind),
        model=code(made.base.shown),
        command=code(made.command),
        step=re.sub(r"^step_0*(?=\d)", "", checkpoint.name),
        file=TASKS_FILE,
    )


def _count(rows: Sequence[dict[str, Any]], kind: TaskKind) -> int:
    return sum(row["kind"] == kind.value for row in rows)


_CARD = """{front}
# Verified reasoning tasks

{count} tasks about small Python programs, from self-play with
{project}, after step {step}. Every output is what the program
returned in a sandbox, in two fresh processes that agreed.

| kind | tasks |
|---|---|
{kinds}

- base model: {model}
- command: {command}

Each line of `{file}` is a task: `kind` (deduction asks for the output, abduction for an input,
induction for the program), `program`, `inputs` (each the source of a tuple of arguments),
`outputs`, `message` (induction), `hidden` (the pairs that an induction solver is not shown),
`solve_rate` of `attempts` (null if it was never tried), `difficulty` that was asked for, `step`,
`origin` (model, template, file or code) and `parents` (ids of the tasks that the proposer was
shown).

## Licence

None is chosen yet: set `license` above. Programs with the origin `model` are
the output of the base model, whose licence may have terms for that; those with the origin `file`
or `code` are under the licence of the code that they were taken from.
"""
