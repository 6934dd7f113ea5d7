"""Published figures of other models, which an evaluation prints next to its own.

``config/baselines.yaml`` holds them, each with its source, date and protocol. A cell that nobody
has published is empty; nothing is projected.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from rich import box
from rich.table import Table

from azr_mlx.config import shipped
from azr_mlx.evaluation.protocol import Protocol
from azr_mlx.evaluation.result import BenchmarkResult

OURS = "measured here"


@dataclass(frozen=True, slots=True)
class Citation:
    """Where figures were published, when (ISO date), and by which protocol they were measured."""

    key: str
    what: str
    where: str
    date: str
    protocol: str


@dataclass(frozen=True, slots=True)
class Baseline:
    """A model's published pass@1 by benchmark, in percent; None if there is none.

    ``kind`` is base, chat or tuned (on the benchmark's training split), ``entry`` the model's name
    in the source.
    """

    name: str
    kind: str
    source: str
    figures: dict[str, float | None]
    entry: str


@dataclass(frozen=True, slots=True)
class Published:
    """The shipped table: sources by key, models in their order, and the number of tasks of each
    benchmark as a whole."""

    sources: dict[str, Citation]
    models: list[Baseline]
    sizes: dict[str, int]


def load() -> Published:
    """What ``config/baselines.yaml`` holds."""
    path = shipped.config_dir() / "baselines.yaml"
    tree: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    sources = {
        key: Citation(key, **{**row, "date": str(row["date"]), "protocol": row["protocol"].strip()})
        for key, row in tree["sources"].items()
    }
    models = [Baseline(**{"entry": row["name"], **row}) for row in tree["models"]]
    return Published(sources, models, tree["sizes"])


@dataclass(frozen=True, slots=True)
class Comparable:
    """Our whole-benchmark results under one name: a row of the table."""

    name: str
    results: Sequence[BenchmarkResult]

    def cell(self, benchmark: str) -> str:
        found = [r for r in self.results if r.name == benchmark]
        return f"{100 * found[0].figures['pass@1'].value:.1f}" if found else ""


def table(ours: Sequence[Comparable]) -> tuple[Table, list[str]] | None:
    """Ours and the published figures for the same benchmarks, and how each was measured.

    None if there is nothing to show: parts of a benchmark are set beside nothing.
    """
    published = load()
    models = published.models
    whole = [_whole(c, published.sizes) for c in ours]
    wanted = list(dict.fromkeys(r.name for c in whole for r in c.results))
    columns = [b for b in wanted if any(m.figures.get(b) is not None for m in models)]
    if not columns:
        return None
    shown = [m for m in models if any(m.figures.get(b) is not None for b in columns)]
    drawn = Table(title="pass@1, percent", box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("model", "kind"):
        drawn.add_column(heading)
    for heading in columns:
        drawn.add_column(heading, justify="right")
    drawn.add_column("source")
    for c in (c for c in whole if c.results):
        drawn.add_row(c.name, "", *(c.cell(b) for b in columns), OURS, style="bold")
    for m in shown:
        cells = (_cell(m.figures.get(b)) for b in columns)
        drawn.add_row(m.name, m.kind, *cells, m.source)
    used = [s for key, s in published.sources.items() if any(m.source == key for m in shown)]
    return drawn, _notes(whole, used)


def _whole(c: Comparable, sizes: dict[str, int]) -> Comparable:
    """The results that cover their benchmark and have the figure that is published."""
    return Comparable(c.name, [r for r in c.results if _covers(r, sizes)])


def _covers(r: BenchmarkResult, sizes: dict[str, int]) -> bool:
    everything = r.protocol.subset == "all" and not r.missing
    enough = r.protocol.tasks + len(r.excluded) >= sizes.get(r.name, 0)
    return everything and enough and "pass@1" in r.figures


def _cell(figure: float | None) -> str:
    return "" if figure is None else f"{figure:.1f}"


def _how(p: Protocol) -> str:
    if p.temperature is None:
        return f"given samples; extraction: {p.extraction}"
    drawn = f"{p.samples_per_task} a task at temperature {p.temperature}, top-p {p.top_p}"
    return f"{p.prompt}; strategy {p.strategy}; {drawn}; extraction: {p.extraction}"


def _notes(ours: Sequence[Comparable], used: Sequence[Citation]) -> list[str]:
    """The protocol of each figure: if they differ, the columns cannot be compared."""
    notes = dict.fromkeys(f"{OURS}: {_how(r.protocol)}" for c in ours for r in c.results)
    notes |= dict.fromkeys(f"{s.key}: {s.what}, {s.date}: {s.protocol}" for s in used)
    lines = ["Figures of different protocols cannot be compared:"]
    for note in notes:
        lines += textwrap.wrap(note, 110, initial_indent="  ", subsequent_indent="    ")
    return lines
