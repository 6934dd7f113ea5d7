"""``azr-mlx eval`` in a subprocess, on a tiny random model: interrupts, comparison, streams."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("mlx.core", reason="mlx is not installed")

from tests.conftest import Cli
from tests.scripted import write_rows
from tests.tiny import tiny_folder

pytestmark = pytest.mark.e2e

TASKS, SAMPLES = 6, 16
SAMPLED = ["--num-samples", str(SAMPLES), "--k", "1,5", "--temp", "0.9", "-m", "400"]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, adapters that change nothing, adapters that do, and the data."""
    import mlx.core as mx

    from azr_mlx.backends.mlx.adapters import adapter_layers
    from azr_mlx.backends.mlx.backend import MlxBackend
    from azr_mlx.config import Lora

    folder = tmp_path_factory.mktemp("eval")
    tiny_folder(folder / "tiny")
    backend = MlxBackend.from_folder(folder / "tiny", Lora(rank=2), base=str(folder / "tiny"))
    for name in ("zero", "trained"):
        (folder / name).mkdir()
        backend.save(folder / name)
        for _, layer in adapter_layers(backend.policy.lm):
            layer.lora_b = mx.full(layer.lora_b.shape, 0.1)
    write_rows(folder / "HumanEval.jsonl")
    return folder


def command(here: Path, *words: str) -> list[str]:
    fixed = ["--model", str(here / "tiny"), "--data", str(here / "HumanEval.jsonl")]
    return [sys.executable, "-m", "azr_mlx.cli", "eval", *fixed, *words]


def finished(here: Path, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(here, *words), cwd=cwd or here, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done


def rows(folder: Path) -> list[dict]:
    file = folder / "humaneval" / "samples.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]


def content(folder: Path) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True) for row in rows(folder))


def figures(folder: Path) -> dict:
    result = json.loads((folder / "humaneval" / "result.json").read_text())
    return {k: v for k, v in result.items() if k not in ("seconds", "generated", "folder")}


@pytest.fixture(scope="module")
def whole(here: Path) -> Path:
    finished(here, *SAMPLED, "--out", "whole")
    return here / "whole"


def stop_after(here: Path, folder: Path, count: int, how: signal.Signals) -> tuple[int, str]:
    """Start the evaluation, send the signal once ``count`` samples are on disk; (code, stderr)."""
    process = subprocess.Popen(
        command(here, *SAMPLED, "--out", str(folder)),
        cwd=here,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (folder / "humaneval" / "samples.jsonl").exists() or len(rows(folder)) < count:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(how)
    _, told = process.communicate(timeout=60)
    return process.returncode, told


@pytest.mark.parametrize("moment", range(2))
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_at_a_random_point_and_run_again(here, whole, tmp_path, how, moment):
    # About fifty rows are decoded together: half of the samples still waits for a place then.
    count = random.Random(moment).randint(1, TASKS * SAMPLES // 3)
    code, told = stop_after(here, tmp_path, count, how)
    before = content(tmp_path)
    if how is signal.SIGINT:
        assert code == 130 and "the same command goes on from there" in told
        assert f"interrupted: {len(before)} samples are in" in told and "Traceback" not in told
    assert count <= len(before) < TASKS * SAMPLES, "it had ended before the signal"
    done = finished(here, *SAMPLED, "--out", str(tmp_path), "--json")
    generated = json.loads(done.stdout)["results"][0]["generated"]
    assert generated == TASKS * SAMPLES - len(before), "a sample was made twice"
    assert set(before) <= set(content(tmp_path)) and content(tmp_path) == content(whole)
    assert figures(tmp_path) == figures(whole)


def test_a_chat_model_is_asked_in_its_own_format(here, tmp_path):
    """Its template is tried before the model is loaded, which imports transformers early."""
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    shutil.copytree(here / "tiny", tmp_path / "tiny")
    (tmp_path / "tiny" / "chat_template.jinja").write_text(template)
    few = ["--protocol", "chat", "--limit", "2", "-m", "8"]
    done = finished(here, "--model", str(tmp_path / "tiny"), *few, "--out", "chat", "--json")
    result = json.loads(done.stdout)["results"][0]
    assert result["protocol"]["prompt"].startswith("chat: ") and result["generated"] == 2


def test_a_second_interrupt_leaves_at_once(here, tmp_path):
    """Even while the first one waits for verdicts that do not come."""
    process = subprocess.Popen(
        command(here, *SAMPLED, "--out", str(tmp_path)),
        cwd=here,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    file = tmp_path / "humaneval" / "samples.jsonl"
    deadline = time.monotonic() + 120
    while not file.exists() or not file.stat().st_size:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130


def test_adapters_that_change_nothing_differ_by_nothing(here, tmp_path):
    words = ["--adapter-path", "zero", "--compare", "base", "--out", str(tmp_path), "--temp", "0.9"]
    done = finished(here, *words, "--json")
    report = json.loads(done.stdout)
    (gap,) = report["comparisons"]
    found = gap["differences"]["pass@1"]
    assert found["value"] == 0.0 and found["low"] == -found["high"] < 0, "of few tasks"
    assert gap["gained"] == gap["lost"] == [] and gap["p_value"] == 1.0
    texts = {}
    for arm in ("humaneval", "humaneval-base"):
        lines = (tmp_path / arm / "samples.jsonl").read_text().splitlines()
        texts[arm] = {r["task_id"]: r["completion"] for r in map(json.loads, lines)}
    assert texts["humaneval"] == texts["humaneval-base"] and len(texts["humaneval"]) == TASKS


def test_adapters_that_change_something_are_seen_and_the_base_is_the_plain_model(here, tmp_path):
    """The base's arm is what an evaluation without adapters makes: it is found, not made again."""
    plain = finished(here, "--json", cwd=tmp_path)
    (result,) = json.loads(plain.stdout)["results"]
    words = ["--adapter-path", str(here / "trained"), "--compare", "base", "--json"]
    report = json.loads(finished(here, *words, cwd=tmp_path).stdout)
    base = report["comparisons"][0]["base"]
    assert base["generated"] == 0 and base["folder"] == result["folder"]
    adapted = report["results"][0]
    assert adapted["folder"] != base["folder"] and adapted["generated"] == TASKS
    texts = [(tmp_path / r["folder"] / "samples.jsonl").read_text() for r in (adapted, base)]
    assert texts[0] != texts[1]


def test_a_folder_of_another_protocol_is_told_before_anything_is_made(here, cli: Cli, tmp_path):
    words = ["--adapter-path", str(here / "zero"), "--compare", "base", "--out", str(tmp_path)]
    finished(here, *words, "--limit", "1")
    sidecar = tmp_path / "humaneval-base" / "protocol.json"
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "seed": 7}))
    done = cli(*command(here, *words)[3:])
    assert done.returncode == 2 and "another protocol (seed 7, not 0)" in done.stderr
    assert len(rows(tmp_path)) == 1, "the adapters' arm went on before the base's was refused"


