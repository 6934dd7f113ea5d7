"""Two results on the same tasks, side by side, with the difference and its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from azr_mlx import rng
from azr_mlx.errors import UsageError
from azr_mlx.evaluation.result import BenchmarkResult, TaskResult, scores
from azr_mlx.evaluation.statistics import Estimate, difference, mcnemar


@dataclass(frozen=True, slots=True)
class Comparison:
    """``after`` against ``before``: the difference of each figure, in the unit of the figures.

    ``gained`` tasks pass only after and ``lost`` ones only before, with McNemar's ``p_value``; None
    if tasks have several samples, whose figures are not just yes or no.
    """

    before: BenchmarkResult
    after: BenchmarkResult
    differences: dict[str, Estimate]
    gained: tuple[str, ...] | None
    lost: tuple[str, ...] | None
    p_value: float | None

    def lines(self) -> list[str]:
        """One row per figure: after, before, difference."""
        lines = []
        for name, gap in self.differences.items():
            after, before = self.after.figures[name], self.before.figures[name]
            lines.append(
                f"{self.after.name} {name}: {_interval(after)} with the adapters, "
                f"{_interval(before)} without"
            )
            lines.append(f"  {_gap(gap, len(self.after.tasks))}")
        if self.gained is not None and self.lost is not None:
            lines.append(
                f"  {len(self.gained)} tasks gained, {len(self.lost)} lost; "
                f"McNemar's exact test: p = {self.p_value:.2g}"
            )
        return lines

    def to_json(self) -> dict[str, Any]:
        return {
            "benchmark": self.after.name,
            "differences": {name: asdict(gap) for name, gap in self.differences.items()},
            "gained": self.gained,
            "lost": self.lost,
            "p_value": self.p_value,
        }


def compare(before: BenchmarkResult, after: BenchmarkResult) -> Comparison:
    """Both results must be of the same tasks by the same protocol, adapters aside.

    Raises:
        UsageError: they are not; the difference is named.
    """
    differ = before.protocol.differences(after.protocol)
    if differ:
        name, (one, other) = next(iter(differ.items()))
        raise UsageError(
            f"comparison of {after.name}: {name} is {one!r} in one and {other!r} in the other; "
            "only results of the same protocol can be compared"
        )
    if [t.id for t in before.tasks] != [t.id for t in after.tasks]:
        raise UsageError(f"comparison of {after.name}: the tasks are not the same ones")
    seed = after.protocol.seed or 0
    gaps = {}
    for name in after.figures:
        if name in before.figures:
            draw = rng.generator(seed, f"bootstrap/{after.name}/{name}", 0)
            gaps[name] = difference(scores(before.tasks, name), scores(after.tasks, name), draw)
    if after.protocol.samples_per_task != 1:
        return Comparison(before, after, gaps, None, None, None)
    gained, lost = _changed(before.tasks, after.tasks), _changed(after.tasks, before.tasks)
    return Comparison(before, after, gaps, gained, lost, mcnemar(len(gained), len(lost)))


def _changed(without: Sequence[TaskResult], having: Sequence[TaskResult]) -> tuple[str, ...]:
    """The tasks that pass only in ``having``."""
    pairs = zip(without, having, strict=True)
    return tuple(b.id for a, b in pairs if b.passed and not a.passed)


def _interval(e: Estimate) -> str:
    return f"{e.value:.1%} ({e.low:.1%} to {e.high:.1%})"


def _gap(gap: Estimate, tasks: int) -> str:
    return (
        f"difference {100 * gap.value:+.1f} points (95 % interval {100 * gap.low:+.1f} to "
        f"{100 * gap.high:+.1f}: paired bootstrap over {tasks} tasks)"
    )
