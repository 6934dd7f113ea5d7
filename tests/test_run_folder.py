"""Which run, and which of its checkpoints, a user means."""

import os
from pathlib import Path

import pytest

from azr_mlx import run_folder
from azr_mlx.errors import UsageError
from azr_mlx.files import point
from azr_mlx.run_folder import CheckpointError

pytestmark = pytest.mark.pure


def make_run(output_dir: Path, name: str, steps: tuple[int, ...], written: int) -> Path:
    """A run with checkpoints and metrics that were written at the time ``written``."""
    run = output_dir / name
    run.mkdir(parents=True)
    (run / run_folder.METRICS_FILE).write_text("{}\n")
    for step in steps:
        checkpoint = run_folder.checkpoint_of(run, step)
        checkpoint.mkdir(parents=True)
        (checkpoint / run_folder.STATE_FILE).write_text("{}")
        os.utime(checkpoint, (written, written))
    os.utime(run / run_folder.METRICS_FILE, (written, written))
    return run


@pytest.fixture
def runs(tmp_path):
    """The newest run is neither the first nor the last by name."""
    make_run(tmp_path, "a", (0, 3), 100)
    make_run(tmp_path, "b", (0, 5, 10), 300)
    make_run(tmp_path, "c", (0,), 200)
    return tmp_path


def test_latest_is_the_newest_checkpoint_of_the_newest_run(runs):
    found = run_folder.checkpoint_of(runs / "b", 10)
    assert run_folder.find("latest", runs) == (runs / "b", found)
    assert run_folder.newest(runs) == runs / "b"


def test_a_run_or_one_of_its_checkpoints_can_be_named(runs):
    early = run_folder.checkpoint_of(runs / "b", 5)
    assert run_folder.find(str(runs / "b"), runs)[1] == run_folder.checkpoint_of(runs / "b", 10)
    assert run_folder.find(str(early), runs) == (runs / "b", early)


def test_a_link_to_a_checkpoint_can_be_named(runs):
    early = run_folder.checkpoint_of(runs / "b", 5)
    point(runs / "b" / run_folder.BEST, early)
    assert run_folder.find(str(runs / "b" / run_folder.BEST), runs) == (runs / "b", early)
    (runs / "link").symlink_to("b")
    assert run_folder.find(str(runs / "link"), runs)[0] == runs / "link"


def test_an_unfinished_checkpoint_is_none(runs):
    (runs / "c" / run_folder.CHECKPOINTS / "step_000009.tmp").mkdir()
    assert run_folder.checkpoints(runs / "c") == [run_folder.checkpoint_of(runs / "c", 0)]


def test_what_is_not_there_is_one_line(runs):
    missing = run_folder.checkpoint_of(runs / "b", 7)
    with pytest.raises(CheckpointError, match="train first"):
        run_folder.find("latest", runs / "empty")
    with pytest.raises(CheckpointError, match="neither a run with checkpoints"):
        run_folder.find(str(runs), runs)
    with pytest.raises(CheckpointError, match="no such folder; give runs/NAME or latest"):
        run_folder.find(str(runs / "x"), runs)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        run_folder.find(str(missing), runs)


def test_a_run_may_be_named_without_its_folder(runs, monkeypatch):
    """Its name is what the screen shows."""
    monkeypatch.chdir(runs.parent)
    (runs / "c" / run_folder.NEWEST).mkdir()
    (runs / "c" / run_folder.NEWEST / run_folder.ADAPTER_CONFIG).write_text("{}")
    assert run_folder.find("c", runs) == (runs / "c", run_folder.checkpoint_of(runs / "c", 0))
    assert run_folder.adapter_folder(Path("c"), runs) == runs / "c" / run_folder.NEWEST
    Path("c").mkdir()  # what is there is what is meant
    with pytest.raises(CheckpointError, match="c: neither a run"):
        run_folder.find("c", runs)
    assert run_folder.adapter_folder(Path("c"), runs) == Path("c")


def test_the_latest_run_may_be_named_with_the_folder_of_runs(runs):
    assert run_folder.find(str(runs / "latest"), runs) == run_folder.find("latest", runs)
    assert not run_folder.means_latest("elsewhere/latest", runs)
    (runs / "latest").mkdir()
    with pytest.raises(CheckpointError, match="neither a run with checkpoints"):
        run_folder.find(str(runs / "latest"), runs)  # a run of that name


def test_the_run_of_adapters_is_found_from_any_of_its_folders(runs):
    run = runs / "b"
    (run / run_folder.CONFIG_FILE).write_text("seed: 0\n")
    checkpoint = run_folder.checkpoint_of(run, 10)
    (run / run_folder.NEWEST).symlink_to(checkpoint)
    assert {run_folder.run_of(p) for p in (run, run / run_folder.NEWEST, checkpoint)} == {run}
    assert run_folder.run_of(runs / "a") is None


def test_latest_adapters_are_those_that_were_saved_last(runs, monkeypatch):
    with pytest.raises(UsageError, match=r"latest: no run with adapters in .*train first"):
        run_folder.adapter_folder(Path("latest"), runs)
    for name, written in (("a", 500), ("c", 400)):
        checkpoint = run_folder.checkpoints(runs / name)[-1]
        config = checkpoint / run_folder.ADAPTER_CONFIG
        config.write_text("{}")
        os.utime(config, (written, written))
        point(runs / name / run_folder.NEWEST, checkpoint)
    assert run_folder.adapter_folder(Path("latest"), runs) == runs / "a" / "adapters"
    monkeypatch.chdir(runs.parent)
    (runs.parent / "latest").mkdir()
    assert run_folder.adapter_folder(Path("latest"), runs) == runs / "a" / "adapters"
    assert run_folder.adapter_folder(Path("./latest").absolute()) == runs.parent / "latest"


def test_a_run_knows_what_its_first_tasks_came_from_at_any_start(tmp_path):
    run_folder.record_start(tmp_path, {"time": 1}, "lib")
    run_folder.record_start(tmp_path, {"time": 2}, "templates")
    run_folder.record_start(tmp_path, {"time": 3}, "templates")
    assert run_folder.seeds(tmp_path, "templates") == ["lib", "templates"]
    assert [one["time"] for one in run_folder.starts(tmp_path)] == [1, 2, 3]
    run_folder.record(tmp_path, seed_tasks=[1])
    with pytest.raises(UsageError, match="its seed_tasks are not a list of texts"):
        run_folder.seeds(tmp_path, "templates")
    with pytest.raises(UsageError, match="its seed_tasks are not a list of texts"):
        run_folder.record_start(tmp_path, {"time": 4}, "lib")


def test_what_an_earlier_version_has_resumed_is_not_known(tmp_path):
    run_folder.record(tmp_path, starts=[{"time": 1}])
    assert run_folder.seeds(tmp_path, "lib") == ["lib"], "its configuration is its only one"
    run_folder.record_start(tmp_path, {"time": 2}, "templates")
    assert run_folder.seeds(tmp_path, "templates") is None
