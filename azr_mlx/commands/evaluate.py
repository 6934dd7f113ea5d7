"""``azr-mlx eval``: brings data, model, sandbox and output folders together."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from azr_mlx.backends.base import Backend, Policy
from azr_mlx.backends.select import choose
from azr_mlx.config import Quantization, SandboxConfig, load_keys, schema
from azr_mlx.errors import Interrupted, UsageError, first_line
from azr_mlx.evaluation import benchmarks, contamination, exports
from azr_mlx.evaluation.benchmarks import Benchmark
from azr_mlx.evaluation.compare import Comparison, compare
from azr_mlx.evaluation.contamination import Contamination
from azr_mlx.evaluation.imported_samples import score_samples
from azr_mlx.evaluation.model import open_model
from azr_mlx.evaluation.progress import Reporter, Silent
from azr_mlx.evaluation.protocol import Settings, Subject
from azr_mlx.evaluation.result import BenchmarkResult
from azr_mlx.evaluation.sampling import Evaluation
from azr_mlx.evaluation.store import Store, read_samples
from azr_mlx.interrupts import Interrupts
from azr_mlx.models.adapters import as_it_is, base_of, place_of_base, quantization_of, read_lora
from azr_mlx.models.template import check_template
from azr_mlx.run_folder import CONFIG_FILE, adapter_folder, run_of
from azr_mlx.sandbox import Sandbox
from azr_mlx.training.memory import kv_room
from azr_mlx.types import Task

EVALS = Path("evals")  # where samples go if --out is not given
BASE = "base"


@dataclass(frozen=True)
class EvalRequest:
    """What the command was asked for.

    ``data`` is one benchmark's file, or a folder with several's. ``samples`` were made elsewhere
    and need no model. ``compare`` "base" runs the same protocol with the adapters off. ``out`` is
    a folder with one for each benchmark in it; without it they are below ``evals/``. ``exported``
    are formats of other projects in which the results are written besides. ``left_open`` names
    settings that nobody chose: see ``as_trained``.
    """

    benchmarks: Sequence[str]
    settings: Settings = field(default_factory=Settings)
    model: str | None = None
    adapter_path: Path | None = None
    data: Path | None = None
    samples: Path | None = None
    compare: str | None = None
    out: Path | None = None
    exported: Sequence[str] = ()
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    quantization: Quantization | None = None  # that of the run, if the adapters belong to one
    backend: str = "auto"
    left_open: Collection[str] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The benchmarks, each once, in the order in which they were asked for."""
        found = [
            name for given in self.benchmarks for name in benchmarks.TOGETHER.get(given, (given,))
        ]
        return tuple(dict.fromkeys(found))

    def check(self) -> None:
        """Raise UsageError if the parts do not go together."""
        if not self.names:
            raise UsageError(f"--benchmark: names none; take any of {', '.join(benchmarks.SPECS)}")
        self._check_data()
        if self.compare not in (None, BASE):
            raise UsageError(f"--compare {self.compare}: only base can be compared with")
        exports.check(self.exported, self.names)
        if self.samples and (self.compare or (self.out and not self.exported)):
            raise UsageError(
                f"{'--compare' if self.compare else '--out'}: --samples have no model and are on "
                "disk already; leave one of them out"
            )
        if self.exported and self.out and self.out.exists() and not self.out.is_dir():
            raise UsageError(f"--out {self.out}: is not a folder; name one for the files")
        if self.samples and self.exported and not self.out:
            raise UsageError("--export: of --samples; give --out FOLDER, where the files go")
        if self.compare and self.adapter_path is None:
            raise UsageError("--compare base: without --adapter-path there is only the base")
        if self.out is not None and self.out.suffix == ".jsonl":
            raise UsageError(
                f"--out {self.out}: names a folder, in which the samples are "
                "BENCHMARK/samples.jsonl; leave .jsonl out"
            )

    def _check_data(self) -> None:
        """Raise UsageError if ``data`` is not for these benchmarks."""
        if self.data is None:
            return
        # What goes by one name comes in one file, and a plug-in needs none.
        need = {name for name in self.benchmarks if not schema.is_function(name)}
        if not need:
            raise UsageError(
                f"--data {self.data}: {', '.join(self.names)} brings its own problems; leave it out"
            )
        if os.path.isfile(self.data) and len(need) > 1:
            raise UsageError(
                f"--data {self.data}: one file for {len(need)} benchmarks; give a folder "
                "that has theirs"
            )


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it: one result per benchmark; a comparison with the base if asked for; what the
    run has practised on, if the adapters belong to a run; and the files in others' formats.
    """

    results: tuple[BenchmarkResult, ...]
    comparisons: tuple[Comparison, ...] = ()
    contaminations: tuple[Contamination, ...] = ()
    exported: tuple[Path, ...] = ()
    not_exported: str = ""  # why not all of it, for an error

    def lines(self) -> list[str]:
        lines = [line for result in self.results for line in result.lines()]
        lines += [line for one in self.comparisons for line in one.lines()]
        lines += [line for one in self.contaminations for line in one.lines()]
        return lines + [f"exported to {path}" for path in self.exported]

    def to_json(self) -> dict[str, Any]:
        return {
            "results": [result.to_json() for result in self.results],
            "comparisons": [
                one.to_json() | {"base": one.before.to_json()} for one in self.comparisons
            ],
            "contamination": [one.to_json() for one in self.contaminations],
            "exported": [str(path) for path in self.exported],
        }


def evaluate(
    request: EvalRequest,
    progress: Reporter | None = None,
    on_sandbox: Callable[[Sandbox], None] = lambda sandbox: None,
) -> Report:
    """Evaluate a model, or score samples without one.

    Adapters of a run know their model: ``model`` may be None then, and ``adapter_path`` the run.
    ``on_sandbox`` is called once the sandbox has started.

    Raises:
        UsageError: what was asked cannot be done; nothing has been generated then.
        Interrupted: Ctrl-C; the message says where the samples are.
    """
    request.check()
    progress = progress or Silent()
    adapters, model = None, request.model
    if request.adapter_path is not None:
        adapters = adapter_folder(request.adapter_path)
        read_lora(adapters)  # a mistyped folder is reported before any data is looked for
        model = model or base_of(adapters)
        settings = as_trained(request.settings, adapters, request.left_open)
        request = replace(request, settings=settings)
    engine = request.backend
    if request.samples is None:
        engine, _ = choose(engine)  # before transformers is imported, which looks for torch then
    loaded = [
        benchmarks.load(name, request.data, request.settings.window) for name in request.names
    ]
    try:
        if request.samples is not None:
            given = read_samples(request.samples)
            with Sandbox(request.sandbox.workers, request.sandbox.isolation) as sandbox:
                on_sandbox(sandbox)
                report = _score(request, loaded, given, sandbox, progress)
            return _exported(request, loaded, report)
        if model is None:
            raise UsageError("eval: give a --model to sample from, or --samples FILE.jsonl")
        request.settings.check()
        if request.settings.protocol in ("auto", "chat"):
            check_template(*place_of_base(adapters, model))
        practised = None if adapters is None else contamination.tasks_of_run(adapters)
        # First, so that an isolation that is not available is reported before a model is loaded.
        with Sandbox(request.sandbox.workers, request.sandbox.isolation) as sandbox:
            on_sandbox(sandbox)
            quantization = request.quantization or quantization_for(model, adapters, engine)
            backend, subject = open_model(model, adapters, quantization, engine, kv_room)
            session = _Session(request, backend, subject, sandbox, progress)
            report = session.run(loaded, practised)
        return _exported(request, loaded, report)
    finally:
        progress.close()


def as_trained(settings: Settings, adapters: Path, left_open: Collection[str] = ()) -> Settings:
    """The settings as the adapters' run asked, for the protocol ``training``: with its prompt form,
    if none is given, and then with those of ``left_open`` that it has: ``max_tokens``, ``thinking``
    and ``strategy``. Another form than the run's need not have its strategies, so nothing is taken
    then."""
    run = run_of(adapters)
    if run is None or settings.protocol != "training":
        return settings
    limits = (f"rollout.max_{what}_tokens" for what in ("propose", "solve"))
    asking = ("rollout.form", "rollout.thinking", *limits, "solver.strategies")
    trained = load_keys(run / CONFIG_FILE, *asking)
    rollout = trained.rollout
    if settings.form not in ("", rollout.form):
        return settings
    asked: dict[str, Any] = {
        "max_tokens": rollout.max_solve_tokens,
        "thinking": rollout.thinks,
        "strategy": trained.solver.strategies[0],
    }
    taken = {name: asked[name] for name in asked if name in left_open}
    return replace(settings, form=rollout.form, **taken)


def quantization_for(model: str, adapters: Path | None, engine: str) -> Quantization:
    """What the adapters' run quantised its base to. The base of adapters without a run is taken as
    it is; the default is for a model alone, unless torch has nothing to quantise with."""
    if adapters is None:
        missing = engine == "torch" and importlib.util.find_spec("bitsandbytes") is None
        return Quantization(bits=0) if missing else Quantization()
    return quantization_of(adapters, engine) or as_it_is(model)


def _score(
    request: EvalRequest,
    loaded: Sequence[Benchmark],
    given: dict[str, list[str]],
    sandbox: Sandbox,
    progress: Reporter,
) -> Report:
    s = request.settings
    *others, last = [
        score_samples(
            b,
            given,
            sandbox,
            ks=s.ks,
            limit=s.limit,
            split=s.split,
            window=s.window,
            progress=progress,
        )
        for b in loaded
    ]
    return Report((*others, replace(last, unknown=_unknown(given, loaded, s))))


def _unknown(
    given: Collection[str], loaded: Sequence[Benchmark], settings: Settings
) -> tuple[str, ...]:
    """The ids of samples that are of no task of these benchmarks. Of problems that were passed over
    because of their date nobody knows the ids."""
    if settings.window:
        return ()
    known = {problem.id for benchmark in loaded for problem in benchmark.problems}
    known |= {name for benchmark in loaded for name in benchmark.excluded}
    return tuple(sorted(set(given) - known))


def _exported(request: EvalRequest, loaded: Sequence[Benchmark], report: Report) -> Report:
    """The report, after its results were written in the formats of other projects."""
    now, of = datetime.now(), {benchmark.spec.name: benchmark for benchmark in loaded}
    written: list[Path] = []
    failed = ""
    for result in (*report.results, *(one.before for one in report.comparisons)):
        folder = Path(result.folder) if result.folder else (request.out or EVALS) / result.name
        try:
            written += exports.write(request.exported, result, of[result.name], folder, now)
        except OSError as e:  # what was measured is told first
            failed = (
                f"--export: {folder} cannot be written: {first_line(e)}; make room, and try again"
            )
    return replace(report, exported=tuple(written), not_exported=failed)


class _Session:
    """The evaluations of one command, on one model."""

    def __init__(
        self,
        request: EvalRequest,
        backend: Backend,
        subject: Subject,
        sandbox: Sandbox,
        progress: Reporter,
    ) -> None:
        self.request, self.backend, self.subject = request, backend, subject
        self.sandbox, self.progress = sandbox, progress

    def run(self, loaded: Sequence[Benchmark], practised: Sequence[Task] | None) -> Report:
        policies: list[Policy] = ["current", "reference"] if self.request.compare else ["current"]
        arms = [self._evaluation(b, policy) for b in loaded for policy in policies]
        found: dict[Policy, list[BenchmarkResult]] = {"current": [], "reference": []}
        with ExitStack() as stack, Interrupts() as interrupts:
            # All folders first: one with another protocol is reported before anything is made.
            stores = [stack.enter_context(Store(self._folder(a), a.protocol)) for a in arms]
            for arm, store in zip(arms, stores, strict=True):
                found[arm.policy].append(_made(arm, store, interrupts))
        results, bases = found["current"], found["reference"]
        return Report(
            tuple(results),
            tuple(map(compare, bases, results)),
            tuple(_overlaps(arms, practised)),
        )

    def _evaluation(self, benchmark: Benchmark, policy: Policy) -> Evaluation:
        return Evaluation(
            self.backend,
            benchmark,
            self.request.settings,
            self.sandbox,
            subject=self.subject if policy == "current" else self.subject.bare,
            policy=policy,
            progress=self.progress,
        )

    def _folder(self, arm: Evaluation) -> Path:
        name = arm.protocol.benchmark.replace(":", "-")
        if self.request.out is not None:
            return self.request.out / (name if arm.policy == "current" else f"{name}-{BASE}")
        content = json.dumps(arm.protocol.identity(), sort_keys=True)
        return EVALS / f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def _made(arm: Evaluation, store: Store, interrupts: Interrupts) -> BenchmarkResult:
    try:
        return arm.run(store, interrupts)
    except KeyboardInterrupt:
        tried = sum(map(len, store.tries.values()))
        more = f" (and {tried} answers that visible tests turned down)" if tried else ""
        raise Interrupted(
            f"{len(store.samples)} samples{more} are in {store.folder}; the same command goes on "
            "from there"
        ) from None


def _overlaps(
    arms: Sequence[Evaluation], practised: Sequence[Task] | None
) -> Iterator[Contamination]:
    """What the run has practised on, benchmark by benchmark; nothing if there is no run."""
    if practised is None:
        return
    for benchmark, problems in {a.protocol.benchmark: a.problems for a in arms}.items():
        yield contamination.check(benchmark, problems, practised)
