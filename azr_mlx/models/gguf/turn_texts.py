"""What a chat template writes around the messages of a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from azr_mlx.tasks.chat import Messages, TemplateError, conversation, has_template, written

# Messages that no template contains.
_SYSTEM, _USER, _ANSWER, _NEXT = "Xsystem1", "Xuser1", "Xanswer1", "Xuser2"
Around = tuple[str, str]


@dataclass(frozen=True, slots=True)
class TurnTexts:
    """The texts before and after each message, by its role, and the text that asks for an answer.

    ``first`` begins a conversation without a system message. ``system`` is None if the template
    has no system message, or puts it into the user's.
    """

    first: str
    user: Around
    answer: Around
    asks: str
    system: Around | None

    def written(self, messages: Messages) -> str:
        """The prompt that asks for an answer, as ``tasks.chat.written`` gives it."""
        around = {"system": self.system or ("", ""), "user": self.user, "assistant": self.answer}
        first = "" if messages[0]["role"] == "system" else self.first
        turns = (m["content"].join(around[m["role"]]) for m in messages)
        return "".join((first, *turns, self.asks))


def turn_texts(tokenizer: Any) -> TurnTexts | None:
    """The texts that the tokenizer's chat template writes; None if there is no template, or if what
    it writes around a message depends on more than who says it."""
    if not has_template(tokenizer):
        return None
    try:
        found = _found(tokenizer)
        if found is not None and _fits(found, tokenizer):
            return found
    except TemplateError:
        pass
    return None


def _found(tokenizer: Any) -> TurnTexts | None:
    asked = conversation(_USER)
    told = [*asked, {"role": "assistant", "content": _ANSWER}]
    alone = _around(written(tokenizer, asked, ask=False), _USER)
    question = _around(written(tokenizer, asked), _USER)
    ended = _around(written(tokenizer, told, ask=False), _USER, _ANSWER)
    again = _around(written(tokenizer, [*told, *conversation(_NEXT)]), _USER, _ANSWER, _NEXT)
    if not (alone and question and ended and again):
        return None
    eos, asks = str(getattr(tokenizer, "eos_token", None) or ""), question[-1]
    after = _ending(alone[-1], (again[1], asks), eos)
    after_answer = _ending(ended[-1], (again[2],), eos)
    before = again[2].removeprefix(after_answer)
    if not question[0].endswith(before):
        return None
    return TurnTexts(
        question[0].removesuffix(before),
        (before, after),
        (again[1].removeprefix(after), after_answer),
        asks.removeprefix(after),
        _system(tokenizer, before),
    )


def _ending(last: str, followed: tuple[str, ...], eos: str) -> str:
    """What a template writes after a message: after the last one, where there may be ``eos``, and
    at the beginning of what it writes between two. Empty if these differ."""
    for text in (last, last.removesuffix(eos)):
        if all(between.startswith(text) for between in followed):
            return text
    return ""


def _system(tokenizer: Any, before_user: str) -> Around | None:
    texts = _around(written(tokenizer, conversation(_USER, _SYSTEM)), _SYSTEM, _USER)
    if texts is None or not texts[1].endswith(before_user):
        return None
    return texts[0], texts[1].removesuffix(before_user)


def _around(text: str, *messages: str) -> list[str] | None:
    """The texts before, between and after the messages; None if one is not there just once."""
    parts = []
    for message in messages:
        before, found, text = text.partition(message)
        if not found or message in text:
            return None
        parts.append(before)
    return [*parts, text]


def _fits(found: TurnTexts, tokenizer: Any) -> bool:
    """Whether the texts give what the template gives for conversations of several kinds."""
    told = [*conversation("Hello"), {"role": "assistant", "content": "Hi"}, *conversation("Why?")]
    longer = [*told, {"role": "assistant", "content": "Because."}, *conversation("Thanks")]
    tried: list[Sequence[Any]] = [conversation("Hello"), told, longer]
    if found.system is not None:
        tried += [[{"role": "system", "content": "Be short."}, *turns] for turns in tried]
    return all(found.written(turns) == written(tokenizer, turns) for turns in tried)
