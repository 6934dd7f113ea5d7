"""The figures of the adapters that are published: those that the run's files hold, and that were
measured with these very weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from azr_mlx.commands.cards import UNKNOWN
from azr_mlx.commands.evaluate import EVALS
from azr_mlx.errors import WRONG_VALUES, UsageError
from azr_mlx.evaluation.benchmarks import SPECS
from azr_mlx.evaluation.held_out import NAMES, SHOWN_K, WAYS, HeldOutLine, Record
from azr_mlx.evaluation.model import adapters_fingerprint, fingerprint
from azr_mlx.evaluation.protocol import NAMES as NAMED
from azr_mlx.evaluation.protocol import different
from azr_mlx.evaluation.store import RESULT
from azr_mlx.files import read_json
from azr_mlx.monitoring.metrics import MetricsFile, is_number
from azr_mlx.private import shortened
from azr_mlx.run_folder import ADAPTER_WEIGHTS, METRICS_FILE

HELD_OUT = "azr-mlx-held-out"  # the type of dataset that the index of a card names
# Of a benchmark's protocol, what a reader needs in order to measure the same.
_ASKED = (
    *("model", "prompt", "shots", "strategy", "extraction"),
    *("temperature", "top_p", "max_tokens", "seed", "data_sha256", "version"),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """A share, and its 95 % interval if one was recorded."""

    value: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure: the tasks that it is ``on``, with the type, configuration and split of their
    dataset, the metric, how answers were made, and what was found after training and before;
    ``gain`` is paired by task. ``part`` says that another figure is a mean over it and others."""

    on: str
    dataset: str
    config: str
    split: str
    metric: str
    answers: str
    after: Measured
    tasks: int | str
    samples: int | str
    protocol: Mapping[str, Any]
    before: Measured | None = None
    gain: Measured | None = None
    part: bool = False


# What a file of an evaluation says: its protocol, and its figures by metric.
Result = tuple[dict[str, Any], dict[str, Measured]]


@dataclass(frozen=True, slots=True)
class Found:
    """All figures, and a sentence on each kind of figure that a reader could miss."""

    figures: Sequence[Figure]
    notes: Sequence[str]


def of_checkpoint(run: Path, checkpoint: Path, step: int, settings: Mapping[str, str]) -> Found:
    """The figures of a checkpoint, which is of ``step``. ``settings`` are the run's, by dotted
    key."""
    try:
        found, notes = _held_out(run, step, settings)
    except (UsageError, *WRONG_VALUES):
        found, notes = [], ["The run's file of held-out tasks cannot be read."]
    found += _benchmarks(run, checkpoint)
    found += _during_training(run, step, settings)
    return Found(found, notes)


# -- held-out tasks --------------------------------------------------------------------------------


def _held_out(run: Path, step: int, settings: Mapping[str, str]) -> tuple[list[Figure], list[str]]:
    last, record = settings.get("max_steps", ""), Record.read(run)
    if record is None:
        return [], ["This run has no held-out tasks."]
    if not record.compared or not record.is_of(step, int(last) if last.isdecimal() else -1):
        return [], ["The run's held-out tasks have not been measured with these adapters."]
    asked = shortened(dict(record.settings))
    draws = min(len(verdicts) for verdicts in record.after["sampled"].values())
    found: list[Figure] = []
    for way, groups in record.compared.items():
        samples = 1 if way == "greedy" else draws
        for name, lines in groups.items():
            found += [_line(name, one, "pass@1", WAYS[way], samples, asked) for one in lines]
    for name, lines in record.pass_at(SHOWN_K).items():
        metric = f"pass@{SHOWN_K}"
        found.append(_line(name, lines[-1], metric, WAYS["sampled"], draws, asked))
    return found, []


def _line(
    name: str,
    line: HeldOutLine,
    metric: str,
    way: str,
    samples: int,
    asked: Mapping[str, Any],
) -> Figure:
    before, after, gain = (
        Measured(one.value, (one.low, one.high)) for one in (line.before, line.after, line.gain)
    )
    kinds = "mean of the kinds" if line.name == "mean" else line.name
    return Figure(
        on=f"held-out tasks, {NAMES.get(name, name)}",
        dataset=HELD_OUT,
        config=name,
        split="reserved shapes",
        metric=metric,
        answers=f"{way}, {kinds}",
        after=after,
        tasks=line.tasks,
        samples=samples,
        protocol=asked,
        before=before,
        gain=gain,
        part=line.name != "mean",
    )


