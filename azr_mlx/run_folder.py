"""The folder of a training run: the names of its files, and how to find them.

runs/NAME/
  config.yaml  run.json        the resolved configuration; argv and versions of each start
  metrics.jsonl                one row per step
  rollouts/step_000120.jsonl   the experiences of one step
  held_out.json                the held-out tasks solved before and after training
  adapters  best               links to the newest checkpoint and to the best one
  checkpoints/step_000120/     see ``azr_mlx.training.checkpoint``
  report.html                  and compared.html, with other runs beside it
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from azr_mlx.errors import WRONG_VALUES, UsageError, first_line
from azr_mlx.files import Unreadable, read_json, read_rows, write_json

CONFIG_FILE, RUN_FILE, METRICS_FILE = "config.yaml", "run.json", "metrics.jsonl"
HELD_OUT_FILE, REPORT_FILE = "held_out.json", "report.html"
COMPARED_FILE = "compared.html"  # this run and others
NEWEST, BEST = "adapters", "best"
OUTPUT_DIR = "runs"  # where runs are, if the configuration does not say
SEEDS = "seed_tasks"  # the entry of run.json that has every value of the key that the run has had
ENDED = "ended_after"  # the entry of run.json that has the step after which a run was done
LATEST = "latest"  # what users write for the newest run
CHECKPOINTS, ROLLOUTS = "checkpoints", "rollouts"

# The files of a checkpoint. mlx-lm chose the names of the adapters' files.
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapters.safetensors"
STATE_FILE, BUFFER_FILE = "state.json", "buffer.jsonl.gz"


class CheckpointError(UsageError):
    """A checkpoint that cannot be used. The message names the previous good one, if there is
    one."""


# -- run.json --------------------------------------------------------------------------------------


def record(run_dir: Path, **entries: Any) -> None:
    """Set entries of ``run.json``. On an error the old file stays."""
    write_json(run_dir / RUN_FILE, {**_record(run_dir), **entries}, indent=1)


def recorded(run_dir: Path, name: str) -> Any:
    """An entry of ``run.json``; None if there is none. Raises UsageError if the file is damaged."""
    return _record(run_dir).get(name)


def seeds(run_dir: Path, now: str) -> list[str] | None:
    """What the run's first tasks have come from at any of its starts (``proposer.seed_tasks``), the
    first one first; ``now`` is the last start's. None if that is not known, as of a run that an
    earlier version has resumed. Raises UsageError if ``run.json`` is damaged."""
    known = _noted_seeds(run_dir)
    if known is None:
        return [now] if len(starts(run_dir)) < 2 else None
    return list(dict.fromkeys([*known, now]))


def _noted_seeds(run_dir: Path) -> list[str] | None:
    known: list[str] | None = recorded(run_dir, SEEDS)
    texts = isinstance(known, list) and all(isinstance(one, str) for one in known)
    if known is not None and not texts:
        raise _damaged_record(run_dir, f"its {SEEDS} are not a list of texts")
    return known


def record_start(run_dir: Path, entry: Mapping[str, Any], seed_tasks: str) -> None:
    """Note one more start, which ``entry`` describes, and what first tasks it may have made."""
    before = starts(run_dir)
    known = _noted_seeds(run_dir) if before else []
    more = {} if known is None else {SEEDS: list(dict.fromkeys([*known, seed_tasks]))}
    record(run_dir, starts=[*before, entry], **more)


def starts(run_dir: Path) -> list[dict[str, Any]]:
    """What ``run.json`` says of each start of the run, oldest first. Raises UsageError if the file
    is damaged."""
    found = recorded(run_dir, "starts") or []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise _damaged_record(run_dir, "its starts are not a list of objects")
    return found


def _record(run_dir: Path) -> dict[str, Any]:
    file = run_dir / RUN_FILE
    if not file.exists():
        return {}
    try:
        row = read_json(file)
    except (OSError, Unreadable) as error:
        raise _damaged_record(run_dir, first_line(error)) from error
    if not isinstance(row, dict):
        raise _damaged_record(run_dir, "not a JSON object")
    return row


def _damaged_record(run_dir: Path, why: str) -> UsageError:
    return UsageError(f"{run_dir / RUN_FILE}: cannot be read: {why}; repair or remove it")


# -- rollouts and checkpoints ----------------------------------------------------------------------


def rollouts(run_dir: Path) -> list[Path]:
    """The run's files in ``rollouts/``, oldest first."""
    return sorted((run_dir / ROLLOUTS).glob("step_*.jsonl"))


