"""The trainer on a scripted backend: what a kill or an interrupt at a bad moment leaves behind."""

import json
import os
import signal

import pytest

from azr_mlx import checkpoint
from azr_mlx.config import Config, Proposer, Rollout, Solver
from azr_mlx.display import Display
from azr_mlx.metrics import unregistered
from azr_mlx.sandbox import Sandbox
from azr_mlx.trainer import INTERRUPTED, Trainer
from tests.fake import FakeBackend

pytestmark = pytest.mark.sandbox

CONFIG = Config(
    batch_size=1,
    task_types=("deduction",),
    max_steps=5,
    checkpoint_interval=1,
    keep_checkpoints=0,
    kl_penalty="none",
    rollout=Rollout(form="few_shot", group_size=2, max_propose_tokens=50, max_solve_tokens=20),
    proposer=Proposer(references=1, templates_per_step=1),
    solver=Solver(strategies=("direct",)),
)


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(workers=1) as running:
        yield running


def trainer(run, sandbox, script=lambda prompt, n: " 1", **changes) -> Trainer:
    run.mkdir(exist_ok=True)
    config = Config(**{**{f: getattr(CONFIG, f) for f in CONFIG.__dataclass_fields__}, **changes})
    return Trainer(config, run, FakeBackend(script), sandbox, display=Display(5, quiet=True))


def steps(run) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(path) -> int:
    return json.loads((path / "weights.json").read_text())


def test_rows_are_registered_and_one_a_step(tmp_path, sandbox):
    one = trainer(tmp_path, sandbox)
    one.start()
    assert one.run() == 0 and steps(tmp_path) == [1, 2, 3, 4, 5]
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        assert unregistered(json.loads(line)) == []


def test_a_kill_between_checkpoint_and_row_loses_no_row(tmp_path, sandbox):
    one = trainer(tmp_path, sandbox, max_steps=3)
    one.start()
    write = one.metrics.write
    one.metrics.write = lambda row: None if row["step"] == 3 else write(row)
    one.run()
    assert steps(tmp_path) == [1, 2]
    again = trainer(tmp_path, sandbox)
    again.resume(checkpoint.steps(tmp_path)[-1])
    assert again.run() == 0 and steps(tmp_path) == [1, 2, 3, 4, 5]


def test_resuming_an_earlier_checkpoint_sets_the_later_ones_aside(tmp_path, sandbox):
    """Else they would be taken for the newest, and two branches would mix."""
    one = trainer(tmp_path, sandbox)
    one.start()
    one.run()
    third = tmp_path / "checkpoints" / "step_000003"
    again = trainer(tmp_path, sandbox)
    assert again.resume(third) == 2
    assert checkpoint.steps(tmp_path)[-1] == third and weights(tmp_path / "adapters") == 3
    assert sorted(p.name for p in third.parent.joinpath("set_aside").iterdir()) == [
        "step_000004",
        "step_000005",
    ]
    assert steps(tmp_path) == [1, 2, 3]
    assert again.run() == 0 and steps(tmp_path) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("moment", ["rollouts", "update", "snapshot"])
def test_an_interrupt_saves_weights_with_their_own_state(tmp_path, sandbox, moment):
    def interrupt(*_):
        os.kill(os.getpid(), signal.SIGINT)

    def script(prompt, n):
        if moment == "rollouts" and one.step == 2:
            interrupt()
        return " 1"

    one = trainer(tmp_path, sandbox, script, checkpoint_interval=4)
    one.start()
    if moment != "rollouts":
        target = one.backend if moment == "update" else one
        name = "update" if moment == "update" else "_snapshot"
        original = getattr(target, name)

        def wrapped(*args):
            if one.step == 2:
                interrupt()
            return original(*args)

        setattr(target, name, wrapped)
    assert one.run() == INTERRUPTED
    last = checkpoint.steps(tmp_path)[-1]
    saved = 3 if moment == "update" else 2
    assert last.name == f"step_{saved:06d}" and weights(last) == saved
    assert steps(tmp_path) == list(range(1, saved + 1))
    again = trainer(tmp_path, sandbox)
    again.resume(last)
    assert again.run() == 0 and steps(tmp_path) == [1, 2, 3, 4, 5]


def test_an_interrupt_does_not_rewrite_a_checkpoint_that_is_whole(tmp_path, sandbox):
    one = trainer(tmp_path, sandbox)
    one.start()
    path = tmp_path / "checkpoints" / "step_000000"
    before = (path / "state.json").stat().st_mtime_ns
    one._save(one._snapshot())
    assert (path / "state.json").stat().st_mtime_ns == before


def test_a_failed_save_leaves_earlier_checkpoints_and_says_so(tmp_path, sandbox):
    one = trainer(tmp_path, sandbox, max_steps=1)
    one.start()

    def full(path):
        raise OSError(28, "No space left on device")

    one.backend.save = full
    with pytest.raises(Exception, match=r"No space left on device.*--resume"):
        one.run()
    assert [p.name for p in checkpoint.steps(tmp_path)] == ["step_000000"]
    assert not list((tmp_path / "checkpoints").glob("*.tmp"))
