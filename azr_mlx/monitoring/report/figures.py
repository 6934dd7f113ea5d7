"""Makes figures from the registry of metrics: one per metric, or, if a name has two slots, one for
each value of the first. A metric that never changed is listed in a table instead of drawn."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from azr_mlx.monitoring.metrics import SECTIONS, Metric, find
from azr_mlx.monitoring.report import charts
from azr_mlx.monitoring.report.charts import Drawn, Series
from azr_mlx.monitoring.report.data import ShownRun
from azr_mlx.text import escape, number

OTHER = "Other"
UNKNOWN = "not known: this version does not have this metric"


@dataclass(slots=True)
class Figure:
    """Metrics that are drawn together. ``labels`` maps each key to its name in the legend."""

    name: str
    title: str
    metric: Metric
    labels: dict[str, str] = field(default_factory=dict)


def sections(runs: Sequence[ShownRun]) -> dict[str, list[Figure]]:
    """The figures of the runs by section, in the order of the registry. Metrics that are not in the
    registry come last."""
    keys = list(dict.fromkeys(key for run in runs for key in (*run.columns, *run.broken)))
    found = {
        title: [figure for metric in metrics for figure in _figures(metric, keys)]
        for title, metrics in SECTIONS.items()
    }
    strangers = [Metric(key, key, UNKNOWN) for key in keys if find(key) is None]
    found[OTHER] = [Figure(m.name, m.name, m, {m.name: ""}) for m in strangers]
    return {title: figures for title, figures in found.items() if figures}


def _figures(metric: Metric, keys: Sequence[str]) -> list[Figure]:
    if metric.chart == "none":
        return []
    slots = {key: metric.slots(key) or () for key in keys if find(key) is metric}
    in_order = sorted(slots, key=lambda key: [metric.name.find(slot) for slot in slots[key]])
    title = f"{metric.description[0].upper()}{metric.description[1:]}"
    figures: dict[str, Figure] = {}
    for key in in_order:
        first, last = slots[key][:-1], slots[key][-1:]
        name = metric.name
        for value in first:
            name = f"{name[: name.index('{')]}{value}{name[name.index('}') + 1 :]}"
        named = ": ".join([title, *first])
        figures.setdefault(name, Figure(name, named, metric)).labels[key] = "".join(last)
    return list(figures.values())


def constant(figure: Figure, runs: Sequence[ShownRun]) -> str | None:
    """The values of the figure's metrics as text, if each had one and the same value in every step
    of every run; otherwise None, also if a run lacks a metric or has broken values of it."""
    values: dict[str, str] = {}
    for key, label in figure.labels.items():
        column = [run.column(key)[1] for run in runs]
        if any(key in run.broken or len(run.column(key)[1]) < len(run.steps) for run in runs):
            return None
        if len({float(v) for values in column for v in (values.min(), values.max())}) > 1:
            return None
        values[label] = number(float(column[0][0]), figure.metric.unit)
    if len(set(values.values())) == 1:
        return next(iter(values.values()))
    return ", ".join(f"{label} {value}" for label, value in values.items())


def draw(figure: Figure, runs: Sequence[ShownRun]) -> Drawn | None:
    """The figure as SVG; None if no run has a finite value for it."""
    metric, compared = figure.metric, len(runs) > 1
    panels = [(run.name, list(_series(figure, run))) for run in runs]
    panels = [(name, series) for name, series in panels if series]
    if not panels:
        return None
    if metric.chart == "stack":
        return charts.stacks(figure.title, panels, metric.unit)
    if metric.chart == "flags":
        return charts.flags(figure.title, panels)
    if not compared:
        return charts.lines(figure.title, panels[0][1], metric.unit)
    styles = {label: i for i, label in enumerate(figure.labels.values())}
    several = len(styles) > 1
    joined = [
        Series(
            f"{one.label}, {run.name}" if several else run.name,
            one.steps,
            one.values,
            (styles[one.label] if several else which) % charts.STYLES,
            mark=which,
            broken=one.broken,
        )
        for which, run in enumerate(runs)
        for one in _series(figure, run)
    ]
    return charts.lines(figure.title, joined, metric.unit, compared=True)


def _series(figure: Figure, run: ShownRun) -> Iterator[Series]:
    for style, (key, label) in enumerate(figure.labels.items()):
        steps, values = run.column(key)
        if len(steps):
            broken = run.broken.get(key, 0)
            yield Series(label, steps, values, style % charts.STYLES, broken=broken)


def html(found: dict[str, list[Figure]], runs: Sequence[ShownRun]) -> dict[str, str]:
    """The HTML of each section: its charts, then a table of the metrics that are not drawn."""
    seen: dict[tuple[bytes, ...], str] = {}
    return {title: _section(figures, runs, seen) for title, figures in found.items()}


def _section(
    figures: Sequence[Figure], runs: Sequence[ShownRun], seen: dict[tuple[bytes, ...], str]
) -> str:
    drawn, still = [], []
    for figure in figures:
        values = {key: _bytes(key, runs) for key in figure.labels}
        known = [seen.get(value) for value in values.values()]
        text = constant(figure, runs)
        if text is not None:
            still.append((figure, f"always {text}"))
        elif all(known):
            still.append((figure, f"the same as {', '.join(map(str, known))}"))
        elif (chart := draw(figure, runs)) is not None:
            drawn.append(_figure(figure, chart))
            seen |= {value: key for key, value in values.items() if value not in seen}
        else:
            still.append((figure, "no finite value"))
    return (f'<div class="charts">{"".join(drawn)}</div>' if drawn else "") + _still(still)


def _bytes(key: str, runs: Sequence[ShownRun]) -> tuple[bytes, ...]:
    """The values of a metric in all runs. They are equal if two metrics are always the same."""
    return tuple(run.columns[key].tobytes() if key in run.columns else b"" for run in runs)


def _figure(figure: Figure, chart: Drawn) -> str:
    note = f" <small>{escape(chart.note)}</small>" if chart.note else ""
    return (
        f"<figure><h3>{escape(figure.title)}</h3><code>{escape(figure.name)}</code>"
        f"{chart.legend}{''.join(chart.svgs)}"
        f"<figcaption><b>Healthy:</b> {_said(figure.metric.healthy)}.{note}</figcaption></figure>"
    )


def _said(text: str) -> str:
    """Text of the documentation, in which names of metrics stand between backticks, as HTML."""
    return re.sub("`(.*?)`", r"<code>\1</code>", escape(text))


def _still(still: Sequence[tuple[Figure, str]]) -> str:
    if not still:
        return ""
    rows = "".join(
        f"<tr><th scope=row>{escape(f.title)} <code>{escape(f.name)}</code></th>"
        f"<td>{escape(value)}</td><td>{escape(f.metric.healthy)}</td></tr>"
        for f, value in still
    )
    return (
        '<div class="scroll" tabindex="0"><table class="still"><caption>Not drawn'
        "</caption><thead><tr><th scope=col>metric<th scope=col>value<th scope=col>healthy</tr>"
        f"</thead><tbody>{rows}</tbody></table></div>"
    )
