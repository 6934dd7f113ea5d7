"""Chooses rollouts to show: of both roles and all kinds, good and bad. Trackers show a few of each
step, the report a few of the whole run.

A long run has gigabytes of rollouts. So only a few of its files are opened, and only the chosen
lines of them are parsed.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from azr_mlx import run_folder
from azr_mlx.errors import WRONG_VALUES
from azr_mlx.files import from_json
from azr_mlx.text import clip
from azr_mlx.types import Experience, Status

FILES = 8  # how many files of rollouts are opened
BYTES = 16 << 20  # how much of each file is read
MOST = 96  # rollouts: 2 roles x 3 kinds x (passed, not passed) x FILES
LONGEST_PROMPT, LONGEST_COMPLETION, LONGEST_DETAIL = 1200, 2000, 200
LONGEST_THOUGHT = 1000

# A proposal that became a task has the status ok.
GOOD = frozenset({Status.PASS.value, Status.OK.value})
# No text of a model can match these: inside a JSON string, a quote has a backslash before it.
_STATUS = re.compile(r'"verdict": \{"status": "(\w+)"')
_CELL = re.compile(r'"role": "(\w+)", "kind": "(\w+)", "group": ')


# The columns of a tracker's table, and the longest text of a cell, in characters.
COLUMNS = ("step", "role", "kind", "verdict", "reward", "prompt", "completion")
LONGEST_CELL = 4000


@dataclass(frozen=True, slots=True)
class ShownRollout:
    """A prompt, its completion, and the verdict of the judge."""

    step: int
    role: str
    kind: str
    status: str
    detail: str
    reward: float
    prompt: str
    completion: str

    @property
    def good(self) -> bool:
        return self.status in GOOD

    def cells(self) -> list[Any]:
        """One table row: a value for each of ``COLUMNS``."""
        first = [self.step, self.role, self.kind, self.status, self.reward]
        return [*first, self.prompt, self.completion]


def of_step(experiences: Sequence[Experience]) -> list[ShownRollout]:
    """For each role and kind, the first rollout that passed and the first that did not."""
    found: dict[tuple[str, str, bool], Experience] = {}
    for one in experiences:
        found.setdefault((one.role.value, one.kind.value, one.verdict.passed), one)
    return [_shown(found[key]) for key in sorted(found)]


def _shown(one: Experience) -> ShownRollout:
    return ShownRollout(
        one.step,
        one.role.value,
        one.kind.value,
        one.verdict.status.value,
        one.verdict.detail,
        one.reward.total,
        one.prompt.text[-LONGEST_CELL:],  # The task is at the end of the prompt.
        _shown_text(one.completion.thought, one.completion.text)[:LONGEST_CELL],
    )


def _shown_text(thought: str, answer: str) -> str:
    """A completion with the end of its thought."""
    return clip(thought, LONGEST_THOUGHT, keep_end=True) + answer


def of_run(run_dir: Path) -> list[ShownRollout]:
    """At most ``MOST`` rollouts of a run, in the order of its steps."""
    shown: Counter[tuple[str, str, str]] = Counter()
    found = [
        sample
        for turn, path in enumerate(_spread(run_folder.rollouts(run_dir)))
        for sample in _of_file(path, turn, shown)
    ]
    return found[:MOST]


def _spread(paths: Sequence[Path]) -> list[Path]:
    """``FILES`` of the paths, evenly spaced, including the first and the last."""
    if len(paths) <= FILES:
        return list(paths)
    return [paths[round(i * (len(paths) - 1) / (FILES - 1))] for i in range(FILES)]


def _of_file(path: Path, turn: int, shown: Counter[tuple[str, str, str]]) -> Iterator[ShownRollout]:
    """For each role and kind, one good rollout and one bad one. Each has the status that has been
    shown least often so far."""
    cells: dict[tuple[str, str, bool], dict[str, list[str]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for line in _lines(path):
        status, cell = _STATUS.search(line), _CELL.search(line)
        if status is not None and cell is not None:
            good = status[1] in GOOD
            cells[cell[1], cell[2], good][status[1]].append(line)
    for role, kind, good in sorted(cells, key=lambda key: (key[0], key[1], not key[2])):
        by_status = cells[role, kind, good]
        status_name = min(by_status, key=lambda name: (shown[role, kind, name], name))
        lines = by_status[status_name]
        sample = _parsed(lines[turn % len(lines)])
        if sample is not None:
            shown[role, kind, status_name] += 1
            yield sample


def _lines(path: Path) -> list[str]:
    with path.open("rb") as f:
        return f.read(BYTES).decode("utf-8-sig", "replace").splitlines()


def _parsed(line: str) -> ShownRollout | None:
    """The rollout in a line; None if the line was cut off."""
    try:
        row: dict[str, Any] = from_json(line)
        return ShownRollout(
            int(row["step"]),
            str(row["role"]),
            str(row["kind"]),
            str(row["verdict"]["status"]),
            str(row["verdict"].get("detail", "")),
            float(row["reward"]["total"]),
            str(row["prompt"]["text"]),
            _shown_text(str(row["completion"].get("thought", "")), str(row["completion"]["text"])),
        )
    except WRONG_VALUES:
        return None
