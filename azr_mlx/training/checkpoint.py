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
import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from azr_mlx.errors import AzrError, UsageError

STATE_FILE = "state.json"
BUFFER_FILE = "buffer.jsonl.gz"
FOLDER = "checkpoints"
NEWEST = "adapters"
BEST = "best"
RUN_FILE = "run.json"


class CheckpointError(UsageError):
    """A checkpoint that cannot be used; the message names the previous good one, if there is
    one."""


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
    final = folder(run_dir, step)
    tmp = final.with_suffix(".tmp")
    if final.exists() and not damage(final):
        return final  # the same step of the same run: exact resume makes it the same checkpoint
    try:
        shutil.rmtree(tmp, ignore_errors=True)
        tmp.mkdir(parents=True)
        backend.save(tmp)
        _write_rows(tmp / BUFFER_FILE, buffer_rows)
        hashes = {f.name: _sha256(f) for f in sorted(tmp.iterdir())}
        text = json.dumps({**state, "step": step, "sha256": hashes}, indent=1)
        (tmp / STATE_FILE).write_text(text, encoding="utf-8")
        for file in [*tmp.iterdir(), tmp]:
            _fsync(file)
        shutil.rmtree(final, ignore_errors=True)
        tmp.rename(final)
        _fsync(final.parent)
        _point(run_dir / NEWEST, final)
    except OSError as e:
        shutil.rmtree(tmp, ignore_errors=True)
        raise AzrError(
            f"checkpoint {final}: {e.strerror or e}: earlier ones are untouched; "
            f"mend that (free disk, permissions) and use --resume {run_dir}"
        ) from e
    return final


def load_state(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(state, buffer rows) of a checkpoint whose files all have the hashes they were written with.

    Raises:
        CheckpointError: a file is missing, cut or changed.
    """
    problem = damage(path)
    if problem:
        raise CheckpointError(f"checkpoint {path}: {problem}; {_advice(path)}")
    state = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
    with gzip.open(path / BUFFER_FILE, "rt", encoding="utf-8") as f:
        return state, [json.loads(line) for line in f]


def damage(path: Path) -> str:
    """What is wrong with a checkpoint, in a few words; "" if nothing is."""
    try:
        hashes = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))["sha256"]
    except FileNotFoundError:
        return f"{STATE_FILE} is missing"
    except (ValueError, KeyError, TypeError):
        return f"{STATE_FILE} is damaged"
    for name, digest in hashes.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if _sha256(path / name) != digest:
            return f"{name} is damaged (its sha256 is not the one recorded)"
    return ""


def set_aside(run_dir: Path, resumed: Path) -> None:
    """Move the checkpoints and rollouts past ``resumed`` into ``set_aside`` folders: they are of a
    branch that is left, and must be taken neither for the newest nor for this one's."""
    past = [p for p in steps(run_dir) if p.name > resumed.name]
    past += [p for p in (run_dir / "rollouts").glob("step_*.jsonl") if p.stem > resumed.name]
    for path in past:
        aside = path.parent / "set_aside"
        aside.mkdir(exist_ok=True)
        target = aside / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)
    _point(run_dir / NEWEST, resumed)


def record(run_dir: Path, **entries: Any) -> None:
    """Set entries of ``run.json``, whole or not at all."""
    file = run_dir / RUN_FILE
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    fresh = file.with_suffix(".tmp")
    fresh.write_text(json.dumps({**known, **entries}, indent=1) + "\n", encoding="utf-8")
    fresh.replace(file)


def recorded(run_dir: Path, name: str) -> Any:
    """An entry of ``run.json``; None where there is none."""
    file = run_dir / RUN_FILE
    return json.loads(file.read_text(encoding="utf-8")).get(name) if file.exists() else None


def steps(run_dir: Path) -> list[Path]:
    """The run's checkpoint folders, oldest first."""
    return sorted(p for p in (run_dir / FOLDER).glob("step_*") if p.is_dir() and p.suffix != ".tmp")


def folder(run_dir: Path, step: int) -> Path:
    """Where the checkpoint of a step is, if there is one."""
    return run_dir / FOLDER / f"step_{step:06d}"


def prune(run_dir: Path, keep: int, best: int | None = None) -> None:
    """Delete all but the newest ``keep`` checkpoints (0 keeps all) and that of step ``best``, and
    what a kill left half-written."""
    for path in (run_dir / FOLDER).glob("*.tmp"):
        shutil.rmtree(path)
    if keep > 0:
        for path in steps(run_dir)[:-keep]:
            if best is None or path != folder(run_dir, best):
                shutil.rmtree(path)


def mark_best(run_dir: Path, step: int | None) -> bool:
    """Point ``best`` at the checkpoint of ``step``; without one there is no such link. Returns
    whether there is."""
    target = None if step is None else folder(run_dir, step)
    if target is None or not target.is_dir():
        (run_dir / BEST).unlink(missing_ok=True)
        return False
    _point(run_dir / BEST, target)
    return True


def find(where: str, output_dir: Path) -> tuple[Path, Path]:
    """(run folder, checkpoint) for ``--resume``: a run's folder, a checkpoint's, or ``latest``.

    Raises:
        CheckpointError: there is none.
    """
    if where == "latest":
        runs = [p for p in output_dir.glob("*") if steps(p)]
        if not runs:
            raise CheckpointError(
                f"--resume latest: no run with a checkpoint in {output_dir}/; train first"
            )
        run = max(runs, key=lambda p: steps(p)[-1].stat().st_mtime_ns)
        return run, steps(run)[-1]
    path = Path(where)
    if (path / STATE_FILE).exists() or path.parent.name == FOLDER:
        if not path.is_dir():
            raise CheckpointError(f"--resume {where}: no such checkpoint; {_advice(path)}")
        return path.parent.parent, path
    if steps(path):
        return path, steps(path)[-1]
    raise CheckpointError(
        f"--resume {where}: neither a run with checkpoints nor a checkpoint; give runs/NAME"
    )


def _advice(bad: Path) -> str:
    good = [p for p in steps(bad.parent.parent) if p != bad and p.name < bad.name and not damage(p)]
    return (
        f"the previous good one is {good[-1]}: use --resume {good[-1]}"
        if good
        else "no earlier one is good"
    )


def _write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as f:
        f.writelines(json.dumps(row).encode() + b"\n" for row in rows)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _point(link: Path, target: Path) -> None:
    """Make ``link`` a relative symbolic link to ``target``, in one step."""
    fresh = link.with_name(f".{link.name}.tmp")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(os.path.relpath(target, link.parent))
    fresh.replace(link)
