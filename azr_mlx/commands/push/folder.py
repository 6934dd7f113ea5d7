"""The folder that is published: which files are in it, and what is taken out of them.

Adapters go up with the run's configuration, starts, metrics, held-out tasks and report, so that
azr-mlx uses the folder as it uses the run's own. Rollouts, buffers, optimizer and everything else
of a run stay here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from azr_mlx import run_folder
from azr_mlx.commands import tasks
from azr_mlx.commands.cards import CARD, OWN_KEYS, Origin, origin
from azr_mlx.commands.push import card, figures, licence
from azr_mlx.config import schema
from azr_mlx.errors import WRONG_VALUES, AzrError, first_line
from azr_mlx.files import json_lines, read_json, read_text
from azr_mlx.monitoring import report, samples
from azr_mlx.monitoring.metrics import MetricsFile, is_number
from azr_mlx.monitoring.report import data, page
from azr_mlx.private import betrayal, hide, short, shortened

if TYPE_CHECKING:
    from azr_mlx.commands.export import Fused

ADAPTERS, FUSED, TASKS = "adapters", "fused", "tasks"
WHAT = (ADAPTERS, FUSED, TASKS)
FORMATS = ("hf", "mlx")
TEMPLATES = "templates"  # where first tasks come from if the configuration does not say
OWN_CODE = ("file", "code")  # origins of tasks that were not made by the model or a template

# What is published of a run besides its weights, as far as it has them.
RECORDS = (
    run_folder.CONFIG_FILE,
    run_folder.RUN_FILE,
    run_folder.METRICS_FILE,
    run_folder.HELD_OUT_FILE,
    run_folder.REPORT_FILE,
)
_TEXTS = (".json", ".jsonl", ".md", ".html", ".yaml", ".jinja", ".txt")
_VOCABULARY = ("tokenizer.json", "vocab.json", "merges.txt")  # the base's: any word may be in them
_ORIGINS = ("_name_or_path", "name_or_path")  # where transformers notes what it has read


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be published where: see ``azr-mlx push --help``."""

    run: str
    to: str
    what: str = ADAPTERS
    format: str | None = None  # of a fused model; None: the first of FORMATS
    private: bool = False

    @property
    def kind(self) -> str:
        """The type of the repository, by the hub's name."""
        return "dataset" if self.what == TASKS else "model"


@dataclass(frozen=True, slots=True)
class Filled:
    """What is in the folder in a few words, and what its owner should know of it."""

    title: str
    notes: Sequence[str]


def fill(wanted: Wanted, folder: Path, *, online: bool) -> Filled:
    """Make ``folder`` with all that is published. With ``online`` the hub may be asked for the
    licence of the base model.

    Raises:
        UsageError: there is no such run, or it cannot be published so.
        AzrError: the folder cannot be written, or would hold a path or a token of this machine.
    """
    try:
        made = _tasks if wanted.what == TASKS else _model
        filled = made(wanted, folder, online)
        _refuse_betrayal(folder)
    except OSError as error:
        why = error.strerror or str(error)
        raise AzrError(
            f"push: {error.filename or folder}: {why}; make room or repair it"
        ) from error
    return filled


# -- tasks -----------------------------------------------------------------------------------------


def _tasks(wanted: Wanted, folder: Path, online: bool) -> Filled:
    checkpoint, rows = tasks.tasks_of(wanted.run, tasks.Filters(), "push")
    tasks.fill(folder, checkpoint, rows)
    own = sum(row["origin"] in OWN_CODE for row in rows)
    said = [f"{own} of the tasks come from your own code or file"] if own else []
    return Filled(
        f"{len(rows)} tasks after {checkpoint.name}: {tasks.counts(rows)}",
        [*said, f"license: not chosen; set it in {CARD} when it is up"],
    )


# -- models ----------------------------------------------------------------------------------------


def _model(wanted: Wanted, folder: Path, online: bool) -> Filled:
    run, checkpoint = run_folder.find(wanted.run, Path(run_folder.OUTPUT_DIR), "push")
    made, settings = origin(run), data.flat(_configuration(run))
    saved = _saved(wanted.run, checkpoint)
    step, seeds = saved.step, _seeds(run, saved, settings)
    fused = None
    if wanted.what == FUSED:
        fused = _fuse(checkpoint, folder, wanted.format or FORMATS[0])
    else:
        folder.mkdir()
        shutil.copyfile(
            checkpoint / run_folder.ADAPTER_WEIGHTS, folder / run_folder.ADAPTER_WEIGHTS
        )
        _write_json(folder / run_folder.ADAPTER_CONFIG, shortened(saved.adapters))
        _records(run, folder, made)
    _report(run, folder, made, generated=seeds in card.GENERATED)
    found = figures.of_checkpoint(run, checkpoint, step, settings)
    known = licence.of(made.base, online=online)
    names = sorted(file.name for file in folder.iterdir())
    one = card.Published(wanted.to, step, settings, seeds, made, found, known, names, fused)
    (folder / CARD).write_text(hide(card.compose(one)), encoding="utf-8")
    kind = "adapters" if fused is None else "fused model"
    title = f"{kind} of {run.resolve().name} after step {step}"
    return Filled(hide(title), list(_notes(one, online)))


@dataclass(frozen=True, slots=True)
class _Saved:
    """Of a checkpoint: its step, the configuration of its adapters, and where its tasks are
    from."""

    step: int
    adapters: Mapping[str, Any]
    sources: frozenset[str]


