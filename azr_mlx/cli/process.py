"""The process that a command runs in: how it starts, and the codes it can end with."""

from __future__ import annotations

import importlib.util

from azr_mlx.cli.output import say
from azr_mlx.errors import Interrupted

FAILED, USAGE, CHECK_FAILED, INTERRUPTED = 1, 2, 3, Interrupted.exit_code  # exit codes

own = False  # whether this process ends with this command


def start(backend: str = "") -> None:
    """Load a fast BLAS, before MLX is imported and binds to the BLAS that it finds. A command that
    runs on one backend only names it, and ends here if it is not installed."""
    from azr_mlx.backends import select

    if own:
        select.own_process()
    _load_blas()
    if backend:
        select.choose(backend)


def _load_blas() -> None:
    from azr_mlx.backends import blas

    if importlib.util.find_spec("mlx") is None:
        return
    info = blas.enable()
    if not info.fast:
        say(f"azr-mlx: warning: MLX runs on a slow BLAS ({info.reason}); {info.fix}")
