"""A conversation as a model's own chat template writes it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, Protocol

from azr_mlx.errors import ModelError, UsageError, first_line
from azr_mlx.tasks.thinking import MARKS, closed

Messages = Sequence[Mapping[str, str]]

# What templates call today: the day on which Llama's fall back. A prompt is the same on every day,
# so that a run can be resumed exactly.
DAY = datetime(2024, 7, 26)
# The clock of a template. transformers passes no functions to it.
_CLOCK = (
    "{% macro strftime_now(format) %}{{ format"
    + "".join(f"|replace('%{code}', '{DAY.strftime('%' + code)}')" for code in "YymdBbAaHIMSpj")
    + "|replace('%-d', '26')|replace('%-m', '7') }}{% endmacro %}\n"
)
# The variables by which templates switch thoughts (off, on).
_SWITCHES = {
    "enable_thinking": (False, True),  # Qwen, GLM, SmolLM 3, Gemma 4, Hunyuan, EXAONE 4
    "thinking": (False, True),  # DeepSeek V3.1, Granite, Kimi
    "reasoning": (False, True),  # Command A
    "thinking_mode": ("disabled", "enabled"),  # MiniMax
    "thinking_budget": (0, None),  # Seed-OSS
}
# The values of `reasoning_effort` (off, on): the first that the template mentions, or the last.
_EFFORTS = (("none", "minimal", "low"), ("high", "medium"))
# Words in the system message by which templates without such a variable switch (off, on).
_WORDS = (("/no_think", "/think"), ("detailed thinking off", "detailed thinking on"))

_OPENS, _CLOSES = re.compile(r"\{[%{]"), re.compile(r"[%}]\}")
MOST_TEMPLATE = 200_000  # characters; the longest of known models has a tenth
_LITERAL = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"")
_NAME = re.compile(r"(?<![\w.])[A-Za-z_]\w*")


class TemplateError(ModelError):
    """A chat template cannot write a conversation."""


class ChatTokenizer(Protocol):
    """What rendering a conversation needs of a tokenizer."""

    chat_template: Any

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> Any: ...


def has_template(tokenizer: Any) -> bool:
    """Whether the tokenizer can write a conversation, by a template or, in mlx-lm, by code."""
    by_code = getattr(tokenizer, "has_chat_template", False)
    return bool(getattr(tokenizer, "chat_template", None) or by_code)


def conversation(user: str, system: str = "") -> list[dict[str, str]]:
    """A user's message, after a system message if there is one."""
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": user}]


def written(
    tokenizer: ChatTokenizer, messages: Messages, *, thinking: bool = False, ask: bool = True
) -> str:
    """The prompt that asks for an answer to the messages, with all special tokens; without ``ask``,
    the messages alone.

    A system message that the template refuses or leaves out becomes the beginning of the user's.
    Without ``thinking``, the thought that the model would begin with is switched off, or left out.

    Raises:
        TemplateError: the template cannot write the messages.
    """
    template = template_of(tokenizer)
    if len(template) > MOST_TEMPLATE:
        raise TemplateError(
            f"the model's chat template has {len(template):,} characters", "take another model"
        )
    why = "it leaves out what is said"
    for turns, options in _attempts(messages, template, thinking):
        try:
            text = tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=ask, **options
            )
        except Exception as error:  # a template is a program, and may raise anything
            why = first_line(error)
            continue
        if all(_squeezed(message["content"]) in _squeezed(text) for message in messages):
            return closed(text, template) if ask and not thinking else str(text)
    raise TemplateError(
        f"the model's chat template fails: {why}",
        "repair the template, or ask without it: rollout.form=few_shot for train, "
        "--protocol base for eval, --raw for generate",
    )


def try_template(tokenizer: ChatTokenizer) -> None:
    """Raise TemplateError if the template cannot write a system and a user message."""
    written(tokenizer, conversation("What is 1 + 2?", "Answer with a number."))


def check_thinking(tokenizer: Any, key: str, fix: str) -> None:
    """Raise UsageError if the model is not known to think. ``key`` has asked for thoughts; ``fix``
    says how not to."""
    template = template_of(tokenizer)
    by_code = has_template(tokenizer) and not template
    vocabulary: Mapping[str, int] = getattr(tokenizer, "get_added_vocab", dict)()
    marked = any(mark.start in template or mark.start in vocabulary for mark in MARKS)
    if not (marked or by_code or _switches(template, True)):
        raise UsageError(
            f"{key}: nothing in this model's chat template or vocabulary marks a thought; {fix}, "
            "or take a model that thinks"
        )


def template_of(tokenizer: Any) -> str:
    """The text of the template, of the usual one if there are several; empty if it is code."""
    template = getattr(tokenizer, "chat_template", None) or ""
    if isinstance(template, Mapping):
        template = template.get("default") or next(iter(template.values()))
    return str(template)


def _attempts(
    messages: Messages, template: str, thinking: bool
) -> Iterator[tuple[list[dict[str, str]], dict[str, Any]]]:
    """The ways to put the messages to a template, the usual one first."""
    system, *rest = messages if messages[0]["role"] == "system" else ({"content": ""}, *messages)
    first = "\n".join(filter(None, (_words(template, thinking), system["content"])))
    asked = [dict(turn) for turn in rest]
    options = _options(template, thinking)
    with_tools = {**options, "tools": []}  # some templates know only requests with tools
    for turns in _with_system(first, asked):
        yield turns, options
        yield turns, with_tools


def _with_system(text: str, turns: list[dict[str, str]]) -> Iterator[list[dict[str, str]]]:
    """The turns after a system message, and then with it as the beginning of the first."""
    if not text:
        yield turns
        return
    yield [{"role": "system", "content": text}, *turns]
    yield [{**turns[0], "content": f"{text}\n\n{turns[0]['content']}"}, *turns[1:]]


def _options(template: str, thinking: bool) -> dict[str, Any]:
    """The variables that a template is given. Code, which has no template, reads only the first."""
    options = {"enable_thinking": thinking, **_switches(template, thinking)}
    names = _variables(template)
    if "date_string" in names:
        options["date_string"] = DAY.strftime("%d %b %Y")
    if "strftime_now" in names:
        options["chat_template"] = _CLOCK + template
    return options


@cache
def _switches(template: str, thinking: bool) -> dict[str, Any]:
    """The variables of a template that switch thoughts."""
    names = _variables(template)
    found = {name: both[thinking] for name, both in _SWITCHES.items() if name in names}
    if "reasoning_effort" in names:
        efforts = _EFFORTS[thinking]
        known = [e for e in efforts if f"'{e}'" in template or f'"{e}"' in template]
        found["reasoning_effort"] = [*known, efforts[-1]][0]
    return {name: value for name, value in found.items() if value is not None}


def _words(template: str, thinking: bool) -> str:
    """The words by which a system message switches thoughts; empty if a variable does."""
    found = next((both[thinking] for both in _WORDS if both[0] in template), "")
    return "" if _switches(template, thinking) else found


@cache
def _variables(template: str) -> frozenset[str]:
    """The names in the code of a template."""
    code = _LITERAL.sub("''", " ".join(_code(template)))
    return frozenset(_NAME.findall(code))


def _code(template: str) -> Iterator[str]:
    """What stands between the signs of a template's expressions and statements."""
    opened = _OPENS.search(template)
    while opened and (closed := _CLOSES.search(template, opened.end())):
        yield template[opened.end() : closed.start()]
        opened = _OPENS.search(template, closed.end())


def _squeezed(text: str) -> str:
    """The text without white space, which templates trim."""
    return "".join(text.split())