def _saved(asked: str, checkpoint: Path) -> _Saved:
    """Raises CheckpointError if the checkpoint is damaged."""
    problem = run_folder.damage(checkpoint)
    try:
        step = int(read_json(checkpoint / run_folder.STATE_FILE)["step"])
        adapters = dict(read_json(checkpoint / run_folder.ADAPTER_CONFIG))
        tasks_in_it = [row["task"] for row in run_folder.read_buffer(checkpoint)]
        sources = frozenset(str(one.get("source")) for one in tasks_in_it)
    except (OSError, *WRONG_VALUES) as error:
        problem = problem or f"cannot be read: {first_line(error)}"
    if problem:
        better = run_folder.previous_good(checkpoint, "push")
        raise run_folder.CheckpointError(f"push {asked}: {checkpoint}: {problem}; {better}")
    return _Saved(step, adapters, sources)


def _seeds(run: Path, saved: _Saved, settings: Mapping[str, str]) -> str:
    """What the first tasks came from, as ``proposer.seed_tasks`` or in words; "" if it is not
    known. A run that went on with another setting still has tasks from its user's own code, or
    shows them in its samples."""
    if not settings:
        return ""
    ever = run_folder.seeds(run, settings.get("proposer.seed_tasks", TEMPLATES))
    if own := [one for one in ever or () if one not in card.GENERATED]:
        return short(own[-1])
    if not saved.sources.isdisjoint(OWN_CODE):
        return "own code"
    return "" if ever is None else ever[0]


def _notes(one: card.Published, online: bool) -> list[str]:
    base = one.origin.base
    said = list(one.found.notes)
    if base.hub is None:
        said.append(f"base_model: left out, as {base.shown} is not a repository of the hub")
    if not one.licence:
        asked = "" if online or base.hub is None else "; without --dry-run the hub is asked"
        said.append(f"license: left out, as the base model's files here do not say it{asked}")
    return said


def _configuration(run: Path) -> Mapping[str, Any]:
    """The settings of a run; empty if its file cannot be read."""
    file = run / run_folder.CONFIG_FILE
    return schema.read(file, []) if file.is_file() else {}


def _fuse(checkpoint: Path, folder: Path, to: str) -> Fused:
    from azr_mlx.commands.export import to_model

    fused = to_model(checkpoint, folder, to=to, asked="--format")
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            row = read_json(folder / name)
            row = {key: value for key, value in row.items() if key not in _ORIGINS}
            _write_json(folder / name, row)
    return fused


def _records(run: Path, folder: Path, made: Origin) -> None:
    """Those of the run's own files that can be read."""
    if text := _public_config(run):
        (folder / run_folder.CONFIG_FILE).write_text(text, encoding="utf-8")
    if made.starts:
        _write_json(folder / run_folder.RUN_FILE, {"starts": list(made.starts)})
    rows = [
        {key: value for key, value in row.items() if is_number(value)}
        for row in MetricsFile(run / run_folder.METRICS_FILE).rows()
    ]
    if rows:
        (folder / run_folder.METRICS_FILE).write_text(json_lines(rows), encoding="utf-8")
    try:
        held_out = read_json(run / run_folder.HELD_OUT_FILE)
        held_out["settings"] = shortened(held_out["settings"])
    except (OSError, *WRONG_VALUES):
        return
    _write_json(folder / run_folder.HELD_OUT_FILE, held_out)


def _public_config(run: Path) -> str:
    """config.yaml without paths and without what is this user's alone; "" if it cannot be read."""
    try:
        tree = yaml.safe_load(read_text(run / run_folder.CONFIG_FILE))
    except (OSError, yaml.YAMLError, *WRONG_VALUES):
        return ""
    if not isinstance(tree, dict):
        return ""
    kept = {key: value for key, value in shortened(tree).items() if key not in OWN_KEYS}
    return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)


def _report(run: Path, folder: Path, made: Origin, *, generated: bool) -> None:
    """The report of the run, if it has metrics. It has no samples and no tasks if the first tasks
    were not ``generated``, as these show its user's own code then."""
    try:
        shown = report.read(run)
    except AzrError:
        return
    taken = samples.of_run(run) if generated else []
    config = {k: v for k, v in shortened(shown.config).items() if k not in OWN_KEYS}
    resumed = [short(str(one.get("resumed_from") or "")) for one in shown.starts]
    starts = [
        {**start, "resumed_from": name} for start, name in zip(made.starts, resumed, strict=True)
    ]
    public = replace(
        shown,
        path=Path(shown.name),
        config=config,
        config_text=_public_config(run),
        starts=starts,
        tasks=shown.tasks if generated else [],
    )
    (folder / run_folder.REPORT_FILE).write_text(hide(page.compose([public], taken)), "utf-8")


def _write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _refuse_betrayal(folder: Path) -> None:
    """The last look at every file before it is published."""
    for file in sorted(folder.iterdir()):
        if file.suffix not in _TEXTS or file.name in _VOCABULARY:
            continue
        if told := betrayal(file.read_text("utf-8", errors="replace")):
            raise AzrError(
                f"push: {file.name} would hold {told}, which is of this machine; export or write "
                "the files with `azr-mlx export` or `azr-mlx tasks`, take it out there, and send "
                "them with `hf upload`"
            )
