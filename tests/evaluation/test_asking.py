"""CRUXEval asked as self-play asks: the prompt, the reading of answers and the judge are the
solver's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from azr_mlx import cli
from azr_mlx.commands import evaluate
from azr_mlx.commands.evaluate import Report, as_trained
from azr_mlx.config import load, to_yaml
from azr_mlx.errors import UsageError
from azr_mlx.evaluation import benchmarks
from azr_mlx.evaluation.asking import BenchmarkAsking
from azr_mlx.evaluation.benchmarks import Benchmark
from azr_mlx.evaluation.imported_samples import score_samples
from azr_mlx.evaluation.protocol import Settings
from azr_mlx.evaluation.result import BenchmarkResult
from azr_mlx.evaluation.sampling import Evaluation
from azr_mlx.evaluation.store import Store
from azr_mlx.selfplay.answering import Judged
from azr_mlx.selfplay.solver import TaskSolver
from azr_mlx.types import Completion, Prompt, Status, TaskKind
from tests.fake import FakeBackend
from tests.tiny import CharTokenizer

pytestmark = pytest.mark.sandbox

ROWS = [
    {"id": "sample_0", "code": "def f(a, b=2):\n    return a * b", "input": "3", "output": "6"},
    {"id": "sample_1", "code": "def f(s):\n    return s[::-1]", "input": "'ab'", "output": "'ba'"},
    # An argument that is not a literal: self-play has no such task.
    {"id": "sample_2", "code": "def f(g):\n    return g(1)", "input": "lambda x: x", "output": "1"},
]
TRAINING = Settings(protocol="training", max_tokens=32)
Answer = Callable[[str], str]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "cruxeval.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def result_of(
    benchmark: Benchmark, sandbox, answer: Answer, settings: Settings = TRAINING
) -> BenchmarkResult:
    evaluation = Evaluation(answering(answer), benchmark, settings, sandbox)
    return evaluation.run(Store())


def answering(answer: Answer) -> FakeBackend:
    return FakeBackend(lambda prompt, n: answer(prompt.text))


def last_question(prompt: str) -> str:
    """The program that the prompt ends with, and what is asked of it."""
    return prompt[prompt.rindex("def f(") :]


def outputs(prompt: str) -> str:
    return " 6" if "a * b" in last_question(prompt) else " 'ba'"


def test_deduction_is_asked_and_judged_as_in_training(data, sandbox):
    benchmark = benchmarks.load("cruxeval-o", data)
    backend = answering(outputs)
    evaluation = Evaluation(backend, benchmark, TRAINING, sandbox)
    result = evaluation.run(Store())
    assert [task.statuses for task in result.tasks] == [(Status.PASS,), (Status.PASS,)]
    solver = TaskSolver(backend, sandbox, "few_shot")
    for problem in evaluation.problems:
        expected = solver.form.solve(problem.task).text
        assert evaluation.asking.prompt(problem, "direct").text == expected
    assert last_question(expected) == "def f(s):\n    return s[::-1]\nassert f('ab') =="


def test_abduction_takes_any_pre_image_and_no_other(data, sandbox):
    benchmark = benchmarks.load("cruxeval-i", data)

    def inputs(prompt: str) -> str:
        return "(2, 3) == 6" if "a * b" in last_question(prompt) else "('xy') == 'ba'"

    result = result_of(benchmark, sandbox, inputs)
    assert [task.statuses[0] for task in result.tasks] == [Status.PASS, Status.FAIL]
    assert {problem.task.kind for problem in benchmark.problems} == {TaskKind.ABDUCTION}


def test_samples_hold_what_the_model_wrote_and_go_on_where_they_stopped(data, sandbox, tmp_path):
    benchmark, asked = benchmarks.load("cruxeval-o", data), replace(TRAINING, num_samples=4)
    settings = replace(asked, temperature=1.0, ks=(1, 4))
    evaluation = Evaluation(answering(outputs), benchmark, settings, sandbox)
    with Store(tmp_path / "out", evaluation.protocol) as store:
        first = evaluation.run(store)
    assert first.generated == 8 and {s.completion for s in first.samples} == {" 6", " 'ba'"}
    with Store(tmp_path / "out", evaluation.protocol) as store:
        assert evaluation.run(store).generated == 0


def test_the_protocol_says_which_form_was_used(data, sandbox):
    benchmark = benchmarks.load("cruxeval-o", data)
    few, chat = (
        result_of(benchmark, sandbox, outputs, replace(TRAINING, form=form)).protocol
        for form in ("few_shot", "")
    )
    assert few == chat and few.prompt.startswith("training: form few_shot, sha256 ")
    base = result_of(benchmark, sandbox, outputs, Settings(protocol="base")).protocol
    assert "prompt" in few.differences(base)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (replace(TRAINING, form="few"), "--form few: .*no such prompt form"),
        (replace(TRAINING, form="chat"), "--form chat: this model has no chat template"),
        (replace(TRAINING, strategy="auto"), "--strategy auto: form 'few_shot' has none such"),
        (Settings(form="few_shot"), "--form few_shot: .*add --protocol training"),
        (replace(TRAINING, thinking=True, max_tokens=4096), "--thinking: form few_shot continues"),
    ],
)
def test_what_cannot_be_asked_is_one_line(data, sandbox, settings, message):
    benchmark = benchmarks.load("cruxeval-o", data)
    with pytest.raises(UsageError, match=message):
        Evaluation(answering(outputs), benchmark, settings, sandbox)


class Thinks(CharTokenizer):
    """That of a chat model that thinks if its template lets it."""

    chat_template = "<think>"

    def apply_chat_template(self, turns, *, enable_thinking, **_):
        end = "<think>" if enable_thinking else "<think></think>"
        return "".join(turn["content"] for turn in turns) + end


@pytest.mark.parametrize("thinking", [True, False])
def test_a_chat_form_asks_with_thoughts_or_without(data, sandbox, thinking):
    backend = answering(outputs)
    backend.tokenizer = Thinks()
    settings = replace(TRAINING, form="chat", thinking=thinking, max_tokens=4096)
    evaluation = Evaluation(backend, benchmarks.load("cruxeval-o", data), settings, sandbox)
    prompt: Prompt = evaluation.asking.prompt(evaluation.problems[0], "direct")
    assert prompt.chat and prompt.text.endswith("<think>") == thinking
    assert evaluation.protocol.prompt.endswith(f"thinking {'on' if thinking else 'off'}")


def test_benchmarks_that_are_not_tasks_are_refused(small, sandbox):
    with pytest.raises(UsageError, match=r"problems of humaneval are not tasks of self-play"):
        Evaluation(answering(outputs), small, TRAINING, sandbox)


def checkpoint_of_run(folder: Path, *overrides: str) -> Path:
    checkpoint = folder / "run" / "checkpoints" / "step_000001"
    checkpoint.mkdir(parents=True)
    (folder / "run" / "config.yaml").write_text(to_yaml(load(None, overrides)))
    return checkpoint


def test_without_a_form_it_is_that_of_the_adapters_run(tmp_path):
    checkpoint = checkpoint_of_run(tmp_path, "rollout.form=few_shot")
    assert as_trained(TRAINING, checkpoint).form == "few_shot"
    assert as_trained(replace(TRAINING, form="chat"), checkpoint).form == "chat"
    assert as_trained(TRAINING, tmp_path).form == ""
    assert as_trained(Settings(), checkpoint).form == "", "other protocols have none"


THINKS = (
    "rollout.form=chat",
    "rollout.thinking=on",
    "rollout.max_solve_tokens=4096",
    "rollout.max_propose_tokens=2048",
    "solver.strategies=[step_by_step,direct]",
)


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ((), (4096, True, "step_by_step")),
        (("-m", "3000"), (3000, True, "step_by_step")),
        (("--no-thinking", "-m", "512"), (512, False, "step_by_step")),
        (("--strategy", "direct", "--form", "chat"), (4096, True, "direct")),
        (("--form", "few_shot"), (512, False, "direct")),  # it has neither thoughts nor steps
        (("--protocol", "chat"), (512, False, "direct")),
    ],
)
def test_what_is_left_open_is_as_the_run_asked(words, asked, tmp_path, monkeypatch):
    checkpoint, found = checkpoint_of_run(tmp_path, *THINKS), []

    def run(request, *_):
        found.append(as_trained(request.settings, checkpoint, request.left_open))
        return Report(())

    monkeypatch.setattr(evaluate, "evaluate", run)
    assert cli.main(["eval", "--protocol", "training", *words]) == 0
    [settings] = found
    assert (settings.max_tokens, settings.thinking, settings.strategy) == asked


def test_without_a_run_the_usual_defaults_hold(tmp_path):
    open_ = ("max_tokens", "thinking", "strategy")
    assert as_trained(TRAINING, tmp_path, open_) == TRAINING
    checkpoint = checkpoint_of_run(tmp_path, *THINKS)
    assert as_trained(TRAINING, checkpoint).max_tokens == 32, "what a caller chose is kept"


def test_an_answer_may_import_from_the_future(small, sandbox):
    future = "from __future__ import annotations\n"
    given = {p.id: [f"\n{future}{p.prefix}{p.reference}"] for p in small.problems}
    result = score_samples(small, given, sandbox)
    assert [task.statuses for task in result.tasks] == [(Status.PASS,)] * len(given)
    for problem in small.problems:
        asking = BenchmarkAsking(small.spec, "chat", CharTokenizer())
        said = f"```python\n{future}{problem.prefix}{problem.reference}```"
        program = asking.read(problem, said)
        assert program.startswith(future + problem.prefix)
        judged = Judged(Completion((), (), "stop", 0), program)
        assert problem.program_with(asking.kept(problem, judged)) == program
