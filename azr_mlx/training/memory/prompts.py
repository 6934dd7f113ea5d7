"""How long prompts will be, before there is a tokenizer: prompts are rendered as training renders
them, from templates at the highest difficulty, and their tokens are counted by rule."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from azr_mlx.config import Config
from azr_mlx.tasks import templates
from azr_mlx.tasks.prompts import FormOutput, PromptForm, chosen_form
from azr_mlx.types import Task, TaskKind

DRAWS = 24  # prompts that are rendered of each kind
# Roughly how byte-level tokenizers split a text before they merge. In the prompts of the shipped
# forms a token of Qwen's tokenizer is 1.045 such pieces (0.98 to 1.07, measured at difficulties 0.1
# to 0.9); one of SmolLM2's is about 0.97.
_PIECES = re.compile(r" ?[^\W\d_]{1,9}|\d| ?[^\s\w]{1,3}\n*|_|\s*\n+|\s+(?!\S)|\s")
_PIECES_PER_TOKEN = 1.045
_TEMPLATE_TOKENS = 16  # what a chat template adds: roles, and the ends of turns


def planned_prompts(c: Config) -> tuple[int, int]:
    """(tokens of the longest prompt for a solution, for a proposal that refers to no task). Raises
    UsageError if there is no such prompt form."""
    form, kinds = chosen_form(None, c), [TaskKind(kind) for kind in c.task_types]
    level = max(c.initial_difficulty, c.final_difficulty)
    solved = [one for kind in kinds for one in solutions(c, form, kind, level)]
    alone = replace(c, proposer=replace(c.proposer, references=0))
    proposed = [one for kind in kinds for one in proposals(alone, form, kind, level)]
    return max(map(tokens_of, solved)), max(map(tokens_of, proposed))


def proposals(c: Config, form: PromptForm, kind: TaskKind, level: float) -> Iterator[FormOutput]:
    """Requests for proposals at a difficulty, which refer to tasks of that difficulty."""
    draw, n_inputs = np.random.default_rng(0), c.proposer.induction_inputs
    for _ in range(DRAWS):
        if kind is TaskKind.INDUCTION:
            program = _task(c, TaskKind.DEDUCTION, level, draw).program
            yield form.propose(kind, [], level, program=program, n_inputs=n_inputs)
        else:
            shown = [_task(c, kind, level, draw) for _ in range(c.proposer.references)]
            yield form.propose(kind, shown, level, n_inputs=n_inputs)


def solutions(c: Config, form: PromptForm, kind: TaskKind, level: float) -> Iterator[FormOutput]:
    """Requests for solutions of tasks of a difficulty, by each strategy."""
    draw = np.random.default_rng(0)
    for _ in range(DRAWS):
        task = _task(c, kind, level, draw)
        yield from (form.solve(task, strategy) for strategy in c.solver.strategies)


def _task(c: Config, kind: TaskKind, level: float, draw: np.random.Generator) -> Task:
    """A task from a template. Nothing is run: its outputs are as long as its inputs."""
    p = c.proposer
    made = templates.draw(kind, level, draw, p.induction_inputs, p.template_set)
    outputs = tuple(text[1:-1].rstrip(",") or "0" for text in made.inputs)
    hidden = tuple(range(len(outputs) // 2))
    return Task.create(
        kind, made.program, made.inputs, outputs, message=made.message, hidden=hidden
    )


def tokens_of(output: FormOutput) -> int:
    """About how many tokens a prompt has."""
    pieces = sum(1 for text in (output.system, output.text) for _ in _PIECES.finditer(text))
    chat = _TEMPLATE_TOKENS if output.style == "chat" else 0
    return round(pieces / _PIECES_PER_TOKEN) + chat
