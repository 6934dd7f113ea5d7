"""Held-out tasks in the report: what was solved before and after, greedily and by sampled answers;
pass@k; and how likely right answers became."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from azr_mlx.evaluation.held_out import HARDLY, MOSTLY, NAMES, WAYS, HeldOutLine, RightAnswerLine
from azr_mlx.evaluation.statistics import Estimate
from azr_mlx.monitoring.report import charts
from azr_mlx.monitoring.report.data import ShownRun
from azr_mlx.monitoring.report.tables import table
from azr_mlx.text import escape

COLUMNS = ("", "tasks", "before", "after", "gain in points", "")
PAIRED = "95 % intervals, paired by task"


def html(runs: Sequence[ShownRun]) -> str:
    """The section; empty if no run has solved held-out tasks."""
    names = [f"{run.name}: " if len(runs) > 1 else "" for run in runs]
    tables = [
        _table(found, f"{of}solved, {WAYS[way]}; {PAIRED}")
        for run, of in zip(runs, names, strict=True)
        for way, found in run.held_out.solved.items()
    ]
    parts = [f'<div class="pairs">{"".join(tables)}</div>'] if tables else []
    for run, of in zip(runs, names, strict=True):
        parts += [_passes(run, of), _right_answers(run.held_out.right_answers, of)]
        parts += [_waiting(run.held_out.waiting, of)]
    return "".join(parts)


def _table(found: Mapping[str, Sequence[HeldOutLine]], caption: str) -> str:
    """Shares before and after, and gains, in a group of lines for each name."""
    gains = [line.gain for lines in found.values() for line in lines]
    extent = max(max(-gain.low, gain.high, 0.01) for gain in gains)
    rows = []
    for name, lines in found.items():
        group = f"<th scope=rowgroup colspan=6>{escape(NAMES.get(name, name))}</th>"
        rows += [f'<tr class="group">{group}</tr>', *(_row(line, extent) for line in lines)]
    return table(COLUMNS, rows, caption)


def _row(line: HeldOutLine, extent: float) -> str:
    mean = ' class="mean"' if line.name == "mean" else ""
    return (
        f"<tr{mean}><th scope=row>{escape(line.name)}</th><td>{line.tasks}</td>"
        f"<td>{_share(line.before)}</td><td>{_share(line.after)}</td>"
        f"<td>{_points(line.gain)}</td><td>{_interval(line.gain, extent)}</td></tr>"
    )


def _waiting(before: Mapping[str, float], of: str) -> str:
    if not before:
        return ""
    shares = ", ".join(f"{share:.1%} {NAMES.get(name, name)}" for name, share in before.items())
    return (
        f"<p>{escape(of)}Of the held-out tasks the model solved {escape(shares)} before training "
        f"({WAYS['sampled']}). They have not been solved after it.</p>"
    )


# -- pass@k ----------------------------------------------------------------------------------------


def _passes(run: ShownRun, of: str) -> str:
    """A chart for each distribution with its table beside it, and a table by kind below. With one
    answer for each task there is nothing that the share solved does not say."""
    passes = run.held_out.passes
    if len(passes) < 2:
        return ""
    means = {
        name: [replace(found[name][-1], name=f"pass@{k}") for k, found in passes.items()]
        for name in passes[1]
    }
    top = max(e.high for lines in means.values() for one in lines for e in (one.before, one.after))
    figures = "".join(
        _chart(f"{of}pass@k, {NAMES.get(name, name)}", list(passes), lines, top)
        for name, lines in means.items()
    )
    beside = _table(means, f"{of}solved by at least one of k sampled answers; {PAIRED}")
    by_kind = {
        f"{NAMES.get(name, name)}, pass@{k}": found[name]
        for name in means
        for k, found in passes.items()
    }
    return (
        f'<div class="charts">{figures}{beside}</div><details><summary>{escape(of)}pass@k by kind'
        f"</summary>{_table(by_kind, PAIRED)}</details>"
    )


def _chart(title: str, ks: Sequence[int], lines: Sequence[HeldOutLine], top: float) -> str:
    series = [
        charts.Banded("before", ks, [line.before for line in lines]),
        charts.Banded("after", ks, [line.after for line in lines]),
    ]
    drawn = charts.bands(title, "k, sampled answers", series, top)
    return (
        f"<figure><h3>{escape(title)}</h3>{drawn.legend}{''.join(drawn.svgs)}"
        "<figcaption>Lines that meet to the right: the model does more reliably what it could "
        "already do. A gain that stays is new ability. <small>Mean of the kinds; bands are 95 % "
        "intervals.</small></figcaption></figure>"
    )


# -- right answers ---------------------------------------------------------------------------------


def _right_answers(found: Mapping[str, RightAnswerLine], of: str) -> str:
    if not found:
        return ""
    under, over = (f"1/{round(1 / limit)}" for limit in (HARDLY, MOSTLY))
    rows = [
        f"<tr><th scope=row>{escape(NAMES.get(name, name))}</th><td>{line.probability.tasks}</td>"
        f"<td>{_share(line.probability.before)}</td><td>{_share(line.probability.after)}</td>"
        f"<td>{_points(line.probability.gain)}</td>"
        f"<td>{_share(line.gained)}</td><td>{_share(line.lost)}</td></tr>"
        for name, line in found.items()
    ]
    head = (*COLUMNS[:5], f"from under {under} to over {over}", "back")
    return table(head, rows, f"{of}probability of the right answer, deduction; {PAIRED}")


# -- cells -----------------------------------------------------------------------------------------


def _share(one: Estimate) -> str:
    return f"{one.value:.1%}<small>{100 * one.low:.0f} to {100 * one.high:.0f}</small>"


def _points(one: Estimate) -> str:
    return f"{100 * one.value:+.1f}<small>{100 * one.low:+.1f} to {100 * one.high:+.1f}</small>"


def _interval(one: Estimate, extent: float) -> str:
    """A small drawing of a gain and its interval. 0 is in the middle, and the drawing shows
    ``extent`` to both sides."""
    low, value, high = (50 + 46 * v / extent for v in (one.low, one.value, one.high))
    return (
        '<svg class="gain" aria-hidden="true" width="100" height="20">'
        '<path class="axis" d="M50 0V20"/>'
        f'<path class="line s0" d="M{low:.1f} 10H{high:.1f}"/>'
        f'<circle class="dot f0" cx="{value:.1f}" cy="10" r="3.5"/></svg>'
    )
