"""Graded samples, and the figures computed from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from azr_mlx.evaluation.benchmarks import Grade, Problem
from azr_mlx.evaluation.protocol import Protocol
from azr_mlx.evaluation.statistics import Estimate, estimate, pass_at_k
from azr_mlx.types import Status

# The words of the benchmarks for how hard a problem is, the easiest first.
LEVELS = ("easy", "introductory", "medium", "interview", "hard", "competition")
CASES = "test-case average"  # APPS's second metric: the mean share of test cases that pass


@dataclass(frozen=True, slots=True)
class Sample:
    """The ``number``-th completion of a task, how it was asked for, and its verdict.

    ``visible`` says whether it passed the visible tests (None: they were not asked), ``finish``
    "length" that it was cut at the token limit.
    """

    task: str
    number: int
    completion: str
    grade: Grade
    strategy: str = ""
    visible: bool | None = None
    finish: str = ""


@dataclass(frozen=True, slots=True)
class TaskResult:
    """A task's samples, in their order."""

    id: str
    samples: tuple[Sample, ...]
    level: str = ""

    @property
    def statuses(self) -> tuple[Status, ...]:
        return tuple(s.grade.status for s in self.samples)

    @property
    def passed(self) -> int:
        return sum(s is Status.PASS for s in self.statuses)

    @property
    def share(self) -> float:
        """The mean share of test cases that its samples pass."""
        return sum(s.grade.share for s in self.samples) / len(self.samples)

    def pass_at(self, k: int) -> float:
        return pass_at_k(len(self.samples), self.passed, k)


def by_task(problems: Sequence[Problem], samples: Iterable[Sample]) -> tuple[TaskResult, ...]:
    """The samples of each problem that has any, in the problems' and their own order."""
    grouped: dict[str, list[Sample]] = {}
    for sample in samples:
        grouped.setdefault(sample.task, []).append(sample)
    return tuple(
        TaskResult(p.id, tuple(sorted(grouped[p.id], key=lambda s: s.number)), p.level)
        for p in problems
        if p.id in grouped
    )


def scores(tasks: Sequence[TaskResult], figure: str) -> list[float]:
    """Each task's own value of a figure: ``pass@K`` or ``CASES``."""
    if figure == CASES:
        return [t.share for t in tasks]
    k = int(figure.removeprefix("pass@"))
    return [t.pass_at(k) for t in tasks]


