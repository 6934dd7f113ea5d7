"""``azr-mlx push``: what was trained, on the Hugging Face hub. ``folder`` makes the folder that is
published, ``card`` its card from ``figures`` and ``licence``, and ``upload`` sends it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from azr_mlx import run_folder
from azr_mlx.commands.cards import CARD
from azr_mlx.commands.push.folder import FORMATS, FUSED, WHAT, Filled, Wanted, fill
from azr_mlx.commands.push.upload import check_login, check_name, upload
from azr_mlx.errors import UsageError
from azr_mlx.files import scratch_folder, whole_folder
from azr_mlx.text import storage

__all__ = ["Wanted", "push", "write"]

SCRATCH = "push"  # the folder that is made in the run's, and removed when it has been sent


def push(wanted: Wanted, say: Callable[[str], None]) -> str:
    """Publish it; returns the repository's address. ``say`` is told what is sent.

    Raises AzrError, and leaves nothing here.
    """
    run = _checked(wanted)
    check_login(wanted.to)
    with scratch_folder(run / SCRATCH) as work:
        filled = fill(wanted, work, online=True)
        _tell(filled, work, say)
        return upload(wanted, work, filled)


def write(wanted: Wanted, out: Path | None, say: Callable[[str], None]) -> Path:
    """Write what would be published to the new folder ``out``, or one with the repository's name,
    completely or not at all, and without the network. Returns the folder.

    Raises AzrError.
    """
    _checked(wanted)
    folder = Path(wanted.to.rpartition("/")[2]) if out is None else out
    if os.path.lexists(folder):
        raise UsageError(f"--out {folder}: already exists; name another folder or remove it")
    with whole_folder(folder) as work:
        filled = fill(wanted, work, online=False)
        _tell(filled, work, say)
    say(f"written, and nothing sent: look at {folder / CARD}, then leave out --dry-run")
    return folder


def _checked(wanted: Wanted) -> Path:
    """The run's folder. Raises UsageError, before anything is made, if it cannot be published."""
    if wanted.what not in WHAT:
        raise UsageError(f"--what {wanted.what}: unknown; take {', '.join(WHAT)}")
    if wanted.format not in (None, *FORMATS):
        raise UsageError(f"--format {wanted.format}: unknown; take {' or '.join(FORMATS)}")
    if wanted.format and wanted.what != FUSED:
        raise UsageError(f"--format: only for --what {FUSED}; leave it out, or add that")
    check_name(wanted.to)
    run, _ = run_folder.find(wanted.run, Path(run_folder.OUTPUT_DIR), "push")
    return run


def _tell(filled: Filled, folder: Path, say: Callable[[str], None]) -> None:
    files = sorted(folder.iterdir())
    names = ", ".join(file.name for file in files)
    say(f"{filled.title}; {storage(sum(file.stat().st_size for file in files))}: {names}")
    for note in filled.notes:
        say(note)
