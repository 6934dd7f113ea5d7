"""Checkpoints: folders that are whole if they exist.

    checkpoints/step_000120/
      adapters.safetensors  adapter_config.json     mlx-lm's own format
      value_head.safetensors  optimizer.safetensors
      buffer.jsonl.gz  state.json

Written to a ``.tmp`` folder, fsynced, renamed. ``state.json`` is written last and holds the sha256
of every other file. JSON and safetensors only: nothing here is ever unpickled.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from azr_mlx.errors import AzrError
from azr_mlx.files import fsync, point
from azr_mlx.run_folder import (
    BEST,
    BUFFER_FILE,
    CHECKPOINTS,
    NEWEST,
    STATE_FILE,
    CheckpointError,
    checkpoint_of,
    checkpoints,
    damage,
    previous_good,
    read_buffer,
    rollouts,
    sha256,
)


class Saves(Protocol):
    def save(self, path: Path) -> None: ...


def save(
    run_dir: Path,
    step: int,
    backend: Saves,
    state: dict[str, Any],
    buffer_rows: Iterable[dict[str, Any]],
) -> Path:
    """Write ``checkpoints/step_NNNNNN`` and point ``adapters`` at it.

    Raises:
        AzrError: the disk is full or the folder cannot be written; earlier checkpoints are
        untouched.
    """
    final = checkpoint_of(run_dir, step)
    tmp = final.with_suffix(".tmp")
    if final.exists() and not damage(final):
        return final  # the same step of the same run gives the same checkpoint
    try:
        shutil.rmtree(tmp, ignore_errors=True)
        tmp.mkdir(parents=True)
        backend.save(tmp)
        _write_rows(tmp / BUFFER_FILE, buffer_rows)
        hashes = {f.name: sha256(f) for f in sorted(tmp.iterdir())}
        text = json.dumps({**state, "step": step, "sha256": hashes}, indent=1)
        (tmp / STATE_FILE).write_text(text, encoding="utf-8")
        for file in [*tmp.iterdir(), tmp]:
            fsync(file)
        shutil.rmtree(final, ignore_errors=True)
        tmp.rename(final)
        fsync(final.parent)
        point(run_dir / NEWEST, final)
    except OSError as e:
        shutil.rmtree(tmp, ignore_errors=True)
        raise AzrError(
            f"checkpoint {final}: {e.strerror or e}: earlier ones are untouched; "
            f"fix that (free disk, permissions) and use --resume {run_dir}"
        ) from e
    return final


def load_state(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(state, buffer rows) of a checkpoint whose files all have the hashes they were written with.

    Raises:
        CheckpointError: a file is missing, cut or changed.
    """
    problem = damage(path)
    if problem:
        raise CheckpointError(f"checkpoint {path}: {problem}; {previous_good(path)}")
    state = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
    return state, list(read_buffer(path))


def set_aside(run_dir: Path, resumed: Path) -> None:
    """Move the checkpoints and rollouts past ``resumed`` into ``set_aside`` folders: they are of a
    branch that is left, and must be taken neither for the newest nor for this one's."""
    past = [p for p in checkpoints(run_dir) if p.name > resumed.name]
    past += [p for p in rollouts(run_dir) if p.stem > resumed.name]
    for path in past:
        aside = path.parent / "set_aside"
        aside.mkdir(exist_ok=True)
        target = aside / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)
    point(run_dir / NEWEST, resumed)


def prune(run_dir: Path, keep: int, best: int | None = None) -> None:
    """Delete all but the newest ``keep`` checkpoints (0 keeps all) and that of step ``best``, and
    what a kill left half-written."""
    for path in (run_dir / CHECKPOINTS).glob("*.tmp"):
        shutil.rmtree(path)
    if keep > 0:
        for path in checkpoints(run_dir)[:-keep]:
            if best is None or path != checkpoint_of(run_dir, best):
                shutil.rmtree(path)


def mark_best(run_dir: Path, step: int | None) -> bool:
    """Point ``best`` at the checkpoint of ``step``; without one there is no such link. Returns
    whether there is."""
    target = None if step is None else checkpoint_of(run_dir, step)
    if target is None or not target.is_dir():
        (run_dir / BEST).unlink(missing_ok=True)
        return False
    point(run_dir / BEST, target)
    return True


def _write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as f:
        f.writelines(json.dumps(row).encode() + b"\n" for row in rows)
