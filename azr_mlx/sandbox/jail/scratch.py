"""The scratch directory of jobs, which is emptied after each job. Standard library only."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

import namespaces  # type: ignore[import-not-found]

if TYPE_CHECKING:
    from zygote import Setting  # type: ignore[import-not-found]


def make(setting: Setting) -> None:
    """Make the scratch directory, which jobs use one after another. It is a file system in
    namespaces of its own, otherwise a folder.
    """
    if setting.namespaced:
        namespaces.mount_scratch()
        setting.scratch_ctime = os.stat(setting.scratch).st_ctime_ns
    else:
        os.mkdir(setting.scratch, 0o700)
        if setting.uid != os.geteuid():
            os.chown(setting.scratch, setting.uid, setting.uid)


def clear(setting: Setting) -> None:
    """Remove what a job left: files, and changed modes or attributes."""
    if setting.namespaced:
        if os.stat(setting.scratch).st_ctime_ns != setting.scratch_ctime:
            namespaces.unmount(setting.scratch)
            make(setting)
    elif setting.on_linux:  # jobs can neither move nor change the folder itself
        for entry in list(os.scandir(setting.scratch)):
            _discard(entry.path)
    else:
        _discard(setting.scratch)
        make(setting)


def _discard(path: str) -> None:
    """Remove whatever is there, but nothing that a symbolic link leads to."""
    try:
        folder = stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    if folder:
        remove(path)
    else:
        _unlock(path)
        os.unlink(path)


def remove(top: str) -> None:
    """Remove a tree of any depth and with any modes. Deeper entries are first moved up, so that
    paths stay short, to names that no job can have foreseen.
    """
    moved, own = 0, os.urandom(8).hex()
    while True:
        try:
            _open_up(top)
            entries = list(os.scandir(top))
        except FileNotFoundError:
            return
        if not entries:
            os.rmdir(top)
            return
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                _unlock(entry.path)
                os.unlink(entry.path)
                continue
            _open_up(entry.path)
            for inner in list(os.scandir(entry.path)):
                moved += 1
                if stat.S_ISDIR(os.lstat(inner.path).st_mode):
                    _open_up(inner.path)
                else:
                    _unlock(inner.path)
                os.rename(inner.path, os.path.join(top, f".{own}.{moved}"))
            os.rmdir(entry.path)


def _open_up(folder: str) -> None:
    _unlock(folder)
    os.chmod(folder, 0o700)


# Files can be locked against their owner (macOS, BSD); Linux has no such call.
_set_flags: Any = getattr(os, "lchflags", None)


def _unlock(path: str) -> None:
    if _set_flags is not None:
        _set_flags(path, 0)