# -- benchmarks ------------------------------------------------------------------------------------


def _benchmarks(run: Path, checkpoint: Path) -> Iterator[Figure]:
    """Results of ``azr-mlx eval`` below the run's folder or in evals/, which name the adapters by
    their hash."""
    files = {p.resolve(): p for p in (*sorted(run.rglob(RESULT)), *sorted(EVALS.rglob(RESULT)))}
    results = [found for found in map(_result, files.values()) if found is not None]
    # Earlier versions had the hash of the weights alone.
    own = {adapters_fingerprint(checkpoint), fingerprint(checkpoint / ADAPTER_WEIGHTS)}
    seen: list[Mapping[str, Any]] = []
    for protocol, measured in results:
        if protocol["adapter_sha256"] not in own or protocol in seen:
            continue
        seen.append(protocol)
        base = next((found for asked, found in results if _is_base(asked, protocol)), {})
        for metric, after in measured.items():
            yield _benchmark(protocol, metric, after, base.get(metric))


def _result(file: Path) -> Result | None:
    """What the file holds, if it is the result of an evaluation by this program."""
    try:
        row = read_json(file)
        protocol = dict(row["protocol"])
        figures = {f"pass@{int(k)}": _measured(one) for k, one in row["pass_at"].items()}
        protocol |= {name: int(protocol[name]) for name in ("tasks", "samples_per_task")}
        protocol["temperature"] = float(protocol["temperature"])
        protocol |= {
            name: str(protocol[name]) for name in ("benchmark", "subset", "adapter_sha256")
        }
        return protocol, figures
    except (OSError, *WRONG_VALUES):
        return None


def _is_base(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether one is the protocol of the base model, asked as the other was with adapters."""
    unlike = different(one, other, (*NAMED, "adapter_sha256"))
    return not one["adapter_sha256"] and not unlike


def _benchmark(
    protocol: Mapping[str, Any], metric: str, after: Measured, before: Measured | None
) -> Figure:
    name, heat = protocol["benchmark"], protocol["temperature"]
    asked = {key: protocol[key] for key in _ASKED if protocol.get(key) not in (None, "")}
    return Figure(
        on=f"{name} ({protocol['subset']})",
        dataset=_dataset(name),
        config=name,
        split=protocol["subset"],
        metric=metric,
        answers="greedy" if heat == 0 else f"temperature {heat:g}",
        after=after,
        tasks=protocol["tasks"],
        samples=protocol["samples_per_task"],
        protocol=shortened(asked),
        before=before,
    )


def _measured(row: Mapping[str, Any]) -> Measured:
    value, low, high = (float(row[name]) for name in ("value", "low", "high"))
    if not 0 <= low <= value <= high <= 1:
        raise ValueError("not a share with its interval")
    return Measured(value, (low, high))


_ON_DISK = {f"eval/{name.replace('-', '_')}_pass_at_1": name for name in SPECS}


def _during_training(run: Path, step: int, settings: Mapping[str, str]) -> Iterator[Figure]:
    """pass@1 on the half of the tasks that reports, as the row of this step has it: no interval was
    recorded, and of the number of tasks only the most that it may be."""
    rows = [row for row in MetricsFile(run / METRICS_FILE).rows() if row["step"] == step]
    most = settings.get("evaluation.max_tasks_per_benchmark", "")
    samples = settings.get("evaluation.num_samples", "")
    for key, value in (rows[-1] if rows else {}).items():
        name = _ON_DISK.get(key)
        if name is None or not is_number(value):
            continue
        yield Figure(
            on=f"{name} (report half), during training",
            dataset=_dataset(name),
            config=name,
            split="report half, during training",
            metric="pass@1",
            answers="greedy" if samples == "1" else "sampled",
            after=Measured(float(value)),
            tasks=f"at most {-(-int(most) // 2)}" if most.isdecimal() else UNKNOWN,
            samples=int(samples) if samples.isdecimal() else UNKNOWN,
            protocol={"asked": "as the run's configuration says"},
        )


def _dataset(benchmark: str) -> str:
    """The benchmark's repository on the hub, or its name if it is not read from one."""
    hub = SPECS[benchmark].hub if benchmark in SPECS else ()
    return hub[0] if hub and "/" in hub[0] else benchmark
