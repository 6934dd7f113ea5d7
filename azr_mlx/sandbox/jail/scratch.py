"""The scratch directory of jobs, which is emptied after each job. Standard library only."""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zygote import Setting  # type: ignore[import-not-found]
if sys.platform == "linux":
    import namespaces  # type: ignore[import-not-found]


def make(setting: Setting) -> None:
    """Make the scratch directory, which jobs use one after another. It is a file system with
    ``strong`` isolation, otherwise a folder, which jobs can fill but neither move nor change.
    """
    if setting.strong:
        namespaces.mount_scratch()
        setting.scratch_ctime = os.stat(setting.scratch).st_ctime_ns
    else:
        os.mkdir(setting.scratch, 0o700)
        if setting.uid != os.geteuid():
            os.chown(setting.scratch, setting.uid, setting.uid)


def clear(setting: Setting) -> None:
    """Remove what a job left: files, and changed modes or attributes."""
    if not setting.strong:
        for entry in list(os.scandir(setting.scratch)):
            if entry.is_dir(follow_symlinks=False):
                remove(entry.path)
            else:
                os.unlink(entry.path)
    elif os.stat(setting.scratch).st_ctime_ns != setting.scratch_ctime:
        namespaces.unmount(setting.scratch)
        make(setting)


def remove(top: str) -> None:
    """Remove a tree of any depth and with any modes. Deeper entries are first moved up, so that
    paths stay short.
    """
    moved = 0
    while True:
        try:
            os.chmod(top, 0o700)
            entries = list(os.scandir(top))
        except FileNotFoundError:
            return
        if not entries:
            os.rmdir(top)
            return
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            os.chmod(entry.path, 0o700)
            for inner in list(os.scandir(entry.path)):
                moved += 1
                if stat.S_ISDIR(os.lstat(inner.path).st_mode):
                    os.chmod(inner.path, 0o700)
                os.rename(inner.path, os.path.join(top, f".{os.getpid()}.{moved}"))
            os.rmdir(entry.path)
