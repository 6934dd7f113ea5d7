"""Checkpoints: folders that are complete if they exist.

    checkpoints/step_000120/
      adapters.safetensors  adapter_config.json     mlx-lm's own format
      value_head.safetensors  optimizer.safetensors
      buffer.jsonl.gz  state.json

A checkpoint is written to a ``.tmp`` folder, fsynced and renamed. ``state.json`` is written last
and holds the sha256 of every file. All files are JSON or safetensors, so nothing is ever
unpickled.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from azr_mlx.errors import AzrError, first_line
from azr_mlx.files import fsync, point, read_json
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
    seal,
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
        AzrError: the disk is full or the folder cannot be written. Earlier checkpoints stay as they
            are.
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
        state = {**state, "step": step, "sha256": hashes}
        hashes = {**hashes, STATE_FILE: seal(state)}
        text = json.dumps({**state, "sha256": hashes}, indent=1)
        (tmp / STATE_FILE).write_text(text, encoding="utf-8")
        for file in [*tmp.iterdir(), tmp]:
            fsync(file)
        shutil.rmtree(final, ignore_errors=True)
        tmp.rename(final)
        fsync(final.parent)
        point(run_dir / NEWEST, final)
    except OSError as e:
        shutil.rmtree(tmp, ignore_errors=True)
        again = (
            f"earlier ones are untouched; check disk space and permissions, then use --resume "
            f"{run_dir}"
            if checkpoints(run_dir)
            else "there is no earlier one; check disk space and permissions, then start again"
        )
        raise AzrError(f"checkpoint {final}: {e.strerror or e}: {again}") from e
    return final


def load_state(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(state, buffer rows) of a checkpoint, after a check that no file has changed.

    Raises:
        CheckpointError: a file is missing, cut off or changed.
    """
    problem = damage(path)
    if problem:
        raise CheckpointError(f"checkpoint {path}: {problem}; {previous_good(path)}")
    try:
        return read_json(path / STATE_FILE), list(read_buffer(path))
    except (OSError, ValueError) as error:
        raise unusable(path, error) from error


def unusable(path: Path, error: BaseException) -> CheckpointError:
    """The error for a checkpoint whose files do not hold what they should."""
    why = first_line(error) if isinstance(error, OSError | ValueError) else repr(error)
    return CheckpointError(f"checkpoint {path}: cannot be used: {why}; {previous_good(path)}")


def set_aside(run_dir: Path, resumed: Path) -> None:
    """Move the checkpoints and rollouts after ``resumed`` into ``set_aside`` folders. The resumed
    run makes those steps again, so the old ones must not be taken for its own."""
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
    """Delete all checkpoints but the newest ``keep`` (0 keeps all) and the one of step ``best``.
    Incomplete ones, left behind by a killed process, are deleted too."""
    for path in (run_dir / CHECKPOINTS).glob("*.tmp"):
        shutil.rmtree(path)
    if keep > 0:
        for path in checkpoints(run_dir)[:-keep]:
            if best is None or path != checkpoint_of(run_dir, best):
                shutil.rmtree(path)


def mark_best(run_dir: Path, step: int | None) -> bool:
    """Point the link ``best`` at the checkpoint of ``step``, or remove the link if there is no such
    checkpoint. Returns whether there is one."""
    target = None if step is None else checkpoint_of(run_dir, step)
    if target is None or not target.is_dir():
        (run_dir / BEST).unlink(missing_ok=True)
        return False
    point(run_dir / BEST, target)
    return True


def _write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as f:
        f.writelines(json.dumps(row).encode() + b"\n" for row in rows)
