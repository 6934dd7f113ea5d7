"""azr-mlx: a small language model teaches itself to reason about code, on the owner's own machine.

    from azr_mlx import Job, Sandbox, TaskProposer, TaskSolver, load_config

Plug-ins (docs/plug-ins.md) take the other names of ``__all__`` from here.

These names are imported when they are first used, so that ``import azr_mlx`` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from azr_mlx.config import load as load_config
    from azr_mlx.evaluation.benchmarks.problem import AssertCheck, Problem
    from azr_mlx.sandbox import Job, Sandbox
    from azr_mlx.selfplay.proposer import TaskProposer
    from azr_mlx.selfplay.rewards import ValidProposal
    from azr_mlx.selfplay.solver import TaskSolver
    from azr_mlx.tasks.parse import Proposal
    from azr_mlx.types import Status, Task, TaskKind, Verdict

__version__ = "0.1.0"
__all__ = [
    "AssertCheck",
    "Job",
    "Problem",
    "Proposal",
    "Sandbox",
    "Status",
    "Task",
    "TaskKind",
    "TaskProposer",
    "TaskSolver",
    "ValidProposal",
    "Verdict",
    "__version__",
    "load_config",
]

_HOMES = {
    "AssertCheck": ("azr_mlx.evaluation.benchmarks.problem", "AssertCheck"),
    "Job": ("azr_mlx.sandbox", "Job"),
    "Problem": ("azr_mlx.evaluation.benchmarks.problem", "Problem"),
    "Proposal": ("azr_mlx.tasks.parse", "Proposal"),
    "Sandbox": ("azr_mlx.sandbox", "Sandbox"),
    "Status": ("azr_mlx.types", "Status"),
    "Task": ("azr_mlx.types", "Task"),
    "TaskKind": ("azr_mlx.types", "TaskKind"),
    "TaskProposer": ("azr_mlx.selfplay.proposer", "TaskProposer"),
    "TaskSolver": ("azr_mlx.selfplay.solver", "TaskSolver"),
    "ValidProposal": ("azr_mlx.selfplay.rewards", "ValidProposal"),
    "Verdict": ("azr_mlx.types", "Verdict"),
    "load_config": ("azr_mlx.config", "load"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
