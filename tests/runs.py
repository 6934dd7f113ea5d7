"""What a run has left in its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from azr_mlx.monitoring import metrics

CLOCK = ("time/", "tok_s/", "mem/", "exec/")  # metrics that no two runs have in common


def rows_of(run: Path, *, clock: bool = True) -> list[dict[str, Any]]:
    """The rows of ``metrics.jsonl``; without what depends on the clock and the machine if not
    ``clock``."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if clock or not k.startswith(CLOCK)} for row in rows]


def unregistered(row: Mapping[str, Any]) -> list[str]:
    """The row's names that no registered metric has."""
    return [key for key in row if metrics.find(key) is None]
