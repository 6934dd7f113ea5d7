"""Results in the files of lm-evaluation-harness and of EvalPlus: their names, our verdicts."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from azr_mlx import __version__
from azr_mlx.cli import main
from azr_mlx.commands.evaluate import EvalRequest, Report, _exported
from azr_mlx.errors import UsageError
from azr_mlx.evaluation import benchmarks, exports
from azr_mlx.evaluation.benchmarks import Benchmark, Grade
from azr_mlx.evaluation.benchmarks.plus import PlusCheck
from azr_mlx.evaluation.compare import compare
from azr_mlx.evaluation.imported_samples import score_samples
from azr_mlx.evaluation.protocol import Settings, Subject
from azr_mlx.evaluation.result import BenchmarkResult, Sample
from azr_mlx.evaluation.sampling import Evaluation
from azr_mlx.evaluation.store import Store
from azr_mlx.files import json_lines
from azr_mlx.sandbox import Result, Sandbox
from azr_mlx.types import Status
from tests.judging import grade
from tests.scripted import TASKS, Scripted

pytestmark = pytest.mark.sandbox
NOW = datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=timezone.utc)
PLUS_ROW: dict[str, Any] = {
    "task_id": "HumanEval/7",
    "prompt": 'def half(x):\n    """Half of it."""\n',
    "entry_point": "half",
    "canonical_solution": "    return x / 2\n",
    "base_input": [[2], [4]],
    "plus_input": [[3], [10**9]],
    "atol": 0,
}


@pytest.fixture
def measured(small: Benchmark, sandbox: Sandbox) -> BenchmarkResult:
    """Of six tasks four pass in both samples or in one: 3 always, 1 half of the time."""
    settings = Settings(num_samples=2, ks=(1, 2), temperature=0.8, top_p=0.9, seed=3)
    subject = Subject("org/model", "aa", "runs/x", "bb")
    return Evaluation(Scripted(), small, settings, sandbox, subject=subject).run(Store())


def plus(tmp_path: Path) -> Benchmark:
    path = tmp_path / "HumanEvalPlus.jsonl"
    path.write_text(json_lines([PLUS_ROW]))
    return benchmarks.load("humaneval-plus", path)


# ---------------------------------------------------------------- lm-evaluation-harness


def test_the_results_of_lm_eval(measured: BenchmarkResult, small: Benchmark) -> None:
    found = exports.lm_eval_results(measured, small, NOW)
    values = [task.pass_at(1) for task in measured.tasks]
    mean = sum(values) / TASKS
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (TASKS - 1))
    row = found["results"].pop("humaneval")
    assert found["results"] == {} and row["alias"] == "humaneval" and row["sample_len"] == TASKS
    assert row["pass@1,create_test"] == pytest.approx(mean) == measured.pass_at[1].value
    assert row["pass@1_stderr,create_test"] == pytest.approx(deviation / math.sqrt(TASKS))
    assert row["pass@2,create_test"] == measured.pass_at[2].value
    assert set(row) == {"alias", "sample_len"} | {
        f"pass@{k}{what},create_test" for k in (1, 2) for what in ("", "_stderr")
    }
    assert found["n-samples"] == {"humaneval": {"original": TASKS + 1, "effective": TASKS}}
    assert found["versions"] == {"humaneval": f"azr-mlx {__version__}"}
    assert found["higher_is_better"] == {"humaneval": {"pass@1": True, "pass@2": True}}
    assert found["n-shot"] == {"humaneval": 0} and found["date"] == NOW.timestamp()
    assert found["model_name"] == "runs/x" and found["model_name_sanitized"] == "runs__x"
    assert found["config"]["model_args"] == {"pretrained": "org/model", "peft": "runs/x"}
    config = found["configs"]["humaneval"]
    assert config["repeats"] == 2 and config["metadata"] == measured.protocol.to_json()
    assert config["generation_kwargs"] == {
        "until": list(measured.protocol.stop), "max_gen_toks": 512, "do_sample": True,
        "temperature": 0.8, "top_p": 0.9,
    }  # fmt: skip
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("name", "task", "key"),
    [
        ("humaneval", "humaneval", "pass@1,create_test"),
        ("humaneval-plus", "humaneval_plus", "pass@1,create_test"),
        ("mbpp", "mbpp", "pass_at_1,none"),
        ("mbpp-plus", "mbpp_plus", "pass_at_1,none"),
        ("cruxeval-i", "cruxeval_input", "pass@1,create_test"),
        ("cruxeval-o", "cruxeval_output", "pass@1,create_test"),
        ("livecodebench", "livecodebench", "pass@1,none"),
        ("apps-interview", "apps_interview", "pass@1,none"),
    ],
)
def test_tasks_and_metrics_have_that_project_s_names(
    measured: BenchmarkResult, small: Benchmark, name: str, task: str, key: str
) -> None:
    result = replace(measured, protocol=replace(measured.protocol, benchmark=name))
    found = exports.lm_eval_results(result, small, NOW)
    assert key in found["results"][task] and key.replace(",", "_stderr,") in found["results"][task]


def test_what_is_not_known_is_left_out_or_null(small: Benchmark, sandbox: Sandbox) -> None:
    given = {small.problems[0].id: ["    return x + 0\n"]}
    found = exports.lm_eval_results(score_samples(small, given, sandbox), small, NOW)
    assert found["results"]["humaneval"]["pass@1_stderr,create_test"] == "N/A"
    assert found["model_name"] is None and found["config"]["model_args"] == {}
    assert found["n-shot"] == {}
    drawn = found["configs"]["humaneval"]["generation_kwargs"]
    assert all(drawn[k] is None for k in ("max_gen_toks", "do_sample", "temperature", "top_p"))


# ---------------------------------------------------------------- EvalPlus


def test_the_original_inputs_have_a_verdict_of_their_own(sandbox: Sandbox, tmp_path: Path) -> None:
    [problem] = plus(tmp_path).problems
    codes = [
        "    return x / 2\n",
        "    return 1 if x == 2 else 2 if x == 4 else 0\n",
        "    return x // 2 if x < 9 else 1 / 0\n",
        "    return x\n",
        "    return 1 / (x - 4)\n",
        "    return 1 if x == 2 else 1 / 0\n",
        "    raise SystemExit\n",
    ]
    found = grade(sandbox, [(problem, code) for code in codes])
    p, f, e = Status.PASS, Status.FAIL, Status.ERROR
    assert [g.status for g in found] == [p, f, e, f, e, e, e]
    assert [g.base for g in found] == [p, p, p, f, f, e, e]
    statuses = [exports._statuses(g, True) for g in found]
    assert statuses == [
        ("pass", "pass"), ("pass", "fail"), ("pass", "fail"), ("fail", None), ("fail", None),
        ("fail", None), ("fail", None),
    ]  # fmt: skip


def test_a_limit_leaves_the_verdict_on_the_original_inputs_open() -> None:
    check = PlusCheck("f", "def f(x): return x", [(1,), (2,)], 0, base=1)
    reference = Result("", Status.OK, values=(1, 2), call_seconds=(0.0, 0.0))
    check.jobs("")

    def base(status: Status, values: tuple[int, ...], seconds: tuple[float, ...]) -> Any:
        given = Result("", status, values=values, call_seconds=seconds)
        found = check.grade("", [reference, given])
        return found.status, found.base

    slow, quick = 100.0, 0.0
    timeout = Status.TIMEOUT
    assert base(timeout, (), ()) == (timeout, None)
    assert base(Status.OK, (1, 2), (slow, quick)) == (timeout, timeout)
    assert base(Status.OK, (1, 2), (quick, slow)) == (timeout, Status.PASS)
    assert exports._statuses(Grade(timeout, 0.0), True) == (None, None)
    assert exports._statuses(Grade(timeout, 0.0, base=timeout), True) == ("timeout", None)
    assert exports._statuses(Grade(timeout, 0.5, base=Status.PASS), True) == ("pass", "timeout")
    unknown = PlusCheck("f", "def f(x): return x", [(1,)], 0)
    assert unknown.grade("", [reference, reference]).base is None


def test_the_verdict_on_the_original_inputs_is_kept_on_disk(
    tmp_path: Path, measured: BenchmarkResult
) -> None:
    samples = [
        Sample("a", 0, "x", Grade(Status.FAIL, 0.5, "why", Status.PASS), "direct"),
        Sample("a", 1, "x", Grade(Status.FAIL, 0.5, "why"), "direct"),
    ]
    with Store(tmp_path, measured.protocol) as store:
        for sample in samples:
            store.add(sample)
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert rows[0]["base"] == "pass" and "base" not in rows[1]
    with Store(tmp_path, measured.protocol) as store:
        assert list(store.samples.values()) == samples


def test_the_files_of_evalplus(tmp_path: Path, measured: BenchmarkResult, small: Benchmark) -> None:
    written = exports.write(["evalplus"], measured, small, tmp_path, NOW)
    assert [p.relative_to(tmp_path).as_posix() for p in written] == [
        "evalplus/samples.jsonl", "evalplus/eval_results.json",
    ]  # fmt: skip
    samples = [json.loads(line) for line in written[0].read_text().splitlines()]
    assert len(samples) == 2 * TASKS
    assert all(set(row) == {"task_id", "solution"} for row in samples)
    prefixes = {p.id: p.prefix for p in small.problems}
    assert all(row["solution"].startswith(prefixes[row["task_id"]]) for row in samples)
    results = json.loads(written[1].read_text())
    assert set(results) == {"date", "hash", "eval"} and results["hash"] is None
    assert results["date"] == "2026-03-04 05:06"
    assert list(results["eval"]) == [p.id for p in small.problems]
    for task in measured.tasks:
        rows = results["eval"][task.id]
        assert [r["base_status"] == "pass" for r in rows] == [
            s is Status.PASS for s in task.statuses
        ]
        assert all(r["plus_status"] is None and r["task_id"] == task.id for r in rows)
        assert [r["solution"] for r in rows] == [
            row["solution"] for row in samples if row["task_id"] == task.id
        ]


# ---------------------------------------------------------------- the command


def test_the_command_exports_given_samples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plus(tmp_path)
    samples = tmp_path / "samples.jsonl"
    texts = ["    return x / 2\n", "    return x // 2\n"]
    samples.write_text(json_lines({"task_id": "HumanEval/7", "completion": t} for t in texts))
    words = ["eval", "--benchmark", "humaneval-plus", "--data", str(tmp_path), "--quiet"]
    words += ["--samples", str(samples), "--export", "lm-eval,evalplus"]
    assert main([*words, "--out", str(tmp_path / "out"), "--json"]) == 0
    exported = json.loads(capsys.readouterr().out)["exported"]
    folder = tmp_path / "out" / "humaneval-plus"
    results, *rest = map(Path, exported)
    assert results.parent == folder / "lm-eval" and results.name.startswith("results_20")
    assert ":" not in results.name and rest == [
        folder / "evalplus" / name for name in ("samples.jsonl", "eval_results.json")
    ]
    row = json.loads(results.read_text())["results"]["humaneval_plus"]
    assert row["pass@1,create_test"] == 0.5
    rows = json.loads(rest[1].read_text())["eval"]["HumanEval/7"]
    assert [(r["base_status"], r["plus_status"]) for r in rows] == [
        ("pass", "pass"), ("pass", "fail"),
    ]  # fmt: skip
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert f"exported to {folder}" in capsys.readouterr().out
    assert main(words) == 2
    assert "give --out FOLDER" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main([*words, "--out", str(tmp_path / "file")]) == 2
    told = capsys.readouterr().err
    assert "is not a folder; name one" in told and told.count("\n") == 1


def test_what_was_measured_is_told_if_it_cannot_be_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plus(tmp_path)
    samples = tmp_path / "samples.jsonl"
    samples.write_text(json_lines([{"task_id": "HumanEval/7", "completion": "    return x\n"}]))

    def full(*_: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exports, "write_json", full)
    words = ["eval", "--benchmark", "humaneval-plus", "--data", str(tmp_path), "--quiet"]
    words += ["--samples", str(samples), "--export", "lm-eval", "--out", str(tmp_path / "out")]
    assert main(words) == 1
    told = capsys.readouterr()
    assert "pass@1" in told.out and "No space left on device; make room" in told.err


def test_a_comparison_exports_both_of_its_arms(
    tmp_path: Path, measured: BenchmarkResult, small: Benchmark
) -> None:
    with_adapters = replace(measured, folder=str(tmp_path / "humaneval"))
    bare = replace(measured.protocol, adapter="", adapter_sha256="")
    base = replace(measured, protocol=bare, folder=str(tmp_path / "humaneval-base"))
    report = Report((with_adapters,), (compare(base, with_adapters),))
    request = EvalRequest(["humaneval"], exported=["lm-eval"], compare="base")
    written = _exported(request, [small], report).exported
    assert [path.parent.parent.name for path in written] == ["humaneval", "humaneval-base"]
    names = [json.loads(path.read_text())["model_name"] for path in written]
    assert names == ["runs/x", "org/model"]


@pytest.mark.parametrize(
    ("formats", "names", "message"),
    [
        (["html"], ["humaneval"], "--export html: unknown; take lm-eval or evalplus"),
        (["evalplus"], ["humaneval", "mbpp"], "EvalPlus does not have mbpp; take humaneval, "),
    ],
)
def test_a_format_that_does_not_fit_is_told_before_anything_is_made(
    formats: list[str], names: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        EvalRequest(names, model="m", exported=formats).check()
