"""Self-play on the torch backend: the steps of MLX, a resume that is exact, and a run that changes
its backend."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="mlx is not installed")
pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("peft", reason="peft is not installed")

from safetensors.numpy import load_file

from tests.runs import rows_of

pytestmark = pytest.mark.e2e

SHORT = (
    *("batch_size=6", "proposer.templates_per_step=3", "rollout.group_size=4", "sandbox.workers=1"),
    *("checkpoint_interval=1", "keep_checkpoints=0", "held_out.tasks=0", "warmup_steps=0"),
    "lr_scheduler_type=constant",  # another would follow max_steps
)


def train(cli, *arguments: str):
    done = cli("train", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def adapters_of(run) -> dict[str, np.ndarray]:
    return load_file(run / "adapters" / "adapters.safetensors")


def test_a_run_is_the_same_on_both_backends_resumed_and_handed_over(cli, tmp_path):
    runs = tmp_path / "runs"
    train(cli, "-c", "quickstart", *SHORT, "max_steps=3", "run_name=mlx", "--backend", "mlx")
    train(cli, "-c", "quickstart", *SHORT, "max_steps=3", "run_name=torch", "--backend", "torch")
    ours, theirs = rows_of(runs / "mlx", clock=False), rows_of(runs / "torch", clock=False)
    assert ours[0].keys() == theirs[0].keys()
    for key in ("reward/solve/deduction", "solve_rate/abduction", "propose/valid", "rollouts"):
        assert theirs[0][key] == ours[0][key], "the same tokens: not a number of the first step"
    assert theirs[0]["grad_norm"] == pytest.approx(ours[0]["grad_norm"], rel=1e-3)
    assert theirs[-1]["grad_norm"] > 0
    assert max(np.abs(a).max() for k, a in adapters_of(runs / "torch").items() if "_b" in k) > 1e-4

    train(cli, "-c", "quickstart", *SHORT, "max_steps=2", "run_name=cut", "--backend", "torch")
    train(cli, "--resume", "runs/cut", "max_steps=3")
    whole, cut = (adapters_of(runs / name) for name in ("torch", "cut"))
    assert all(np.array_equal(whole[k], cut[k]) for k in whole)
    assert rows_of(runs / "cut", clock=False) == theirs

    train(cli, "--resume", "runs/cut", "--backend", "mlx", "max_steps=4")
    rows = rows_of(runs / "cut", clock=False)
    assert len(rows) == 4 and rows[-1]["grad_norm"] > 0
    starts = json.loads((runs / "cut" / "run.json").read_text())["starts"]
    assert [start["backend"].split()[0] for start in starts] == ["torch", "torch", "mlx"]


WITHOUT_MLX = """
import importlib.util, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("mlx", "mlx_lm"):
            raise ImportError(f"No module named {name!r}")
sys.meta_path.insert(0, Missing())
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name in ("mlx", "mlx_lm") else found(name, *a)
from azr_mlx.cli import main
sys.exit(main())
"""


def without_mlx(tmp_path, *arguments: str):
    import os
    import subprocess

    from tests.conftest import ROOT

    file = tmp_path / "without_mlx.py"
    file.write_text(WITHOUT_MLX)
    return subprocess.run(
        [sys.executable, str(file), *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_auto_takes_torch_where_mlx_is_not(tmp_path):
    done = without_mlx(tmp_path, "train", "-c", "quickstart", *SHORT, "max_steps=1", "run_name=t")
    assert done.returncode == 0, done.stderr[-3000:]
    started = json.loads((tmp_path / "runs" / "t" / "run.json").read_text())["starts"][0]
    assert started["backend"].startswith("torch (auto: MLX does not import")


def test_a_backend_that_is_not_installed_is_one_line(tmp_path):
    done = without_mlx(tmp_path, "train", "-c", "quickstart", "--backend", "mlx")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "backend: mlx: MLX does not import" in line and "pip install 'azr-mlx" in line
