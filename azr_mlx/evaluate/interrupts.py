"""Ctrl-C while samples are made: what is complete is graded and kept first."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

from azr_mlx.errors import Interrupted


class Interrupts:
    """Within the block Ctrl-C only asks, and ``check`` raises KeyboardInterrupt at a safe place. A
    second Ctrl-C leaves at once.

    Outside the main thread, where Python delivers no signals, nothing is changed.
    """

    def __init__(self) -> None:
        self.asked = False
        self._previous: Any = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def check(self) -> None:
        """Raise KeyboardInterrupt where Ctrl-C was pressed."""
        if self.asked:
            raise KeyboardInterrupt

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            os._exit(Interrupted.exit_code)
        self.asked = True
