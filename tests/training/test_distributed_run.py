"""Two ranks on one machine make the steps of one rank with twice the batch."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="mlx is not installed")

from safetensors.numpy import load_file

from tests.conftest import ROOT
from tests.runs import rows_of

pytestmark = pytest.mark.e2e

COMMON = (
    *("rollout.group_size=4", "sandbox.workers=1", "warmup_steps=0", "held_out.tasks=0"),
    *("checkpoint_interval=1", "keep_checkpoints=0", "ppo.advantage=gae", "distill.coef=0.1"),
    *("kl_penalty=kl", "distill.batch_size=8"),
)
SHORT = ("batch_size=6", "proposer.templates_per_step=3", *COMMON)
TWICE = ("batch_size=12", "proposer.templates_per_step=6", *COMMON)
# Adam's first moment is a tenth of the first gradient, which is to agree to 1e-5.
MOMENT = 1e-6


def environment() -> dict[str, str]:
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS")}
    return {**os.environ, **threads, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}


def free_port() -> int:
    """The first of two: each rank of a ring listens on one."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


def command(engine: str, *arguments: str) -> list[str]:
    """Two ranks of ``azr-mlx train``."""
    azr = ["-m", "azr_mlx.cli", "train", *arguments, "--backend", engine]
    port = str(free_port())
    beside = Path(sys.executable).parent
    if engine == "torch":
        start = [str(beside / "torchrun"), "--nproc-per-node", "2", "--master-port", port]
        return [*start, *azr]
    env = [f"{k}={v}" for k, v in environment().items() if k in ("PYTHONPATH", "NO_COLOR")]
    given = [part for one in env for part in ("--env", one)]
    start = [str(beside / "mlx.launch"), "-n", "2", "--backend", "ring", "-p", port, *given]
    return [*start, "--", sys.executable, *azr]


def needs(engine: str) -> None:
    if engine == "torch":
        pytest.importorskip("torch", reason="torch is not installed")
        pytest.importorskip("peft", reason="peft is not installed")


def assert_close(runs: Path, file: str, atol: float, only: str = "") -> dict[str, np.ndarray]:
    """The arrays whose names end in ``only``, having compared those of the two runs."""
    two, one = (load_file(runs / run / file) for run in ("two", "one"))
    for key in (key for key in one if key.endswith(only)):
        np.testing.assert_allclose(two[key], one[key], rtol=1e-5, atol=atol, err_msg=key)
    return {key: array for key, array in one.items() if key.endswith(only)}


@pytest.mark.parametrize("engine", ["mlx", "torch"])
def test_two_ranks_make_the_steps_of_one_with_twice_the_batch(engine, cli, tmp_path):
    needs(engine)
    runs = tmp_path / "runs"
    done = subprocess.run(
        command(engine, "-c", "quickstart", *SHORT, "max_steps=2", "run_name=two"),
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-1000:]
    one = ("train", "-c", "quickstart", "--backend", engine, *TWICE, "max_steps=2", "run_name=one")
    done = cli(*one, env=environment())
    assert done.returncode == 0, done.stderr[-3000:]
    for two, alone in zip(rows_of(runs / "two"), rows_of(runs / "one"), strict=True):
        for key in alone:
            if not key.startswith(("time/", "tok_s/", "mem/", "exec/")):
                assert two[key] == pytest.approx(alone[key], rel=1e-3, abs=1e-5), key
    gradients = assert_close(
        runs, "checkpoints/step_000001/optimizer.safetensors", atol=MOMENT, only=".m"
    )
    assert max(np.abs(m).max() for m in gradients.values()) > 100 * MOMENT, "no gradients"
    # Adam divides by the gradient's size: what is zero but for rounding may go either way.
    assert_close(runs, "adapters/adapters.safetensors", atol=1e-4)
    learnt = assert_close(runs, "adapters/value_head.safetensors", atol=1e-5)
    assert max(np.abs(v).max() for v in learnt.values()) > 1e-4, "the value head did not learn"
    starts = json.loads((runs / "two" / "run.json").read_text())["starts"]
    assert len(starts) == 1 and starts[0]["backend"].endswith("2 ranks")
    assert "batch_size: 6" in (runs / "two" / "config.yaml").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
@pytest.mark.parametrize("engine", ["mlx", "torch"])
def test_a_rank_that_is_killed_ends_the_run_which_can_be_resumed(engine, tmp_path):
    needs(engine)
    run = tmp_path / "runs" / "two"
    steps = ("-c", "quickstart", *SHORT, "max_steps=40", "run_name=two")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command(engine, *steps), cwd=tmp_path, env=environment(), stdout=log, stderr=log
        )
        try:
            wait_for(lambda: (run / "metrics.jsonl").is_file() and len(rows_of(run)) >= 1, process)
            os.kill(ranks_of(tmp_path)[1], signal.SIGKILL)
            process.wait(timeout=90)
        finally:
            process.kill()
    said = (tmp_path / "log").read_text(errors="replace")
    wait_for(lambda: not ranks_of(tmp_path), None, 30)
    kept = len(rows_of(run))
    assert 1 <= kept < 40, said[-2000:]
    done = subprocess.run(
        command(engine, "--resume", "runs/two", f"max_steps={kept + 1}"),
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [row["step"] for row in rows_of(run)] == list(range(1, kept + 2))


def wait_for(condition, process, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "took too long"
        assert process is None or process.poll() is None, "ended by itself"
        time.sleep(0.2)


def ranks_of(folder: Path) -> list[int]:
    """The ranks' processes, by their working directory: also those that have lost their parent."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            named = command[1:4] == ["-m", "azr_mlx.cli", "train"] or command[1:5] == [
                "-u", "-m", "azr_mlx.cli", "train"
            ]  # fmt: skip
            if named and (process / "cwd").resolve() == folder.resolve():
                found.append(int(process.name))
    return sorted(found)
