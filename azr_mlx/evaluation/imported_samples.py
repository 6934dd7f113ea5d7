"""Scores samples that another program made."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from azr_mlx.errors import UsageError
from azr_mlx.evaluation import protocol
from azr_mlx.evaluation.benchmarks import ALWAYS, Benchmark, Window
from azr_mlx.evaluation.progress import Reporter, Silent
from azr_mlx.evaluation.protocol import Extent, Settings
from azr_mlx.evaluation.result import BenchmarkResult, Sample, by_task
from azr_mlx.evaluation.statistics import check_k
from azr_mlx.sandbox import Sandbox
from azr_mlx.tasks.verdicts import Judge


def score_samples(
    benchmark: Benchmark,
    samples: Mapping[str, Sequence[str]],
    sandbox: Sandbox,
    *,
    ks: Sequence[int] = (1,),
    limit: int | None = None,
    split: str = "all",
    window: Window = ALWAYS,
    progress: Reporter | None = None,
) -> BenchmarkResult:
    """Score completions by task id that were made elsewhere, each following its problem's prefix.
    ``window`` is the one that the benchmark was loaded with.

    Raises:
        UsageError: there is none for this benchmark, or k is more than some task has.
    """
    settings = Settings(limit=limit, split=split, window=window)
    settings.check()
    began, progress = time.monotonic(), progress or Silent()
    problems, subset = settings.choose(benchmark.problems)
    present = [p for p in problems if samples.get(p.id)]
    if not present:
        raise UsageError(
            f"--samples: no completion for a task of {benchmark.spec.name} "
            f"(its ids are like {benchmark.problems[0].id!r}); check the file and --benchmark"
        )
    fewest = min(len(samples[p.id]) for p in present)
    for k in ks:
        check_k(k, fewest)
    progress.start(benchmark.spec.name, sum(len(samples[p.id]) for p in present), 0)
    given = {p.id: samples[p.id] for p in present}
    graded = list(_graded(benchmark, given, sandbox, progress))
    progress.chunk()
    return BenchmarkResult(
        protocol=protocol.of_given(benchmark, Extent(subset, len(present)), fewest),
        tasks=by_task(present, graded),
        ks=tuple(ks),
        excluded=benchmark.excluded,
        missing=tuple(p.id for p in problems if not samples.get(p.id)),
        isolation=sandbox.isolation,
        source=benchmark.source,
        seconds=time.monotonic() - began,
    )


def _graded(
    benchmark: Benchmark,
    samples: Mapping[str, Sequence[str]],
    sandbox: Sandbox,
    progress: Reporter,
) -> Iterator[Sample]:
    """All the samples with their verdicts, as these become known."""
    problems = {p.id: p for p in benchmark.problems}
    with Judge[tuple[str, int, str]](sandbox) as judge:
        for name, texts in samples.items():
            for number, text in enumerate(texts):
                problem = problems[name]
                judge.submit((name, number, text), problem.check, problem.program_with(text))
                for tag, grade in judge.ready():
                    progress.advance()
                    yield Sample(*tag, grade)
        for tag, grade in judge.rest():
            progress.advance()
            yield Sample(*tag, grade)
