"""A benchmark that a plug-in gives: asked, judged and kept like the others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from azr_mlx.commands import train
from azr_mlx.commands.evaluate import EvalRequest
from azr_mlx.commands.evaluate import evaluate as run
from azr_mlx.config import Config, ConfigError, EvaluationConfig
from azr_mlx.errors import UsageError
from azr_mlx.evaluation import benchmarks
from azr_mlx.evaluation.benchmarks import humaneval, mbpp
from azr_mlx.evaluation.during_training import TrainingEvaluation
from azr_mlx.evaluation.protocol import Settings
from azr_mlx.evaluation.sampling import Evaluation
from azr_mlx.evaluation.store import Store
from azr_mlx.sandbox import Sandbox
from tests.runs import unregistered
from tests.scripted import ROWS, Scripted, half_right

pytestmark = pytest.mark.sandbox

Write = Callable[[str, str], Path]

ADDING = """
from azr_mlx import AssertCheck, Problem

def problems():
    for i in range(6):
        head = f"def add{i}(x):\\n"
        tests = f"assert add{i}(1) == {i + 1}\\n"
        yield Problem(f"add/{i}", head, "Write it.\\n" + head, AssertCheck(tests), prefix=head)
"""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(workers=1) as running:
        yield running


def test_its_problems_are_asked_and_judged(write: Write, sandbox: Sandbox) -> None:
    write("adding.py", ADDING)
    benchmark = benchmarks.load("adding:problems")
    assert (
        benchmark.spec.name == "adding:problems" and benchmark.source == "plug-in adding:problems"
    )
    assert benchmark.spec.stop == humaneval.STOP
    result = Evaluation(Scripted(half_right), benchmark, Settings(), sandbox).run(Store())
    assert [task.passed for task in result.tasks] == [1, 1, 1, 1, 0, 0]
    assert result.statuses == {"pass": 4, "fail": 2}
    assert benchmarks.load("adding:problems").sha256 == benchmark.sha256


def test_its_samples_are_kept_in_a_folder(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from azr_mlx.evaluation.protocol import Subject

    write("adding.py", ADDING)
    opened = lambda *_: (Scripted(half_right), Subject("scripted"))  # noqa: E731
    monkeypatch.setattr("azr_mlx.commands.evaluate.open_model", opened)
    monkeypatch.setattr("azr_mlx.commands.evaluate.check_template", lambda *model: None)
    [result] = run(EvalRequest(["adding:problems"], model="m", out=Path("out"))).results
    assert result.name == "adding:problems" and result.pass_at[1].value == pytest.approx(4 / 6)
    assert (tmp_path / "out" / "adding-problems" / "samples.jsonl").is_file()
    [again] = run(EvalRequest(["adding:problems"], model="m", out=Path("out"))).results
    assert again.generated == 0


def test_it_selects_and_reports_in_training(write: Write, sandbox: Sandbox) -> None:
    write("adding.py", ADDING)
    config = Config(evaluation=EvaluationConfig(benchmarks=("adding:problems",)))
    loaded = [benchmarks.load(name) for name in config.evaluation.benchmarks]
    row = TrainingEvaluation(config, loaded, Scripted(half_right), sandbox)(1)
    names = {"eval/adding_problems_pass_at_1", "eval/adding_problems_selection_pass_at_1"}
    assert row.keys() == names | {"eval/selection"} and unregistered(row) == []


def test_programs_without_a_given_beginning_stop_as_mbpp_s_do(write: Write) -> None:
    write("adding.py", ADDING.replace(", prefix=head", ""))
    assert benchmarks.load("adding:problems").spec.stop == mbpp.STOP


def refused(value: str, write: Write) -> str:
    write(
        "mine.py",
        "import itertools\n"
        "from azr_mlx import AssertCheck, Problem\n"
        "from azr_mlx.evaluation.benchmarks.own import *\n"
        "class Odd:\n"
        "    prefix = property(lambda self: 1 / 0)\n"
        "class Mine(AssertCheck):\n"
        "    def grade(self, code, results): return 1\n"
        "good = AssertCheck('assert f() == 1')\n"
        f"def problems(): {value}\n",
    )
    with pytest.raises(UsageError) as error:
        benchmarks.load("mine:problems")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("pass", "--benchmark: mine:problems: TypeError: 'NoneType' object is not iterable"),
        ("return []", "plug-in mine:problems: is empty; correct the function"),
        ("return 1 / 0", "ZeroDivisionError: division by zero (mine.py, line 9)"),
        ("yield 1 / 0", "ZeroDivisionError: division by zero (mine.py, line 9)"),
        ("yield {'id': 1}", "row 1: not a row of mine:problems (TypeError: a value of type dict,"),
        (
            "yield Problem('a', '', '', Mine('assert f() == 1'))",
            "type Mine as a check, and not one",
        ),
        ("yield Problem('a', '', '', good, visible=Mine(''))", "type Mine as a check, and not one"),
        ("yield Problem('a', '', '', None)", "None as a check, and not one of AssertCheck, Stdin"),
        ("yield Problem('a', '', '', AssertCheck(5))", "tests of 'a' that are not a text of"),
        ("yield Problem('a', '', '', AssertCheck(b'x'))", "tests of 'a' that are not a text of"),
        ("yield Problem('a', '', '', AssertCheck('def ('))", "tests of 'a' that are not a text"),
        ("yield Problem(1, '', '', good)", "ValueError: its id is not text"),
        ("yield from 2 * [Problem('a', 'p', 'q', good)]", "a is in it more than once"),
        ("yield Problem('', 'p', 'q', good)", "an empty id in ''"),
        ("yield Problem('a', '', 'q', good)", "an empty prompt in 'a'"),
        ("yield Problem('a', 'p', '', good)", "an empty question in 'a'"),
        ("yield Problem('a', 'p', 'q', good, task='x')", "a value of type str as the task of 'a'"),
        ("yield Problem('a', 'p', 'q', AssertCheck('f()', None))", "limits of a check of 'a' that"),
        ("yield Problem('a', 'p', 'q', AssertCheck('f()', '5'))", "'a' that is no Limits"),
        (
            "yield Problem('a', 'p', 'q', OutputCheck(None))",
            "output of a check of 'a' that is no s",
        ),
        ("yield Problem('a', 'p', 'q', OutputCheck(object()))", "'a' that is no str"),
        ("yield Problem('a', 'p', 'q', OutputCheck('f('))", "'a' that is no plain value"),
        ("yield Problem('a', 'p', 'q', InputCheck('def f(): 1', 'x'))", "'a' that is no plain val"),
        ("yield Problem('a', 'p', 'q', StdinCheck(['1'], ('1',)))", "inputs of a check of 'a'"),
        ("yield Problem('a', 'p', 'q', StdinCheck((), ()))", "0 cases and 0 outputs of 'a'"),
        ("yield Problem('a', 'p', 'q', CallCheck('f', ('()',), ()))", "1 cases and 0 outputs"),
        ("yield Problem('a', 'p', 'q', CallCheck('f', ('()',), (good,)))", "'a' that is no plain"),
        ("return Problem('a', 'p', 'q', good)", "TypeError: 'Problem' object is not iterable"),
        ("return itertools.repeat(5)", "mine:problems: gives more than 100,000 problems; correct"),
        ("yield Odd()", "a value of type Odd, and not a Problem"),
    ],
)
def test_what_is_no_benchmark_is_one_line(value: str, why: str, write: Write) -> None:
    assert why in refused(value, write)


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        ({"data": Path("d.jsonl")}, "--data d.jsonl: adding:problems brings its own problems"),
        ({}, "give a --model"),
    ],
)
def test_data_is_for_others(request_: dict[str, Any], why: str, write: Write) -> None:
    write("adding.py", ADDING)
    write("d.jsonl", "{}")
    with pytest.raises(UsageError, match=why):
        run(EvalRequest(["adding:problems"], **request_))
    EvalRequest(["adding:problems", "mbpp"], data=Path("d.jsonl")).check()


def test_a_name_that_is_unknown_says_that_there_are_plug_ins(write: Write) -> None:
    with pytest.raises(UsageError, match=r"unknown; .*, and your own as module:function"):
        benchmarks.load("mine")
    write("adding.py", ADDING)
    with pytest.raises(ConfigError, match=r"--benchmark: adding:problem: .* did you mean problems"):
        benchmarks.load("adding:problem")


def test_training_names_its_setting_and_not_eval_s_option(tmp_path, monkeypatch):
    rows = [{**row, "test": f"import numpy as np\n{row['test']}"} for row in ROWS]
    data = tmp_path / "HumanEval.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    for name, why in [("gone:f", "gone:f: "), ("humaneval", "humaneval: .* numpy")]:
        chosen = EvaluationConfig(data=str(data), benchmarks=(name,))
        with pytest.raises(UsageError, match=rf"^evaluation\.benchmarks: {why}") as caught:
            train._load_benchmarks(Config(evaluation_interval=1, evaluation=chosen))
        assert "--benchmark" not in str(caught.value)
