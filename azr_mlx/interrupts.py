"""Ctrl-C that waits for a safe moment, so that finished work is kept and no file is
half-written."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from azr_mlx.errors import Interrupted

# A progress bar hides the cursor; a process that exits at once must show it again itself.
_SHOW_CURSOR = "\x1b[?25h"
_END = 0  # no signal has this number
# Seconds within which a second SIGINT is the same key: a launcher may pass on what we got as well.
_AGAIN = 0.3


class Interrupts:
    """Within the block the first Ctrl-C only sets ``asked``. KeyboardInterrupt is raised at the
    next ``check``, or at once inside an ``allowed`` block. A second Ctrl-C ends the process.
    ``tell`` is called when the first one comes, on another thread, and at most once.

    Outside the main thread, where Python delivers no signals, nothing is changed.
    """

    def __init__(self, tell: Callable[[], None] | None = None) -> None:
        self.shielded, self.asked = True, False
        self._tell, self._stack = tell, contextlib.ExitStack()

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            previous = signal.signal(signal.SIGINT, self._on_signal)
            self._stack.callback(signal.signal, signal.SIGINT, previous)
            if self._tell is not None:
                self._stack.enter_context(_told_at_once(self._tell))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

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
            _end()
        self.asked = True
        if not self.shielded:
            raise KeyboardInterrupt


def _end() -> None:
    """End the process as it is."""
    if sys.stderr.isatty():
        sys.stderr.write(_SHOW_CURSOR)
        sys.stderr.flush()
    os._exit(Interrupted.exit_code)


@contextlib.contextmanager
def _told_at_once(tell: Callable[[], None]) -> Iterator[None]:
    """Within the block ``tell`` is called when Ctrl-C is pressed, and the process ended when it is
    pressed again, even while the main thread is in a library. Python runs signal handlers only when
    such a call returns, and an update of a model is one of several seconds; but it writes the
    signal's number to a file at once."""
    heard, written = os.pipe()
    os.set_blocking(written, False)
    previous = signal.set_wakeup_fd(written, warn_on_full_buffer=False)
    listener = threading.Thread(target=_listen, args=(heard, tell), daemon=True)
    listener.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        os.write(written, bytes([_END]))
        listener.join()
        os.close(written)
        os.close(heard)


def _listen(heard: int, tell: Callable[[], None]) -> None:
    """Act on each SIGINT until the block ends."""
    first = None
    while (number := os.read(heard, 1)[0]) != _END:
        if number != signal.SIGINT:
            continue
        if first is None:
            first = time.monotonic()
            tell()
        elif time.monotonic() - first > _AGAIN:
            _end()
