"""The quickstart on a Mac's GPU: what it learns in ten steps, how it is resumed, what it was
planned to take, and where its programs ran.

Everywhere else these tests are skipped: a green run without Metal says nothing about it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import pytest

mx = pytest.importorskip("mlx.core", reason="mlx is not installed")

from azr_mlx import cli, run_folder  # noqa: E402
from azr_mlx.backends.mlx import kernels  # noqa: E402
from azr_mlx.config import load  # noqa: E402
from azr_mlx.training import memory  # noqa: E402
from azr_mlx.training.memory import limit  # noqa: E402
from tests.runs import rows_of  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not mx.metal.is_available(), reason="there is no Metal here"),
]

STEPS, CUT = 10, 6
SETTINGS = [f"max_steps={STEPS}", "checkpoint_interval=2", "keep_checkpoints=0"]
UNDER = 0.05  # as in benchmarks/memory.py: a plan may be this much below what was measured


def train(where: Path, *arguments: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(where)
        assert cli.main(["train", *arguments, "--quiet", "sandbox.isolation=strong"]) == 0


class Run(NamedTuple):
    folder: Path
    kernels: dict[tuple[str, str], int]


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Run:
    where = tmp_path_factory.mktemp("metal")
    kernels.ENGAGED.clear()
    train(where, "-c", "quickstart", "run_name=whole", *SETTINGS)
    return Run(where / "runs" / "whole", dict(kernels.ENGAGED))


def solved(run: Path, when: str) -> float:
    """The share of sampled answers to held-out tasks that are right."""
    verdicts = json.loads((run / run_folder.HELD_OUT_FILE).read_text())[when]["sampled"]
    return fmean(passed for of_task in verdicts.values() for passed in of_task)


def adapters(run: Path) -> bytes:
    newest = run_folder.checkpoint_of(run, STEPS) / "adapters.safetensors"
    return newest.read_bytes()


def test_the_gpu_computed_and_the_strong_sandbox_judged(quickstart: Run) -> None:
    assert mx.default_device() == mx.gpu
    start = json.loads((quickstart.folder / "run.json").read_text())["starts"][0]
    assert start["backend"].startswith("mlx") and start["isolation"] == "strong"
    for kernel in ("logprob", "sample"):
        assert quickstart.kernels.get((kernel, "metal"), 0) > 0, f"{kernel} did not run on Metal"


def test_ten_steps_solve_more_held_out_tasks(quickstart: Run) -> None:
    before, after = (solved(quickstart.folder, when) for when in ("before", "after"))
    assert after > before


def test_a_resumed_run_equals_one_that_was_not_interrupted(quickstart: Run, tmp_path: Path) -> None:
    """To the bit: Metal's sums are in one order, unless a kernel uses atomics."""
    again = tmp_path / "runs" / "again"
    shutil.copytree(quickstart.folder, again, symlinks=True)
    train(tmp_path, "--resume", str(run_folder.checkpoint_of(again, CUT)))
    assert adapters(again) == adapters(quickstart.folder)
    assert rows_of(again, clock=False) == rows_of(quickstart.folder, clock=False)


def test_no_step_takes_more_memory_than_was_planned(quickstart: Run) -> None:
    on = limit.device()
    config = load("quickstart", SETTINGS)
    planned = memory.needs(config, on, limit.machine_memory(on))
    peak = max(1e9 * row["mem/peak_gb"] for row in rows_of(quickstart.folder))
    assert 0 < peak <= (1 + UNDER) * planned
