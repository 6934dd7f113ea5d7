"""The page of a report: one HTML file that contains everything, loads nothing and sends nothing."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any

from azr_mlx import __version__
from azr_mlx.monitoring.report import charts, figures, solved, tasks
from azr_mlx.monitoring.report.data import ShownRun, flat
from azr_mlx.monitoring.report.summary import facts, headline
from azr_mlx.monitoring.report.tables import table
from azr_mlx.monitoring.samples import (
    LONGEST_COMPLETION,
    LONGEST_DETAIL,
    LONGEST_PROMPT,
    ShownRollout,
)
from azr_mlx.text import clip, escape

SAMPLE_COLUMNS = ("step", "role", "kind", "verdict", "reward", "prompt and completion")


def compose(runs: Sequence[ShownRun], samples: Sequence[ShownRollout], every: int = 0) -> str:
    """The report of the first run. The others are drawn in the same charts. A browser that shows it
    loads it again ``every`` so many seconds, without a script; 0: never."""
    style, script = _asset("style.css"), _asset("filter.js")
    title = _listed([run.name for run in runs])
    parts = {"Held-out tasks": solved.html(runs)}
    parts |= figures.html(figures.sections(runs), runs)
    parts |= {
        "Tasks": tasks.html(runs),
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
        f'<meta name="color-scheme" content="light dark">{_again(every)}'
        f"<title>{escape(title)} - azr-mlx</title><style>{style}</style></head><body>"
        f"{charts.patterns()}<header><p>azr-mlx {escape(__version__)}, a report of "
        f"{time.strftime('%Y-%m-%d %H:%M %Z')}{_told(every)}</p><h1>{escape(title)}</h1>"
        f"{_notes(runs)}{_headline(runs)}{_facts(runs)}</header>"
        f'<nav aria-label="Sections">{links}</nav><main>{body}</main>'
        f"<script>{script}</script></body></html>\n"
    )


def _listed(names: Sequence[str]) -> str:
    return " and ".join([*([", ".join(names[:-1])] if names[1:] else []), names[-1]])


def _again(every: int) -> str:
    return f'<meta http-equiv="refresh" content="{every}">' if every else ""


def _told(every: int) -> str:
    return f", renewed every {every} s while the run goes on" if every else ""


def _asset(name: str) -> str:
    return (files("azr_mlx.monitoring.report") / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


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
    return table(head, rows, classes="facts")


# -- samples ---------------------------------------------------------------------------------------


def _samples(runs: Sequence[ShownRun], samples: Sequence[ShownRollout]) -> str:
    if not samples:
        return ""
    said = (
        f"{len(samples)} rollouts of {escape(runs[0].name)}, from the whole run: for each role and "
        "kind, some that the judge passed and some that it did not. The prompt is grey."
    )
    rows = [_sample(one) for one in samples]
    return f"<p>{said}</p>{_filter(samples)}{table(SAMPLE_COLUMNS, rows, classes='samples')}"


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
    return table(("run", "started", "from", "backend", "versions"), rows, "Starts and resumes")


def _config(runs: Sequence[ShownRun]) -> str:
    found = [flat(run.config) for run in runs]
    keys = dict.fromkeys(key for one in found for key in one)
    rows = [
        f"<tr><th scope=row><code>{escape(key)}</code></th>"
        + "".join(f"<td>{escape(one.get(key, '-'))}</td>" for one in found)
        + "</tr>"
        for key in keys
        if len({one.get(key) for one in found}) > 1
    ]
    names = (run.name for run in runs)
    differences = table(("key", *names), rows, "What differs") if len(runs) > 1 else ""
    whole = "".join(
        f"<details><summary>config.yaml of {escape(run.name)}</summary>"
        f"<pre>{escape(run.config_text)}</pre></details>"
        for run in runs
        if run.config_text
    )
    return differences + whole
