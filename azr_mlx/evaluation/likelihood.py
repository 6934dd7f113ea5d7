"""How likely the model is to give the right answer, without drawing any: by teacher forcing.

Drawn answers tell a task that is solved once in a thousand from one that is never solved only by
thousands of draws. A task whose right answer goes from hardly ever to nearly always is a new
ability; one whose answer was the likeliest before has only become likelier.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from azr_mlx.backends.base import Backend, Policy
from azr_mlx.backends.collate import collate_supervised
from azr_mlx.tasks.prompts import PromptForm, render
from azr_mlx.types import Task

ROWS = 64  # answers that are scored together


def right_answers(
    backend: Backend,
    form: PromptForm,
    tasks: Sequence[Task],
    strategy: str = "direct",
    policy: Policy = "current",
) -> list[float]:
    """The probability of each task's own answer at temperature 1, written as the form's examples
    write it. Other spellings of it, and other right answers, are not counted: it is a lower bound,
    and close only for deduction.

    Raises ValueError if the form does not fix how an answer is written.
    """
    found: list[float] = []
    for at in range(0, len(tasks), ROWS):
        rows = [_row(backend, form, task, strategy) for task in tasks[at : at + ROWS]]
        batch = collate_supervised(rows)
        logp = np.asarray(backend.score(batch, policy, 1.0).logp, np.float64)
        found += np.exp((logp * batch.mask).sum(axis=1)).tolist()
    return found


def _row(
    backend: Backend, form: PromptForm, task: Task, strategy: str
) -> tuple[Sequence[int], Sequence[int]]:
    """(prompt, completion) in tokens."""
    tokenizer, answer = backend.tokenizer, form.right_answer(task, strategy)
    prompt = render(form.solve(task, strategy), tokenizer)
    size, whole = len(prompt.token_ids), tokenizer.encode(prompt.text + answer)
    if tuple(whole[:size]) != prompt.token_ids:  # a tokenizer that merges across the seam
        return prompt.token_ids, tokenizer.encode(answer, add_special_tokens=False)
    return prompt.token_ids, whole[size:]
