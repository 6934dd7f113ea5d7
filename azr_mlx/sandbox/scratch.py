"""The scratch directory of a job: made before it, gone after it. Standard library only."""

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
    """A fresh folder; under ``strong`` there is a file system of its own, empty already."""
    if not setting.strong:
        os.mkdir(setting.scratch, 0o700)
        if setting.uid != os.geteuid():
            os.chown(setting.scratch, setting.uid, setting.uid)


def clear(setting: Setting) -> None:
    """Remove what the job left."""
    if not setting.strong:
        # the folder around it is the job's to write in too, where it runs as the same user
        for entry in list(os.scandir(setting.base)):
            if entry.is_dir(follow_symlinks=False):
                remove(entry.path)
            else:
                os.unlink(entry.path)
    elif os.listdir(setting.scratch):
        namespaces.unmount(setting.scratch)
        namespaces.mount_scratch()


def remove(top: str) -> None:
    """Remove a tree of any depth and any modes: what lies deeper is first moved up, so paths stay
    short.
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
