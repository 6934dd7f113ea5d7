"""A sandbox that cannot start ends every command alike: one line, exit code 1, no traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from azr_mlx.cli import main
from azr_mlx.sandbox import pool

pytest.importorskip("mlx.core", reason="mlx is not installed")
pytestmark = pytest.mark.e2e


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def refuse(monkeypatch: pytest.MonkeyPatch, *levels: str) -> None:
    """Let no worker start at these levels."""
    real = pool.Worker

    def start(isolation: str, flavour: int) -> pool.Worker:
        if isolation in levels:
            raise OSError("no namespaces on this machine")
        return real(isolation, flavour)

    monkeypatch.setattr(pool, "Worker", start)


def commands(tmp_path: Path) -> dict[str, list[str]]:
    problem = {"task_id": "HumanEval/0", "prompt": "def f(x):\n", "entry_point": "f"}
    problem |= {
        "canonical_solution": "    return x\n",
        "test": "def check(f):\n    assert f(1) == 1\n",
    }
    (tmp_path / "HumanEval.jsonl").write_text(json.dumps(problem) + "\n")
    sample = {"task_id": "HumanEval/0", "completion": "    return x\n"}
    (tmp_path / "samples.jsonl").write_text(json.dumps(sample) + "\n")
    (tmp_path / "tests.py").write_text("assert f(1) == 1\n")
    nano = ["--model", "package:azr_mlx/nano/model"]
    return {
        "train": ["train", "-c", "quickstart", "max_steps=1", "held_out.tasks=0"],
        "eval": ["eval", "--samples", "samples.jsonl", "--data", "HumanEval.jsonl"],
        "generate": ["generate", *nano, "-p", "f", "--tests", "tests.py", "-m", "4"],
    }


@pytest.mark.parametrize("command", ["train", "eval", "generate"])
def test_a_sandbox_that_cannot_start_is_one_line_and_exit_code_1(
    command: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refuse(monkeypatch, "strong", "limits-only")
    assert main(commands(tmp_path)[command]) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    [line] = [text for text in said.splitlines() if "sandbox" in text]
    assert line.startswith("azr-mlx: error: sandbox.isolation = 'auto'")
    assert line.count("no namespaces on this machine") == 1
    assert not list(tmp_path.glob("runs/*/checkpoints")), "a run was begun that could not go on"


@pytest.mark.parametrize("command", ["train", "eval", "generate"])
@pytest.mark.parametrize("weaker", [False, True])
def test_the_level_in_force_is_the_first_thing_that_is_said(
    command: str,
    weaker: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if weaker:
        refuse(monkeypatch, "strong")
    main(commands(tmp_path)[command])
    said = capsys.readouterr().err.splitlines()
    if not weaker and "limits-only" in said[0]:
        pytest.skip(f"no strong isolation on this machine: {said[1]}")
    level = "limits-only" if weaker else "strong"
    assert said[0].startswith("sandbox: ") and said[0].endswith(f"isolation {level}")
    warnings = [line for line in said if "warning: sandbox.isolation" in line]
    assert warnings == (said[1:2] if weaker else []), "the warning follows, if there is one"
    assert all("no namespaces on this machine" in line for line in warnings), "with the reason"


@pytest.mark.parametrize("command", ["train", "eval"])
def test_quiet_hides_no_warning(
    command: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refuse(monkeypatch, "strong")
    main([*commands(tmp_path)[command], "--quiet"])
    said = capsys.readouterr().err
    assert "warning: sandbox.isolation: limits-only" in said
    assert "workers" not in said
