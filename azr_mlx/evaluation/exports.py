"""Results in the files of other projects, so that their tools read them.

``lm-eval`` is the results file of lm-evaluation-harness (0.4), ``evalplus`` the samples and the
eval_results.json of EvalPlus (0.3). The names are theirs, the protocol is not: it is in the file as
far as there is a place for it. What was not measured is left out, or null.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from azr_mlx.errors import UsageError
from azr_mlx.evaluation.benchmarks import Benchmark, Grade
from azr_mlx.evaluation.protocol import Protocol
from azr_mlx.evaluation.result import BenchmarkResult, Sample, scores
from azr_mlx.files import json_lines, write_json, write_whole
from azr_mlx.types import Status

LM_EVAL, EVALPLUS = "lm-eval", "evalplus"
FORMATS = (LM_EVAL, EVALPLUS)
PROGRAM = "azr-mlx"
# The benchmarks whose tasks EvalPlus has, and whether its additional inputs are among the tests.
_EVALPLUS = {"humaneval": False, "humaneval-plus": True, "mbpp-plus": True}
# The task of lm-evaluation-harness, its metric and its filter; others go by our names.
_TASKS = {
    "humaneval": ("humaneval", "pass@", "create_test"),
    "humaneval-plus": ("humaneval_plus", "pass@", "create_test"),
    "mbpp": ("mbpp", "pass_at_", "none"),
    "mbpp-plus": ("mbpp_plus", "pass_at_", "none"),
    "cruxeval-i": ("cruxeval_input", "pass@", "create_test"),
    "cruxeval-o": ("cruxeval_output", "pass@", "create_test"),
}


def check(formats: Sequence[str], benchmarks: Sequence[str]) -> None:
    """Raise UsageError if there is no such format, or it has no place for one of the benchmarks."""
    for name in formats:
        if name not in FORMATS:
            raise UsageError(f"--export {name}: unknown; take {' or '.join(FORMATS)}")
    lacking = [name for name in benchmarks if name not in _EVALPLUS]
    if EVALPLUS in formats and lacking:
        raise UsageError(
            f"--export {EVALPLUS}: EvalPlus does not have {lacking[0]}; take "
            f"{', '.join(_EVALPLUS)}, or --export {LM_EVAL}"
        )


def write(
    formats: Sequence[str],
    result: BenchmarkResult,
    benchmark: Benchmark,
    folder: Path,
    now: datetime,
) -> list[Path]:
    """Write the result in each of the formats, into subfolders with their names, and return the
    files. Raises OSError if they cannot be written."""
    written = []
    for name in formats:
        into = folder / name
        into.mkdir(parents=True, exist_ok=True)
        written += _WRITERS[name](result, benchmark, into, now)
    return written


# --- lm-evaluation-harness ---


def _write_lm_eval(
    result: BenchmarkResult, benchmark: Benchmark, folder: Path, now: datetime
) -> list[Path]:
    path = folder / f"results_{now.isoformat().replace(':', '-')}.json"
    write_json(path, lm_eval_results(result, benchmark, now), indent=2)
    return [path]


def lm_eval_results(result: BenchmarkResult, benchmark: Benchmark, now: datetime) -> dict[str, Any]:
    """The content of a results file. The version is this program's: the tasks are not run as that
    project defines their versions."""
    p = result.protocol
    task, metric, kept = _TASKS.get(result.name, (result.name.replace("-", "_"), "pass@", "none"))
    found: dict[str, Any] = {"alias": task, "sample_len": len(result.tasks)}
    for k, estimate in result.pass_at.items():
        found[f"{metric}{k},{kept}"] = estimate.value
        found[f"{metric}{k}_stderr,{kept}"] = _stderr(scores(result.tasks, f"pass@{k}"))
    problems = len(benchmark.problems) + len(benchmark.excluded)
    name = p.adapter or p.model or None
    return {
        "results": {task: found},
        "group_subtasks": {task: []},
        "configs": {task: _config(task, p)},
        "versions": {task: f"{PROGRAM} {p.version}"},
        "n-shot": {} if p.shots is None else {task: p.shots},
        "higher_is_better": {task: {f"{metric}{k}": True for k in result.pass_at}},
        "n-samples": {task: {"original": problems, "effective": len(result.tasks)}},
        "config": {"model": PROGRAM, "model_args": _model(p), "random_seed": p.seed},
        "date": now.timestamp(),
        "model_source": PROGRAM,
        "model_name": name,
        "model_name_sanitized": re.sub(r"[\"<>:/|\\?*\[\]]+", "__", name) if name else None,
    }


def _stderr(values: Sequence[float]) -> float | str:
    """The standard error of a mean over tasks; that project's "N/A" for a single one."""
    size = len(values)
    if size < 2:
        return "N/A"
    mean = math.fsum(values) / size
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (size - 1) / size)


def _config(task: str, p: Protocol) -> dict[str, Any]:
    sampled = None if p.temperature is None else p.temperature > 0
    drawn = {"max_gen_toks": p.max_tokens, "do_sample": sampled, "temperature": p.temperature}
    return {
        "task": task,
        "output_type": "generate_until",
        "repeats": p.samples_per_task,
        "num_fewshot": p.shots,
        "generation_kwargs": {"until": list(p.stop), **drawn, "top_p": p.top_p},
        "metadata": p.to_json(),
    }


def _model(p: Protocol) -> dict[str, str]:
    return {k: v for k, v in (("pretrained", p.model), ("peft", p.adapter)) if v}


# --- EvalPlus ---


def _write_evalplus(
    result: BenchmarkResult, benchmark: Benchmark, folder: Path, now: datetime
) -> list[Path]:
    problems = {p.id: p for p in benchmark.problems}
    whole = [(s, problems[s.task].program_with(s.completion)) for s in result.samples]
    samples, verdicts = folder / "samples.jsonl", folder / "eval_results.json"
    write_whole(samples, json_lines({"task_id": s.task, "solution": text} for s, text in whole))
    write_json(verdicts, evalplus_results(result.name, whole, now))
    return [samples, verdicts]


def evalplus_results(
    benchmark: str, solutions: Sequence[tuple[Sample, str]], now: datetime
) -> dict[str, Any]:
    """The content of eval_results.json, of samples and their whole programs. EvalPlus's hash, of a
    file of its own, is null."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for sample, text in solutions:
        base, plus = _statuses(sample.grade, _EVALPLUS[benchmark])
        row = {"task_id": sample.task, "solution": text, "base_status": base, "plus_status": plus}
        rows.setdefault(sample.task, []).append(row)
    return {"date": now.strftime("%Y-%m-%d %H:%M"), "hash": None, "eval": rows}


def _statuses(grade: Grade, plus: bool) -> tuple[str | None, str | None]:
    """The verdicts by the original inputs and by the additional ones; None: it is not known."""
    if not plus:
        return _status(grade.status), None
    if grade.status is Status.PASS:
        return "pass", "pass"
    if grade.base is Status.PASS:
        return "pass", _status(grade.status)
    return (None if grade.base is None else _status(grade.base)), None


def _status(status: Status) -> str:
    return status.value if status in (Status.PASS, Status.TIMEOUT) else "fail"


_WRITERS = {LM_EVAL: _write_lm_eval, EVALPLUS: _write_evalplus}
