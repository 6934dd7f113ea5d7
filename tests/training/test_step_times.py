"""Step times in the user's cache, and what a dry run says of them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

pytest.importorskip("mlx.core", reason="mlx is not installed")

from azr_mlx.config import Config, Ppo, Rollout, Solver
from azr_mlx.models import cache
from azr_mlx.training import memory, step_times
from azr_mlx.training.step_times import StepTimes, line, measured, shape_of

pytestmark = pytest.mark.backend

CONFIG = Config(max_steps=120, ppo=Ppo(grad_checkpoint="false"))  # a run has decided it


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def record(*seconds: float, config: Config = CONFIG, warn=pytest.fail) -> StepTimes:
    kept = StepTimes(config, "mlx", warn)
    for step, one in enumerate(seconds, 1):
        kept.log({"time/step": one + 2, "time/evaluate": 2}, step)
    return kept


def test_a_dry_run_says_what_a_measured_step_costs():
    assert "time:            unknown: no step with these sizes" in memory.describe(CONFIG)
    record(90, 30, 40, 35)
    said = "# time:            35 s per step (median of 3 measured); 120 steps: 1 h 10 min\n"
    assert said in memory.describe(CONFIG)
    assert line(replace(CONFIG, max_steps=1), "mlx").endswith("; 1 step: 35 s")


def test_a_first_step_counts_only_until_there_is_another():
    record(90)
    assert line(CONFIG, "mlx").startswith("1 min 30 s per step (median of 1 ")
    record(80, 30)
    assert measured(shape_of(CONFIG, "mlx")) == [90, 30]


def test_other_sizes_devices_and_backends_are_other_steps(monkeypatch):
    record(10)
    for other in (
        replace(CONFIG, model_id="b/c"),
        replace(CONFIG, batch_size=7),
        replace(CONFIG, rollout=Rollout(group_size=9)),
        replace(CONFIG, rollout=Rollout(max_solve_tokens=9)),
        replace(CONFIG, rollout=Rollout(thinking="on")),
        replace(CONFIG, ppo=Ppo(grad_checkpoint="true")),
        replace(CONFIG, solver=Solver(strategies=("direct",))),
    ):
        assert line(other, "mlx").startswith("unknown")
    assert "10 s" in line(replace(CONFIG, max_steps=3, seed=9, output_dir="x"), "mlx")
    monkeypatch.setattr(step_times, "_device", lambda backend: "another chip")
    assert line(CONFIG, "mlx").startswith("unknown")
    assert line(CONFIG, "").startswith("unknown")


def test_the_file_stays_small(here, monkeypatch):
    monkeypatch.setattr(step_times, "SHAPES", 3)
    for n in range(1, 6):
        record(*range(1, 50), config=replace(CONFIG, batch_size=n))
    entries = json.loads((here / "step_times.json").read_text())
    assert [shape["batch_size"] for shape, _ in entries] == [3, 4, 5]
    assert [len(times) for _, times in entries] == [step_times.KEPT] * 3
    assert [entry.path for entry in cache.entries()] == [here / "step_times.json"]
    assert len(cache.clear()) == 1 and not (here / "step_times.json").exists()


@pytest.mark.parametrize("text", ["", "{", "[1]", '[[{}, ["x"]]]', '{"a": 1}', "[[{}, [NaN]]]"])
def test_a_damaged_file_counts_as_not_measured(here, text):
    here.mkdir()
    (here / "step_times.json").write_text(text)
    assert line(CONFIG, "mlx").startswith("unknown")
    record(10)
    assert "10 s" in line(CONFIG, "mlx")


def test_a_cache_that_cannot_be_written_is_one_warning(here):
    here.write_text("a file is in the way")
    said: list[str] = []
    record(1, 2, 3, warn=said.append)
    (one,) = said
    assert one.startswith("step times are not kept: ") and cache.VARIABLE in one
