"""The data types: identity of tasks, JSON round trips, immutability, rows of a batch."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from azr_mlx.types import (
    Batch,
    Completion,
    Experience,
    Prompt,
    Reward,
    Role,
    Status,
    Task,
    TaskKind,
    Verdict,
    canonical_source,
)

pytestmark = pytest.mark.pure

text = st.text(max_size=20)
finite = st.floats(allow_nan=False, allow_infinity=False)
ids = st.lists(st.integers(0, 200_000), max_size=6).map(tuple)

prompts = st.builds(
    Prompt, text, ids, form=text, strategy=text, stop=st.lists(text, max_size=3).map(tuple),
    prefix=st.integers(0, 99),
)  # fmt: skip
completions = ids.flatmap(
    lambda tokens: st.builds(
        Completion, st.just(tokens), st.tuples(*[finite] * len(tokens)),
        st.sampled_from(["stop", "length"]), st.integers(0, 2**64 - 1), text,
    )
)  # fmt: skip
experiences = st.builds(
    Experience,
    prompt=prompts,
    completion=completions,
    verdict=st.builds(Verdict, st.sampled_from(Status), text, st.none() | text, finite),
    reward=st.builds(Reward, finite, st.dictionaries(text, finite, max_size=3)),
    role=st.sampled_from(Role),
    kind=st.sampled_from(TaskKind),
    group=st.integers(0, 10**6),
    step=st.integers(0, 10**6),
    task_id=text,
)
texts = st.lists(text, max_size=3).map(tuple)
tasks = st.builds(
    Task, text, st.sampled_from(TaskKind), text, texts, texts, message=text,
    hidden=st.lists(st.integers(0, 9), max_size=5).map(tuple), difficulty=st.floats(0, 1),
    origin_step=st.integers(0, 10**6), parents=texts, source=text,
)  # fmt: skip


@given(experiences)
def test_experience_survives_json(experience):
    row = json.loads(json.dumps(experience.to_json()))
    assert Experience.from_json(row) == experience


def test_a_lone_surrogate_survives_json():
    """Programs may hold one ("\\ud800" is a Python literal), and so may what they return."""
    verdict = Verdict(Status.OK, value="'\ud800'")
    experience = Experience(
        Prompt("", (1,)), Completion((2,), (-0.5,), "stop", 3), verdict, Reward(1.0),
        Role.PROPOSE, TaskKind.DEDUCTION, group=0, step=0,
    )  # fmt: skip
    row = json.loads(json.dumps(experience.to_json()).encode("utf-8"))
    assert Experience.from_json(row) == experience


@given(tasks)
def test_task_survives_json(task):
    assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task


def test_json_has_plain_values():
    """Readers of a rollouts file see "solve" and "pass", not the names of Python enums."""
    experience = Experience(
        Prompt("p", (1,)), Completion((2,), (-0.5,), "stop", 3), Verdict(Status.PASS), Reward(1.0),
        Role.SOLVE, TaskKind.ABDUCTION, group=4, step=5,
    )  # fmt: skip
    row = experience.to_json()
    assert (row["role"], row["kind"], row["verdict"]["status"]) == ("solve", "abduction", "pass")
    assert all(type(x) is str for x in (row["role"], row["kind"], row["verdict"]["status"]))


def task_of(program: str, inputs=("(1,)",), kind=TaskKind.DEDUCTION, **rest) -> Task:
    return Task.create(kind, program, inputs, ("1",), **rest)


def test_equal_content_has_one_id():
    plain = task_of("def f(a):\n    return a")
    same = task_of("# copy\ndef f( a ):\n\n    return (a)  # same", difficulty=0.9, origin_step=7)
    assert plain.id == same.id
    assert len(plain.id) == 16


def test_different_content_has_different_ids():
    program = "def f(a):\n    return a"
    tasks = [
        task_of(program),
        task_of(program, ("(2,)",)),
        task_of(program, ("(1,)", "(2,)")),
        task_of(program, kind=TaskKind.ABDUCTION),
        task_of("def f(a):\n    return a + 0"),
    ]
    assert len({t.id for t in tasks}) == len(tasks)


@given(st.text(st.characters(codec=None), max_size=20))
def test_any_text_has_an_id(program):
    assert task_of(program).id == task_of(program).id


@pytest.mark.parametrize("program", ["def f(", "\0", "(" * 5000, "def f(a):\n return '\ud800'"])
def test_source_that_does_not_parse_stands_for_itself(program):
    assert canonical_source(program) == program


@pytest.mark.parametrize("value", [Verdict(Status.PASS), Reward(1.0), Prompt("", ())])
def test_values_are_frozen(value):
    name = dataclasses.fields(value)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, name, None)


@pytest.mark.parametrize("status", Status)
def test_only_pass_is_passed(status):
    assert Verdict(status).passed is (status is Status.PASS)


def test_rows_and_with_of_a_batch():
    tokens = np.arange(12, dtype=np.int32).reshape(3, 4)
    batch = Batch(tokens, np.ones((3, 4), np.float32), values=tokens.astype(np.float32) / 2)
    picked = batch.rows(np.array([2, 0]))
    assert len(batch) == 3
    assert len(picked) == 2
    assert picked.tokens.tolist() == tokens[[2, 0]].tolist()
    assert picked.values.tolist() == (tokens[[2, 0]] / 2).tolist()
    assert picked.old_logp is None
    scored = batch.with_(old_logp=np.zeros((3, 4), np.float32), values=None)
    assert scored.old_logp is not None
    assert scored.values is None
    assert batch.old_logp is None
    assert batch.values is not None
