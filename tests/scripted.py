"""A small benchmark and a backend that answers it by a script: the evaluator runs without a model,
and every verdict is known."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

from azr_mlx import rng
from azr_mlx.evaluation.strategies import INSTRUCTIONS
from azr_mlx.types import Completion

TASKS = 6
ROWS = [
    {
        "task_id": f"HumanEval/{i}",
        "prompt": f'def add{i}(x):\n    """x plus {i}.\n\n    >>> add{i}(0)\n    {i}\n    """\n',
        "canonical_solution": f"    return x + {i}\n",
        "test": f"def check(candidate):\n    assert candidate(1) == {i + 1}\n",
        "entry_point": f"add{i}",
    }
    for i in range(TASKS)
]
UNTESTED = {**ROWS[0], "task_id": f"HumanEval/{TASKS}", "test": "def check(candidate): pass"}

RIGHT = "return x + {0}"
HARD_CODED = "return {0} if x == 0 else -1"  # passes what the docstring shows, and nothing else
WRONG = "return x + 99"

Script = Callable[[int, str, int, str], str]  # task, strategy, sample, policy -> a body


def write_rows(path: Path) -> Path:
    """Six problems, and a seventh that has no tests."""
    path.write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, UNTESTED]))
    return path


def half_right(task: int, strategy: str, sample: int, policy: str) -> str:
    """add0 to add2 rightly, add3 in every second sample, the others wrongly."""
    return RIGHT if task < 3 or (task == 3 and sample % 2 == 0) else WRONG


# A sample's key says which one it is, in whatever call it is made.
SAMPLE_OF = {
    rng.key(0, "eval/humaneval", 0, place, number): number
    for place in range(TASKS)
    for number in range(16)
}


class Scripted:
    """``script`` says what each sample's body is, by task, strategy and number. ``made`` lists them
    as (task, strategy, sample, policy); ``interrupt_after`` presses Ctrl-C once so many are."""

    name = "scripted"

    def __init__(
        self, script: Script = half_right, *, chat: bool = False, interrupt_after: int = 0
    ):
        self.tokenizer, self.script, self.interrupt_after = self, script, interrupt_after
        self.chat_template = "a template" if chat else None
        self.made: list[tuple[int, str, int, str]] = []
        self.calls: list[tuple[list, list, list]] = []

    def encode(self, text, add_special_tokens=True):
        return [ord(c) for c in text]

    def decode(self, ids):
        return "".join(map(chr, ids))

    def apply_chat_template(self, conversation, **_):
        return f"<user>{conversation[0]['content']}<assistant>"

    def generate(self, prompts, sampling, keys, on_step=None, policy="current"):
        self.calls.append((list(prompts), list(sampling), list(keys)))
        done = [self._complete(prompts, i, keys[i], policy) for i in range(len(prompts))]
        for index in reversed(range(len(done))):  # the last prompt's completion ends first
            self.made.append(done[index][0])
            if len(self.made) == self.interrupt_after:
                os.kill(os.getpid(), signal.SIGINT)
            if on_step is not None:
                on_step([(index, done[index][1])])
                on_step([])
        return [completion for _, completion in done]

    def _complete(self, prompts, index, key, policy):
        text = prompts[index].text
        task = int(re.search(r"def add(\d)", text).group(1))
        strategy = next(
            (n for n, words in INSTRUCTIONS.items() if words and words in text), "direct"
        )
        sample = SAMPLE_OF.get(key, 0)
        body = "    " + self.script(task, strategy, sample, policy).format(task) + "\n"
        if self.chat_template:
            answer = f"Here:\n```python\ndef add{task}(x):\n{body}```"
        else:
            answer = body + "\ndef unasked():\n    raise SystemExit\n"
        return (task, strategy, sample, policy), Completion((1,), (0.0,), "stop", key, answer)
