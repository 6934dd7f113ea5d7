"""Rollouts that are worth a look: over the whole run, of both roles and all kinds, good and bad.

A long run has gigabytes of rollouts. A few files are opened, lines are told apart without being
parsed, and only those that are chosen are.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from azr_mlx import run_folder
from azr_mlx.types import Status

FILES = 8  # rollouts files that are opened
BYTES = 16 << 20  # read of each
MOST = 96  # rows, for 2 roles x 3 kinds x passed or not x FILES
LONGEST_PROMPT, LONGEST_COMPLETION, LONGEST_DETAIL = 1200, 2000, 200

GOOD = frozenset({Status.PASS.value, Status.OK.value})  # a proposal is ok where it is a task
# A quote inside a JSON string has a backslash before it: no text of a model can look like these.
_STATUS = re.compile(r'"verdict": \{"status": "(\w+)"')
_CELL = re.compile(r'"role": "(\w+)", "kind": "(\w+)", "group": ')


@dataclass(frozen=True, slots=True)
class Sample:
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


def choose(run_dir: Path) -> list[Sample]:
    """At most ``MOST`` samples, in the order of the steps."""
    shown: Counter[tuple[str, str, str]] = Counter()
    found = [
        sample
        for turn, path in enumerate(_spread(run_folder.rollouts(run_dir)))
        for sample in _of_file(path, turn, shown)
    ]
    return found[:MOST]


def _spread(paths: Sequence[Path]) -> list[Path]:
    """``FILES`` of them with equal distances, the first and the last among them."""
    if len(paths) <= FILES:
        return list(paths)
    return [paths[round(i * (len(paths) - 1) / (FILES - 1))] for i in range(FILES)]


def _of_file(path: Path, turn: int, shown: Counter[tuple[str, str, str]]) -> Iterator[Sample]:
    """One of each role and kind that is good, and one that is not: of the status that has been
    shown least."""
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
        return f.read(BYTES).decode("utf-8", "replace").splitlines()


def _parsed(line: str) -> Sample | None:
    """None for a line that was cut off."""
    try:
        row: dict[str, Any] = json.loads(line)
        return Sample(
            int(row["step"]),
            str(row["role"]),
            str(row["kind"]),
            str(row["verdict"]["status"]),
            str(row["verdict"].get("detail", "")),
            float(row["reward"]["total"]),
            str(row["prompt"]["text"]),
            str(row["completion"]["text"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
