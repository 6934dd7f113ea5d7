"""The evaluator against reference solutions, published verdicts, and a scripted backend."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from azr_mlx.commands.evaluate import EvalRequest, evaluate
from azr_mlx.errors import UsageError
from azr_mlx.evaluation.benchmarks import Grade
from azr_mlx.evaluation.imported_samples import score_samples
from azr_mlx.evaluation.protocol import Settings, Subject, half
from azr_mlx.evaluation.result import CASES, BenchmarkResult, Sample, by_task, figures
from azr_mlx.evaluation.sampling import Evaluation
from azr_mlx.evaluation.store import Store, read_samples
from azr_mlx.models.adapters import read_lora
from azr_mlx.tasks.chat import TemplateError
from azr_mlx.types import Status
from tests.conftest import SHARED
from tests.scripted import HARD_CODED, RIGHT, WRONG, Scripted

pytestmark = pytest.mark.sandbox

QWEN = SHARED / "qwen2.5-coder-1.5b"


def passed(grades) -> int:
    return sum(g.status is Status.PASS for g in grades)


# ---------------------------------------------------------------- a scripted backend


def run(backend, small, sandbox, settings=None, store=None, **more) -> BenchmarkResult:
    evaluation = Evaluation(backend, small, settings or Settings(), sandbox, **more)
    return evaluation.run(store or Store())


class Told:
    """A reporter that remembers."""

    def __init__(self):
        self.words = []

    def start(self, label, total, done):
        self.words.append((label, total, done))

    def advance(self):
        self.words.append("+")

    def chunk(self):
        self.words.append("chunk")

    def close(self):
        self.words.append("close")


@dataclass(frozen=True)
class Leveled:
    """As much of a problem as figures need."""

    id: str
    level: str


SUBJECT = Subject("m", "1" * 64, "a", "2" * 64)


def test_greedy_evaluation_counts_and_states_its_protocol(small, sandbox):
    told = Told()
    settings = Settings(seed=3)
    result = run(Scripted(), small, sandbox, settings, subject=SUBJECT, progress=told)
    row = json.loads(json.dumps(result.to_json()))
    assert row["pass_at"]["1"]["value"] == pytest.approx(4 / 6)
    assert row["statuses"] == {"pass": 4, "fail": 2} and row["generated"] == 6
    assert row["excluded"] == ["HumanEval/6"] and row["tasks"]["HumanEval/4"] == ["fail"]
    assert row["isolation"] == sandbox.isolation
    protocol = row["protocol"]
    stated = {
        "benchmark": "humaneval",
        "shots": 0,
        "strategy": "direct",
        "model": "m",
        "model_sha256": "1" * 64,
        "adapter": "a",
        "adapter_sha256": "2" * 64,
        "temperature": 0.0,
        "top_p": 1.0,
        "max_tokens": 512,
        "seed": 3,
        "subset": "all",
        "tasks": 6,
        "samples_per_task": 1,
    }
    assert {name: protocol[name] for name in stated} == stated
    assert protocol["prompt"].startswith("base") and "\ndef " in protocol["stop"]
    assert protocol["extraction"] and protocol["version"]
    assert len(protocol["data_sha256"]) == 64 and protocol["limits"]["cpu_s"] > 0
    assert told.words == [("humaneval", 6, 0), *["+"] * 6, "chunk"]
    shown = "\n".join(result.lines())
    assert "humaneval pass@1: 66.7% (95 % interval 30.0% to 90.3%)" in shown
    assert "6 tasks (all); 1 without usable tests left out; verdicts: 4 pass, 2 fail" in shown


def test_the_samples_written_score_the_same_again(small, tmp_path, sandbox):
    settings = Settings(num_samples=4, ks=(1, 2), temperature=0.8)
    backend = Scripted()
    evaluation = Evaluation(backend, small, settings, sandbox)
    with Store(tmp_path / "out", evaluation.protocol) as store:
        first = evaluation.run(store)
    given = read_samples(tmp_path / "out" / "samples.jsonl")
    again = score_samples(small, given, sandbox, ks=(1, 2))
    assert again.pass_at == first.pass_at and again.statuses == first.statuses
    assert first.pass_at[1].value == pytest.approx(3.5 / 6)
    assert first.pass_at[2].value == pytest.approx((3 + 5 / 6) / 6)
    assert again.protocol.temperature is None and again.protocol.differences(first.protocol)


def test_chat_answers_are_taken_from_their_fence(small, sandbox):
    backend = Scripted(chat=True)
    result = run(backend, small, sandbox)
    assert result.pass_at[1].value == pytest.approx(4 / 6)
    assert result.protocol.prompt.startswith("chat") and result.protocol.stop == ()
    assert all(p.form == "chat" for p in backend.calls[0][0])
    forced = run(backend, small, sandbox, Settings(protocol="base", limit=1))
    assert forced.protocol.prompt.startswith("base") and forced.protocol.subset == "first 1"


class Thinks(Scripted):
    """Thinks in tags if its template lets it, and answers wrongly in its thoughts."""

    template = "<think>"

    def __init__(self, **more):
        super().__init__(chat=True, **more)
        self.chat_template = self.template

    def apply_chat_template(self, conversation, *, enable_thinking, **_):
        end = "<think>" if enable_thinking else "<think></think>"
        return super().apply_chat_template(conversation) + end

    def _complete(self, prompts, index, key, policy):
        made, done = super()._complete(prompts, index, key, policy)
        assert prompts[index].chat
        return made, replace(done, thought="```python\nraise SystemExit\n```</think>")


@pytest.mark.parametrize("thinking", [True, False])
def test_only_what_follows_a_thought_is_graded(small, sandbox, thinking):
    backend = Thinks()
    settings = Settings(thinking=thinking, max_tokens=4096)
    result = run(backend, small, sandbox, settings)
    assert result.pass_at[1].value == pytest.approx(4 / 6)
    assert all(p.text.endswith("<think>") == thinking for p in backend.calls[0][0])
    assert result.protocol.prompt.endswith(f"thinking {'on' if thinking else 'off'}")


def test_a_model_that_does_not_think_is_not_asked_to(small, sandbox):
    with pytest.raises(UsageError, match="--thinking: nothing in this model's chat template"):
        run(Scripted(chat=True), small, sandbox, Settings(thinking=True, max_tokens=4096))


def test_a_template_that_fails_is_reported_before_generation(small, sandbox):
    class Fails(Scripted):
        def apply_chat_template(self, conversation, **_):
            raise ValueError("no")

    with pytest.raises(TemplateError, match=r"chat template fails: no; .*--protocol base"):
        run(Fails(chat=True), small, sandbox)


def test_chat_without_a_template_is_refused(small, sandbox):
    with pytest.raises(UsageError, match="no chat template; --protocol base"):
        run(Scripted(), small, sandbox, Settings(protocol="chat"))


def test_a_limit_changes_no_sample_s_key(small, sandbox):
    whole, part, other = Scripted(), Scripted(), Scripted()
    settings = Settings(num_samples=2, temperature=0.5)
    run(whole, small, sandbox, settings)
    run(part, small, sandbox, replace(settings, limit=2))
    run(other, small, sandbox, replace(settings, seed=1))
    keys = whole.calls[0][2]
    assert len(set(keys)) == 12 and part.calls[0][2] == keys[:4]
    assert not set(keys) & set(other.calls[0][2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(num_samples=4, ks=(1, 10), temperature=0.8), "--k 10: needs 10 samples"),
        (Settings(num_samples=4), "greedy samples are all the same"),
        (Settings(protocol="few"), "--protocol few: take auto, base, chat or training"),
        (Settings(limit=0), "--limit 0: must be at least 1"),
        (Settings(strategy="quick"), "--strategy quick: take direct"),
        (Settings(strategy="auto"), "--strategy auto: .* --protocol chat with a chat model"),
        (Settings(split="half"), "--split half: take all, selection, report"),
        (Settings(thinking=True), "--thinking: .* --max-tokens is 512; give --max-tokens 2048"),
        (Settings(thinking=True, max_tokens=4096), "--thinking: .* --protocol chat with a chat"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_generation(
    settings, message, small, sandbox
):
    backend = Scripted()
    with pytest.raises(UsageError, match=message):
        run(backend, small, sandbox, settings)
    assert backend.calls == []


def test_the_halves_are_a_partition_that_depends_on_ids_alone(small, sandbox):
    parts = {
        split: {t.id for t in run(Scripted(), small, sandbox, Settings(split=split)).tasks}
        for split in ("selection", "report")
    }
    assert not parts["selection"] & parts["report"]
    assert len(parts["selection"] | parts["report"]) == 6 and all(parts.values())
    assert all(half(name) == split for split, names in parts.items() for name in names)
    of_humaneval = [half(f"HumanEval/{i}") for i in range(164)]
    assert 70 <= of_humaneval.count("selection") <= 94


# ---------------------------------------------------------------- strategies


def test_auto_tries_strategies_until_the_visible_tests_pass(small, sandbox):
    right_from = {0: "direct", 1: "step_by_step", 2: "test_driven", 3: "chain_of_thought", 4: ""}

    def script(task, strategy, sample, policy):
        return RIGHT if right_from.get(task, "direct") == strategy else WRONG

    backend = Scripted(script, chat=True)
    result = run(backend, small, sandbox, Settings(strategy="auto"))
    taken = {t.id[-1]: t.samples[0].strategy for t in result.tasks}
    assert taken == {
        "0": "direct",
        "1": "step_by_step",
        "2": "test_driven",
        "3": "chain_of_thought",
        "4": "chain_of_thought",
        "5": "direct",
    }
    assert result.pass_at[1].value == pytest.approx(5 / 6)
    assert [len(prompts) for prompts, _, _ in backend.calls] == [6, 4, 3, 2]
    assert "strategies taken: " in "\n".join(result.lines())


def test_graded_tests_never_choose_the_strategy(small, sandbox):
    """A direct answer that passes only what the task shows is taken, though a later strategy's
    would have passed the graded tests."""

    def script(task, strategy, sample, policy):
        return HARD_CODED if strategy == "direct" else RIGHT

    backend = Scripted(script, chat=True)
    result = run(backend, small, sandbox, Settings(strategy="auto"))
    assert result.pass_at[1].value == 0.0 and result.strategies == {"direct": 6}
    assert len(backend.calls) == 1 and all(s.visible for s in result.samples)


def test_strategies_draw_from_streams_of_their_own(small, sandbox):
    backend = Scripted(lambda *_: WRONG, chat=True)
    run(backend, small, sandbox, Settings(strategy="auto", temperature=0.5))
    keys = [key for _, _, keys in backend.calls for key in keys]
    assert len(keys) == len(set(keys)) == 24
    alone = Scripted(chat=True)
    run(alone, small, sandbox, Settings(strategy="test_driven", temperature=0.5))
    assert alone.calls[0][2] == backend.calls[2][2]


# ---------------------------------------------------------------- levels and shares


def test_levels_have_figures_of_their_own_and_shares_an_average():
    problems = [Leveled(f"apps/{i}", "easy" if i < 2 else "hard") for i in range(4)]
    grades = [(Status.PASS, 1.0), (Status.FAIL, 0.5), (Status.FAIL, 0.25), (Status.ERROR, 0.0)]
    samples = [Sample(p.id, 0, "", Grade(*g)) for p, g in zip(problems, grades, strict=True)]
    tasks = by_task(problems, samples)
    found = figures(tasks, (1,))
    assert found["pass@1"].value == 0.25 and found[CASES].value == pytest.approx(1.75 / 4)
    assert found[CASES].low < found[CASES].value < found[CASES].high
    plain = by_task([replace(p, level="") for p in problems], samples)
    assert list(figures(plain, (1,))) == ["pass@1"]


def test_a_result_with_levels_shows_both_metrics_for_each(small, sandbox):
    whole = run(Scripted(), small, sandbox)
    leveled = tuple(replace(t, level="easy" if t.passed else "hard") for t in whole.tasks)
    result = replace(whole, tasks=leveled)
    shown = result.lines()
    assert shown[0].startswith("humaneval pass@1: 66.7%")
    assert shown[1].startswith("humaneval test-case average: 66.7%")
    assert shown[2].startswith("  easy (4 tasks): pass@1: 100.0%")
    assert shown[5].startswith("  hard (2 tasks): test-case average: 0.0%")
    row = result.to_json()
    assert row["test_case_average"]["value"] == pytest.approx(2 / 3)
    assert (
        row["levels"]["hard"]["tasks"] == 2 and row["levels"]["easy"]["pass_at"]["1"]["value"] == 1
    )


# ---------------------------------------------------------------- given samples


def request(benchmarks=("humaneval",), **more) -> EvalRequest:
    return EvalRequest(benchmarks, **more)


def test_a_name_may_stand_for_several_benchmarks_and_none_is_taken_twice():
    asked = request(["mbpp", "cruxeval", "cruxeval-i", "mbpp"])
    assert asked.names == ("mbpp", "cruxeval-i", "cruxeval-o")


def test_samples_are_scored_without_a_model(small_data, tmp_path):
    path = tmp_path / "samples.jsonl"
    rows = [
        {"task_id": f"HumanEval/{i}", "completion": f"    return x + {i % 2}\n"} for i in range(4)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    [result] = evaluate(request(data=small_data, samples=path)).results
    assert [(t.id, t.passed, len(t.samples)) for t in result.tasks] == [
        ("HumanEval/0", 2, 2),
        ("HumanEval/1", 1, 1),
        ("HumanEval/2", 0, 1),
        ("HumanEval/3", 0, 1),
    ]
    assert result.missing == ("HumanEval/4", "HumanEval/5")
    assert result.pass_at[1].value == 0.5 and result.protocol.tasks == 4
    with pytest.raises(UsageError, match="--k 2: needs 2 samples"):
        evaluate(request(data=small_data, samples=path, settings=Settings(2, (2,), 1.0)))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"task_id": "HumanEval/0"}', "sample 1: needs a task_id and a completion"),
        ('{"task_id": "Other/0", "completion": ""}', "no completion for a task of humaneval"),
        ("nonsense", "line 1: not JSON"),
    ],
)
def test_a_samples_file_that_does_not_fit_is_one_clear_line(line, message, small_data, tmp_path):
    path = tmp_path / "samples.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(UsageError, match=message):
        evaluate(request(data=small_data, samples=path))


def test_mbpp_s_own_numbers_are_ids_too(tmp_path):
    path = tmp_path / "samples.jsonl"
    path.write_text(
        '{"task_id": 11, "completion": "a"}\n{"task_id": "Mbpp/11", "completion": "b"}\n'
    )
    assert read_samples(path) == {"Mbpp/11": ["a", "b"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"benchmarks": []}, "--benchmark: names none"),
        ({}, "give a --model to sample from, or --samples"),
        ({"benchmarks": ["humaneval", "mbpp"]}, "one file for 2 benchmarks"),
        ({"compare": "base", "model": "m"}, "--compare base: without --adapter-path"),
        ({"compare": "best", "model": "m"}, "--compare best: only base"),
        ({"compare": "base", "samples": Path("x")}, "--compare: --samples have no model"),
        ({"out": Path("y"), "samples": Path("x")}, "--out: --samples have no model"),
        ({"out": Path("x.jsonl"), "model": "m"}, "--out x.jsonl: names a folder"),
    ],
)
def test_what_cannot_be_evaluated_is_told(arguments, message, small_data):
    with pytest.raises(UsageError, match=message):
        evaluate(request(data=small_data, **arguments))


# ---------------------------------------------------------------- adapters


def test_an_adapter_s_shape_is_read_from_its_configuration(tmp_path):
    parameters = {"rank": 4, "scale": 3.0, "dropout": 0.1, "keys": ["self_attn.q_proj"]}
    row = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": parameters}
    (tmp_path / "adapter_config.json").write_text(json.dumps(row))
    lora = read_lora(tmp_path)
    assert (lora.rank, lora.scale, lora.num_layers) == (4, 3.0, 2)
    assert lora.keys == ("self_attn.q_proj",)
    (tmp_path / "adapter_config.json").write_text(json.dumps({**row, "fine_tune_type": "dora"}))
    with pytest.raises(UsageError, match="'dora'; only 'lora'"):
        read_lora(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"), [(None, "has no adapter_config.json"), ("{}", "not a LoRA adapter's")]
)
def test_a_folder_that_holds_no_adapter_is_told(text, message, tmp_path):
    if text is not None:
        (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_lora(tmp_path)
