"""The user's cache: converted models, libraries that were made ready, and the times of training
steps. It is one folder for all working folders: that of the platform, or the one that
``AZR_MLX_CACHE`` names."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import platformdirs

from azr_mlx.text import storage

VARIABLE = "AZR_MLX_CACHE"
# What belongs to the cache. Whatever else is in the folder is the user's.
_MODEL = re.compile(r".+-[0-9a-f]{12}(\.\d+\.tmp.*)?")
_LIBRARY = re.compile(r"libopenblas-[0-9a-f]+\.so")
_STEP_TIMES = "step_times.json"


class Entry(NamedTuple):
    """A file or folder of the cache, and its size in bytes. What it only links to is not
    counted."""

    path: Path
    size: int


def folder() -> Path:
    named = os.environ.get(VARIABLE)
    if named:
        return Path(os.path.expanduser(named)).absolute()
    return platformdirs.user_cache_path("azr-mlx", appauthor=False)


def models() -> Path:
    """The folder of converted models."""
    return folder() / "models"


def step_times() -> Path:
    """The file of how long training steps took."""
    return folder() / _STEP_TIMES


def entries() -> list[Entry]:
    """Everything in the cache, the largest first."""
    found = [*_matching(models(), _MODEL), *_matching(folder(), _LIBRARY)]
    found += [step_times()] if step_times().is_file() else []
    return sorted((Entry(path, _size(path)) for path in found), key=lambda one: -one.size)


def clear() -> list[Entry]:
    """Remove everything in the cache, and return what it was. Raises OSError."""
    found = entries()
    for path, _ in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return found


def describe() -> str:
    """The cache's folder and size in one line."""
    return f"{folder()} ({storage(sum(size for _, size in entries()))})"


def _matching(place: Path, pattern: re.Pattern[str]) -> Iterator[Path]:
    if place.is_dir():
        yield from (path for path in place.iterdir() if pattern.fullmatch(path.name))


def _size(path: Path) -> int:
    below = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    return sum(file.lstat().st_size for file in below if not file.is_symlink() and file.is_file())
