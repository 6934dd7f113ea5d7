"""The trainer on a scripted backend: what a kill or an interrupt at a bad moment leaves behind."""

import json
import os
import shutil
import signal
from dataclasses import replace

import pytest

from azr_mlx import run_folder
from azr_mlx.config import (
    Config,
    EvaluationConfig,
    HeldOutConfig,
    Ppo,
    Proposer,
    Rollout,
    Solver,
)
from azr_mlx.errors import UsageError
from azr_mlx.evaluation import benchmarks
from azr_mlx.evaluation.during_training import TrainingEvaluation
from azr_mlx.evaluation.protocol import half
from azr_mlx.monitoring.terminal import Display
from azr_mlx.sandbox import Sandbox
from azr_mlx.tasks.parse import is_reserved
from azr_mlx.training.run import INTERRUPTED, Trainer
from tests.fake import FakeBackend
from tests.runs import rows_of, unregistered
from tests.scripted import ROWS, Scripted, write_rows

pytestmark = pytest.mark.sandbox

CONFIG = Config(
    batch_size=1,
    task_types=("deduction",),
    max_steps=5,
    checkpoint_interval=1,
    keep_checkpoints=0,
    ppo=Ppo(entropy_coef=0.01),  # so that a step has an update even if all rewards are equal
    rollout=Rollout(form="few_shot", group_size=2, max_propose_tokens=50, max_solve_tokens=20),
    proposer=Proposer(references=1, templates_per_step=1),
    solver=Solver(strategies=("direct",)),
)


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(workers=1) as running:
        yield running


def trainer(
    run, sandbox, script=lambda prompt, n: " 1", evaluate=None, before_step=None, **changes
) -> Trainer:
    run.mkdir(exist_ok=True)
    config = Config(**{**{f: getattr(CONFIG, f) for f in CONFIG.__dataclass_fields__}, **changes})
    display = Display(5, quiet=True)
    return Trainer(
        config,
        run,
        FakeBackend(script),
        sandbox,
        display=display,
        evaluate=evaluate,
        before_step=before_step,
    )


def steps(run) -> list[int]:
    return [row["step"] for row in rows_of(run)]


def weights(path) -> int:
    return json.loads((path / "weights.json").read_text())


def test_rows_are_registered_and_one_a_step(tmp_path, sandbox):
    one = trainer(tmp_path, sandbox)
    one.start()
    assert one.run() == 0 and steps(tmp_path) == [1, 2, 3, 4, 5]
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        assert unregistered(json.loads(line)) == []


def test_all_that_was_generated_counts_in_the_metrics_of_speed(tmp_path, sandbox):
    """Proposals whose shape is kept for held-out tasks took as long to write as others."""
    sums = (f"return {' + '.join(['x'] * n)}" for n in range(1, 60))
    body = next(b for b in sums if is_reserved(f"def f(x):\n    {b}\n"))
    proposal = f"(x):\n    {body}\nassert f(3) == ?\n"
    script = lambda prompt, n: " 1" if prompt.strategy else proposal  # noqa: E731
    rollout = replace(CONFIG.rollout, max_propose_tokens=400)
    changes = {"held_out": HeldOutConfig(tasks=1), "rollout": rollout, "max_steps": 1}
    one = trainer(tmp_path, sandbox, script, **changes)
    one.start()
    one.run()
    [row] = rows_of(tmp_path)
    assert row["propose/reject/reserved"] == 1.0 and row["rollouts"] == 1 + 2
    assert row["tokens/completion"] == len(proposal) + 2 * len(" 1")
    asked = {prompt.token_ids for prompt in one.backend.prompts}
    assert row["tokens/prompt"] == sum(map(len, asked))
    [file] = tmp_path.glob("rollouts/*.jsonl")
    assert len(file.read_text().splitlines()) == 2, "what is not paid is not trained on"


def test_prompts_of_the_step_before_are_forgotten(tmp_path, sandbox):
    """A resumed run has none of them; a step without an update would keep them."""
    one = trainer(tmp_path, sandbox)
    one.start()
    before = one.backend.forgotten
    one.run()
    assert one.backend.forgotten - before >= 5


def test_a_kill_between_checkpoint_and_row_loses_no_row(tmp_path, sandbox):
    one = trainer(tmp_path, sandbox, max_steps=3)
    one.start()
    write = one.metrics.write
    one.metrics.write = lambda row: None if row["step"] == 3 else write(row)
    one.run()
    assert steps(tmp_path) == [1, 2]
    again = trainer(tmp_path, sandbox)
    again.resume(run_folder.checkpoints(tmp_path)[-1])
    assert again.run() == 0 and steps(tmp_path) == [1, 2, 3, 4, 5]


