"""The command line with plug-ins: the page's examples, where they are imported, resuming."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from azr_mlx.cli import main
from azr_mlx.evaluation import benchmarks
from azr_mlx.evaluation.protocol import half
from azr_mlx.sandbox import Job, Sandbox
from tests.conftest import ROOT
from tests.runs import rows_of

pytest.importorskip("mlx.core", reason="mlx is not installed")

pytestmark = pytest.mark.e2e

Write = Callable[[str, str], Path]

PAGE = (ROOT / "docs" / "plug-ins.md").read_text("utf-8")
EXAMPLES: dict[str, str] = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE, re.DOTALL))
SHORT = [
    "train",
    "-c",
    "quickstart",
    "run_name=a",
    "max_steps=1",
    "batch_size=12",
    "held_out.tasks=0",
    "rollout.group_size=4",
    "sandbox.workers=1",
]


def rollouts(role: str) -> list[dict[str, Any]]:
    lines = Path("runs/a/rollouts/step_000001.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["role"] == role]


@pytest.fixture
def examples(write: Write) -> None:
    for name, code in EXAMPLES.items():
        write(name, code)


def trained(*settings: str) -> str:
    """A short run; returns the plug-in's name, which stands in the first setting."""
    assert main([*SHORT, *settings]) == 0
    return settings[0].partition("=")[2]


def test_the_page_has_an_example_of_each() -> None:
    from azr_mlx.training.plugins import POINTS

    shown = re.findall(r"([a-z_.]+)=[a-z,]*?(my_[a-z]+:[a-z]+)", PAGE)
    assert {key for key, _ in shown} == set(POINTS)
    assert {f"{name.partition(':')[0]}.py" for _, name in shown} == set(EXAMPLES)


@pytest.mark.usefixtures("examples")
def test_the_page_s_reward_for_the_proposer() -> None:
    trained("proposer.reward=my_rewards:novel")
    paid = [
        (row["reward"]["total"], row["task_id"])
        for row in rollouts("propose")
        if row["verdict"]["status"] == "ok"
    ]
    assert paid and all(0 <= reward <= 1 for reward, _ in paid)
    for reward, task in paid:
        answers = [row for row in rollouts("solve") if row["task_id"] == task]
        if len({row["verdict"]["status"] == "pass" for row in answers}) == 1:
            assert reward == 0, "all of them, or none, are right"


@pytest.mark.usefixtures("examples")
def test_the_page_s_reward_for_the_solver() -> None:
    trained("solver.reward=my_answers:brief")
    found = rollouts("solve")
    for row in found:
        right, length = row["verdict"]["status"] == "pass", len(row["completion"]["text"])
        assert row["reward"]["total"] == (1 - length / 4000 if right else pytest.approx(-0.5)) or (
            row["verdict"]["status"] == "format" and row["reward"]["total"] == -1
        )
    assert any(row["verdict"]["status"] == "pass" for row in found)


@pytest.mark.usefixtures("examples")
def test_the_page_s_templates(capsys: pytest.CaptureFixture[str]) -> None:
    trained("proposer.template_set=my_templates:grown", "batch_size=0")
    capsys.readouterr()
    assert main(["tasks"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["kind"] for row in rows} == {"deduction", "abduction", "induction"}
    assert all(re.match(r"def f\(n\):\n    return ", row["program"]) for row in rows)


@pytest.mark.usefixtures("examples")
def test_the_page_s_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    name = trained("evaluation.benchmarks=my_benchmark:problems", "evaluation_interval=1")
    [row] = rows_of(Path("runs/a"))
    assert row["eval/my_benchmark_problems_pass_at_1"] == row["eval/selection"] == 0.0
    problems = benchmarks.load(name).problems
    assert {half(problem.id) for problem in problems} == {"selection", "report"}
    with Sandbox(workers=1) as sandbox:
        for problem in problems:
            jobs = problem.check.jobs(problem.solution)
            assert problem.check.grade(problem.solution, sandbox.run(jobs)).share == 1.0
    capsys.readouterr()
    words = ["eval", "--adapter-path", "runs/a", "--benchmark", name, "--limit", "2", "-m", "8"]
    assert main([*words, "--json"]) == 0
    [result] = json.loads(capsys.readouterr().out)["results"]
    assert result["benchmark"] == name and len(result["tasks"]) == 2


# -- where they are imported -----------------------------------------------------------------------


def test_the_trainer_imports_them_and_no_other_process(
    write: Write, cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """And a program of the model cannot, though they lie in the current folder."""
    write(
        "told.py",
        "import os\n"
        "with open('who.txt', 'a') as file:\n"
        "    print(os.getpid(), file=file)\n"
        "def solver(verdict, text, task):\n"
        "    with open('called.txt', 'a') as file:\n"
        "        print(os.getpid(), file=file)\n"
        "    return 0.0\n",
    )
    done = cli(*SHORT, "solver.reward=told:solver")
    assert done.returncode == 0, done.stderr
    [importer] = Path("who.txt").read_text().split()
    assert set(Path("called.txt").read_text().split()) == {importer} != {str(os.getpid())}
    with Sandbox(workers=1) as sandbox:
        [result] = sandbox.run([Job("a", "import told\ndef f(x): return 1", call="f", args="(1,)")])
    assert result.status.value == "error" and "told" in result.detail
    assert len(Path("who.txt").read_text().split()) == 1


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_what_cannot_be_called_ends_the_command_at_its_start(
    more: list[str], write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    write("some.py", "def worth(a, b): ...\n")
    assert main([*SHORT, *more, "proposer.reward=some:worth", "solver.reward=none_such:f"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("azr-mlx: error: proposer.reward: some:worth: takes (a, b): missing")
    assert second.startswith("azr-mlx: error: solver.reward: none_such:f: no module none_such in ")
    assert not Path("runs").exists()


def test_a_run_that_failed_is_resumed_and_told_of_the_change(
    write: Write, cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    code = "calls = []\ndef worth(verdict, text, task):\n    return 1.0 / (FIX)\n"
    write("some.py", code.replace("FIX", "task.origin_step < 2"))
    words = [*SHORT, "max_steps=3", "batch_size=0", "checkpoint_interval=50"]
    failed = cli(*words, "solver.reward=some:worth")
    assert failed.returncode == 1
    *_, last = failed.stderr.splitlines()
    assert last == (
        "azr-mlx: error: solver.reward: some:worth: step 2: ZeroDivisionError: float division by "
        "zero (some.py, line 3); saved runs/a/checkpoints/step_000001; correct the function, then "
        "continue: azr-mlx train --resume runs/a"
    )
    write("some.py", code.replace("FIX", "1"))
    done = cli("train", "--resume", "runs/a")
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stderr.split())
    assert "warning: solver.reward: some:worth: its file has changed since the run's last" in told
    assert [row["step"] for row in rows_of(Path("runs/a"))] == [1, 2, 3]
    [kept] = json.loads(Path("runs/a/run.json").read_text())["plug_ins"]
    assert kept["function"] == "some:worth" and len(kept["sha256"]) == 64
    again = cli("train", "--resume", "runs/a", "max_steps=4")
    assert again.returncode == 0 and "has changed" not in again.stderr
