"""The table of ``gpu.py``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

Rows = list[dict[str, Any]]
HIDDEN = ("beginnings", "folder", "settings", "memory_gb")


def show(rows: Rows) -> None:
    """Print what all parts have found."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("part", "status", "what", "figure"):
        table.add_column(name, overflow="fold")
    for row in rows:
        lines = list(_lines(row, rows)) or [("", "")]
        for number, (what, figure) in enumerate(lines):
            table.add_row(*((row["part"], row["status"]) if not number else ("", "")), what, figure)
    Console(width=100).print(table)


def _lines(row: dict[str, Any], rows: Rows) -> Iterator[tuple[str, str]]:
    for name, value in row["found"].items():
        if name not in HIDDEN:
            yield name, _figure(value)
    yield from _compared(row, rows)
    if "why" in row:
        yield "why", str(row["why"]).splitlines()[-1][:300]


def _compared(row: dict[str, Any], rows: Rows) -> Iterator[tuple[str, str]]:
    """What azr-mlx's step says beside the other two ways."""
    if row["part"] != "step" or not row["found"]:
        return
    own = row["found"]
    others = {other["part"]: other["found"] for other in rows if other["found"]}
    if plain := others.get("plain"):
        pairs = list(zip(own["beginnings"], plain["beginnings"], strict=True))
        same = sum(a == b for a, b in pairs) / len(pairs)
        yield "rows that begin as without graphs", f"{same:.0%}"
        yield "rollout, against no graphs", f"{own['rollout_tok_s'] / plain['rollout_tok_s']:.2f}x"
    if peer := others.get("trl"):
        for name in ("rollout_tok_s", "update_tok_s"):
            yield f"{name}, against TRL", f"{own[name] / peer[name]:.2f}x"
        yield "peak memory, against TRL", f"{own['peak_gb'] / peer['peak_gb']:.2f}x"


def _figure(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(_figure(one) for one in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
