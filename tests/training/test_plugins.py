"""Plug-ins in a run on a scripted backend: what they are given, what they decide, how they fail."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from azr_mlx import run_folder
from azr_mlx.commands.train import _place
from azr_mlx.config import Config, ConfigError, HeldOutConfig, Proposer, Rollout, Solver
from azr_mlx.config.plugins import PlugInError
from azr_mlx.errors import AzrError, UsageError
from azr_mlx.evaluation import held_out
from azr_mlx.monitoring.terminal import Display
from azr_mlx.sandbox import Sandbox
from azr_mlx.selfplay.round import Round
from azr_mlx.tasks import templates
from azr_mlx.training import plugins
from azr_mlx.training.memory.prompts import planned_prompts
from azr_mlx.training.run import Trainer
from azr_mlx.types import TaskKind
from tests.fake import FakeBackend
from tests.runs import rows_of
from tests.training.test_distributed import on_both

pytestmark = pytest.mark.sandbox

Write = Callable[[str, str], Path]

CONFIG = Config(
    batch_size=2,
    task_types=("deduction",),
    max_steps=3,
    checkpoint_interval=10,
    initial_difficulty=0.1,
    rollout=Rollout(form="few_shot", group_size=4, max_propose_tokens=200, max_solve_tokens=40),
    proposer=Proposer(references=1, templates_per_step=0, induction_inputs=4),
    solver=Solver(strategies=("direct",)),
)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(workers=1) as running:
        yield running


def with_rewards(proposer: str = "frontier", solver: str = "verdict", **changes: Any) -> Config:
    return replace(
        CONFIG,
        proposer=replace(CONFIG.proposer, reward=proposer),
        solver=replace(CONFIG.solver, reward=solver),
        **changes,
    )


def script(prompt: Any, n: int) -> str:
    """Every second proposal is valid, and new; every second answer can be read, half of those are
    right."""
    if prompt.strategy == "":
        body = f"return x * 2 + 1{' - x' * n}"
        return f"(x):\n    {body}\nassert f(3) == ?\n" if n % 2 == 0 else "nothing"
    number = prompt.text.count(" - x")
    return [f" {7 - 3 * number}", " (", " -1", " ("][n % 4]


def run(folder: Path, sandbox: Sandbox, config: Config, resume: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    one = Trainer(config, folder, FakeBackend(script), sandbox, display=Display(3, quiet=True))
    if resume:
        one.resume(run_folder.checkpoints(folder)[-1])
    else:
        one.start()
    assert one.run() == 0
    return folder


def experiences(folder: Path) -> list[dict[str, Any]]:
    files = run_folder.rollouts(folder)
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def without_rewards(row: dict[str, Any]) -> dict[str, Any]:
    out = ("reward/", "propose/learnability", "frac_reward", "time/")
    return {k: v for k, v in row.items() if not k.startswith(out)}


# -- rewards ---------------------------------------------------------------------------------------


def test_a_plug_in_says_what_a_proposal_is_worth(write: Write, sandbox: Sandbox) -> None:
    write(
        "worth.py",
        "seen = []\n"
        "def novel(proposal):\n"
        "    seen.append(proposal)\n"
        "    return 10 * proposal.step + proposal.solved / proposal.attempts\n",
    )
    folder = run(Path("a"), sandbox, with_rewards("worth:novel"))
    import worth

    rows = [e for e in experiences(folder) if e["role"] == "propose"]
    valid = [e for e in rows if e["verdict"]["status"] == "ok"]
    assert valid and len(valid) == len(worth.seen) < len(rows)
    for row, known in zip(valid, worth.seen, strict=True):
        answers = [e for e in experiences(folder) if e["task_id"] == known.task.id]
        passes = [e["verdict"]["status"] == "pass" for e in answers if e["role"] == "solve"]
        assert (known.attempts, known.solved) == (len(passes), sum(passes)) and known.attempts == 4
        assert known.solve_rate == sum(passes) / 4 and known.chance == 0.0
        assert row["step"] == known.step and row["task_id"] == known.task.id
        assert row["reward"]["total"] == 10 * known.step + known.solve_rate
        [reference] = known.references
        assert known.task.parents == (reference.id,) and reference.program in row["prompt"]["text"]
    refused = [e for e in rows if e not in valid]
    assert {e["reward"]["total"] for e in refused} == {-1.0}, "the configuration's, as ever"


def test_a_plug_in_says_what_an_answer_is_worth_and_the_judge_if_it_is_right(
    write: Write, sandbox: Sandbox
) -> None:
    write(
        "answers.py",
        "def opposite(verdict, text, task):\n"
        "    assert task.outputs and isinstance(text, str)\n"
        "    try:\n"
        "        verdict.status = 'pass'\n"
        "    except AttributeError:\n"
        "        return -2.0 if verdict.passed else len(text)\n",
    )
    own = run(Path("own"), sandbox, with_rewards(solver="answers:opposite"))
    usual = run(Path("usual"), sandbox, CONFIG)
    found = [e for e in experiences(own) if e["role"] == "solve"]
    assert {e["verdict"]["status"] for e in found} == {"pass", "fail", "format"}
    for e in found:
        right = e["verdict"]["status"] == "pass"
        assert e["reward"]["total"] == (-2.0 if right else len(e["completion"]["text"]))
        assert list(e["reward"]["parts"].values()) == [e["reward"]["total"]]
    for one, other in zip(rows_of(own, clock=False), rows_of(usual, clock=False), strict=True):
        ours, theirs = without_rewards(one), without_rewards(other)
        differ = {k for k in ours if ours[k] != theirs[k]}
        assert "solve_rate/deduction" in ours and not any(k.startswith("solve") for k in differ)
        assert not any(k.startswith(("buffer", "difficulty", "propose")) for k in differ)


FAILURES = {
    "raises": ("1 / 0", "ZeroDivisionError: division by zero (failing.py, line 5)"),
    "none": ("None", "returned None, and not a float"),
    "nan": ("float('nan')", "returned nan, and not a finite float"),
    "text": ("'1'", "returned a value of type str, and not a float"),
    "exit": ("exit(3)", "SystemExit: 3 (failing.py, line 5)"),
}


@pytest.mark.parametrize(("value", "why"), FAILURES.values(), ids=FAILURES.keys())
@pytest.mark.parametrize("point", ["proposer", "solver"])
def test_a_failure_ends_the_run_with_one_line_and_it_can_be_resumed(
    point: str, value: str, why: str, write: Write, sandbox: Sandbox
) -> None:
    """The third step fails; checkpoints are far apart, and no step is lost."""
    write(
        "failing.py",
        "broken = True\n"
        "def check(step):\n"
        "    if step < 3 or not broken:\n"
        "        return 0.5\n"
        f"    return {value}\n"
        "def proposer(proposal): return check(proposal.step)\n"
        "def solver(verdict, text, task): return check(task.origin_step)\n",
    )
    config = with_rewards(**{point: f"failing:{point}"})
    with pytest.raises(AzrError) as error:
        run(Path("a"), sandbox, config)
    assert error.value.exit_code == 1 and not isinstance(error.value, PlugInError)
    assert str(error.value) == (
        f"{point}.reward: failing:{point}: step 3: {why}; saved a/checkpoints/step_000002; "
        "correct the function, then continue: azr-mlx train --resume a"
    )
    assert [row["step"] for row in rows_of(Path("a"))] == [1, 2]
    import failing

    failing.broken = False
    two = run(Path("two"), sandbox, replace(config, max_steps=2))
    buffers = [list(run_folder.read_buffer(one / "adapters")) for one in (Path("a"), two)]
    assert buffers[0] == buffers[1], "nothing of the step that failed is kept"
    run(Path("a"), sandbox, config, resume=True)
    assert [row["step"] for row in rows_of(Path("a"))] == [1, 2, 3]


# -- templates -------------------------------------------------------------------------------------

GROWN = """
from azr_mlx import Proposal

