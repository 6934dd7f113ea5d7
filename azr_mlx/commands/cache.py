"""``azr-mlx cache``: shows the user's cache, and empties it."""

from __future__ import annotations

from typing import Any

from azr_mlx.errors import AzrError
from azr_mlx.models import cache
from azr_mlx.text import storage


def show(*, clear: bool = False) -> dict[str, Any]:
    """The cache's ``path``, ``bytes`` and ``entries``; with ``clear``, what was removed.

    Raises:
        AzrError: something cannot be removed.
    """
    try:
        found = cache.clear() if clear else cache.entries()
    except OSError as error:
        raise AzrError(f"cache: {error.filename}: {error.strerror}; remove it yourself") from error
    rows = [{"path": str(path), "bytes": size} for path, size in found]
    total = sum(one.size for one in found)
    return {"path": str(cache.folder()), "bytes": total, "cleared": clear, "entries": rows}


def lines(shown: dict[str, Any]) -> list[str]:
    """What ``show`` found, for people."""
    what = "removed from" if shown["cleared"] else "in"
    rows = [f"{storage(row['bytes']):>9}  {row['path']}" for row in shown["entries"]]
    return [*rows, f"{storage(shown['bytes'])} {what} {shown['path']}"]
