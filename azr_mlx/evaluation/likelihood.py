"""How likely the model is to give the right answer, without drawing any: by teacher forcing.

Drawn answers tell a task that is solved once in a thousand from one that is never solved only by
thousands of draws. A task whose right answer goes from hardly ever to nearly always is a new
ability; one whose answer was the likeliest before has only become likelier.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from azr_mlx.backends.base import Backend, Policy, Tokenizer
from azr_mlx.backends.collate import collate_supervised
from azr_mlx.tasks.prompts import PromptForm, render
from azr_mlx.types import Prompt, Task

ROWS = 64  # answers that are scored together
LINE_ENDS = "\n", "\n\n"

Row = tuple[Sequence[int], Sequence[int]]  # (prompt, completion) in tokens


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

    It is that of all ways in which the answer may end: a line end, a blank line, or the end of the
    text. They exclude each other, so their probabilities add up. Models differ in how they end a
    text, and training changes it, which is not ability.

    Raises ValueError if the form does not fix how an answer is written.
    """
    rows: list[Row] = []
    owners: list[int] = []
    for number, task in enumerate(tasks):
        prompt = render(form.solve(task, strategy), backend.tokenizer)
        written = _written(backend, prompt, form.right_answer(task, strategy).rstrip("\n"))
        rows += [(prompt.token_ids, tokens) for tokens in written]
        owners += [number] * len(written)
    found = np.zeros(len(tasks))
    np.add.at(found, owners, _probabilities(backend, rows, policy))
    return [min(float(p), 1.0) for p in found]  # rounding may exceed 1


def _probabilities(backend: Backend, rows: Sequence[Row], policy: Policy) -> list[float]:
    """The probability of each row's completion. Rows of like length are scored together, as all
    are padded to the longest."""
    found = np.zeros(len(rows))
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]) + len(rows[i][1]))
    for at in range(0, len(rows), ROWS):
        chosen = order[at : at + ROWS]
        batch = collate_supervised([rows[i] for i in chosen])
        logp = np.asarray(backend.score(batch, policy, 1.0).logp, np.float64)
        found[chosen] = np.exp((logp * batch.mask).sum(axis=1))
    return [float(p) for p in found]


def _written(backend: Backend, prompt: Prompt, answer: str) -> list[tuple[int, ...]]:
    """An answer in tokens, once with each of its ends. None is the beginning of another, so that
    they exclude each other.

    A line end may be a token of its own, or one with the sign before it: for many tokenizers
    ``']`` and ``']`` with a line end are different tokens, and a model that ends its line writes
    the second.
    """
    body, *longer = (
        tuple(_completion(backend.tokenizer, prompt, answer + end)) for end in ("", *LINE_ENDS)
    )
    ended = {*longer, *((*body, end) for end in backend.eos)} - {body}
    return sorted(one for one in ended if not any(one[:i] in ended for i in range(len(one))))


def _completion(tokenizer: Tokenizer, prompt: Prompt, answer: str) -> Sequence[int]:
    """The tokens of an answer that follows a prompt."""
    size, whole = len(prompt.token_ids), tokenizer.encode(prompt.text + answer)
    if tuple(whole[:size]) != prompt.token_ids:  # a tokenizer that merges across the seam
        return tokenizer.encode(answer, add_special_tokens=False)
    return whole[size:]
