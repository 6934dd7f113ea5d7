"""The side-by-side benchmarks run, small, and refuse to time work that is not equal.

What needs the peers runs where AZR_MLX_PEERS names the folder they are installed in.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.conftest import benchmark_script

pytest.importorskip("mlx.core")
pytest.importorskip("mlx_lm")

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SMALL = ["--rounds", "1", "--steps", "1", "--model", "tiny", "--threads", "1"]
SHORT = ["--group", "2", "--max-tokens", "8", "--prompts", "2"]


@pytest.fixture
def module() -> Iterator[ModuleType]:
    """benchmarks/step.py, and with it what it shares."""
    with benchmark_script("step") as script:
        yield script


def run(root: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "benchmarks" / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=500)


def report(root: Path, script: str, *arguments: str) -> dict:
    done = run(root, script, *SMALL, *SHORT, *arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_rollouts_are_counted(root: Path) -> None:
    found = report(root, "rollout.py", "--libraries", "azr-mlx", "mlx-lm")
    assert found["greedy_agrees"] == {"azr-mlx": True, "mlx-lm": True}, (
        "the libraries were given different models, adapters or prompts"
    )
    assert len(found["rows"]) == 4, "two libraries, two workloads"
    for row in found["rows"]:
        suppressed = row["workload"] == "suppressed"
        assert (row["mean_length"] == 8) == suppressed, "end tokens are not what the workload says"
        assert row["forwards"]["passes"] > 0, "forward passes are not counted"
        assert row["forwards"]["tokens"] <= row["forwards"]["rows"], "tokens out of no pass"
        assert row["peak_mb"] > 0 and 0 < row["flops_share"] < 1
    assert {name for one in found["ratios"] for name in one["over"]} == {"mlx-lm"}


def test_a_step_is_its_phases(root: Path) -> None:
    found = report(root, "step.py", "--libraries", "azr-mlx", "azr-mlx:compiled")
    assert len(found["rows"]) == 8, "two variants, two workloads, two betas"
    for row in found["rows"]:
        assert 0.9 < row["phases_over_wall"] <= 1.001, f"time is lost between phases: {row}"
        assert row["forwards"]["passes"] > 8, "the counting step ran compiled: nothing was counted"
    by_beta = {row["beta"]: row["forwards"]["passes"] for row in found["rows"][:4]}
    assert by_beta[0.04] > by_beta[0.0], "no pass for the reference: beta had no effect"
    losses = found["equal_work"]["losses"]
    assert losses["token_mean 0.0"] != losses["token_mean 0.04"], "the penalty is missing"
    assert losses["token_mean 0.0"] != losses["sequence_mean 0.0"], "one normalisation for all"


def test_missing_peers_take_one_line(root: Path, tmp_path: Path) -> None:
    done = run(root, "rollout.py", "--peers", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("error: mlxrl is not in") and len(done.stderr.splitlines()) == 1
    assert "pip install --target FOLDER" in done.stderr, "it does not say how to fix it"


def test_unequal_work_is_seen(module: ModuleType, tmp_path: Path) -> None:
    grads = {"token_mean 0.0/lora_a": np.ones(4), "token_mean 0.0/lora_b": np.ones(2)}
    np.savez(tmp_path / "a.npz", **grads)
    np.savez(tmp_path / "b.npz", **{k: v * 1.1 for k, v in grads.items()})
    first, other = ({"losses": {"token_mean 0.0": loss}} for loss in (1.0, 1.5))
    found = module._apart(first, other, tmp_path / "a.npz", tmp_path / "b.npz")
    assert found["token_mean 0.0"] == pytest.approx({"loss": 0.5, "gradient": 0.1}), (
        "a gradient that is a tenth off would pass for equal work"
    )
    np.savez(tmp_path / "c.npz", **{"token_mean 0.0/lora_a": np.ones(4)})
    with pytest.raises(module.sbs.BenchmarkError, match="lora_b"):
        module._apart(first, other, tmp_path / "a.npz", tmp_path / "c.npz")


def test_natural_lengths_have_the_wanted_mean(module: ModuleType) -> None:
    p = module.sbs._ending_probability(64)
    lengths = np.minimum(np.random.default_rng(0).geometric(p, 200_000), 64)
    assert lengths.mean() == pytest.approx(16, rel=0.01), "not a quarter of the maximum"
    mass = np.array([0.5, 0.04, 0.01, 0.01, 0.44])
    assert module.sbs._likeliest(mass, 0.05) == [1, 2], "more or less than the wanted probability"


def test_peers_do_equal_work(root: Path) -> None:
    folder = os.environ.get("AZR_MLX_PEERS", "")
    if not Path(folder, "mlxrl").is_dir() or not Path(folder, "mlx_lm_lora").is_dir():
        pytest.skip("needs mlxrl and mlx-lm-lora in the folder AZR_MLX_PEERS: see benchmarks")
    arguments = ["--peers", folder, "--libraries", "azr-mlx", "mlxrl", "mlx-lm-lora"]
    found = report(root, "step.py", *arguments, "--workload", "natural", "--beta", "0.04")
    apart = found["equal_work"]["apart_from_first"]
    assert {len(cases) for cases in apart.values()} == {4, 6}, "mlxrl has no sequence_mean"
    assert {row["library"] for row in found["rows"]} == {"azr-mlx", "mlxrl", "mlx-lm-lora"}