def grown(kind, difficulty, rng, n_inputs):
    body = "n" + "".join(rng.choice([" + 2", " - n", " * 3"], 1 + int(10 * difficulty)))
    numbers = rng.choice(50, n_inputs, replace=False)
    program = f"def f(n):\\n    'Says what it does.'\\n    return {body}  # a comment\\n"
    return Proposal(program, tuple(f"({n},)" for n in numbers), "a sum")
"""


def with_templates(name: str, **changes: Any) -> Config:
    p = replace(CONFIG.proposer, template_set=name, templates_per_step=2)
    kinds = ("deduction", "abduction", "induction")
    return replace(CONFIG, proposer=p, batch_size=0, task_types=kinds, **changes)


def test_templates_of_ones_own_pass_the_gate_and_are_the_tasks_of_a_run(
    write: Write, sandbox: Sandbox
) -> None:
    write("mytemplates.py", GROWN)
    config = with_templates("mytemplates:grown", max_steps=1)
    folder = run(Path("a"), sandbox, config)
    rows = list(run_folder.read_buffer(run_folder.checkpoints(folder)[-1]))
    tasks = [row.get("task", row) for row in rows]
    assert {task["kind"] for task in tasks} == {"deduction", "abduction", "induction"}
    for task in tasks:
        assert (
            task["program"].startswith("def f(n):\n    return n") and task["source"] == "template"
        )
        assert "#" not in task["program"], "in the form that the gate keeps"
        count = 4 if task["kind"] == "induction" else 1
        assert len(task["inputs"]) == len(task["outputs"]) == count
    assert planned_prompts(config) != planned_prompts(with_templates("programs"))


def test_the_held_out_tasks_are_from_them_too(write: Write, sandbox: Sandbox) -> None:
    write("mytemplates.py", GROWN)
    config = with_templates("mytemplates:grown", held_out=HeldOutConfig(tasks=2))
    drawn = held_out.draw(config, 0.4, 0.4, sandbox)
    assert drawn and all("return n" in task.program for task in drawn)
    assert held_out.draw(config, 0.4, 0.4, sandbox) == drawn


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("None", "returned None, and not a Proposal"),
        ("'def f(a): return a'", "returned a value of type str, and not a Proposal"),
        ("Proposal('def f(a): return a', ['(1,)'])", "tuple of inputs is not text"),
        ("Proposal('def f(a): return a', (1,))", "tuple of inputs is not text"),
        ("Proposal(None, ('(1,)',))", "tuple of inputs is not text"),
        ("Proposal('def f(a): return a', ('(1,)',), '\\ud800')", "tuple of inputs is not text"),
        ("Proposal('def f(): return 1', ())", "returned a Proposal without inputs, and not 1"),
        ("rng.nothing", "AttributeError: "),
    ],
)
def test_what_is_no_proposal_is_one_line(value: str, why: str, write: Write) -> None:
    write(
        "mytemplates.py",
        f"from azr_mlx import Proposal\ndef f(kind, difficulty, rng, n): return {value}\n",
    )
    with pytest.raises(PlugInError) as error:
        templates.draw(TaskKind.DEDUCTION, 0.5, np.random.default_rng(0), 4, "mytemplates:f")
    line = str(error.value)
    assert line.startswith("proposer.template_set: mytemplates:f: ") and why in line


def test_a_proposal_that_the_gate_refuses_is_no_task(write: Write, sandbox: Sandbox) -> None:
    write(
        "mytemplates.py",
        "from azr_mlx import Proposal\n"
        "def f(kind, difficulty, rng, n):\n"
        "    return Proposal('import os\\ndef f(a): return os.getcwd()', ('(1,)',))\n",
    )
    with pytest.raises(
        AzrError,
        match=r"template_set: mytemplates:f: none of \d+ templates became a first task of "
        "deduction: .*correct the function",
    ):
        run(Path("a"), sandbox, with_templates("mytemplates:f"))


def test_a_set_of_reserved_shapes_alone_does_not_draw_for_ever(
    write: Write, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("mytemplates.py", GROWN)
    monkeypatch.setattr("azr_mlx.selfplay.proposer.is_reserved", lambda program: True)
    config = with_templates("mytemplates:grown", held_out=HeldOutConfig(tasks=2))
    with pytest.raises(AzrError, match=r"mytemplates:grown: 200 programs in a row .* reserved"):
        run(Path("a"), sandbox, config)


def test_templates_that_fail_in_a_step_say_which(write: Write, sandbox: Sandbox) -> None:
    write(
        "mytemplates.py",
        GROWN.replace("    body", "    calls.append(1)\n    if broken: 1 / 0\n    body")
        + "\nbroken, calls = False, []\n",
    )
    config = with_templates("mytemplates:grown")
    one = Trainer(config, Path("."), FakeBackend(script), sandbox, display=Display(3, quiet=True))
    one.start()
    import mytemplates

    mytemplates.broken = True
    with pytest.raises(AzrError, match=r"mytemplates:grown: step 1: ZeroDivisionError.*saved .*00"):
        one.run()


# -- a run's record --------------------------------------------------------------------------------


def test_all_that_cannot_be_called_is_said_at_once(write: Write) -> None:
    write("some.py", "def one(a): ...\n")
    config = replace(
        with_rewards("some:two", "some:one"),
        evaluation=replace(CONFIG.evaluation, benchmarks=("humaneval", "none_such:f")),
        evaluation_interval=1,
    )
    with pytest.raises(ConfigError) as error:
        plugins.in_use(config)
    keys = [line.partition(": ")[0] for line in error.value.lines]
    assert keys == ["proposer.reward", "solver.reward", "evaluation.benchmarks"]
    with pytest.raises(ConfigError) as error:
        plugins.in_use(replace(config, evaluation_interval=0))
    assert len(error.value.lines) == 2, "benchmarks that are never loaded are not looked at"


def test_a_resumed_run_is_told_if_a_plug_in_is_not_what_it_was(write: Write) -> None:
    file = write("some.py", "def one(a): ...\ndef two(a): ...\n")
    folder = file.parent

    def said(*arguments: str, resumed: bool = True) -> list[str]:
        return plugins.record(folder, plugins.in_use(with_rewards(*arguments)), resumed)

    assert said("some:one", resumed=False) == []
    [kept] = run_folder.recorded(folder, "plug_ins")
    assert (kept["key"], kept["function"]) == ("proposer.reward", "some:one")
    assert said("some:one") == []
    file.write_text("def one(a): return 2\ndef two(a): ...\n")
    [line] = said("some:one")
    assert line.startswith("proposer.reward: some:one: its file has changed since the run's last")
    assert said("some:one") == [], "it is said once"
    [line] = said("some:two")
    assert "some:two: the run did not have this function" in line
    assert said() == [] and run_folder.recorded(folder, "plug_ins") == []
    assert said("some:one", resumed=False) == []


def test_a_run_of_a_version_without_plug_ins_says_nothing(write: Write) -> None:
    file = write("some.py", "def one(a): ...\n")
    assert plugins.record(file.parent, plugins.in_use(with_rewards("some:one")), True) == []


def test_a_round_of_its_own_calls_them_too(write: Write, sandbox: Sandbox) -> None:
    """Whoever uses the proposer without a run gets the same templates, or the same error."""
    from azr_mlx import TaskProposer

    write("mytemplates.py", GROWN)
    proposer = TaskProposer(sandbox, config=with_templates("mytemplates:grown"))
    assert "return n" in proposer.propose("deduction").program
    missing = TaskProposer(sandbox, config=with_templates("mytemplates:gone"))
    with pytest.raises(ConfigError, match="did you mean grown"):
        missing.templates(Round(0, 1), [(TaskKind.DEDUCTION, 0.5)])


def test_ranks_with_other_files_are_refused(write: Write) -> None:
    """Each rank computes all rewards, and their steps must be the same."""
    write("first.py", "def worth(a): return 1.0\n")
    write("second.py", "def worth(a): return 2.0\n")
    config = with_rewards("first:worth")
    [first] = plugins.in_use(config)
    [second] = plugins.in_use(with_rewards("second:worth"))

    def place(world: Any) -> None:
        found = [[first], [replace(second, name="first:worth")]][world.rank]
        with ExitStack() as stack, pytest.raises(UsageError, match="different files of plug-ins"):
            _place(world, config, found, None, stack)

    on_both(place)
