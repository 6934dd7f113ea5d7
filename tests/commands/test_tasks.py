"""``azr-mlx tasks``: what a run's buffers hold, as JSON lines or as a folder with a card."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import yaml

from azr_mlx import run_folder
from azr_mlx.cli import main
from azr_mlx.config import Config, to_yaml
from azr_mlx.files import json_lines, write_json
from azr_mlx.types import Task, TaskKind

pytestmark = pytest.mark.pure


def row(kind: TaskKind, number: int, attempts: int = 0, successes: int = 0) -> dict[str, object]:
    program = f"def f(x):\n    return x + {number}\n"
    task = Task.create(kind, program, ("(1,)",), (str(1 + number),), origin_step=number)
    return {"task": task.to_json(), "attempts": attempts, "successes": successes}


ROWS = [
    row(TaskKind.DEDUCTION, 0, 8, 8),
    row(TaskKind.DEDUCTION, 3, 8, 2),
    row(TaskKind.ABDUCTION, 1, 4, 2),
    row(TaskKind.ABDUCTION, 2),
]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    run = Path("runs/mine")
    checkpoint = run_folder.checkpoint_of(run, 20)
    checkpoint.mkdir(parents=True)
    with gzip.open(checkpoint / run_folder.BUFFER_FILE, "wt") as file:
        file.write(json_lines(ROWS))
    hashes = {run_folder.BUFFER_FILE: run_folder.sha256(checkpoint / run_folder.BUFFER_FILE)}
    write_json(checkpoint / run_folder.STATE_FILE, {"sha256": hashes})
    (run / run_folder.CONFIG_FILE).write_text(to_yaml(Config(model_id="org/`model`")))
    argv = ["/home/me/bin/azr-mlx", "train", "run_name=a b"]
    write_json(run / run_folder.RUN_FILE, {"starts": [{"argv": argv}]})
    return run


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    assert main(["tasks", *arguments]) == 0, capsys.readouterr().err
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def steps(rows: list[dict[str, object]]) -> list[object]:
    return [row["step"] for row in rows]


@pytest.mark.parametrize("where", ["latest", "runs/mine", "runs/mine/checkpoints/step_000020"])
def test_all_tasks_go_to_stdout_oldest_first(
    where: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = shown(capsys, where)
    assert steps(rows) == [0, 1, 2, 3]
    assert [one["solve_rate"] for one in rows] == [1.0, 0.5, None, 0.25]
    assert rows[1]["kind"] == "abduction" and rows[1]["origin"] == "model"
    assert rows[1]["inputs"] == ["(1,)"] and rows[1]["outputs"] == ["2"]


def test_filters(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert steps(shown(capsys, "--kind", "deduction")) == [0, 3]
    assert steps(shown(capsys, "--kind", "abduction, induction")) == [1, 2]
    assert steps(shown(capsys, "--min-solve-rate", "0.5")) == [0, 1], "2 was never tried"
    assert steps(shown(capsys, "--max-solve-rate", "0.5")) == [1, 3]
    assert steps(shown(capsys, "--limit", "2")) == [2, 3], "the newest"


def test_a_file_is_replaced_whole(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.jsonl").write_text("earlier")
    assert main(["tasks", "--out", "mine.jsonl"]) == 0
    out, err = capsys.readouterr()
    assert out == "mine.jsonl\n" and err == "4 tasks: 2 deduction, 2 abduction\n"
    assert len(Path("mine.jsonl").read_text().splitlines()) == 4
    assert sorted(p.name for p in Path().iterdir()) == ["mine.jsonl", "runs"]


def test_a_folder_has_a_card(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", "--out", "mine"]) == 0
    assert sorted(p.name for p in Path("mine").iterdir()) == ["README.md", "tasks.jsonl"]
    _, front, text = Path("mine/README.md").read_text().split("---\n", 2)
    (config,) = yaml.safe_load(front)["configs"]
    assert (Path("mine") / config["data_files"]).is_file()
    assert "| deduction | 2 |" in text and "| induction | 0 |" in text
    assert "base model: `org/'model'`" in text and "after step 20" in text
    assert "command: `azr-mlx train 'run_name=a b'`" in text
    assert "licence" in text


def test_a_card_of_a_run_whose_files_are_damaged(run: Path) -> None:
    (run / run_folder.CONFIG_FILE).write_text("\0")
    (run / run_folder.RUN_FILE).write_text('{"starts": [{"argv": 3}]}')
    assert main(["tasks", "--out", "mine"]) == 0
    assert Path("mine/README.md").read_text().count("`unknown`") == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["runs/other"], "tasks runs/other: no such folder"),
        (["--kind", "deduce"], "--kind deduce: no such kind; take deduction"),
        (["--kind", "induction"], "none of its 4 tasks is wanted; filter less"),
        (["--min-solve-rate", "0.9", "--max-solve-rate", "0.1"], "--min-solve-rate 0.9: more than"),
        (["--limit", "0"], "--limit"),
        (["--out", "runs"], "--out runs: already exists"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], said: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tasks", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and said in err and err.count("\n") == 1
    assert [p.name for p in Path().iterdir()] == ["runs"]


def test_a_place_that_cannot_be_written(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("")
    for out in ("no/such/folder/mine.jsonl", "file/mine"):
        assert main(["tasks", "--out", out]) == 1
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "Traceback" not in err and "choose" in err
    assert sorted(p.name for p in Path().iterdir()) == ["file", "runs"]


def test_damaged_buffers_are_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = run_folder.checkpoint_of(run, 20) / run_folder.BUFFER_FILE
    whole = file.read_bytes()
    for content in (b"", b"no gzip", gzip.compress(b'{"task": 3}\n'), file.read_bytes()[:-20]):
        file.write_bytes(content)
        assert main(["tasks"]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "is damaged" in err
    file.unlink()
    assert main(["tasks"]) == 2
    assert f"{run_folder.BUFFER_FILE} is missing" in capsys.readouterr().err
    file.write_bytes(whole)
    (file.parent / run_folder.STATE_FILE).unlink()
    assert main(["tasks"]) == 2
    assert f"{run_folder.STATE_FILE} is missing" in capsys.readouterr().err
