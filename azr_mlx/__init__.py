"""azr-mlx: a small language model teaches itself to reason about code, on the owner's own machine.

    from azr_mlx import Job, Sandbox, TaskProposer, TaskSolver, load_config

These names are imported when they are first used, so that ``import azr_mlx`` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from azr_mlx.config import load as load_config
    from azr_mlx.sandbox import Job, Sandbox
    from azr_mlx.selfplay.proposer import TaskProposer
    from azr_mlx.selfplay.solver import TaskSolver

__version__ = "0.1.0"
__all__ = ["Job", "Sandbox", "TaskProposer", "TaskSolver", "__version__", "load_config"]

_HOMES = {
    "Job": ("azr_mlx.sandbox", "Job"),
    "Sandbox": ("azr_mlx.sandbox", "Sandbox"),
    "TaskProposer": ("azr_mlx.selfplay.proposer", "TaskProposer"),
    "TaskSolver": ("azr_mlx.selfplay.solver", "TaskSolver"),
    "load_config": ("azr_mlx.config", "load"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
