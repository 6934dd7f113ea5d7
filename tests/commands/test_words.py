"""Words of the command line of any length and shape: a word is what its place says, and a file or
folder is looked for only if a place is one for files. One line says what is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from azr_mlx.cli import main
from azr_mlx.text import plain

pytestmark = pytest.mark.backend

WORDS = {
    "long": "x" * 300,
    "an assignment": "KEY=" + "v" * 300,
    "very long": "x" * 200_000,
    "a long path": "/".join(["folder"] * 2000),
    "a stranger's home": "~nobody-of-this-name/models",
    "below a file": f"{__file__}/inside",
    "escape sequences": "\x1b]0;mine\x07\x1b[2J\u202e\x9b31m",
    "two lines": "one\r\ntwo\x85three\u2028four",
    "bytes that are not text": "caf\udce9",
}
PLACES = {
    "train model": ["train", "-c", "quickstart", "--dry-run", "--model"],
    "train config": ["train", "--dry-run", "-c"],
    "train resume": ["train", "--resume"],
    "train adapters": ["train", "-c", "quickstart", "--resume-adapter-file"],
    "train override": ["train", "-c", "quickstart", "--dry-run"],
    "convert model": ["convert", "--mlx-path", "out", "--hf-path"],
    "convert target": ["convert", "--hf-path", "no/such/model", "--mlx-path"],
    "export adapters": ["export", "--out", "out", "--adapter-path"],
    "export target": ["export", "--adapter-path", "runs/a", "--out"],
    "export model": ["export", "--adapter-path", "runs/a", "--out", "out", "--model"],
    "generate model": ["generate", "-p", "a", "--model"],
    "generate adapters": ["generate", "-p", "a", "--adapter-path"],
    "generate tests": ["generate", "-p", "a", "--model", "package:azr_mlx/nano/model", "--tests"],
    "eval model": ["eval", "--model"],
    "eval adapters": ["eval", "--adapter-path"],
    "eval samples": ["eval", "--samples"],
    "eval data": ["eval", "--samples", "samples.jsonl", "--data"],
    "eval benchmark": ["eval", "--model", "package:azr_mlx/nano/model", "--benchmark"],
    "report run": ["report"],
    "report compare": ["report", "latest", "--compare"],
    "tasks run": ["tasks"],
    "tasks out": ["tasks", "runs/a", "--out"],
    "push run": ["push", "--to", "me/x", "--dry-run"],
    "push to": ["push", "runs/a", "--dry-run", "--to"],
    "push what": ["push", "runs/a", "--to", "me/x", "--dry-run", "--what"],
    "push out": ["push", "runs/a", "--to", "me/x", "--dry-run", "--out"],
    "a command": [],
}


@pytest.mark.parametrize("word", WORDS.values(), ids=WORDS.keys())
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_any_word_in_any_place_gets_one_line(
    place: list[str],
    word: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code = main([*place, word])
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("azr-mlx: error: ")]
    assert code == 2 and out == ""
    assert "Errno" not in err and "Traceback" not in err and "--debug" not in err
    assert len(lines) == 1 and len(err) < 2000
    assert err.count("\n") == len(err.splitlines())
    assert err == plain(err)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    source = ["convert", "--hf-path", "package:azr_mlx/nano/model", "--mlx-path"]
    for word in ("x" * 300, "folder/" * 2000, f"{__file__}/inside"):
        assert main([*source, word]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "cannot be created: " in line and len(line) < 2000
        assert os.listdir(tmp_path) == []


def test_a_prompt_is_a_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = ["--model", "package:azr_mlx/nano/model", "-m", "2"]
    for prompt in ("x = " * 80, "--resume", "a=b"):
        assert main(["generate", "-p", prompt, *model]) == 0, capsys.readouterr().err


def test_resume_without_a_run_takes_the_latest_whatever_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seed=1").mkdir()
    for following in ([], ["--quiet"], ["seed=1"], ["ppo.epochs=2"]):
        assert main(["train", "--resume", *following]) == 2
        assert "--resume latest: no run" in capsys.readouterr().err
    assert main(["train", "--resume", "./seed=1"]) == 2
    assert "--resume ./seed=1: neither" in capsys.readouterr().err


def test_an_override_of_any_length_reaches_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "n" * 270
    assert main(["train", "-c", "quickstart", "--dry-run", f"wandb_project={name}"]) == 0
    assert name in capsys.readouterr().out
