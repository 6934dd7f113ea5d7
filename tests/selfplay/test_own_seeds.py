"""First tasks that a user brings: what is taken, what is refused and why, and that nothing of it
runs outside the sandbox."""

from __future__ import annotations

import json
import os
import re
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
from azr_mlx.training.algorithm import SelfPlay
from azr_mlx.types import Prompt, TaskKind
from tests.conftest import SHARED
from tests.fake import FakeBackend

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
    file.write_bytes(b"\0\1\2\3" * 100)
    assert "not UTF-8 text (it looks" in refused(file)
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
    (tmp_path / "none").mkdir()
    assert "no task of deduction, abduction, induction in it; give another" in refused(
        tmp_path / "none"
    )
    with file.open("wb") as big:
        big.truncate(MOST_BYTES + 1)
    assert "at most 64 MB" in refused(file)
    (tmp_path / "a.csv").write_text("a,b\n")
    assert "of another format" in refused(tmp_path / "a.csv")


def test_fields_that_are_null_are_as_if_missing(sandbox: Sandbox, tmp_path: Path) -> None:
    rows = [
        {"snippet": "def f(a):\n    return a", "input": "1", "inputs": None, "message": None},
        {
            "kind": "deduction",
            "program": "def f(a):\n    return -a",
            "inputs": ["(1,)"],
            "message": None,
        },
    ]
    memory, _ = seeded(sandbox, write(tmp_path / "null_seed_io.jsonl", rows))
    assert len(memory.tasks.tasks(DEDUCTION)) == 2


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


# -- one's own code --------------------------------------------------------------------------------

HOSTILE = """
import os, pathlib
MARK = {mark!r}
open(MARK, "w").write("imported")
os.system("touch " + MARK)
SIDE = pathlib.Path(MARK).write_text("imported")

def writes(x):
    open(MARK, "w").write("run")
    return x

def by_the_back_door(x):
    return [c for c in ().__class__.__bases__[0].__subclasses__()] and x

def with_a_side(x):
    return SIDE + x

def ends(x):
    raise SystemExit(x)
    return x

def loops(x):
    while True:
        x += 1
    return x

def honest(x):
    return x * 3 + 1

writes(1), by_the_back_door(1), with_a_side(1), ends(1), loops(1), honest(2)
"""


def test_a_hostile_folder_runs_nowhere_but_in_the_sandbox(sandbox: Sandbox, tmp_path: Path) -> None:
    mark, folder = tmp_path / "mark", tmp_path / "code"
    folder.mkdir()
    (folder / "bad.py").write_text(HOSTILE.format(mark=str(mark)))
    (folder / "conftest.py").write_text(f"open({str(mark)!r}, 'w')\n")
    (folder / "__init__.py").write_text(f"open({str(mark)!r}, 'w')\n")
    memory, _ = seeded(sandbox, folder, task_types=("deduction",))
    assert not mark.exists()
    assert programs(memory) == ["def f(x):\n    return x * 3 + 1\n"]


def test_own_functions_become_tasks(sandbox: Sandbox, tmp_path: Path) -> None:
    calls = "\n".join(f"assert cube({n}) == {n**3}" for n in range(10))
    (tmp_path / "a.py").write_text(
        f"def cube(n):\n    '''The cube.'''\n    return n ** 3\n{calls}\n"
        "def half(n):\n    return 1 / n\n"
        "with raises(ZeroDivisionError):\n    half(0)\nassert half(4) == 0.25\n"
        "def alone(n):\n    return [n, n]\n"
        "import os\ndef where(n):\n    return os.getcwd()\n"
    )
    memory, (line,) = seeded(sandbox, tmp_path)
    assert programs(memory) == [
        "def f(n):\n    return n ** 3\n",
        "def f(n):\n    return 1 / n\n",
    ]
    assert memory.tasks.tasks(DEDUCTION)[1].inputs == ("(4,)",), "0 raises an error on purpose"
    (induction,) = memory.tasks.tasks(INDUCTION)
    assert induction.message == "The cube." and induction.source == "code"
    assert line.endswith(
        "2 of deduction, 2 of abduction, 1 of induction; 2 not: 1 import, 1 without inputs"
    )


def test_the_model_is_asked_for_inputs_that_the_code_does_not_show(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    (tmp_path / "a.py").write_text(
        "def alone(n):\n    return [n, n]\n"
        "def silent(n):\n    return {n: n}\n"
        "def shown(n):\n    return n + 1\nshown(3)\n"
        "import os\ndef where(n):\n    return os.getcwd()\n"
    )

    def script(prompt: Prompt, n: int) -> str:
        calls = "".join(f"f({k})\n" for k in range(10))
        return f" a pair\n{calls}" if "[n, n]" in prompt.text.split("# level")[-1] else "no call"

    config = config_for(tmp_path)
    config = replace(config, rollout=replace(config.rollout, form="few_shot"))
    backend, said = FakeBackend(script), list[str]()
    config = replace(config, rollout=replace(config.rollout, max_prompt_tokens=100_000))
    game = SelfPlay(config, backend, sandbox)
    game.seed(said.append)
    assert len(backend.prompts) == 2, "neither for what has inputs, nor for what is refused"
    assert {"def f(n):\n    return [n, n]\n", "def f(n):\n    return n + 1\n"} == set(
        programs(game.memory)
    )
    (induction,) = game.memory.tasks.tasks(INDUCTION)
    assert induction.message == "a pair"
    assert said[0].endswith(
        "2 of deduction, 2 of abduction, 1 of induction; 2 not: 1 import, 1 without inputs"
    )


def test_code_without_a_usable_function(tmp_path: Path) -> None:
    assert "no task of deduction" in refused(tmp_path), "an empty folder"
    (tmp_path / "a.py").write_text("import os\ndef where(n):\n    return os.getcwd()\n")
    assert "in it: 1 import; give another path" in refused(tmp_path)
    (tmp_path / "a.py").write_bytes(b"\0\1\2\3")
    assert "1 unreadable files" in refused(tmp_path)
    assert "not UTF-8 text" in refused(tmp_path / "a.py")


def test_the_example_of_the_page(sandbox: Sandbox, tmp_path: Path, root: Path) -> None:
    page = (root / "docs" / "your-own-code.md").read_text("utf-8")
    _, name, code, *_ = re.split(r"```python\n# (\S+)\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / name).write_text(code)
    _, (line,) = seeded(sandbox, tmp_path)
    assert line.replace(str(tmp_path), "my-code") in page


@pytest.mark.e2e
def test_a_run_begins_with_own_code_and_tasks_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("def triple(n):\n    return n * 3 + 1\nassert triple(2) == 7\n")
    small = ["max_steps=1", "batch_size=6", "proposer.templates_per_step=0", "rollout.group_size=2"]
    words = ["run_name=a", "held_out.tasks=0", "sandbox.workers=2", *small]
    given = ["train", "-c", "quickstart", "proposer.seed_tasks=mine.py", *words]
    assert main(given) == 0, capsys.readouterr().err
    assert "first tasks from mine.py: 1 of deduction, 1 of abduction" in capsys.readouterr().err
    assert main(["tasks", "--kind", "deduction"]) == 0
    rows = [json.loads(row) for row in capsys.readouterr().out.splitlines()]
    assert rows[0]["origin"] == "code" and rows[0]["outputs"] == ["7"]
    Path("mine.py").unlink()
    assert main(["train", "--resume", "max_steps=1"]) == 0, "a run has its first tasks"
