"""Thoughts: where they end, and that nothing in them counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azr_mlx.tasks.parse import parse_answer, parse_proposal
from azr_mlx.tasks.thinking import MARKS, Mark, Thoughts, answer_of, closed, opened
from azr_mlx.types import TaskKind

pytestmark = pytest.mark.pure

TOKENS = [mark for mark in MARKS if not mark.prose]
DRAFT = "I could write <answer>\n```output\n1\n```\n</answer>, but no."
ANSWER = "\n\n<answer>\n```output\n2\n```\n"
PROGRAM = "def f(x=1):\n    return x\n"


def named(mark: Mark) -> str:
    return mark.start


@pytest.mark.parametrize("mark", TOKENS, ids=named)
def test_a_thought_that_the_model_begins(mark: Mark) -> None:
    thought = f"\n{mark.start}{DRAFT}{mark.end}"
    assert Thoughts().split(thought + ANSWER) == (thought, ANSWER)
    assert Thoughts().split(f"{mark.start}{DRAFT}") == (f"{mark.start}{DRAFT}", "")
    assert answer_of(thought + ANSWER) == ANSWER
    assert parse_answer(thought + ANSWER, TaskKind.DEDUCTION, "chat") == "2"


@pytest.mark.parametrize("mark", TOKENS, ids=named)
def test_a_thought_that_the_prompt_opens(mark: Mark) -> None:
    for blank in ("", "\n"):
        prompt = f"<user>Think.<assistant>{mark.start}{blank}"
        assert opened(prompt) == mark
        assert Thoughts(prompt).split(DRAFT) == (DRAFT, "")
        assert Thoughts(prompt).split(DRAFT + mark.end + ANSWER) == (DRAFT + mark.end, ANSWER)


@pytest.mark.parametrize("mark", MARKS, ids=named)
def test_a_thought_that_is_cut_holds_no_answer(mark: Mark) -> None:
    text = f"{mark.start}\n{DRAFT}\n```python\n{PROGRAM}```\n```input\n3\n```"
    if mark.prose:
        assert Thoughts(f"Begin with '{mark.start}'").split(text)[1] == ""
        return
    for kind in TaskKind:
        assert parse_answer(text, kind, "chat", PROGRAM) is None
        assert parse_proposal(text, kind, "chat", PROGRAM) is None


def test_no_text_is_no_answer_even_if_every_parameter_has_a_default() -> None:
    assert parse_answer("", TaskKind.ABDUCTION, "chat", PROGRAM) is None


def test_words_mark_a_thought_only_if_the_prompt_asks_for_them() -> None:
    text = "Here is my thought process: <answer>1</answer>"
    assert Thoughts().split(text) == ("", text)
    asks = Thoughts("Write your thoughts after 'Here is my thought process:'")
    assert asks.split(text) == (text, "")


def test_a_harmony_answer_follows_the_last_channel() -> None:
    thought = (
        "<|channel|>analysis<|message|>One.<|end|><|start|>assistant<|channel|>commentary"
        "<|message|>Two.<|end|><|start|>assistant<|channel|>final<|message|>"
    )
    assert Thoughts("<|start|>assistant").split(thought + "3") == (thought, "3")


def test_several_thoughts_follow_each_other() -> None:
    text = "<think>a</think>\n<think>b</think> c </think> d"
    assert Thoughts().split(text) == ("<think>a</think>\n<think>b</think>", " c </think> d")


def test_a_mark_within_an_answer_is_part_of_it() -> None:
    text = 'def f(x):\n    return x.replace("<think>", "</thought>")'
    assert Thoughts().split(text) == ("", text)


def test_an_unknown_prompt_may_have_opened_the_thought() -> None:
    assert answer_of(DRAFT + "</think>" + ANSWER) == ANSWER
    assert answer_of("no thought") == "no thought"
    assert answer_of("a [/THINK] b </think> <think> c") == ""


@pytest.mark.parametrize("mark", TOKENS, ids=named)
def test_a_thought_that_is_left_out_is_closed(mark: Mark) -> None:
    prompt = closed(f"<assistant>{mark.start}\n")
    assert opened(prompt) is None and prompt.startswith(f"<assistant>{mark.start}")
    assert mark.end in prompt
    assert closed(prompt) == prompt


@given(st.text(alphabet="<|/think>channelsTHIK[] \n:", max_size=60), st.integers(0, 40))
def test_what_cannot_become_a_thought_never_does(text: str, cut: int) -> None:
    thoughts, part = Thoughts(), text[:cut]
    assert "".join(thoughts.split(text)) == text
    if not thoughts.may_begin(part) and thoughts.begun(part) is None:
        assert thoughts.begun(text) is None


def test_thoughts_of_any_length_are_read_in_time() -> None:
    text = "<think></think>" * 5000
    assert Thoughts().split(text) == (text, "")
