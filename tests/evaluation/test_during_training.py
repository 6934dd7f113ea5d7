"""Evaluation within training: metrics, the best checkpoint, exact resume, missing data."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time

import pytest

pytest.importorskip("mlx.core", reason="mlx is not installed")

from tests.runs import rows_of, unregistered
from tests.scripted import write_rows
from tests.tiny import tiny_folder
from tests.training.test_resume import STEPS, command, environment, outcome, train

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train_eval")
    tiny_folder(folder / "tiny")
    write_rows(folder / "HumanEval.jsonl")
    return folder


def words(here) -> list[str]:
    return [
        "run_name=run",
        "evaluation_interval=2",
        "evaluation.benchmarks=humaneval",
        f"evaluation.data={here / 'HumanEval.jsonl'}",
        "evaluation.num_samples=2",
        "evaluation.max_tasks_per_benchmark=4",
    ]


@pytest.fixture(scope="module")
def whole(here):
    began = time.monotonic()
    done = train(here, here / "tiny", *words(here))
    return here / "runs" / "run", done, time.monotonic() - began


def test_the_rows_of_evaluated_steps_have_the_figures(whole):
    run, done, _ = whole
    rows = rows_of(run)
    evaluated = [row for row in rows if "eval/selection" in row]
    assert [row["step"] for row in evaluated] == [2, 4]
    for row in evaluated:
        names = {key for key in row if key.startswith("eval/")}
        assert names == {
            "eval/humaneval_pass_at_1",
            "eval/humaneval_selection_pass_at_1",
            "eval/selection",
            "eval/best_step",
        }
        assert unregistered(row) == [] and row["time/evaluate"] > 0
    # A random model passes nothing: the first evaluation is the best, and no later one beats it.
    assert json.loads((run / "run.json").read_text())["best"] == {"step": 2, "selection": 0.0}
    assert (run / "best").resolve().name == "step_000002"
    assert "best on the selection half: step 2 (0.0%)" in done.stderr


def test_the_best_adapters_are_evaluated_by_their_link(here, whole):
    run, _, _ = whole
    from tests.training.test_resume import azr

    data = ["--data", str(here / "HumanEval.jsonl"), "--split", "report"]
    done = azr(here, "eval", "--adapter-path", str(run / "best"), *data, "-m", "4", "--json")
    report = json.loads(done.stdout)
    (result,), (practised,) = report["results"], report["contamination"]
    assert practised["tasks"] > 5 and practised["problems"] == result["protocol"]["tasks"]
    assert result["protocol"]["subset"] == "report half" and result["protocol"]["adapter_sha256"]


@pytest.mark.parametrize("moment", range(2))
def test_sigkill_and_resume_is_exact_with_evaluations(here, whole, tmp_path, moment):
    run, _, seconds = whole
    model = here / "tiny"
    process = subprocess.Popen(
        command(tmp_path, model, *words(here)),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    killed = tmp_path / "runs" / "run"
    try:
        process.wait(random.Random(moment).uniform(0.4, 0.95) * seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
    resumable = list((killed / "checkpoints").glob("step_??????"))
    train(tmp_path, model, *(["--resume", str(killed)] if resumable else []), *words(here))
    assert outcome(killed) == outcome(run)
    assert (killed / "best").resolve().name == (run / "best").resolve().name
    last = f"checkpoints/step_{STEPS:06d}/state.json"
    ours, theirs = (json.loads((folder / last).read_text()) for folder in (killed, run))
    assert ours["best"] == theirs["best"] and ours["selfplay"] == theirs["selfplay"]


def test_data_that_is_missing_is_told_before_the_first_step(here, tmp_path):
    extra = ["evaluation_interval=1", f"evaluation.data={tmp_path}", "run_name=none"]
    done = train(tmp_path, here / "tiny", *extra, code=2)
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert "evaluation.benchmarks: evaluation.data" in line and "evaluation_interval=0" in line
    assert not (tmp_path / "runs").exists()
