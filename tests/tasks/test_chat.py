"""Conversations by chat templates: roles, dates, tools, thoughts, and templates that fail."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from azr_mlx.config import Config
from azr_mlx.errors import UsageError
from azr_mlx.tasks import chat
from azr_mlx.tasks.chat import TemplateError, check_thinking, conversation, try_template, written
from azr_mlx.tasks.prompts import form_for_training, load_form, render
from azr_mlx.tasks.thinking import Thoughts, opened
from azr_mlx.types import Task, TaskKind
from tests import chats

pytestmark = pytest.mark.pure

USER, SYSTEM = "What is f(1)?\n\n    f = abs", "Answer with a literal."
TASK = Task.create(TaskKind.DEDUCTION, "def f(x):\n    return x\n", ("(1,)",), ("1",))
ENDS = {
    "deepseek_r1_distill": "<|Assistant|><think>\n\n</think>\n\n",
    "gemma2": "<end_of_turn>\n<start_of_turn>model\n",
    "gemma3": "<end_of_turn>\n<start_of_turn>model\n",
    "gpt_oss": "<|end|><|start|>assistant<|channel|>final<|message|>",
    "llama3": "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral_v0_2": " [/INST]",
    "mistral_v0_3": "[/INST]",
    "phi3": "<|end|>\n<|assistant|>\n",
    "phi4": "<|im_end|><|im_start|>assistant<|im_sep|>",
    "qwen2_5": "<|im_end|>\n<|im_start|>assistant\n",
    "qwen3": "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
}
THINKING_ENDS = {
    "deepseek_r1_distill": "<|Assistant|><think>\n",
    "gpt_oss": "<|end|><|start|>assistant",
    "qwen3": "<|im_end|>\n<|im_start|>assistant\n",
}
WITHOUT_SYSTEM_ROLE = ("gemma2", "mistral_v0_2", "phi3")


@pytest.mark.parametrize("family", chats.FAMILIES)
def test_both_messages_and_the_next_turn_are_in_the_prompt(family: str) -> None:
    text = written(chats.tokenizer_of(family), conversation(USER, SYSTEM))
    assert text.index(SYSTEM) < text.index(USER) < text.rindex(ENDS[family])
    assert text.endswith(ENDS[family]) and opened(text) is None
    assert text.count(SYSTEM) == text.count(USER) == 1
    bare = written(chats.tokenizer_of(family), conversation(USER))
    assert USER in bare and bare.endswith(ENDS[family])


@pytest.mark.parametrize("family", WITHOUT_SYSTEM_ROLE)
def test_without_a_system_role_the_system_message_begins_the_users(family: str) -> None:
    text = written(chats.tokenizer_of(family), conversation(USER, SYSTEM))
    assert f"{SYSTEM}\n\n{USER}" in text


@pytest.mark.parametrize("family", chats.FAMILIES)
def test_a_prompt_has_at_most_one_start_token(family: str) -> None:
    tokenizer = chats.tokenizer_of(family)
    prompt = render(load_form("chat").solve(TASK), tokenizer)
    assert prompt.chat and prompt.token_ids.count(tokenizer.bos_token_id) <= 1
    assert tokenizer.decode(prompt.token_ids) == prompt.text
    assert prompt.text[: prompt.prefix].count("What does the call") == 1


@pytest.mark.parametrize("family", THINKING_ENDS)
def test_thinking_leaves_the_thought_to_the_model(family: str) -> None:
    tokenizer = chats.tokenizer_of(family)
    check_thinking(tokenizer, "rollout.thinking: on", "give rollout.thinking=off")
    text = written(tokenizer, conversation(USER, SYSTEM), thinking=True)
    assert text.endswith(THINKING_ENDS[family])
    assert bool(Thoughts(text).opened) == (family == "deepseek_r1_distill")


@pytest.mark.parametrize("family", sorted(set(chats.FAMILIES) - set(THINKING_ENDS)))
def test_a_model_that_does_not_think_is_not_asked_to(family: str) -> None:
    with pytest.raises(UsageError, match=r"rollout\.thinking: on: .*; give off, or take"):
        check_thinking(chats.tokenizer_of(family), "rollout.thinking: on", "give off")


def test_a_prompt_does_not_depend_on_the_day() -> None:
    assert "Today Date: 26 Jul 2024" in written(chats.tokenizer_of("llama3"), conversation(USER))
    assert "Current date: 2024-07-26" in written(chats.tokenizer_of("gpt_oss"), conversation(USER))
    formats = "%A, %a %d %B %b %Y %y %m %-d.%-m. %H:%M:%S %I %p %j"
    clock = "{{ messages[0].content }} " + f"{{{{ strftime_now('{formats}') }}}}"
    text = written(chats.tokenizer_with(clock), conversation(USER))
    expected = "Friday, Fri 26 July Jul 2024 24 07 26.7. 00:00:00 12 AM 208"
    assert text.removeprefix(USER).strip() == expected


def _switched(template: str, thinking: bool) -> str:
    said = "{{ messages[-1].content }}"
    return written(chats.tokenizer_with(said + template), [*conversation("")], thinking=thinking)


@pytest.mark.parametrize(
    ("template", "off", "on"),
    [
        ("{{ thinking }}", "False", "True"),
        ("{{ reasoning }}", "False", "True"),
        ("{{ thinking_mode }}", "disabled", "enabled"),
        ("{{ thinking_budget is defined and thinking_budget }}", "0", "False"),
        ("{{ reasoning_effort }}{# 'none' 'high' #}", "none", "high"),
        ("{{ reasoning_effort }}{% if reasoning_effort in ['low', 'minimal'] %}{% endif %}",
         "minimal", "medium"),
        ("{{ reasoning_effort }}", "low", "medium"),
    ],
)  # fmt: skip
def test_the_switches_of_templates(template: str, off: str, on: str) -> None:
    assert (_switched(template, False), _switched(template, True)) == (off, on)


def test_words_in_the_system_message_are_a_switch_too() -> None:
    said = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    reads = "{% if '/no_think' in messages[0].content %}{% endif %}"
    tokenizer = chats.tokenizer_with(said + reads)
    asked = conversation(USER, SYSTEM)
    assert written(tokenizer, asked) == f"<system>/no_think\n{SYSTEM}<user>{USER}"
    assert written(tokenizer, asked, thinking=True) == f"<system>/think\n{SYSTEM}<user>{USER}"
    assert written(tokenizer, conversation(USER)) == f"<system>/no_think<user>{USER}"
    # Nemotron Nano's template takes the words out again.
    removes = said.replace("m.content", "m.content|replace('/no_think', '')") + reads
    assert SYSTEM in written(chats.tokenizer_with(removes), asked)
    with_variable = chats.tokenizer_with(said + "{{ enable_thinking }}{# /no_think #}")
    assert "/no_think" not in written(with_variable, asked)


def test_templates_that_only_know_tools() -> None:
    loops = "{% for tool in tools %}{{ tool }}{% endfor %}{{ messages[-1].content }}"
    for template in (loops, {"tool_use": loops}):
        assert written(chats.tokenizer_with(template), conversation(USER)) == USER
    both = {"default": "{{ messages[-1].content }}!", "tool_use": loops}
    assert written(chats.tokenizer_with(both), conversation(USER)) == f"{USER}!"


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ raise_exception('No.\nNever.') }}", "No."),
        ("{{ messages[7].content }}", "has no element 7|undefined"),
        ("{% if %}", "Expected an expression"),
        ("{{ 1 / 0 }}", "division"),
        ("hello", "it leaves out what is said"),
        ("", "it leaves out what is said"),
    ],
)
def test_a_template_that_fails_is_one_line(template: str, why: str) -> None:
    with pytest.raises(TemplateError, match=why) as caught:
        try_template(chats.tokenizer_with(template + "{# #}"))
    line = str(caught.value)
    assert "\n" not in line and "rollout.form=few_shot" in line and "--raw" in line


def test_a_template_that_is_no_template_is_not_run() -> None:
    whole = chats.template("qwen3") + "{#" + "x" * chat.MOST_TEMPLATE + "#}"
    with pytest.raises(TemplateError, match=r"has 2.*characters; take another"):
        try_template(chats.tokenizer_with(whole))
    began = time.perf_counter()
    chat._variables("{%" * 50_000)
    assert time.perf_counter() - began < 5, "0.1 s on a machine with nothing else to do"


def test_training_asks_a_model_only_as_it_can_be_asked() -> None:
    config = Config()
    rollout = replace(config.rollout, thinking="on", max_solve_tokens=4096, max_propose_tokens=4096)
    on = replace(config, rollout=rollout)
    assert form_for_training(on, chats.tokenizer_of("qwen3")).style == "chat"
    with pytest.raises(UsageError, match=r"rollout\.thinking: on: nothing in this model"):
        form_for_training(on, chats.tokenizer_of("phi4"))
    few_shot = replace(on, rollout=replace(rollout, form="few_shot"))
    with pytest.raises(UsageError, match=r"rollout\.thinking: on: form few_shot continues"):
        form_for_training(few_shot, chats.tokenizer_of("qwen3"))
    with pytest.raises(TemplateError):
        form_for_training(config, chats.tokenizer_with("{{ nothing.at.all }}"))


def test_code_may_stand_for_a_template() -> None:
    class ByCode:
        chat_template = None
        has_chat_template = True

        def apply_chat_template(self, conversation, **options):
            assert options.keys() <= {"tokenize", "add_generation_prompt", "enable_thinking"}
            mark = "<think>" if options["enable_thinking"] else "</think>"
            return "".join(turn["content"] for turn in conversation) + mark

    assert chat.has_template(ByCode()) and not chat.has_template(chats.tokenizer_with(None))
    check_thinking(ByCode(), "key", "off")
    assert written(ByCode(), conversation(USER, SYSTEM)).endswith("</think>")
    assert written(ByCode(), conversation(USER), thinking=True).endswith("<think>")


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("family", chats.FAMILIES)
def test_mlx_lm_s_tokenizer_writes_the_same(family: str, thinking: bool) -> None:
    utils = pytest.importorskip("mlx_lm.tokenizer_utils", reason="mlx-lm is not installed")
    plain = chats.tokenizer_of(family)
    asked = conversation(USER, SYSTEM)
    wrapped = written(utils.TokenizerWrapper(plain), asked, thinking=thinking)
    assert wrapped == written(plain, asked, thinking=thinking)
