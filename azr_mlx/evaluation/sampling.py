"""Samples from a model: asked for in batches, graded while others are decoded, kept as they are."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from azr_mlx import rng
from azr_mlx.backends.base import Backend, Policy
from azr_mlx.errors import UsageError
from azr_mlx.evaluation import protocol
from azr_mlx.evaluation.asking import asking_for
from azr_mlx.evaluation.benchmarks import Benchmark, Problem, ProblemCheck
from azr_mlx.evaluation.progress import Reporter, Silent
from azr_mlx.evaluation.protocol import Extent, Settings, Subject
from azr_mlx.evaluation.result import BenchmarkResult, Sample, by_task
from azr_mlx.evaluation.store import Store
from azr_mlx.evaluation.strategies import sequence
from azr_mlx.interrupts import Interrupts
from azr_mlx.sandbox import Sandbox
from azr_mlx.selfplay.answering import Answering, Asked, Judged
from azr_mlx.types import Prompt

ROWS = 1024  # samples that are asked for together: at the end of each such set few rows are decoded


@dataclass(frozen=True, slots=True)
class Wanted:
    """A sample to be made: the ``number``-th of a problem, which is the ``place``-th of all."""

    problem: Problem
    place: int
    number: int

    @property
    def key(self) -> tuple[str, int]:
        return self.problem.id, self.number


class Evaluation:
    """One benchmark, evaluated on one model by one protocol.

    ``policy`` "reference" is the model with its adapters off; ``subject`` only names it.
    """

    def __init__(
        self,
        backend: Backend,
        benchmark: Benchmark,
        settings: Settings,
        sandbox: Sandbox,
        *,
        subject: Subject | None = None,
        policy: Policy = "current",
        progress: Reporter | None = None,
    ) -> None:
        """Raises UsageError if the settings make no sense, or ask for a chat template that the
        model does not have.
        """
        settings.check()
        self.backend, self.benchmark, self.sandbox = backend, benchmark, sandbox
        self.settings, self.policy = settings, policy
        self.progress = progress or Silent()
        subject = subject or Subject()
        self.asking = asking_for(settings, benchmark, backend, subject.model)
        self.problems, subset = settings.choose(self.asking.problems(benchmark))
        if not self.problems:
            raise UsageError(f"--split {settings.split}: no task of {benchmark.spec.name} is in it")
        self.protocol = protocol.of_model(
            benchmark,
            settings,
            self.asking.described(),
            subject,
            Extent(subset, len(self.problems)),
        )

    def run(self, store: Store, interrupts: Interrupts | None = None) -> BenchmarkResult:
        """Make the samples that the store lacks, and return the figures.

        Raises:
            KeyboardInterrupt: ``interrupts`` were asked for; what was complete is in the store.
        """
        began = time.monotonic()
        wanted = self._wanted()
        lacking = [w for w in wanted if w.key not in store.samples]
        label = self.benchmark.spec.name + (" (base)" if self.policy == "reference" else "")
        self.progress.start(label, len(wanted), len(wanted) - len(lacking))
        for at in range(0, len(lacking), ROWS):
            _Chunk(self, store, interrupts).run(lacking[at : at + ROWS])
            self.progress.chunk()
        samples = [store.samples[w.key] for w in wanted]
        result = BenchmarkResult(
            protocol=self.protocol,
            tasks=by_task(self.problems, samples),
            ks=self.settings.ks,
            excluded=self.benchmark.excluded,
            missing=(),
            isolation=self.sandbox.isolation,
            source=self.benchmark.source,
            seconds=time.monotonic() - began,
            generated=len(lacking),
            folder="" if store.folder is None else str(store.folder),
        )
        store.finish(result.to_json())
        return result

    def _wanted(self) -> list[Wanted]:
        place = {p.id: i for i, p in enumerate(self.benchmark.problems)}
        numbers = range(self.settings.num_samples)
        return [Wanted(p, place[p.id], j) for p in self.problems for j in numbers]

    def sampling_key(self, wanted: Wanted, strategy: str) -> int:
        """Depends on the task's place, the sample's number and the strategy: not on ``limit``, the
        chunk, or what else is made.
        """
        stream = f"eval/{self.benchmark.spec.name}"
        stream += "" if strategy == "direct" else f"/{strategy}"
        return rng.key(self.settings.seed, stream, 0, wanted.place, wanted.number)


class _Chunk:
    """Samples that are asked for together, strategy after strategy."""

    def __init__(self, evaluation: Evaluation, store: Store, interrupts: Interrupts | None) -> None:
        self.of, self.store, self.interrupts = evaluation, store, interrupts
        self.strategies = sequence(evaluation.settings.strategy)

    def run(self, wanted: Sequence[Wanted]) -> None:
        for turn, strategy in enumerate(self.strategies):
            due = [w for w in wanted if w.key not in self.store.samples and self._tries(w) == turn]
            if due:
                self._ask(due, strategy)

    def _tries(self, wanted: Wanted) -> int:
        return len(self.store.tries.get(wanted.key, ()))

    def _ask(self, due: Sequence[Wanted], strategy: str) -> None:
        """Generate one completion of each; grade them meanwhile. After Ctrl-C those that are
        complete are still graded.
        """
        of = self.of
        prompts = {w.problem.id: of.asking.prompt(w.problem, strategy) for w in due}
        asked = [self._asked(w, strategy, prompts[w.problem.id]) for w in due]

        def keep(index: int, judged: Judged) -> None:
            self._keep(due[index], strategy, judged)

        with Answering(
            of.backend, of.sandbox, asked, policy=of.policy, on_judged=keep
        ) as answering:
            try:
                answering.write(self._check_interrupts)
            except KeyboardInterrupt:
                answering.judged()
                raise
            answering.judged()

    def _asked(self, wanted: Wanted, strategy: str, prompt: Prompt) -> Asked:
        of, problem = self.of, wanted.problem
        key, checks = of.sampling_key(wanted, strategy), self._checks(problem, strategy)
        read = partial(of.asking.read, problem)
        return Asked(prompt, of.settings.sampling, key, read, checks)

    def _checks(self, problem: Problem, strategy: str) -> tuple[ProblemCheck, ...]:
        """The visible tests come first if another strategy could follow."""
        another, check = strategy != self.strategies[-1], self.of.asking.check(problem)
        shown = problem.visible if another else None
        return (check,) if shown is None else (shown, check)

    def _check_interrupts(self, ended: int) -> None:
        if self.interrupts is not None:
            self.interrupts.check()

    def _keep(self, wanted: Wanted, strategy: str, judged: Judged) -> None:
        """Keep what the graded tests say. What failed the visible ones alone lets another strategy
        try.
        """
        text = self.of.asking.kept(wanted.problem, judged)
        shown = len(self._checks(wanted.problem, strategy)) > 1
        if shown and len(judged.grades) == 1:
            self.store.reject(*wanted.key, strategy, text)
            return
        visible, finish = True if shown else None, judged.completion.finish
        self.store.add(Sample(*wanted.key, text, judged.grades[-1], strategy, visible, finish))
        self.of.progress.advance()