def test_resuming_an_earlier_checkpoint_sets_the_later_ones_aside(tmp_path, sandbox):
    """Else they would be taken for the newest, and two branches would mix."""
    one = trainer(tmp_path, sandbox)
    one.start()
    one.run()
    third = tmp_path / "checkpoints" / "step_000003"
    again = trainer(tmp_path, sandbox)
    assert again.resume(third) == 2
    assert run_folder.checkpoints(tmp_path)[-1] == third and weights(tmp_path / "adapters") == 3
    assert sorted(p.name for p in third.parent.joinpath("set_aside").iterdir()) == [
        "step_000004",
        "step_000005",
    ]
    assert steps(tmp_path) == [1, 2, 3]
    assert again.run() == 0 and steps(tmp_path) == [1, 2, 3, 4, 5]


def test_signs_of_a_collapse_are_told_whether_the_run_was_resumed_or_not(tmp_path, sandbox, capsys):
    """Nothing that is proposed is valid: after a window of five steps, that is said."""

    def last(run):
        return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])

    whole = trainer(tmp_path / "whole", sandbox)
    whole.start()
    whole.run()
    assert "warning: step 5: only 0% of the proposals are valid" in capsys.readouterr().err
    assert last(tmp_path / "whole")["health/valid"] == 1.0
    first = trainer(tmp_path / "parts", sandbox, max_steps=3)
    first.start()
    first.run()
    again = trainer(tmp_path / "parts", sandbox)
    again.resume(run_folder.checkpoints(tmp_path / "parts")[-1])
    again.run()
    assert "warning: step 5: only 0% of the proposals are valid" in capsys.readouterr().err
    assert again.health == whole.health


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
    last = run_folder.checkpoints(tmp_path)[-1]
    saved = 3 if moment == "update" else 2
    assert last.name == f"step_{saved:06d}" and weights(last) == saved
    assert steps(tmp_path) == list(range(1, saved + 1))
    again = trainer(tmp_path, sandbox)
    again.resume(last)
    assert again.run() == 0 and steps(tmp_path) == [1, 2, 3, 4, 5]


def test_a_pause_between_steps_ends_with_ctrl_c_and_loses_nothing(tmp_path, sandbox):
    begun = []

    def wait(step):
        begun.append(step)
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("Ctrl-C has not ended the pause")

    one = trainer(tmp_path, sandbox, before_step=wait, checkpoint_interval=5)
    one.start()
    assert one.run() == INTERRUPTED and begun == [1, 2, 3]
    last = run_folder.checkpoints(tmp_path)[-1]
    assert last.name == "step_000002" and weights(last) == one.backend.weights
    again = trainer(tmp_path, sandbox)
    again.resume(last)
    assert again.run() == 0 and steps(tmp_path) == [1, 2, 3, 4, 5]


def test_a_device_that_fails_amid_resuming_is_no_damaged_checkpoint(tmp_path, sandbox):
    one = trainer(tmp_path, sandbox)
    one.start()

    def load(path):
        raise RuntimeError("[METAL] Command buffer execution failed: Impacting Interactivity")

    one.backend.load = load
    with pytest.raises(RuntimeError, match="Impacting Interactivity"):
        one.resume(run_folder.checkpoints(tmp_path)[-1])


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
    assert [p.name for p in run_folder.checkpoints(tmp_path)] == ["step_000000"]
    assert not list((tmp_path / "checkpoints").glob("*.tmp"))


def test_a_failed_first_save_says_that_there_is_no_earlier_one(tmp_path, sandbox):
    one = trainer(tmp_path, sandbox, max_steps=1)

    def full(path):
        raise OSError(28, "No space left on device")

    one.backend.save = full
    with pytest.raises(Exception, match=r"there is no earlier one.*start again") as failed:
        one.start()
    assert "--resume" not in str(failed.value)


# ---------------------------------------------------------------- the best checkpoint

SELECTION = {1: 0.2, 2: 0.5, 3: 0.4, 4: 0.5, 5: 0.1}
REPORT = {1: 0.9, 2: 0.3, 3: 0.9, 4: 0.9, 5: 0.9}  # would choose otherwise


def scored(step):
    return {"eval/selection": SELECTION[step], "eval/humaneval_pass_at_1": REPORT[step]}


def best(run) -> str:
    return (run / "best").resolve().name


def test_the_best_is_selected_by_the_selection_half_and_kept(tmp_path, sandbox):
    one = trainer(
        tmp_path,
        sandbox,
        evaluate=scored,
        evaluation_interval=1,
        keep_checkpoints=1,
        checkpoint_interval=5,
    )
    one.start()
    assert one.run() == 0
    assert best(tmp_path) == "step_000002" and weights(tmp_path / "best") == 2
    assert [p.name for p in run_folder.checkpoints(tmp_path)] == ["step_000002", "step_000005"]
    assert run_folder.recorded(tmp_path, "best") == {"step": 2, "selection": 0.5}
    rows = rows_of(tmp_path)
    assert [row["eval/best_step"] for row in rows] == [1, 2, 2, 2, 2]
    assert [row["eval/humaneval_pass_at_1"] for row in rows] == list(REPORT.values())
    assert all(unregistered(row) == [] for row in rows)


