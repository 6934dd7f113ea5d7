"""How a model is evaluated: the protocol, which every result states."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from azr_mlx import __version__
from azr_mlx.backends.base import Sampling
from azr_mlx.config import THOUGHT_TOKENS
from azr_mlx.errors import UsageError
from azr_mlx.evaluation import benchmarks, strategies
from azr_mlx.evaluation.benchmarks import ALWAYS, Benchmark, Problem, Window
from azr_mlx.evaluation.statistics import check_k

SPLITS = ("all", "selection", "report")
MAX_TOKENS = 512  # enough for an answer to a problem of any benchmark, without a thought


@dataclass(frozen=True, slots=True)
class Settings:
    """How a model is asked.

    ``window`` are the days of whose problems the benchmark consists, if these have any. ``split``
    is all, or the half of the tasks that a run's best adapters are selected on, or the half that
    reports on them; ``limit`` takes the first tasks of it only. ``protocol`` auto is chat
    for a model that has a chat template, and base for one that has none; training asks as self-play
    does, by the prompt form ``form``. ``strategy`` is one of ``strategies.STRATEGIES``, or auto:
    each in turn, until the visible tests pass. With ``thinking`` a chat model thinks before it
    answers.
    """

    num_samples: int = 1
    ks: tuple[int, ...] = (1,)
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = MAX_TOKENS
    limit: int | None = None
    window: Window = ALWAYS
    split: str = "all"
    protocol: str = "auto"
    strategy: str = "direct"
    form: str = ""
    seed: int = 0
    thinking: bool = False

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.max_tokens, self.temperature, self.top_p)

    def check(self) -> None:
        """Raise UsageError, before anything is generated, if the settings make no sense."""
        for k in self.ks:
            check_k(k, self.num_samples)
        if self.num_samples > 1 and self.temperature <= 0:
            raise UsageError(
                f"--num-samples {self.num_samples} at --temp 0: greedy samples are all the same; "
                "--temp 0.8, or --num-samples 1"
            )
        if self.protocol not in ("auto", *benchmarks.PROTOCOLS, "training"):
            raise UsageError(
                f"--protocol {self.protocol}: take auto, {', '.join(benchmarks.PROTOCOLS)} or "
                "training"
            )
        if self.max_tokens < 1:
            raise UsageError(f"--max-tokens {self.max_tokens}: must be at least 1")
        if self.thinking:
            check_thought_fits(self.max_tokens)
        if self.split not in SPLITS:
            raise UsageError(f"--split {self.split}: take {', '.join(SPLITS)}")
        strategies.sequence(self.strategy)
        check_limit(self.limit)

    def choose(self, problems: Sequence[Problem]) -> tuple[tuple[Problem, ...], str]:
        """The problems that are evaluated, and a name for them."""
        chosen = [p for p in problems if self.split in ("all", half(p.id))]
        whole = "all" if self.split == "all" else f"{self.split} half"
        if self.window:
            whole = f"{whole} {self.window}"
        if self.limit is None or self.limit >= len(chosen):
            return tuple(chosen), whole
        first = f"first {self.limit}"
        return tuple(chosen[: self.limit]), first if whole == "all" else f"{first} of {whole}"


def half(task_id: str) -> str:
    """``selection`` or ``report``: a fair coin that depends on the task's id alone, so that every
    run, machine and version splits alike.
    """
    return SPLITS[1 + hashlib.blake2b(task_id.encode(), digest_size=1).digest()[0] % 2]


def check_thought_fits(max_tokens: int) -> None:
    """Raise UsageError if a completion of so many tokens is too short for a thought."""
    if max_tokens < THOUGHT_TOKENS:
        raise UsageError(
            f"--thinking: a thought takes thousands of tokens, and --max-tokens is {max_tokens}; "
            f"give --max-tokens {THOUGHT_TOKENS} or more"
        )


def check_limit(limit: int | None) -> None:
    """Raise UsageError if the first ``limit`` tasks would be none."""
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit}: must be at least 1")


@dataclass(frozen=True, slots=True)
class Subject:
    """The weights that are evaluated: names for people, hashes for comparison.

    Without adapters, ``adapter`` and its hash are empty.
    """

    model: str = ""
    model_sha256: str = ""
    adapter: str = ""
    adapter_sha256: str = ""

    @property
    def bare(self) -> Subject:
        """The same model with its adapters off."""
        return Subject(self.model, self.model_sha256)


NAMES = ("model", "adapter")  # where the weights were found; the hashes say which they are
_EXTENT = ("subset", "tasks", "samples_per_task")
_ADAPTER = ("adapter", "adapter_sha256")


@dataclass(frozen=True, slots=True)
class Protocol:
    """What a figure was measured by; None if imported samples do not say.

    ``model_sha256`` and ``adapter_sha256`` are of (samples of) the weights, ``data_sha256`` of the
    problems' content, ``subset`` says which of the benchmark's problems are the ``tasks``.
    """

    benchmark: str
    prompt: str
    shots: int | None
    strategy: str
    extraction: str
    stop: tuple[str, ...]
    limits: dict[str, float]
    data_sha256: str
    model: str
    model_sha256: str
    adapter: str
    adapter_sha256: str
    temperature: float | None
    top_p: float | None
    max_tokens: int | None
    seed: int | None
    subset: str
    tasks: int
    samples_per_task: int
    version: str = __version__

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "stop": list(self.stop)}

    def identity(self) -> dict[str, Any]:
        """What a sample of one task depends on, as JSON: samples of equal identities may stand in
        one file, however many tasks and samples each was to make.
        """
        return {k: v for k, v in self.to_json().items() if k not in (*NAMES, *_EXTENT)}

    def differences(self, other: Protocol) -> dict[str, tuple[Any, Any]]:
        """The fields, adapters aside, in which two results differ: they are comparable if none."""
        return different(self.to_json(), other.to_json(), ("model", *_ADAPTER))


def different(
    a: Mapping[str, Any], b: Mapping[str, Any], without: tuple[str, ...] = ()
) -> dict[str, tuple[Any, Any]]:
    """The keys, ``without`` aside, under which two mappings do not hold the same; both values."""
    keys = [k for k in {**a, **b} if k not in without]
    return {k: (a.get(k), b.get(k)) for k in keys if a.get(k) != b.get(k)}


@dataclass(frozen=True, slots=True)
class Extent:
    """Which of a benchmark's problems, and how many they are."""

    subset: str
    tasks: int


def of_model(
    benchmark: Benchmark,
    settings: Settings,
    asked: Mapping[str, Any],
    subject: Subject,
    extent: Extent,
) -> Protocol:
    """The protocol of samples that a model is asked for here; ``asked`` are the fields that the way
    of asking decides."""
    return Protocol(
        benchmark=benchmark.spec.name,
        strategy=settings.strategy,
        data_sha256=benchmark.sha256,
        **asked,
        **asdict(subject),
        temperature=settings.temperature,
        top_p=settings.top_p,
        max_tokens=settings.max_tokens,
        seed=settings.seed,
        **asdict(extent),
        samples_per_task=settings.num_samples,
    )


def of_given(benchmark: Benchmark, extent: Extent, samples: int) -> Protocol:
    """The protocol of samples that were made elsewhere: how they were is not known."""
    return Protocol(
        benchmark=benchmark.spec.name,
        prompt="given samples",
        shots=None,
        strategy="",
        extraction="none: the completion as it is",
        stop=(),
        limits=asdict(benchmark.spec.limits),
        data_sha256=benchmark.sha256,
        **asdict(Subject()),
        temperature=None,
        top_p=None,
        max_tokens=None,
        seed=None,
        **asdict(extent),
        samples_per_task=samples,
    )
