"""The page of a report: one HTML file that contains everything, loads nothing and sends nothing."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any

from azr_mlx import __version__
from azr_mlx.evaluation import held_out
from azr_mlx.evaluation.held_out import HeldOutLine
from azr_mlx.evaluation.statistics import Estimate
from azr_mlx.monitoring.report import charts, figures
from azr_mlx.monitoring.report.data import ShownRun, flat
from azr_mlx.monitoring.report.summary import facts, headline
from azr_mlx.monitoring.samples import (
    LONGEST_COMPLETION,
    LONGEST_DETAIL,
    LONGEST_PROMPT,
    ShownRollout,
)
from azr_mlx.text import clip, escape

SAMPLE_COLUMNS = ("step", "role", "kind", "verdict", "reward", "prompt and completion")


def compose(runs: Sequence[ShownRun], samples: Sequence[ShownRollout]) -> str:
    """The report of the first run. If there is a second run, it is drawn in the same charts."""
    style, script = _asset("style.css"), _asset("filter.js")
    title = " and ".join(run.name for run in runs)
    parts = {"Held-out tasks": _held_out(runs)}
    parts |= figures.html(figures.sections(runs), runs)
    parts |= {
        "Samples": _samples(runs, samples),
        "Run": _starts(runs),
        "Configuration": _config(runs),
    }
    shown = {name: html for name, html in parts.items() if html}
    links = "".join(f'<a href="#{_anchor(name)}">{escape(name)}</a>' for name in shown)
    body = "".join(
        f'<section id="{_anchor(name)}"><h2>{escape(name)}</h2>{html}</section>'
        for name, html in shown.items()
    )
    policy = (
        f"default-src 'none'; style-src 'sha256-{_digest(style)}'; "
        f"script-src 'sha256-{_digest(script)}'; base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)} - azr-mlx</title><style>{style}</style></head><body>"
        f"{charts.patterns()}<header><p>azr-mlx {escape(__version__)}, a report of "
        f"{time.strftime('%Y-%m-%d %H:%M %Z')}</p><h1>{escape(title)}</h1>"
        f"{_notes(runs)}{_headline(runs)}{_facts(runs)}</header>"
        f'<nav aria-label="Sections">{links}</nav><main>{body}</main>'
        f"<script>{script}</script></body></html>\n"
    )


def _asset(name: str) -> str:
    return (files("azr_mlx.monitoring.report") / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _table(head: Iterable[str], rows: Iterable[str], caption: str = "", classes: str = "") -> str:
    """A table. ``rows`` are HTML already; a wide table scrolls inside its own box."""
    columns = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in head)
    above = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll" tabindex="0"><table class="{classes}">{above}<thead><tr>{columns}'
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


# -- header ----------------------------------------------------------------------------------------


def _notes(runs: Sequence[ShownRun]) -> str:
    notes = [f"{run.name}: {note}" for run in runs for note in run.notes]
    return "".join(f'<p class="notice">{escape(note)}</p>' for note in notes)


def _headline(runs: Sequence[ShownRun]) -> str:
    """The few figures that a reader looks for first, one tile each."""
    found = [headline(run) for run in runs]
    names = dict.fromkeys(name for one in found for name in one)
    tiles = []
    for name in names:
        values = "".join(f"<b>{escape(one.get(name, '-'))}</b>" for one in found)
        tiles.append(f"<li><span>{escape(name)}</span>{values}</li>")
    return f'<ul class="tiles">{"".join(tiles)}</ul>'


def _facts(runs: Sequence[ShownRun]) -> str:
    found = [facts(run) for run in runs]
    names = dict.fromkeys(name for one in found for name in one)
    head = ["", *(run.name for run in runs)] if len(runs) > 1 else []
    rows = [
        f"<tr><th scope=row>{escape(name)}</th>"
        + "".join(f"<td>{escape(one.get(name, '-'))}</td>" for one in found)
        + "</tr>"
        for name in names
    ]
    return _table(head, rows, classes="facts")


# -- held-out tasks --------------------------------------------------------------------------------


def _held_out(runs: Sequence[ShownRun]) -> str:
    """Tables of the shares of tasks solved before and after, and the gain, with 95 % intervals."""
    made = []
    for run in runs:
        for way, found in run.held_out.items():
            of = f"{run.name}: " if len(runs) > 1 else ""
            caption = f"{of}solved, {held_out.WAYS.get(way, way)}; 95 % intervals, paired by task"
            gains = [line.gain for lines in found.values() for line in lines]
            extent = max(max(-gain.low, gain.high, 0.01) for gain in gains)
            rows = [
                row
                for name, lines in found.items()
                for row in _held_out_rows(held_out.NAMES.get(name, name), lines, extent)
            ]
            head = ("", "tasks", "before", "after", "gain in points", "")
            made.append(_table(head, rows, caption))
    return f'<div class="pairs">{"".join(made)}</div>' if made else ""


def _held_out_rows(name: str, lines: Sequence[HeldOutLine], extent: float) -> list[str]:
    rows = [f'<tr class="group"><th scope=rowgroup colspan=6>{escape(name)}</th></tr>']
    for line in lines:
        mean = ' class="mean"' if line is lines[-1] else ""
        rows.append(
            f"<tr{mean}><th scope=row>{escape(line.name)}</th><td>{line.tasks}</td>"
            f"<td>{_share(line.before)}</td><td>{_share(line.after)}</td>"
            f"<td>{_points(line.gain)}</td><td>{_interval(line.gain, extent)}</td></tr>"
        )
    return rows


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


# -- samples ---------------------------------------------------------------------------------------


def _samples(runs: Sequence[ShownRun], samples: Sequence[ShownRollout]) -> str:
    if not samples:
        return ""
    said = (
        f"{len(samples)} rollouts of {escape(runs[0].name)}, from the whole run: for each role and "
        "kind, some that the judge passed and some that it did not. The prompt is grey."
    )
    rows = [_sample(one) for one in samples]
    return f"<p>{said}</p>{_filter(samples)}{_table(SAMPLE_COLUMNS, rows, classes='samples')}"


def _filter(samples: Sequence[ShownRollout]) -> str:
    """The form that filters the samples. It is hidden until its script has started."""
    choices: dict[str, Iterable[Any]] = {
        "role": sorted({one.role for one in samples}),
        "kind": sorted({one.kind for one in samples}),
        "verdict": sorted({one.status for one in samples}),
        "step": sorted({one.step for one in samples}),
    }
    fields = "".join(
        f'<label>{name} <select name="{name}"><option value="">all</option>'
        + "".join(f"<option>{escape(value)}</option>" for value in values)
        + "</select></label>"
        for name, values in choices.items()
    )
    return (
        '<form id="filter" hidden><label>text <input type="search" name="text"></label>'
        f'{fields}<output aria-live="polite"></output></form>'
    )


def _sample(one: ShownRollout) -> str:
    data = "".join(
        f' data-{name}="{escape(value)}"'
        for name, value in (
            ("role", one.role),
            ("kind", one.kind),
            ("verdict", one.status),
            ("step", one.step),
        )
    )
    verdict = f'<b class="{"good" if one.good else "bad"}">{escape(one.status)}</b>'
    detail = f"<small>{escape(clip(one.detail, LONGEST_DETAIL))}</small>" if one.detail else ""
    return (
        f"<tr{data}><td>{one.step}</td><td>{escape(one.role)}</td><td>{escape(one.kind)}</td>"
        f"<td>{verdict}{detail}</td><td>{one.reward:+.2f}</td>"
        f'<td><pre class="prompt">{escape(clip(one.prompt, LONGEST_PROMPT, keep_end=True))}</pre>'
        f"<pre>{escape(clip(one.completion, LONGEST_COMPLETION))}</pre></td></tr>"
    )


# -- run and configuration -------------------------------------------------------------------------


def _starts(runs: Sequence[ShownRun]) -> str:
    rows = []
    for run in runs:
        for start in run.starts:
            versions = start.get("versions")
            named = versions.items() if isinstance(versions, dict) else ()
            cells = (
                start.get("time", "-"),
                start.get("resumed_from") or "a new run",
                start.get("backend", "-"),
                " ".join(f"{name} {v}" for name, v in named if v != "not installed"),
            )
            shown = "".join(f"<td>{escape(cell)}</td>" for cell in (run.name, *cells))
            rows.append(f"<tr>{shown}</tr>")
    if not rows:
        return ""
    return _table(("run", "started", "from", "backend", "versions"), rows, "Starts and resumes")


def _config(runs: Sequence[ShownRun]) -> str:
    differences = ""
    if len(runs) > 1:
        first, second = (flat(run.config) for run in runs)
        keys = [k for k in {**first, **second} if first.get(k) != second.get(k)]
        rows = [
            f"<tr><th scope=row><code>{escape(k)}</code></th><td>{escape(first.get(k, '-'))}</td>"
            f"<td>{escape(second.get(k, '-'))}</td></tr>"
            for k in keys
        ]
        differences = _table(("key", *(run.name for run in runs)), rows, "What differs")
    whole = "".join(
        f"<details><summary>config.yaml of {escape(run.name)}</summary>"
        f"<pre>{escape(run.config_text)}</pre></details>"
        for run in runs
        if run.config_text
    )
    return differences + whole