def figures(tasks: Sequence[TaskResult], ks: Sequence[int]) -> dict[str, Estimate]:
    """pass@k for each k, with its interval; where problems have levels, the test-case average."""
    samples = sum(len(t.samples) for t in tasks)
    names = [f"pass@{k}" for k in sorted(set(ks))]
    if any(t.level for t in tasks):
        names.append(CASES)
    return {name: estimate(scores(tasks, name), samples) for name in names}


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """One benchmark's figures.

    ``excluded`` problems have no usable tests and ``missing`` ones have no sample: no figure counts
    them. Samples that were made elsewhere may have ``unknown`` ids, of no task of the benchmarks
    that were asked for: they are told with the last one. ``generated`` samples were made in this
    session, the others were on disk; ``folder`` holds them.
    """

    protocol: Protocol
    tasks: tuple[TaskResult, ...]
    ks: tuple[int, ...]
    excluded: tuple[str, ...]
    missing: tuple[str, ...]
    isolation: str
    source: str
    seconds: float
    generated: int = 0
    folder: str = ""
    unknown: tuple[str, ...] = ()
    figures: dict[str, Estimate] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "figures", figures(self.tasks, self.ks))

    @property
    def name(self) -> str:
        return self.protocol.benchmark

    @property
    def samples(self) -> list[Sample]:
        return [s for task in self.tasks for s in task.samples]

    @property
    def pass_at(self) -> dict[int, Estimate]:
        return {k: self.figures[f"pass@{k}"] for k in sorted(set(self.ks))}

    @property
    def levels(self) -> dict[str, tuple[TaskResult, ...]]:
        """The tasks by level, if there is more than one; the easiest first."""
        names = sorted(dict.fromkeys(t.level for t in self.tasks), key=_rank)
        found = {n: tuple(t for t in self.tasks if t.level == n) for n in names}
        return found if len(found) > 1 else {}

    @property
    def statuses(self) -> dict[str, int]:
        """How many samples got each verdict."""
        return dict(Counter(s.grade.status.value for s in self.samples).most_common())

    @property
    def strategies(self) -> dict[str, int]:
        """How many samples each strategy made."""
        return dict(Counter(s.strategy for s in self.samples if s.strategy).most_common())

    @property
    def truncated(self) -> int:
        return sum(s.finish == "length" for s in self.samples)

    def lines(self) -> list[str]:
        """The result for people: the figures, what they do not count, and how they were got."""
        shown = [f"{self.name} {shown_figure(n, e)}" for n, e in self.figures.items()]
        for level, tasks in self.levels.items():
            shown += [
                f"  {level} ({len(tasks)} tasks): {shown_figure(n, e)}"
                for n, e in figures(tasks, self.ks).items()
            ]
        return [*shown, *self._counts(), *self._means()]

    def _counts(self) -> list[str]:
        left_out = [(self.excluded, "without usable tests"), (self.missing, "without a sample")]
        counted = [f"{self.protocol.tasks} tasks ({self.protocol.subset})"]
        counted += [f"{len(ids)} {why} left out" for ids, why in left_out if ids]
        verdicts = ", ".join(f"{count} {status}" for status, count in self.statuses.items())
        lines = [f"  {'; '.join(counted)}; verdicts: {verdicts}"]
        if self.unknown:
            shown = ", ".join(map(repr, self.unknown[:3])) + ", ..." * (len(self.unknown) > 3)
            lines.append(f"  {len(self.unknown)} ids of samples are no task here: {shown}")
        if len(self.strategies) > 1:
            taken = ", ".join(f"{count} {name}" for name, count in self.strategies.items())
            lines.append(f"  strategies taken: {taken}")
        if self.truncated:
            lines.append(
                f"  {self.truncated} of {len(self.samples)} answers were cut at "
                f"{self.protocol.max_tokens} tokens; --max-tokens allows more"
            )
        return lines

    def _means(self) -> list[str]:
        p = self.protocol
        drawn = "" if p.temperature is None else f", temperature {p.temperature}, top-p {p.top_p}"
        asked = f"; strategy {p.strategy}" if p.strategy else ""
        return [
            f"  {p.prompt}{asked}; {p.samples_per_task} a task{drawn}; extraction: {p.extraction}",
            f"  data {self.source}, sha256 {p.data_sha256[:12]}; isolation {self.isolation}",
            *([f"  model {p.model}"] if p.model else []),
            *([f"  adapter {p.adapter}, sha256 {p.adapter_sha256[:12]}"] if p.adapter else []),
            *([f"  samples in {self.folder}"] if self.folder else []),
        ]

    def to_json(self) -> dict[str, Any]:
        levels = {
            level: {"tasks": len(tasks)} | _figures_json(figures(tasks, self.ks))
            for level, tasks in self.levels.items()
        }
        return {
            "benchmark": self.name,
            **_figures_json(self.figures),
            "levels": levels,
            "statuses": self.statuses,
            "strategies": self.strategies,
            "truncated": self.truncated,
            "tasks": {t.id: [s.value for s in t.statuses] for t in self.tasks},
            "protocol": self.protocol.to_json(),
            **{name: getattr(self.protocol, name) for name in ("model", "adapter", "seed")},
            "excluded": list(self.excluded),
            "missing": list(self.missing),
            "unknown": list(self.unknown),
            "isolation": self.isolation,
            "source": self.source,
            "seconds": round(self.seconds, 3),
            "generated": self.generated,
            "folder": self.folder,
        }


def _rank(level: str) -> int:
    return LEVELS.index(level) if level in LEVELS else len(LEVELS)


def shown_figure(name: str, e: Estimate) -> str:
    return f"{name}: {e.value:.1%} (95 % interval {e.low:.1%} to {e.high:.1%})"


def _figures_json(found: dict[str, Estimate]) -> dict[str, Any]:
    """pass@k under its k, as ever; and the test-case average next to it if there is one."""
    at = {n.removeprefix("pass@"): asdict(e) for n, e in found.items() if n != CASES}
    cases = {"test_case_average": asdict(found[CASES])} if CASES in found else {}
    return {"pass_at": at, **cases}
