"""Samples on disk: an interrupted evaluation goes on, makes nothing twice, and ends the same."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from azr_mlx.errors import UsageError
from azr_mlx.evaluation.protocol import Settings, Subject
from azr_mlx.evaluation.sampling import Evaluation
from azr_mlx.evaluation.store import Store
from azr_mlx.interrupts import Interrupts
from tests.scripted import RIGHT, WRONG, Scripted

pytestmark = pytest.mark.sandbox

SAMPLED = Settings(num_samples=4, ks=(1, 2), temperature=0.8)


def run(backend, small, sandbox, folder, settings=SAMPLED, subject=None):
    evaluation = Evaluation(backend, small, settings, sandbox, subject=subject)
    with Store(folder, evaluation.protocol) as store, Interrupts() as interrupts:
        return evaluation.run(store, interrupts)


def rows(folder, name="samples.jsonl") -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def content(folder) -> list[str]:
    """The rows whatever their order: they are written as they end."""
    return sorted(json.dumps(row, sort_keys=True) for row in rows(folder))


def figures(result) -> dict:
    """All of a result but what says how long it took and what was there already."""
    row = result.to_json()
    return {k: v for k, v in row.items() if k not in ("seconds", "generated", "folder")}


@pytest.mark.parametrize("moment", [1, 2, 7, 12, 23])
def test_an_interrupted_evaluation_goes_on_and_makes_no_sample_twice(
    moment, small, sandbox, tmp_path
):
    uninterrupted = Scripted()
    whole = run(uninterrupted, small, sandbox, tmp_path / "whole")
    stopped, going_on = Scripted(interrupt_after=moment), Scripted()
    with pytest.raises(KeyboardInterrupt):
        run(stopped, small, sandbox, tmp_path / "out")
    assert len(rows(tmp_path / "out")) == len(stopped.made) == moment, "all that ended is graded"
    assert not (tmp_path / "out" / "result.json").exists()
    result = run(going_on, small, sandbox, tmp_path / "out")
    assert result.generated == len(going_on.made) == 24 - moment
    assert sorted(stopped.made + going_on.made) == sorted(uninterrupted.made)
    assert figures(result) == figures(whole)
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert json.loads((tmp_path / "out" / "result.json").read_text())["statuses"]


def by_strategy(task, strategy, sample, policy):
    order = ("direct", "step_by_step", "test_driven", "chain_of_thought")
    return RIGHT if order.index(strategy) >= task % 5 else WRONG


@pytest.mark.parametrize("moment", [1, 5, 8, 10, 13, 14])
def test_strategies_that_were_tried_are_not_tried_again(moment, small, sandbox, tmp_path):
    settings = Settings(strategy="auto")
    backend = Scripted(by_strategy, chat=True)
    whole = run(backend, small, sandbox, tmp_path / "whole", settings)
    stopped = Scripted(by_strategy, chat=True, interrupt_after=moment)
    going_on = Scripted(by_strategy, chat=True)
    with pytest.raises(KeyboardInterrupt):
        run(stopped, small, sandbox, tmp_path / "out", settings)
    result = run(going_on, small, sandbox, tmp_path / "out", settings)
    assert sorted(stopped.made + going_on.made) == sorted(backend.made), "none twice, none left out"
    assert figures(result) == figures(whole)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_the_same_command_again_generates_nothing(small, sandbox, tmp_path):
    first = run(Scripted(), small, sandbox, tmp_path / "out")
    again = Scripted()
    second = run(again, small, sandbox, tmp_path / "out")
    assert again.calls == [] and second.generated == 0 and figures(second) == figures(first)


def test_more_tasks_and_samples_are_added_to_those_that_are_there(small, sandbox, tmp_path):
    few, more = Scripted(), Scripted()
    run(few, small, sandbox, tmp_path / "out", replace(SAMPLED, limit=2, num_samples=2))
    result = run(more, small, sandbox, tmp_path / "out")
    assert (len(few.made), len(more.made)) == (4, 20) and len(result.samples) == 24
    part = run(Scripted(), small, sandbox, tmp_path / "out", replace(SAMPLED, limit=3))
    assert [t.id[-1] for t in part.tasks] == ["0", "1", "2"] and part.generated == 0


def test_a_line_that_a_kill_cut_off_is_made_again(small, sandbox, tmp_path):
    first = run(Scripted(), small, sandbox, tmp_path / "out")
    file = tmp_path / "out" / "samples.jsonl"
    file.write_bytes(file.read_bytes()[:-30])
    second = run(Scripted(), small, sandbox, tmp_path / "out")
    assert second.generated == 1 and second.statuses == first.statuses
    assert len(rows(tmp_path / "out")) == 24


@pytest.mark.parametrize(
    ("settings", "subject", "message"),
    [
        (replace(SAMPLED, temperature=0.2), None, r"temperature 0\.8, not 0\.2"),
        (replace(SAMPLED, seed=1), None, "seed 0, not 1"),
        (SAMPLED, Subject("m", "1" * 64), 'model_sha256 "", not "1111'),
        (SAMPLED, Subject(adapter="a", adapter_sha256="2" * 64), 'adapter_sha256 "", not "22'),
    ],
)
def test_another_protocol_is_refused_in_one_line(
    settings, subject, message, small, sandbox, tmp_path
):
    run(Scripted(), small, sandbox, tmp_path / "out")
    before, backend = content(tmp_path / "out"), Scripted()
    with pytest.raises(UsageError, match=message) as caught:
        run(backend, small, sandbox, tmp_path / "out", settings, subject)
    assert "\n" not in str(caught.value) and "choose another folder" in str(caught.value)
    assert backend.calls == [] and content(tmp_path / "out") == before


def test_weights_that_moved_are_the_same_weights(small, sandbox, tmp_path):
    run(Scripted(), small, sandbox, tmp_path / "out", subject=Subject("here", "1" * 64))
    moved = Scripted()
    run(moved, small, sandbox, tmp_path / "out", subject=Subject("there", "1" * 64))
    assert moved.calls == []


def test_two_evaluations_do_not_write_into_one_folder(small, sandbox, tmp_path):
    protocol = Evaluation(Scripted(), small, SAMPLED, sandbox).protocol
    refused = pytest.raises(UsageError, match="another evaluation is writing there")
    with Store(tmp_path / "out", protocol), refused:
        Store(tmp_path / "out", protocol)
    Store(tmp_path / "out", protocol).close()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("protocol.json", "{", "protocol.json: is damaged"),
        ("protocol.json", None, "has samples without a protocol.json"),
        ("samples.jsonl", '{"task_id": "HumanEval/0"}\n', "did not write"),
        ("samples.jsonl", "{\n", "line 1: not JSON"),
        ("tries.jsonl", "{}\n", "did not write"),
    ],
)
def test_a_folder_that_is_damaged_is_one_clear_line(name, text, message, small, sandbox, tmp_path):
    run(Scripted(), small, sandbox, tmp_path / "out")
    file = tmp_path / "out" / name
    file.unlink() if text is None else file.write_text(text)
    with pytest.raises(UsageError, match=message):
        run(Scripted(), small, sandbox, tmp_path / "out")


def test_a_folder_that_cannot_be_made_is_one_clear_line(small, sandbox, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"--out .*file/out: cannot be written"):
        run(Scripted(), small, sandbox, tmp_path / "file" / "out")
