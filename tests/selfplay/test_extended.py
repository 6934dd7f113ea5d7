"""Proposals that go on from a known program (``proposer.extended``)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from azr_mlx.config import Config, Proposer, Rollout
from azr_mlx.errors import UsageError
from azr_mlx.selfplay.proposer import TaskProposer
from azr_mlx.selfplay.round import Proposed, Round
from azr_mlx.tasks.buffer import TaskBuffer
from azr_mlx.tasks.program import beginning
from azr_mlx.tasks.prompts import form_for_training, load_form
from azr_mlx.types import Prompt, Task, TaskKind
from tests.fake import CharTokenizer, FakeBackend

pytestmark = pytest.mark.pure

KNOWN = "def f(a):\n    return sum(a[::-1])\n"
MORE = "\n    return t + 3\nassert f([1, 2]) == 6"
ANEW = "(a):\n    return a[1:]\nassert f([1, 2]) == [2]"


def further(prompt: Prompt, n: int) -> str:
    return ANEW if prompt.text.endswith("def f") else MORE


def proposed(
    program: str = KNOWN, share: float = 1.0, count: int = 4, most: int = 10_000
) -> tuple[list[Proposed], list[Prompt]]:
    """The proposals of one round, and the prompts."""
    buffer = TaskBuffer(8)
    for kind in (TaskKind.DEDUCTION, TaskKind.ABDUCTION):
        buffer.add(Task.create(kind, program, ("([1],)",), ("1",)))
    backend = FakeBackend(further)
    config = Config(
        proposer=replace(Proposer(), extended=share),
        rollout=replace(Rollout(), form="compact", max_prompt_tokens=most),
    )
    no_sandbox = cast(Any, None)  # nothing is run
    made = TaskProposer(no_sandbox, backend=backend, config=config, buffer=buffer)
    kinds = [TaskKind.DEDUCTION, TaskKind.ABDUCTION] * (count // 2)
    levels = dict.fromkeys(kinds, 0.3)
    return made._from_model(Round(0, 1), kinds, levels), backend.prompts


def programs(found: list[Proposed]) -> list[str]:
    return [one.draft.proposal.program if one.draft.proposal else "" for one in found]


def test_a_proposal_goes_on_from_what_a_known_program_computes() -> None:
    found, prompts = proposed()
    assert all(p.text.endswith("# 3\ndef f(a):\n    t = sum(a[::-1])") for p in prompts)
    whole = "def f(a):\n    t = sum(a[::-1])\n    return t + 3\n"
    assert programs(found) == [whole] * 4
    assert all(one.draft.proposal.inputs == ("([1, 2],)",) for one in found)  # type: ignore[union-attr]


def test_the_known_program_is_a_parent_once() -> None:
    (one, *_), (prompt, *_) = proposed()
    (parent,) = one.draft.parents
    assert parent == one.references[0].id
    assert KNOWN not in prompt.text  # not shown as a reference as well


def test_both_ways_of_proposing_have_baselines_of_their_own() -> None:
    found, prompts = proposed(share=0.5, count=40)
    new = [p.text.endswith("def f") for p in prompts]
    assert 8 < sum(new) < 32
    groups = {(one.draft.kind, way): one.group for one, way in zip(found, new, strict=True)}
    assert len(set(groups.values())) == 4
    assert all(
        one.group == groups[one.draft.kind, way] for one, way in zip(found, new, strict=True)
    )


@pytest.mark.parametrize(
    ("program", "most"),
    [("def f(a):\n    if a:\n        return 1\n    return 2\n", 10_000), (KNOWN, 20)],
)
def test_what_cannot_be_gone_on_from_is_not(program: str, most: int) -> None:
    found, prompts = proposed(program, most=most)
    assert all(p.text.endswith("def f") for p in prompts)
    assert programs(found) == ["def f(a):\n    return a[1:]\n"] * 4


def test_without_it_the_draws_are_as_they_were() -> None:
    without, refused = proposed(share=0.0, most=20), proposed(share=1.0, most=20)
    assert [p.text for p in without[1]] == [p.text for p in refused[1]]


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (KNOWN, "def f(a):\n    t = sum(a[::-1])"),
        (
            "def f(a):\n    t = a[1:]\n    return t + [3]",
            "def f(a):\n    t = a[1:]\n    t = t + [3]",
        ),
        ("def f(a):\n    n = 0\n    return n", "def f(a):\n    n = 0"),
        ("def f(a):\n    return a", "def f(a):\n    t = a"),
        (
            "def t(a):\n    return a\n\ndef f(a):\n    return t(a)",
            "def t(a):\n    return a\n\ndef f(a):\n    result = t(a)",
        ),
        (
            "from math import t\ndef f(a):\n    return t(a)",
            "from math import t\n\ndef f(a):\n    result = t(a)",
        ),
        ("from math import t, result, value\ndef f(a):\n    return t(result(value(a)))", None),
        ("def f(a):\n    if a:\n        return 1\n    return 2", None),
        ("def f(a):\n    return a\nb = 3", None),
        ("def f(a):\n    while a:\n        return 1", None),
        ("def f(a):\n    def g():\n        return 1\n    return g()", None),
        ("def f(a):\n    return", None),
        ("def g(a):\n    return 1", None),
        ("return )", None),
    ],
)
def test_beginnings(program: str, expected: str | None) -> None:
    assert beginning(program) == expected


def test_every_shipped_form_can_ask_for_it() -> None:
    for name in ("few_shot", "chat", "compact"):
        form = load_form(name)
        for kind in (TaskKind.DEDUCTION, TaskKind.ABDUCTION):
            asked = form.propose(kind, [], 0.3, beginning="def f(a):\n    t = a")
            assert "def f(a):\n    t = a" in asked.text


def test_a_form_that_cannot_ask_for_it_is_refused_at_the_start() -> None:
    form = load_form("compact")
    lacking = {key: replace(recipe, extend="") for key, recipe in form.recipes.items()}
    config = Config(proposer=replace(Proposer(), extended=0.5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "azr_mlx.tasks.prompts.chosen_form", lambda *_: replace(form, recipes=lacking)
        )
        with pytest.raises(UsageError, match=r"^proposer\.extended: 0\.5: prompt form 'compact'"):
            form_for_training(config, CharTokenizer())
