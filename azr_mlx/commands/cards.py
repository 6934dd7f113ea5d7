"""What the cards of published tasks and models share: front matter, Markdown, and where a run comes
from, without what belongs to the machine that it was made on."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from azr_mlx import run_folder
from azr_mlx.config import schema
from azr_mlx.errors import WRONG_VALUES, UsageError
from azr_mlx.private import short, shortened
from azr_mlx.text import one_line

CARD = "README.md"
PROJECT = "azr-mlx"
UNKNOWN = "unknown"
# Settings that say where a run is kept and shown, and nothing of what was trained.
OWN_KEYS = ("output_dir", "wandb_entity", "wandb_project")
# What is told of a start of the run.
_TOLD = ("time", "backend", "isolation", "python", "platform", "cores", "versions")
_HUB = re.compile(r"hub:([\w-][\w.-]*(?:/[\w.-]+)?)")


@dataclass(frozen=True, slots=True)
class Base:
    """The base model of a run: where it was found, its name for a card, and its repository and
    commit on the hub (None if it is not from there)."""

    place: str
    shown: str = UNKNOWN
    hub: str | None = None
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a run comes from: its base model, the command that began it, and what ``run.json`` says
    of its starts, oldest first. What the files do not say is "unknown" or missing."""

    base: Base
    command: str
    starts: Sequence[Mapping[str, Any]]


def front_matter(data: Mapping[str, Any]) -> str:
    """The head of a card, as the Hugging Face hub reads it."""
    shown = yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{shown}---\n"


def code(text: Any) -> str:
    """A text as code in a line of Markdown, in which nothing is markup."""
    return "`" + (one_line(text).replace("`", "'") or " ") + "`"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines
    )


def origin(run: Path) -> Origin:
    """Where a run comes from, as far as its files can be read."""
    try:
        starts = run_folder.starts(run)
    except UsageError:
        starts = []
    return Origin(_base(run, starts), _command(starts), [_told(start) for start in starts])


def _base(run: Path, starts: Sequence[Mapping[str, Any]]) -> Base:
    # As the file says it: if it does not, the key's default is another model than the run's.
    named = schema.read(run / run_folder.CONFIG_FILE, []).get("model_id")
    named = named if isinstance(named, str) else ""
    loaded = starts[-1].get("model") if starts else None
    source = loaded.get("source") if isinstance(loaded, dict) else None
    if isinstance(source, str) and isinstance(loaded, dict):
        found, revision = _HUB.fullmatch(source), loaded.get("revision")
        if found is None:
            return Base(re.sub("^(gguf|folder):", "", source), short(named or source))
        return Base(found[1], found[1], found[1], revision if isinstance(revision, str) else None)
    return Base(named, short(named) or UNKNOWN)  # it may be a folder: nobody says where it is from


def _command(starts: Sequence[Mapping[str, Any]]) -> str:
    try:
        _, *given = map(str, starts[0]["argv"])
    except WRONG_VALUES:
        return UNKNOWN
    kept = [word for word in given if word.partition("=")[0] not in OWN_KEYS]
    shown = ("=".join(map(short, word.split("=", 1))) for word in kept)
    return shlex.join(["azr-mlx", *shown])


def _told(start: Mapping[str, Any]) -> dict[str, Any]:
    return {**{key: shortened(start[key]) for key in _TOLD if key in start}, **_model(start)}


def _model(start: Mapping[str, Any]) -> dict[str, Any]:
    """The repository and the commit of the base model, from which others load the very same. A
    model that was on this machine only has none."""
    try:
        row = start["model"]
        source, revision = str(row["source"]), row.get("revision")
    except WRONG_VALUES:
        return {}
    if _HUB.fullmatch(source) is None:
        return {}
    known = {"revision": revision} if re.fullmatch(r"[\w.-]+", str(revision or "")) else {}
    return {"model": {"source": source, **known}}
