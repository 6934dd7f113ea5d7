"""Thoughts: what a chat model writes before its answer, and the marks by which models tell both
apart.

A thought begins a completion, or the end of the prompt has opened it. Nothing in it counts, neither
a stop string nor an answer, until its own end mark comes.
"""

from __future__ import annotations

from typing import NamedTuple


class Mark(NamedTuple):
    """How models mark a thought.

    ``shut`` is what follows ``start`` in a thought that is left out ("": ``end``). ``after`` ends
    the prompt of a model that chooses between thought and answer by its next token. ``prose`` are
    words that mark a thought only for models whose prompt asks for them.
    """

    start: str
    end: str
    shut: str = ""
    after: str = ""
    prose: bool = False


MARKS = (
    # Qwen 3, DeepSeek R1 and V3, GLM 4.5, SmolLM 3, Nemotron, Phi 4, Granite 3.3, MiniMax, ...
    Mark("<think>", "</think>", shut="\n\n</think>\n\n"),
    Mark("[THINK]", "[/THINK]"),  # Magistral, Ministral 3
    Mark("<|channel|>", "<|channel|>final<|message|>", after="<|start|>assistant"),  # gpt-oss
    Mark("<|channel>thought", "<channel|>"),  # Gemma 4
    Mark("<seed:think>", "</seed:think>"),  # Seed-OSS
    Mark("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A and R7B
    Mark("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    Mark("<|think|>", "<|content|>", shut="<|end|><|begin|>assistant<|content|>"),  # Solar Open
    Mark("<thought>", "</thought>"),  # EXAONE Deep
    Mark("<longcat_think>", "</longcat_think>"),  # LongCat
    Mark("<|think:start|>", "<|think:end|>"),
    Mark("<|open|>think<|sep|>", "<|close|>think<|sep|>"),  # Kimi K3
    Mark("\u25c1think\u25b7", "\u25c1/think\u25b7"),  # Kimi VL
    Mark("<|begin_of_thought|>", "<|end_of_thought|>"),  # OpenThinker, Sky-T1
    Mark("to=self<|message|>", "to=user<|message|>"),  # Muse Spark
    Mark("Here is my thought process:", "Here is my response:", prose=True),  # Granite 3.2
)
LONGEST = max(len(mark.start.encode()) for mark in MARKS)


def opened(prompt: str) -> Mark | None:
    """The mark of the thought in which a prompt ends; None if it ends in none."""
    end = prompt.rstrip()
    return next((mark for mark in MARKS if not mark.prose and end.endswith(mark.start)), None)


def closed(prompt: str, template: str = "") -> str:
    """The prompt, with the thought left out that a model would begin with: the one that the prompt
    opens, or the one that ``template`` lets the model choose."""
    mark = opened(prompt)
    if mark is not None:
        return prompt.rstrip() + (mark.shut or mark.end)
    for mark in MARKS:
        if mark.after and mark.start in template and prompt.endswith(mark.after):
            return prompt + mark.end
    return prompt


class Thoughts:
    """The thoughts in completions of one prompt."""

    def __init__(self, prompt: str = "") -> None:
        self.marks = tuple(m for m in MARKS if not m.prose or m.start in prompt)
        self.opened = opened(prompt)

    def begun(self, text: str) -> Mark | None:
        """The mark of the thought that a text begins with; None if it does not."""
        start = text.lstrip()[: LONGEST + 1]
        return next((mark for mark in self.marks if start.startswith(mark.start)), None)

    def may_begin(self, text: str) -> bool:
        """Whether more text could make it one that begins with a thought."""
        start = text.lstrip()
        return any(len(start) < len(m.start) and m.start.startswith(start) for m in self.marks)

    def split(self, text: str) -> tuple[str, str]:
        """(thought with its marks, answer): together they are the text. The answer is empty if the
        thought has not ended."""
        at, mark = 0, self.opened or self.begun(text)
        while mark is not None:
            end = text.find(mark.end, at)
            if end < 0:
                return text, ""
            at = end + len(mark.end)
            mark = self.begun(text[at:])
        return text[:at], text[at:]


_ANY = Thoughts()


def answer_of(text: str) -> str:
    """What follows the thoughts in a completion of an unknown prompt: one whose start is missing
    ends with the last end mark. Nothing follows a thought that has not ended."""
    if _ANY.begun(text) is None:
        ends = [at + len(m.end) for m in _ANY.marks if (at := text.rfind(m.end)) >= 0]
        text = text[max(ends, default=0) :]
    return _ANY.split(text)[1]
