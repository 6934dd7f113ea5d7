"""The side-by-side benchmarks run, small, and refuse to time work that is not equal.

What needs the peers runs where AZR_MLX_PEERS names the folder they are installed in.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
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
    losses = found["equal_work"]["tiny"]["losses"]
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


def facts(**changes: object) -> dict:
    same = {"weights": 10, "adapters": 4, "dtypes": ["float32"], "prompts": [[1, 2]]}
    same["greedy completions"] = [[4]]
    return {"facts": {**same, **changes}}


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": 11},
        {"adapters": 8},
        {"dtypes": ["bfloat16"]},
        {"prompts": [[1]]},
        {"greedy completions": [[3]]},
    ],
)
def test_other_work_is_seen(module: ModuleType, changes: dict) -> None:
    module._require_same_facts(facts(), facts(), "other")
    with pytest.raises(module.sbs.BenchmarkError, match=f"other .* {next(iter(changes))}"):
        module._require_same_facts(facts(), facts(**changes), "other")


@pytest.mark.parametrize("apart", [{"loss": float("nan"), "gradient": 0.0}, None])
def test_a_loss_that_says_nothing_is_not_equal(module: ModuleType, apart: dict | None) -> None:
    case = {} if apart is None else {"token_mean 0.0": apart}
    with pytest.raises(module.sbs.BenchmarkError, match="other"):
        module._require_close({"other": case})


def test_a_completion_cut_short_is_no_timing(module: ModuleType) -> None:
    sbs = module.sbs
    work = sbs.Work("areno", "tiny", "suppressed", 2, 3, max_tokens=5, prompt_tokens=16)
    sbs._require_lengths(work, {"steps": [{"tokens": 30}]})
    with pytest.raises(sbs.BenchmarkError, match="areno does not do equal work: 29 tokens"):
        sbs._require_lengths(work, {"steps": [{"tokens": 30}, {"tokens": 29}]})


def test_a_library_without_a_reference_has_no_rows_with_one(module: ModuleType) -> None:
    options = argparse.Namespace(
        model=["tiny"], workload=["suppressed"], beta=[0.0, 0.04], micro_batch=0, prompts=2,
        libraries=["azr-mlx", "areno:checkpoint"], group=2, max_tokens=4, prompt_tokens=16,
        warmup=1, steps=1, peers="", gguf="", cache="",
    )  # fmt: skip
    plain, with_reference = module.cells(options, {"tiny": {"ends": []}})
    assert [work.library for work in plain] == ["azr-mlx", "areno:checkpoint"]
    assert [work.library for work in with_reference] == ["azr-mlx"]


def test_ratios_are_of_the_step_its_rollouts_and_the_peak(module: ModuleType) -> None:
    sbs = module.sbs
    work = sbs.Work("azr-mlx", "tiny", "suppressed", 1, 2, max_tokens=4, prompt_tokens=16)

    def row(library: str, wall: float, rollout: float, peak: int) -> dict:
        step = {"wall": wall, "tokens": 8, "longest": 4, "rollout": rollout, "update": 0.5}
        found = {"steps": [step], "peak_bytes": peak, "base_bytes": 1, "forwards": {}}
        return {"work": replace(work, library=library), "rounds": [found]}

    rows = [row("azr-mlx", 1, 0.5, 100), row("b", 3, 1, 400), row("b:other", 2, 0.8, 500)]
    shown = sbs.table(rows, {"tiny": {"multiplying": 1, "gflops": 1}})
    over = sbs.ratios(shown)[0]["over"]
    assert list(over) == ["b:other"], "a library is not represented by its fastest setting"
    expected = {"of_medians": 2.0, "median_by_round": 2.0, "by_round": [2.0]}
    assert over["b:other"] == {**expected, "peak": 0.2, "rollout": 1.6}


def test_no_round_begins_after_the_minutes(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    sbs = module.sbs
    work = sbs.Work("a", "tiny", "natural", 1, 2, max_tokens=4, prompt_tokens=16)
    monkeypatch.setattr(sbs, "in_child", lambda *_: {"steps": [{"tokens": 8, "wall": 1.0}]})
    clock = iter([0.0, 50.0, 70.0])
    monkeypatch.setattr(sbs.time, "monotonic", lambda: next(clock))
    options = argparse.Namespace(rounds=5, minutes=1.0, threads=1)
    rows = sbs.interleaved("script", [[work]], options)
    assert len(rows[0]["rounds"]) == 2, "the second round began in time, the third would not have"


def test_natural_lengths_have_the_wanted_mean(module: ModuleType) -> None:
    p = module.sbs._ending_probability(64)
    lengths = np.minimum(np.random.default_rng(0).geometric(p, 200_000), 64)
    assert lengths.mean() == pytest.approx(16, rel=0.01), "not a quarter of the maximum"
    mass = np.array([0.5, 0.04, 0.01, 0.01, 0.44])
    assert module.sbs._likeliest(mass, 0.05) == [1, 2], "more or less than the wanted probability"


PEERS = ("mlxrl", "mlx-lm-lora", "areno", "unsloth-zoo")


def test_peers_do_equal_work(root: Path) -> None:
    folder = os.environ.get("AZR_MLX_PEERS", "")
    if not all(Path(folder, name.replace("-", "_")).is_dir() for name in PEERS):
        pytest.skip("needs the peers in the folder AZR_MLX_PEERS: see benchmarks/step.py")
    arguments = ["--peers", folder, "--libraries", "azr-mlx", *PEERS, "--beta", "0", "0.04"]
    found = report(root, "step.py", *arguments, "--workload", "natural")
    apart = found["equal_work"]["tiny"]["apart_from_first"]
    counts = {name: len(cases) for name, cases in apart.items()}
    assert counts == {"azr-mlx": 6, "mlxrl": 4, "mlx-lm-lora": 6, "areno": 1, "unsloth-zoo": 6}
    timed = [row["library"] for row in found["rows"]]
    assert timed == ["azr-mlx", *PEERS, *(n for n in ("azr-mlx", *PEERS) if n != "areno")]


def test_peers_give_the_same_greedy_completions(root: Path) -> None:
    folder = os.environ.get("AZR_MLX_PEERS", "")
    if not all(Path(folder, name.replace("-", "_")).is_dir() for name in PEERS):
        pytest.skip("needs the peers in the folder AZR_MLX_PEERS: see benchmarks/step.py")
    arguments = ["--peers", folder, "--libraries", "azr-mlx", "areno", "unsloth-zoo"]
    found = report(root, "rollout.py", *arguments, "--workload", "natural")
    assert set(found["greedy_agrees"].values()) == {True}, "they read other prompts or adapters"
    for row in found["rows"]:
        assert 1 <= row["mean_length"] < 8, f"{row['library']} ends no completion early"
