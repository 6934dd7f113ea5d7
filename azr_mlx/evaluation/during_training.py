"""Evaluation while a model trains: two halves of a bounded subset, one to select by, one to report.

The best of many checkpoints looks better on the tasks that it was chosen by than it is. So the
choice is made on one half of the tasks and the other half says what it is worth.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from azr_mlx.backends.base import Backend
from azr_mlx.config import Config
from azr_mlx.evaluation.benchmarks import Benchmark
from azr_mlx.evaluation.protocol import MAX_TOKENS, Settings
from azr_mlx.evaluation.sampling import Evaluation
from azr_mlx.evaluation.store import Store
from azr_mlx.sandbox import Sandbox


class TrainingEvaluation:
    """Calling it evaluates what the backend now is, and returns the metrics of the step."""

    def __init__(
        self, config: Config, loaded: Sequence[Benchmark], backend: Backend, sandbox: Sandbox
    ) -> None:
        """Raises UsageError, before the first step, if something would fail at the first
        evaluation.
        """
        self.pairs = [
            tuple(Evaluation(backend, b, s, sandbox) for s in _halves(config)) for b in loaded
        ]

    def __call__(self, step: int) -> dict[str, float]:
        """pass@1 of each benchmark on both halves, and the mean that checkpoints are selected by.

        Greedy, or with keys that are the same at every step: what differs is the model.
        """
        row: dict[str, float] = {}
        chosen_by: list[float] = []
        for selection, report in self.pairs:
            name = re.sub(r"\W", "_", report.protocol.benchmark)
            chosen_by.append(selection.run(Store()).pass_at[1].value)
            row[f"eval/{name}_selection_pass_at_1"] = chosen_by[-1]
            row[f"eval/{name}_pass_at_1"] = report.run(Store()).pass_at[1].value
        return row | {"eval/selection": sum(chosen_by) / len(chosen_by)}


def _halves(config: Config) -> tuple[Settings, Settings]:
    """Settings of the selection and of the report half, of about as many tasks. A benchmark's
    problems have longer answers than the tasks of a run that asks a small model."""
    e, most = config.evaluation, config.evaluation.max_tasks_per_benchmark
    selection = Settings(
        num_samples=e.num_samples,
        temperature=0.0 if e.num_samples == 1 else config.rollout.temperature,
        max_tokens=max(config.rollout.max_solve_tokens, MAX_TOKENS),
        limit=most // 2,
        split="selection",
        seed=config.seed,
        thinking=config.rollout.thinks,
    )
    return selection, replace(selection, split="report", limit=most - most // 2)
