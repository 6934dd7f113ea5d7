"""First tasks that a user brings: what is taken, what is refused and why, and that nothing of it
runs outside the sandbox."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from azr_mlx.cli import main
from azr_mlx.config import Config, ConfigError, HeldOutConfig
from azr_mlx.files import json_lines
from azr_mlx.sandbox import Sandbox
from azr_mlx.selfplay import first_tasks
from azr_mlx.selfplay.memory import Memory
from azr_mlx.selfplay.proposer import TaskProposer
from azr_mlx.tasks.task_files import MOST_BYTES, row_of
from azr_mlx.types import TaskKind
from tests.conftest import SHARED

pytestmark = pytest.mark.sandbox
DEDUCTION, ABDUCTION, INDUCTION = TaskKind


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(workers=2) as running:
        yield running


def config_for(path: Path | str, **rest: Any) -> Config:
    config = Config(held_out=HeldOutConfig(tasks=0), **rest)
    return replace(config, proposer=replace(config.proposer, seed_tasks=str(path)))


def seeded(sandbox: Sandbox, path: Path, **rest: Any) -> tuple[Memory, list[str]]:
    """The memory after seeding from a path, and what was said."""
    config, said = config_for(path, **rest), list[str]()
    first_tasks.check(config)
    memory = Memory(config)
    proposer = TaskProposer(sandbox, config=config, buffer=memory.tasks)
    first_tasks.seed(proposer, memory, said.append)
    return memory, said


def programs(memory: Memory, kind: TaskKind = DEDUCTION) -> list[str]:
    return [task.program for task in memory.tasks.tasks(kind)]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text(json_lines(rows))
    return path


def refused(path: Path | str) -> str:
    """The one line by which a path is refused before anything runs."""
    with pytest.raises(ConfigError) as error:
        first_tasks.check(config_for(path))
    assert error.value.exit_code == 2
    (line,) = str(error.value).splitlines()
    assert line.startswith("proposer.seed_tasks: ")
    return line


# -- files of tasks --------------------------------------------------------------------------------

TRIPLETS = [
    {"snippet": "def f(a):\n    return a", "input": "'Hello'", "output": "'Hello'", "imports": []},
    {"snippet": "def f(a, b):\n    return a * b + 1", "input": "3, b=4", "output": "damaged..."},
    {
        "snippet": "def f(x):\n    return math.floor(x)",
        "input": "2.5",
        "output": "2",
        "imports": ["import math"],
    },
    {"snippet": "import os\ndef f(x):\n    return os.getcwd()", "input": "1", "output": "''"},
    {"snippet": "def f(x):\n    return 1 / x", "input": "0", "output": ""},
    {"snippet": "def f(x):\n    return x", "input": "open('x')", "output": ""},
    {"snippet": 3, "input": "1"},
    "no object",
]


def test_triplets_of_the_reference_become_tasks(sandbox: Sandbox, tmp_path: Path) -> None:
    path = write(tmp_path / "3b_seed_io.jsonl", TRIPLETS)
    memory, (line,) = seeded(sandbox, path)
    tasks = memory.tasks.tasks(DEDUCTION)
    assert [(t.inputs, t.outputs) for t in tasks] == [
        (("('Hello',)",), ("'Hello'",)),
        (("(3, 4)",), ("13",)),
        (("(2.5,)",), ("2",)),
    ], "the outputs are those of the sandbox, whatever the file says"
    assert {task.source for task in tasks} == {"file"}
    assert programs(memory, ABDUCTION) == programs(memory)
    assert line == (
        f"first tasks from {path}: 3 of deduction, 3 of abduction; 8 not: "
        "2 of no known format, 2 import, 2 error, 2 input"
    )


def test_several_inputs_become_induction(sandbox: Sandbox, tmp_path: Path) -> None:
    snippet = "def f(a):\n    return a * 2"
    inputs = [str(n) for n in range(12)]
    many = {"snippet": snippet, "inputs": inputs, "outputs": [], "message": "doubles"}
    few = {**many, "snippet": "def f(a):\n    return a - 2", "inputs": inputs[:3]}
    path = write(tmp_path / "code_f_seed_io.jsonl", [many, few])
    memory, (first, *rest) = seeded(sandbox, path)
    (task,) = memory.tasks.tasks(INDUCTION)
    assert task.message == "doubles" and len(task.inputs) == 10 and len(task.hidden) == 5
    assert first.endswith("1 of induction; 1 not: 1 few_inputs")
    assert rest == [
        f"no first task of {kind} among them: templates give some"
        for kind in ("deduction", "abduction")
    ]
    assert memory.tasks.count(DEDUCTION) and memory.tasks.count(ABDUCTION)


@pytest.mark.parametrize("folder", [False, True])
def test_what_tasks_wrote_comes_back(sandbox: Sandbox, tmp_path: Path, folder: bool) -> None:
    first, _ = seeded(sandbox, write(tmp_path / "a.jsonl", TRIPLETS[:3]))
    kinds = (DEDUCTION, ABDUCTION)
    rows = [row_of(task, 4, 1) for kind in kinds for task in first.tasks.tasks(kind)]
    path = write(tmp_path / "tasks.jsonl", rows)
    second, (line,) = seeded(sandbox, tmp_path if folder else path)
    assert line.endswith("3 of deduction, 3 of abduction")
    for kind in kinds:
        assert second.tasks.tasks(kind) == [
            replace(task, source="file") for task in first.tasks.tasks(kind)
        ]


def test_no_more_than_the_buffer_holds(sandbox: Sandbox, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", TRIPLETS[:3] * 30)
    memory, (line,) = seeded(sandbox, path, task_buffer_size=2, task_types=("deduction",))
    assert memory.tasks.count(DEDUCTION) == 2
    assert ": 2 of deduction; 88 not: 88 beyond task_buffer_size" in line


def test_files_that_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    assert "no such file" in refused(tmp_path / "none.jsonl")
    assert "did you mean templates?" in refused("template")
    assert "(empty): no such file" in refused("")
    file.write_bytes(b"\x7fELF\0\0\0")
    assert "binary" in refused(file)
    file.write_bytes("caf\xe9\n".encode("latin-1"))
    assert "not UTF-8" in refused(file)
    file.write_text('{"snippet": "x"}\n{"snip')
    assert "line 2: not JSON" in refused(file)
    file.write_text("[" * 100_000)
    assert "nested too deeply" in refused(file)
    file.write_text("")
    assert "no task of deduction" in refused(file)
    file.write_text('{"question": 1}\n')
    assert "1 of no known format" in refused(file)
    with file.open("wb") as big:
        big.truncate(MOST_BYTES + 1)
    assert "at most 64 MB" in refused(file)
    (tmp_path / "a.csv").write_text("a,b\n")
    assert "of another format" in refused(tmp_path / "a.csv")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    assert "no such file" in refused(tmp_path / "a.jsonl")


def test_a_file_whose_tasks_are_all_refused(sandbox: Sandbox, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", TRIPLETS[3:5])
    with pytest.raises(ConfigError, match=r"no first task; 4 not: 2 import, 2 error; give"):
        seeded(sandbox, path)


def test_train_says_it_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in ([], ["--dry-run"]):
        assert main(["train", *words, "proposer.seed_tasks=nowhere.jsonl"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "proposer.seed_tasks: nowhere.jsonl: no such file" in line
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not (SHARED / "azr-seeds").is_dir(), reason="the reference's seeds are absent")
def test_the_reference_s_own_seeds(sandbox: Sandbox) -> None:
    path = SHARED / "azr-seeds" / "3b_coder_seed_io.jsonl"
    memory, (line,) = seeded(sandbox, path)
    assert memory.tasks.count(DEDUCTION) > 100, line
    rows = [json.loads(one) for one in path.read_text().splitlines()]
    assert len(rows) == 256
