"""Charts as static SVG. Colours are classes of style.css, and nothing is shown by colour alone:
lines differ in their dashes, areas in their patterns, and the lines of every run but the first have
marks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from azr_mlx.evaluation.statistics import Estimate
from azr_mlx.monitoring.report import curves
from azr_mlx.monitoring.report.scale import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Scale,
    ticks,
    x_scale,
    y_scale,
)
from azr_mlx.text import counted, escape, number
from azr_mlx.types import Float64Array

STYLES = 8  # the number of styles in style.css, and of patterns in ``patterns``
FEW = 24  # up to this many points are also drawn as dots
MARKS = 7  # marks on a line of another run
# By the number of the run: SVG paths around a point, about 6 pixels wide.
SHAPES = (
    "",
    "M-3.2 0a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0-6.4 0z",  # a ring
    "M-3-3h6v6h-6z",
    "M0-3.8l3.6 6.4h-7.2z",
    "M0-4l4 4l-4 4l-4-4z",
    "M-3-3l6 6M3-3l-6 6",
)
LAYERS = 8  # most layers of a stack; the smallest ones are merged
OTHERS = "others"


@dataclass(frozen=True, slots=True)
class Series:
    """Values over steps. ``style`` is the number of their colour and dashes, ``mark`` that of the
    shape in ``SHAPES`` that tells their run from others."""

    label: str
    steps: Float64Array
    values: Float64Array
    style: int = 0
    mark: int = 0
    broken: int = 0  # values that were not finite numbers


class Drawn(NamedTuple):
    """``svgs`` to be shown below each other, their legend, and a note on how to read them."""

    svgs: list[str]
    legend: str
    note: str = ""


# -- lines -----------------------------------------------------------------------------------------


def lines(title: str, series: Sequence[Series], unit: str, compared: bool = False) -> Drawn:
    """Curves in one frame. A noisy curve is smoothed, with its values in a pale colour behind
    it."""
    smoothed = [one for one in series if curves.is_noisy(one.values)]
    finals = [curves.smooth(one.values) if one in smoothed else one.values for one in series]
    shown = finals if compared else [one.values for one in series]
    x = x_scale(min(s.steps[0] for s in series), max(s.steps[-1] for s in series))
    y = y_scale(min(float(v.min()) for v in shown), max(float(v.max()) for v in shown), unit)
    parts = [] if compared else [_pale(one, x, y) for one in smoothed]
    parts += [_line(one, final, x, y) for one, final in zip(series, finals, strict=True)]
    note = _note(series, smoothed, compared, y)
    return Drawn(
        [_svg(title, _described(series, unit), x, y, unit, parts)], _legend(series, unit), note
    )


def _note(series: Sequence[Series], smoothed: Sequence[Series], compared: bool, y: Scale) -> str:
    notes = []
    if smoothed:
        count = max(len(one.values) for one in smoothed)
        notes.append(f"Line: moving mean over {curves.window(count)} steps.")
        if not compared:
            buckets = count > curves.POINTS
            behind = "lowest to highest value of neighbouring steps" if buckets else "every step"
            notes.append(f"Pale: {behind}.")
    if compared:
        notes.append("With marks: the runs that the first is compared with.")
    if y.log:
        notes.append("Logarithmic axis.")
    broken = [(one.label, one.broken) for one in series if one.broken]
    notes += [
        f"{label or 'The value'} is not a finite number in {counted(n, 'step')}."
        for label, n in broken
    ]
    return " ".join(notes)


def _line(one: Series, final: Float64Array, x: Scale, y: Scale) -> str:
    steps, values = curves.thinned(one.steps), curves.thinned(final)
    xs, ys = [x(s) for s in steps], [y(v) for v in values]
    drawn = f'<path class="line s{one.style}" d="{_path(xs, ys)}"/>'
    if one.mark:
        every = max(1, len(xs) // MARKS)
        points = list(zip(xs, ys, strict=True))[every // 2 :: every]
        return drawn + "".join(_mark(one, *point) for point in points)
    if len(xs) <= FEW:
        drawn += _dots(zip(xs, ys, strict=True), f"dot f{one.style}", 2.4)
    return drawn


def _pale(one: Series, x: Scale, y: Scale) -> str:
    xs = [x(s) for s in curves.thinned(one.steps)]
    if len(one.values) <= curves.POINTS:
        return f'<path class="raw s{one.style}" d="{_path(xs, [y(v) for v in one.values])}"/>'
    low, high = curves.envelope(one.values)
    return f'<path class="band f{one.style}" d="{_area(xs, low, high, y)}"/>'


def _described(series: Sequence[Series], unit: str) -> str:
    said = []
    for one in series:
        first, last = curves.ends(one.values)
        span = f"{number(one.values.min(), unit)} to {number(one.values.max(), unit)}"
        name = one.label or "value"
        said.append(f"{name}: from {number(first, unit)} to {number(last, unit)}, within {span}")
    return "; ".join(said)


def _legend(series: Sequence[Series], unit: str) -> str:
    items = []
    for one in series:
        first, last = (number(v, unit) for v in curves.ends(one.values))
        mark = _mark(one, 14, 6) if one.mark else ""
        swatch = f'<path class="line s{one.style}" d="M0 6H28"/>{mark}'
        change = first if first == last else f"{first} → {last}"
        items.append(_item(swatch, one.label, change))
    return f'<ul class="legend">{"".join(items)}</ul>'


# -- bands ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Banded:
    """Estimates with their intervals, one for each of the places on the horizontal axis."""

    label: str
    places: Sequence[float]
    estimates: Sequence[Estimate]


def bands(
    title: str, across: str, series: Sequence[Banded], top: float, *, log: bool = True
) -> Drawn:
    """Shares up to ``top`` over places; ``across`` names what they are. With ``log`` their
    logarithms are evenly spaced, as those of powers of two. The intervals are areas behind the
    lines."""
    x, y = _places(series, across, log), y_scale(0.0, top, "%")
    behind, before, items, said = [], [], [], []
    for style, one in enumerate(series):
        xs = [x(place) for place in one.places]
        low, value, high = (np.array([getattr(e, n) for e in one.estimates]) for n in _INTERVAL)
        behind.append(f'<path class="band f{style}" d="{_area(xs, low, high, y)}"/>')
        line = Series(one.label, np.array(one.places), value, style)
        before.append(_line(line, value, x, y))
        ends = tuple(number(float(v), "%") for v in (value[0], value[-1]))
        items.append(
            _item(
                f'<path class="line s{style}" d="M0 6H28"/>',
                one.label,
                " → ".join(dict.fromkeys(ends)),
            )
        )
        said.append(f"{one.label}: from {ends[0]} to {ends[1]}")
    drawn = _svg(title, "; ".join(said), x, y, "%", [*behind, *before])
    return Drawn([drawn], f'<ul class="legend">{"".join(items)}</ul>')


def _places(series: Sequence[Banded], across: str, log: bool) -> Scale:
    marks = sorted({place for one in series for place in one.places})
    room = 0.05 if len(marks) == 1 else 0.0
    ends = marks[0] - room, marks[-1] + room
    return Scale(*ends, LEFT, RIGHT, log=log, name=across, marks=tuple(marks))


_INTERVAL = ("low", "value", "high")


# -- stacks ----------------------------------------------------------------------------------------


def stacks(title: str, panels: Sequence[tuple[str, Sequence[Series]]], unit: str) -> Drawn:
    """Parts stacked on top of each other, in one frame per run. All frames have the same axes."""
    order = _order([series for _, series in panels])
    tables = [_layers(series, order) for _, series in panels]
    x = x_scale(
        min(s.steps[0] for _, p in panels for s in p),
        max(s.steps[-1] for _, p in panels for s in p),
    )
    y = y_scale(0.0, max(float(t.sum(axis=0).max()) for _, t in tables), unit)
    svgs = []
    for (name, _), (steps, table) in zip(panels, tables, strict=True):
        tops = np.cumsum(table, axis=0)
        xs = [x(s) for s in steps]
        parts = [
            f'<path class="layer" fill="url(#p{i % STYLES})" d="{_area(xs, top - part, top, y)}"/>'
            for i, (top, part) in enumerate(zip(tops, table, strict=True))
        ]
        means = zip(order, table.mean(axis=1), strict=True)
        described = "; ".join(f"{label}: mean {number(mean, unit)}" for label, mean in means)
        heading = f"{title}, {name}" if len(panels) > 1 else title
        svgs.append(_svg(heading, described, x, y, unit, parts, name if len(panels) > 1 else ""))
    return Drawn(svgs, _stack_legend(order, [t for _, t in tables], unit), "From the bottom up.")


def _order(panels: Sequence[Sequence[Series]]) -> list[str]:
    """The labels, the one with the largest sum first. If there are too many, the smallest are
    merged as ``OTHERS``."""
    sizes: dict[str, float] = {}
    for one in (one for series in panels for one in series):
        sizes[one.label] = sizes.get(one.label, 0.0) + float(one.values.sum())
    order = sorted((label for label in sizes if sizes[label] > 0), key=lambda name: -sizes[name])
    return order if len(order) <= LAYERS else [*order[: LAYERS - 1], OTHERS]


def _layers(series: Sequence[Series], order: Sequence[str]) -> tuple[Float64Array, Float64Array]:
    """(steps, values [len(order), steps]), averaged in buckets of steps; 0 if a step has no
    value."""
    steps = np.unique(np.concatenate([one.steps for one in series]))
    table = np.zeros((len(order), len(steps)))
    for one in series:
        row = order.index(one.label) if one.label in order else len(order) - 1
        table[row, np.searchsorted(steps, one.steps)] += one.values
    return curves.thinned(steps), np.array([curves.thinned(row) for row in table])


def _stack_legend(order: Sequence[str], tables: Sequence[Float64Array], unit: str) -> str:
    items = []
    for i, label in enumerate(order):
        swatch = f'<rect class="layer" fill="url(#p{i % STYLES})" width="28" height="12"/>'
        means = " / ".join(number(float(table[i].mean()), unit) for table in tables)
        items.append(_item(swatch, label, f"mean {means}"))
    return f'<ul class="legend">{"".join(items)}</ul>'


# -- flags -----------------------------------------------------------------------------------------


def flags(title: str, panels: Sequence[tuple[str, Sequence[Series]]]) -> Drawn:
    """One row per sign, with marks at the steps that show it; one frame per run."""
    svgs = []
    x = x_scale(
        min(s.steps[0] for _, p in panels for s in p),
        max(s.steps[-1] for _, p in panels for s in p),
    )
    for name, series in panels:
        height = (BOTTOM - TOP) / len(series)
        parts, said = [], []
        for i, one in enumerate(series):
            on = one.steps[one.values > 0]
            parts.append(_flag_row(one.label, [x(step) for step in on], TOP + (i + 1) * height))
            said.append(f"{one.label} in {counted(len(on), 'step')}")
        heading = f"{title}, {name}" if len(panels) > 1 else title
        shown = name if len(panels) > 1 else ""
        svgs.append(_svg(heading, "; ".join(said), x, None, "", parts, shown))
    return Drawn(svgs, "")


def _flag_row(label: str, xs: Sequence[float], bottom: float) -> str:
    line = f'<path class="grid" d="M{LEFT} {bottom:.1f}H{RIGHT}"/>'
    name = f'<text class="name" x="4" y="{bottom - 5:.1f}">{escape(label)}</text>'
    marks = "".join(f"M{at} {bottom - 3:.1f}v-9" for at in sorted({round(x) for x in xs}))
    return line + name + (f'<path class="flag" d="{marks}"/>' if marks else "")


# -- pieces ----------------------------------------------------------------------------------------


def patterns() -> str:
    """The patterns that fill areas; defined once per page."""
    marks = (
        "",
        '<path d="M0 6L6 0"/>',
        '<circle cx="3" cy="3" r="1.1"/>',
        '<path d="M0 3H6"/>',
        '<path d="M3 0V6"/>',
        '<path d="M0 0L6 6"/>',
        '<path d="M0 3H6M3 0V6"/>',
        '<path d="M0 6L6 0M0 0L6 6"/>',
    )
    made = "".join(
        f'<pattern id="p{i}" width="6" height="6" patternUnits="userSpaceOnUse">'
        f'<rect class="f{i}" width="6" height="6"/><g class="hatch">{mark}</g></pattern>'
        for i, mark in enumerate(marks)
    )
    return f'<svg class="defs" aria-hidden="true" width="0" height="0"><defs>{made}</defs></svg>'


def _svg(
    title: str,
    described: str,
    x: Scale,
    y: Scale | None,
    unit: str,
    parts: Iterable[str],
    heading: str = "",
) -> str:
    frame = _x_axis(x) + ("" if y is None else _y_axis(y, unit))
    above = escape(unit) if unit != "%" else ""
    if heading:
        frame += f'<text class="name" x="{RIGHT}" y="14" text-anchor="end">{escape(heading)}</text>'
    return (
        f'<svg class="plot" role="img" viewBox="0 0 {WIDTH} {HEIGHT}">'
        f"<title>{escape(title)}</title><desc>{escape(described)}</desc>{frame}"
        f'<text x="4" y="14">{above}</text>{"".join(parts)}</svg>'
    )


def _x_axis(x: Scale) -> str:
    drawn = [f'<path class="axis" d="M{LEFT} {BOTTOM}H{RIGHT}"/>']
    for value, label in ticks(x, "steps"):
        at = x(value)
        drawn.append(f'<path class="axis" d="M{at:.1f} {BOTTOM}v4"/>')
        drawn.append(f'<text x="{at:.1f}" y="{BOTTOM + 16}" text-anchor="middle">{label}</text>')
    at, name = (LEFT + RIGHT) / 2, escape(x.name)
    drawn.append(f'<text x="{at}" y="{HEIGHT - 4}" text-anchor="middle">{name}</text>')
    return "".join(drawn)


def _y_axis(y: Scale, unit: str) -> str:
    drawn = []
    for value, label in ticks(y, unit):
        at = y(value)
        drawn.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{RIGHT}"/>')
        drawn.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{label}</text>')
    return "".join(drawn)


def _item(swatch: str, label: str, value: str) -> str:
    drawn = f'<svg class="swatch" aria-hidden="true" width="28" height="12">{swatch}</svg>'
    return f"<li>{drawn}<span>{escape(label)} <b>{escape(value)}</b></span></li>"


def _path(xs: Sequence[float], ys: Sequence[float]) -> str:
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(xs, ys, strict=True))


def _area(xs: Sequence[float], low: Float64Array, high: Float64Array, y: Scale) -> str:
    there = _path(xs, [y(v) for v in high])
    back = _path(xs[::-1], [y(v) for v in low[::-1]])
    return f"{there}L{back[1:]}Z"


def _mark(one: Series, x: float, y: float) -> str:
    at = f"translate({x:.1f} {y:.1f})"
    return f'<path class="ring s{one.style}" transform="{at}" d="{SHAPES[one.mark]}"/>'


def _dots(points: Iterable[tuple[float, float]], classes: str, radius: float) -> str:
    return "".join(
        f'<circle class="{classes}" cx="{a:.1f}" cy="{b:.1f}" r="{radius}"/>' for a, b in points
    )
