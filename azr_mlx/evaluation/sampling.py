"""Samples from a model: asked for in batches, graded while others are decoded, kept as they are."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from azr_mlx import rng
from azr_mlx.backends.base import Backend, Policy
from azr_mlx.errors import UsageError
from azr_mlx.evaluation import benchmarks, protocol
from azr_mlx.evaluation.benchmarks import Benchmark, Grade, Problem
from azr_mlx.evaluation.grading import Judge
from azr_mlx.evaluation.progress import Reporter, Silent
from azr_mlx.evaluation.protocol import Extent, Settings, Subject
from azr_mlx.evaluation.result import BenchmarkResult, Sample, by_task
from azr_mlx.evaluation.store import Store
from azr_mlx.evaluation.strategies import sequence
from azr_mlx.interrupts import Interrupts
from azr_mlx.sandbox import Sandbox
from azr_mlx.types import Completion, Prompt, Status

ROWS = 256  # samples that are asked for together


@dataclass(frozen=True, slots=True)
class Wanted:
    """A sample to be made: the ``number``-th of a problem, which is the ``place``-th of all."""

    problem: Problem
    place: int
    number: int

    @property
    def key(self) -> tuple[str, int]:
        return self.problem.id, self.number


@dataclass(frozen=True, slots=True)
class Attempt:
    """A completion of a wanted sample: ``text`` is what follows the problem's prefix."""

    wanted: Wanted
    strategy: str
    text: str
    finish: str
    visible: bool | None = None

    @property
    def program(self) -> str:
        return self.wanted.problem.prefix + self.text

    def sample(self, grade: Grade) -> Sample:
        return Sample(*self.wanted.key, self.text, grade, self.strategy, self.visible, self.finish)


Tag = tuple[Attempt, bool]  # an attempt, and whether the visible tests have it


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
        """Raises UsageError where the settings make no sense, or ask for a chat template that the
        model has not.
        """
        settings.check()
        self.backend, self.benchmark, self.sandbox = backend, benchmark, sandbox
        self.settings, self.policy = settings, policy
        self.progress = progress or Silent()
        subject = subject or Subject()
        self.form = protocol.form_for(settings, backend, subject.model)
        self.problems, subset = settings.choose(benchmark.problems)
        if not self.problems:
            raise UsageError(f"--split {settings.split}: no task of {benchmark.spec.name} is in it")
        self.protocol = protocol.of_model(
            benchmark, settings, self.form, subject, Extent(subset, len(self.problems))
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

    def prompt(self, problem: Problem, strategy: str) -> Prompt:
        spec, tokenizer = self.benchmark.spec, self.backend.tokenizer
        return benchmarks.prompt(problem, spec, self.form, tokenizer, strategy)

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
        complete are graded all the same.
        """
        of = self.of
        problems = {w.problem.id: w.problem for w in due}
        prompts = {name: of.prompt(p, strategy) for name, p in problems.items()}
        keys = [of.sampling_key(w, strategy) for w in due]
        with Judge[Tag](of.sandbox) as judge:

            def ended(completions: Sequence[tuple[int, Completion]]) -> None:
                for index, completion in completions:
                    self._submit(judge, self._attempt(due[index], strategy, completion))
                self._take(judge, judge.ready())
                if self.interrupts is not None:
                    self.interrupts.check()

            asked, sampling = (
                [prompts[w.problem.id] for w in due],
                [of.settings.sampling] * len(due),
            )
            try:
                of.backend.generate(asked, sampling, keys, ended, of.policy)
            except KeyboardInterrupt:
                self._take(judge, judge.rest())
                raise
            self._take(judge, judge.rest())

    def _attempt(self, wanted: Wanted, strategy: str, completion: Completion) -> Attempt:
        spec = self.of.benchmark.spec
        text = benchmarks.completion(wanted.problem, spec, self.of.form, completion.text)
        return Attempt(wanted, strategy, text, completion.finish)

    def _submit(self, judge: Judge[Tag], attempt: Attempt) -> None:
        """To the visible tests where another strategy could follow, else to the graded ones."""
        problem = attempt.wanted.problem
        another = attempt.strategy != self.strategies[-1]
        shown = problem.visible if another else None
        judge.submit((attempt, shown is not None), shown or problem.check, attempt.program)

    def _take(self, judge: Judge[Tag], graded: Iterator[tuple[Tag, Grade]]) -> None:
        """Keep what the graded tests say. What passed the visible ones goes on to them; only what
        failed the visible ones lets another strategy try.
        """
        for (attempt, shown), grade in graded:
            passed, problem = grade.status is Status.PASS, attempt.wanted.problem
            if shown and passed:
                judge.submit(
                    (replace(attempt, visible=True), False), problem.check, attempt.program
                )
            elif shown:
                self.store.reject(*attempt.wanted.key, attempt.strategy, attempt.text)
            else:
                self.store.add(attempt.sample(grade))
                self.of.progress.advance()
