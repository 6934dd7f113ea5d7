"""Ctrl-C that waits for a safe moment, so that finished work is kept and no file is
half-written."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from azr_mlx.errors import Interrupted

# A progress bar hides the cursor; a process that exits at once must show it again itself.
_SHOW_CURSOR = "\x1b[?25h"


class Interrupts:
    """Within the block the first Ctrl-C only sets ``asked``. KeyboardInterrupt is raised at the
    next ``check``, or at once inside an ``allowed`` block. A second Ctrl-C ends the process.

    Outside the main thread, where Python delivers no signals, nothing is changed.
    """

    def __init__(self) -> None:
        self.shielded, self.asked = True, False
        self._previous: Any = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def check(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed."""
        if self.asked:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def allowed(self) -> Iterator[None]:
        """Within this block, which must be safe to leave at any point, Ctrl-C raises at once."""
        self.check()
        self.shielded = False
        try:
            yield
        finally:
            self.shielded = True

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            if sys.stderr.isatty():
                sys.stderr.write(_SHOW_CURSOR)
                sys.stderr.flush()
            os._exit(Interrupted.exit_code)
        self.asked = True
        if not self.shielded:
            raise KeyboardInterrupt