def test_steps_between_evaluations_are_not_evaluated(tmp_path, sandbox):
    asked = []
    one = trainer(
        tmp_path,
        sandbox,
        evaluate=lambda step: asked.append(step) or scored(step),
        evaluation_interval=2,
    )
    one.start()
    one.run()
    assert asked == [2, 4] and best(tmp_path) == "step_000002"


def test_resuming_knows_the_best_so_far(tmp_path, sandbox):
    settings = {"evaluate": scored, "evaluation_interval": 1, "checkpoint_interval": 1}
    one = trainer(tmp_path, sandbox, max_steps=3, **settings)
    one.start()
    one.run()
    again = trainer(tmp_path, sandbox, **settings)
    again.resume(run_folder.checkpoints(tmp_path)[-1])
    assert again.run() == 0 and best(tmp_path) == "step_000002"


def test_resuming_before_the_best_forgets_it(tmp_path, sandbox):
    settings = {"evaluate": scored, "evaluation_interval": 1, "checkpoint_interval": 1}
    one = trainer(tmp_path, sandbox, **settings)
    one.start()
    one.run()
    again = trainer(tmp_path, sandbox, **settings)
    again.resume(tmp_path / "checkpoints" / "step_000001")
    assert again.best.step == 1 and best(tmp_path) == "step_000001"
    assert run_folder.recorded(tmp_path, "best")["step"] == 1
    start = trainer(tmp_path, sandbox, **settings)
    start.resume(tmp_path / "checkpoints" / "step_000000")
    assert start.best is None and not (tmp_path / "best").is_symlink()
    assert start.run() == 0 and best(tmp_path) == "step_000002"


def test_a_best_checkpoint_that_is_gone_is_said(tmp_path, sandbox, capsys):
    settings = {"evaluate": scored, "evaluation_interval": 1, "checkpoint_interval": 1}
    one = trainer(tmp_path, sandbox, max_steps=3, **settings)
    one.start()
    one.run()
    shutil.rmtree(tmp_path / "checkpoints" / "step_000002")
    again = trainer(tmp_path, sandbox, **settings)
    again.resume(run_folder.checkpoints(tmp_path)[-1])
    assert "step 2, is no longer on disk" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "best").is_symlink()


def test_the_halves_of_an_evaluation_in_training(tmp_path, sandbox):
    """One half selects, the other reports; each is about half of the tasks that are allowed."""
    loaded = [benchmarks.load("humaneval", write_rows(tmp_path / "HumanEval.jsonl"))]
    config = replace(CONFIG, evaluation=EvaluationConfig(max_tasks_per_benchmark=6))
    backend = Scripted()
    evaluated = TrainingEvaluation(config, loaded, backend, sandbox)
    row = evaluated(3)
    chosen = {half(f"HumanEval/{task}"): [] for task in range(6)}
    for task, _, _, policy in backend.made:
        chosen[half(f"HumanEval/{task}")].append(task < 4)  # half_right: those pass
        assert policy == "current"
    shares = {name: sum(passes) / len(passes) for name, passes in chosen.items()}
    assert row["eval/humaneval_selection_pass_at_1"] == row["eval/selection"] == shares["selection"]
    assert row["eval/humaneval_pass_at_1"] == shares["report"]
    assert evaluated(7) == row and unregistered(row) == []


@pytest.mark.parametrize("most", [2, 3, 4])
def test_an_evaluation_in_training_is_bounded(most, tmp_path, sandbox):
    loaded = [benchmarks.load("humaneval", write_rows(tmp_path / "HumanEval.jsonl"))]
    config = replace(CONFIG, evaluation=EvaluationConfig(max_tasks_per_benchmark=most))
    backend = Scripted()
    TrainingEvaluation(config, loaded, backend, sandbox)(1)
    halves = [half(f"HumanEval/{task}") for task, *_ in backend.made]
    assert (halves.count("selection"), halves.count("report")) == (most // 2, most - most // 2)


@pytest.mark.parametrize(("solve", "enough"), [(64, 512), (1024, 1024), (4096, 4096)])
def test_an_evaluation_in_training_has_room_for_answers(solve, enough, tmp_path, sandbox):
    """A benchmark's answers are longer than those to the tasks that a small model is given."""
    loaded = [benchmarks.load("humaneval", write_rows(tmp_path / "HumanEval.jsonl"))]
    config = replace(CONFIG, rollout=replace(CONFIG.rollout, max_solve_tokens=solve))
    [halves] = TrainingEvaluation(config, loaded, Scripted(), sandbox).pairs
    assert [one.settings.sampling.max_tokens for one in halves] == [enough, enough]


def test_a_half_without_tasks_is_told_before_the_first_step(tmp_path, sandbox):
    only = next(row for row in ROWS if half(row["task_id"]) == "report")
    (tmp_path / "HumanEval.jsonl").write_text(json.dumps(only) + "\n")
    loaded = [benchmarks.load("humaneval", tmp_path)]
    with pytest.raises(UsageError, match="--split selection: no task of humaneval"):
        TrainingEvaluation(CONFIG, loaded, Scripted(), sandbox)
