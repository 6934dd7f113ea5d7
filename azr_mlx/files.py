"""Files and folders that are complete or absent, and JSON lines.

Everything is written under a temporary name in the same folder and renamed at the end. If the
process is killed, the old file or the new one remains, never a part of one.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from azr_mlx.errors import ModelError


def write_whole(path: Path, text: str) -> None:
    """Write a file. Raises OSError, and then leaves the old file as it was."""
    fresh = path.with_name(f".{path.name}.tmp")
    try:
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any, indent: int | None = None) -> None:
    """Write a value as JSON and a newline. Raises OSError, and then leaves the old file."""
    write_whole(path, json.dumps(value, indent=indent) + "\n")


def point(link: Path, target: Path) -> None:
    """Make ``link`` a relative symbolic link to ``target``, in one step."""
    fresh = link.with_name(f".{link.name}.tmp")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(os.path.relpath(target, link.parent))
    fresh.replace(link)


def fsync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def json_lines(rows: Iterable[Any]) -> str:
    """One line of JSON for each row."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a text file, which is decompressed if its name ends in ``.gz``."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
        yield from lines


def read_rows(path: Path) -> Iterator[Any]:
    """The value in each line of a ``.jsonl`` or ``.jsonl.gz`` file.

    Raises OSError, EOFError, zlib.error or ValueError if it cannot be read.
    """
    return map(json.loads, read_lines(path))


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A temporary path at which to make a folder. At the end it is renamed to ``target``, or
    removed if there was an error.

    Temporary folders that a killed process left behind are removed. If another process has made
    ``target`` in the meantime, its folder stays. Raises ModelError if the folder cannot be made.
    """
    work = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(target)
        work.mkdir()  # an error, if any, should come before the work, not after it
        work.rmdir()
    except OSError as error:
        raise ModelError(
            f"folder {str(target)!r} cannot be created: {error.strerror}",
            "choose one that can be written",
        ) from error
    try:
        yield work
        try:
            work.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _remove_stale(target: Path) -> None:
    for path in target.parent.glob("*.tmp"):
        match = re.fullmatch(re.escape(target.name) + r"\.(\d+)\.tmp(\..+)?", path.name)
        if match and (int(match[1]) == os.getpid() or not _alive(int(match[1]))):
            shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