def test_progress_goes_to_stderr_and_quiet_is_quiet(here, tmp_path):
    done = finished(here, "--limit", "2", cwd=tmp_path)
    assert re.search(r"^humaneval: 2 of 2, in \d+(\.\d)? s$", done.stderr, re.M)
    assert "humaneval pass@1: " in done.stdout and "samples in evals/humaneval-" in done.stdout
    again = finished(here, "--limit", "2", "--quiet", cwd=tmp_path)
    assert "samples" not in again.stderr and again.stdout == done.stdout


def test_a_bar_on_a_terminal(here, tmp_path):
    """In a pseudo-terminal: a bar to its end, and no colour where that is not wanted. (What it
    says of the time left has a test with a clock of its own.)"""
    pty = pytest.importorskip("pty", reason="no pseudo-terminals on this platform")
    ours, theirs = pty.openpty()
    environment = {**os.environ, "NO_COLOR": "1", "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(
        command(here, *SAMPLED, "--out", str(tmp_path)),
        cwd=here,
        stderr=theirs,
        stdout=subprocess.PIPE,
        env=environment,
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            seen += (block := os.read(ours, 4096))
        except OSError:  # how Linux says that nobody holds the other end
            break
        if not block:
            break
    os.close(ours)
    assert process.wait(timeout=60) == 0
    text = seen.decode()
    assert f"{TASKS * SAMPLES}/{TASKS * SAMPLES}" in text
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", text), "colour in spite of NO_COLOR"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num-samples", "4"], "--num-samples 4 at --temp 0"),
        (["--k", "2"], "--k 2: needs 2 samples"),
        (["--strategy", "quick"], "--strategy quick: take direct, step_by_step"),
        (["--strategy", "auto"], "--strategy auto: a strategy is an instruction"),
        (["--protocol", "chat"], "has no chat template"),
        (["--compare", "base"], "without --adapter-path there is only the base"),
        (["--benchmark", "humanevil"], "humanevil"),
        (["--adapter-path", "nowhere"], "has no adapter_config.json"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(here, cli: Cli, words, message):
    done = cli(*command(here, *words)[3:])
    assert done.returncode == 2 and done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if "error: " in line]
    assert message in line
    assert not (here / "evals").exists()


def test_a_model_is_opened_with_the_room_that_the_machine_has(here, monkeypatch):
    from azr_mlx.commands import evaluate
    from azr_mlx.errors import UsageError

    class Opened(UsageError):
        pass

    def opened(*given: object) -> None:
        assert evaluate.kv_room in given
        raise Opened

    monkeypatch.setattr(evaluate, "open_model", opened)
    data, model = here / "HumanEval.jsonl", str(here / "tiny")
    with pytest.raises(Opened):
        evaluate.evaluate(evaluate.EvalRequest(["humaneval"], model=model, data=data))


def test_samples_made_elsewhere_need_no_model(here, cli: Cli, tmp_path):
    given = tmp_path / "given.jsonl"
    rows = [{"task_id": f"HumanEval/{i}", "completion": "    return x + 1\n"} for i in range(TASKS)]
    given.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = ["--data", str(here / "HumanEval.jsonl")]
    done = cli("eval", "--samples", str(given), *data, "--json")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["results"]
    assert result["statuses"] == {"fail": 5, "pass": 1} and result["unknown"] == []


def test_samples_of_unknown_tasks_are_told(here, cli: Cli, tmp_path):
    """An id that is misspelt would count as a task without a sample."""
    given = tmp_path / "given.jsonl"
    names = ["HumanEval/0", "humaneval/1", "HumanEval/99", "HumanEval/6"]  # 6 has no tests
    rows = [{"task_id": name, "completion": "    return x + 1\n"} for name in names]
    given.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = cli("eval", "--samples", str(given), "--data", str(here / "HumanEval.jsonl"))
    assert done.returncode == 0, done.stderr
    assert "2 ids of samples are no task here: 'HumanEval/99', 'humaneval/1'" in done.stdout