def rollouts_of(run_dir: Path, step: int) -> Path:
    """The path of a step's experiences, whether or not they are kept."""
    return run_dir / ROLLOUTS / f"step_{step:06d}.jsonl"


def checkpoints(run_dir: Path) -> list[Path]:
    """The run's checkpoint folders, oldest first."""
    found = (run_dir / CHECKPOINTS).glob("step_*")
    return sorted(p for p in found if p.is_dir() and p.suffix != ".tmp")


def checkpoint_of(run_dir: Path, step: int) -> Path:
    """The path of a step's checkpoint, whether or not it exists."""
    return run_dir / CHECKPOINTS / f"step_{step:06d}"


def read_buffer(checkpoint: Path) -> Iterator[Any]:
    """The tasks in a checkpoint's buffers, as JSON values. Raises the same as
    ``files.read_rows``."""
    return read_rows(checkpoint / BUFFER_FILE)


def damage(checkpoint: Path) -> str:
    """What is wrong with a checkpoint, in a few words; "" if nothing is wrong."""
    try:
        state = read_json(checkpoint / STATE_FILE)
        hashes = dict(state["sha256"])
        own = hashes.pop(STATE_FILE, None)  # checkpoints of version 0.1 do not have it
        whole = own in (None, seal({**state, "sha256": hashes})) and BUFFER_FILE in hashes
    except FileNotFoundError:
        return f"{STATE_FILE} is missing"
    except (OSError, *WRONG_VALUES):
        whole = False
    if not whole:
        return f"{STATE_FILE} is damaged"
    for name, digest in hashes.items():
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
        if sha256(checkpoint / name) != digest:
            return f"{name} is damaged (its sha256 is not the one recorded)"
    return ""


def seal(state: Mapping[str, Any]) -> str:
    """The hash of ``state.json``, which is recorded in it, of all else that is in it."""
    return hashlib.sha256(json.dumps(state, indent=1).encode()).hexdigest()


