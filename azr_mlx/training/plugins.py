"""The plug-ins of a run: which settings take one, and what ``run.json`` keeps of those in use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from azr_mlx import run_folder
from azr_mlx.config import Config, ConfigError, schema
from azr_mlx.config.plugins import PlugIn, resolve
from azr_mlx.evaluation.benchmarks.own import OwnProblems
from azr_mlx.selfplay.rewards import ProposerReward, SolverReward
from azr_mlx.tasks.templates import TemplateSet

POINTS: dict[str, type] = {
    "proposer.reward": ProposerReward,
    "solver.reward": SolverReward,
    "proposer.template_set": TemplateSet,
    "evaluation.benchmarks": OwnProblems,
}
RECORD = "plug_ins"  # the entry of run.json


def in_use(config: Config) -> list[PlugIn]:
    """The plug-ins that a run with this configuration calls. Raises ConfigError, with a line for
    each that cannot be imported or called as it will be."""
    found: list[PlugIn] = []
    wrong: list[str] = []
    for key, name in _named(config):
        try:
            found.append(resolve(key, name, POINTS[key]))
        except ConfigError as error:
            wrong += error.lines
    if wrong:
        raise ConfigError(wrong)
    return found


def described(plug_ins: Sequence[PlugIn]) -> list[dict[str, str]]:
    """What ``run.json`` keeps of them, and what all ranks must have alike."""
    return [
        {"key": one.key, "function": one.name, "sha256": one.source_sha256()} for one in plug_ins
    ]


def record(run_dir: Path, plug_ins: Sequence[PlugIn], resumed: bool) -> list[str]:
    """Note the plug-ins in ``run.json``. Of a resumed run also returns a line for each difference
    from its last start: it then goes on otherwise than it would have."""
    now, before = described(plug_ins), run_folder.recorded(run_dir, RECORD)
    run_folder.record(run_dir, **{RECORD: now})
    return list(_changes(before, now)) if resumed and isinstance(before, list) else []


def _named(config: Config) -> Iterator[tuple[str, str]]:
    values = dict(schema.flat(config))
    if not config.evaluation_interval:  # no benchmark is loaded
        del values["evaluation.benchmarks"]
    for key in POINTS:
        given = values.get(key, ())
        names = given if isinstance(given, tuple) else (given,)
        yield from ((key, name) for name in names if schema.is_function(name))


def _changes(before: list[Any], now: list[dict[str, str]]) -> Iterator[str]:
    end = "the steps to come are not those that the run would have made"
    for one in now:
        if one in before:
            continue
        name = f"{one['key']}: {one['function']}"
        if any({**one, "sha256": ""} == {**was, "sha256": ""} for was in before):
            yield f"{name}: its file has changed since the run's last start: {end}"
        else:
            yield f"{name}: the run did not have this function at its last start: {end}"