def sha256(file: Path) -> str:
    """The hash of a file, as ``state.json`` records it."""
    digest = hashlib.sha256()
    with file.open("rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def previous_good(bad: Path, asked: str = "--resume") -> str:
    """A few words for the user, who wrote ``asked`` and ``bad``: which checkpoint to take
    instead."""
    earlier = [p for p in checkpoints(bad.parent.parent) if p.name < bad.name and not damage(p)]
    return (
        f"the previous good one is {earlier[-1]}: use {asked} {earlier[-1]}"
        if earlier
        else "no earlier one is good"
    )


# -- finding runs ----------------------------------------------------------------------------------


def find(where: str, output_dir: Path, asked: str = "--resume") -> tuple[Path, Path]:
    """(run folder, checkpoint) for ``--resume``: ``where`` is a run's folder, a checkpoint's, a
    link to one (``adapters``, ``best``) or ``latest``. In messages ``asked`` stands before it.

    Raises:
        CheckpointError: there is none.
    """
    if means_latest(where, output_dir):
        runs = [p for p in output_dir.glob("*") if checkpoints(p)]
        if not runs:
            raise CheckpointError(
                f"{asked} latest: no run with a checkpoint in {output_dir.absolute()}; train first"
            )
        run = max(runs, key=lambda p: checkpoints(p)[-1].stat().st_mtime_ns)
        return run, checkpoints(run)[-1]
    path = _checkpoint_behind(named(where, output_dir))
    if os.path.isfile(path / STATE_FILE) or path.parent.name == CHECKPOINTS:
        if not os.path.isdir(path):
            raise CheckpointError(
                f"{asked} {where}: no such checkpoint; {previous_good(path, asked)}"
            )
        if (above := _run_above(path)) is None:
            raise CheckpointError(
                f"{asked} {where}: belongs to no run (no {CONFIG_FILE} above it); give runs/NAME"
            )
        return above, path
    if os.path.isdir(path) and checkpoints(path):
        return path, checkpoints(path)[-1]
    why = (
        "neither a run with checkpoints nor a checkpoint"
        if os.path.exists(path)
        else "no such folder"
    )
    raise CheckpointError(f"{asked} {where}: {why}; give runs/NAME or {LATEST}")


def means_latest(where: str | Path, output_dir: Path) -> bool:
    """Whether the user, who named this run or folder, means the newest one: "latest", or, if no
    run has that name, "runs/latest"."""
    given = Path(where)
    return str(where) == LATEST or (given == output_dir / LATEST and not os.path.lexists(given))


def named(where: str | Path, output_dir: Path = Path(OUTPUT_DIR)) -> Path:
    """What a user named: this path or, if there is nothing there, the run of that name."""
    path = Path(where)
    run = output_dir / path
    return run if not os.path.lexists(path) and os.path.isdir(run) else path


def _checkpoint_behind(path: Path) -> Path:
    """The checkpoint that a run's link points at; any other path as it is. A relative path stays
    one, as these links are relative."""
    if not os.path.islink(path):
        return path
    target = Path(os.path.normpath(path.parent / os.readlink(path)))
    return target if target.parent.name == CHECKPOINTS else path


def _run_above(checkpoint: Path) -> Path | None:
    """The run of a checkpoint, which may be a copy in the place of a link to it."""
    above = checkpoint.parent
    return above.parent if above.name == CHECKPOINTS else run_of(checkpoint)


def newest(output_dir: Path) -> Path | None:
    """The run that wrote metrics last; None if no run has any."""
    found = output_dir.glob(f"*/{METRICS_FILE}")
    last = max(found, key=lambda p: p.stat().st_mtime_ns, default=None)
    return None if last is None else last.parent


def adapter_folder(path: Path, output_dir: Path = Path(OUTPUT_DIR)) -> Path:
    """The folder with the adapters that ``--adapter-path`` means: the newest ones if ``path`` is a
    run or "latest" (the run in ``output_dir`` that saved adapters last), otherwise ``path``.

    Raises:
        UsageError: there is no latest run.
    """
    if means_latest(path, output_dir):
        saved = output_dir.glob(f"*/{NEWEST}/{ADAPTER_CONFIG}")
        last = max(saved, key=lambda p: p.stat().st_mtime_ns, default=None)
        if last is None:
            raise UsageError(
                f"--adapter-path {LATEST}: no run with adapters in {output_dir}/; train first"
            )
        return last.parent
    path = named(path, output_dir)
    inside = path / NEWEST
    return inside if os.path.isfile(inside / ADAPTER_CONFIG) else path


def run_of(adapters: Path) -> Path | None:
    """The run that has these adapters; None if there is none. ``adapters`` may be the run's folder,
    its newest adapters or one of its checkpoints."""
    above = adapters.resolve()
    return next(filter(_is_run, (above, *list(above.parents)[:2])), None)


def _is_run(folder: Path) -> bool:
    """Other programs have files of that name, too."""
    others = (RUN_FILE, METRICS_FILE, CHECKPOINTS, ROLLOUTS)
    there = any(os.path.lexists(folder / name) for name in others)
    return there and os.path.isfile(folder / CONFIG_FILE)
