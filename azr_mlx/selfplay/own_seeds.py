"""First tasks that a user brings: ``proposer.seed_tasks`` is the path of a file of tasks, or of
Python code.

All of them pass the gate like any proposal; nothing runs outside the sandbox.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from azr_mlx.config import Config, ConfigError
from azr_mlx.errors import UsageError
from azr_mlx.selfplay.proposer import TaskProposer
from azr_mlx.selfplay.round import Round
from azr_mlx.tasks.code_folder import functions_in
from azr_mlx.tasks.gate import Draft
from azr_mlx.tasks.own_code import OwnFunction, Rules
from azr_mlx.tasks.parse import Proposal
from azr_mlx.tasks.task_files import TASKS_FILE, drafts_in
from azr_mlx.types import TaskKind

NAMED = ("templates", "identity")  # what ``proposer.seed_tasks`` may be besides a path
MOST_TRIED = 4  # inputs of one function
MOST_ASKED = 64  # functions for which the model is asked for inputs
AT_ONCE = 64  # offers that the gate judges in one call

# Drafts of one kind for one program, which differ in their inputs: one of them is enough.
Offer = list[Draft]


@dataclass(slots=True)
class Seeds:
    """What a path offers; functions for which the code shows no inputs; and how many parts of it
    were refused unseen, by reason."""

    offers: list[Offer] = field(default_factory=list)
    without_inputs: list[OwnFunction] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)


def is_path(config: Config) -> bool:
    """Whether the first tasks come from a path."""
    return config.proposer.seed_tasks not in NAMED


def read(config: Config, kinds: Collection[TaskKind]) -> Seeds:
    """What the path offers for these kinds.

    Raises:
        ConfigError: there is no such path, it is of another format, or nothing in it can be used.
    """
    try:
        seeds = _read(config, kinds)
        if not seeds.offers and not seeds.without_inputs:
            why = f": {reasons(seeds.refused)}" if seeds.refused.total() else ""
            names = ", ".join(kind.value for kind in kinds)
            raise UsageError(f"no task of {names} in it{why}; give another path, or templates")
        return seeds
    except UsageError as error:
        raise _mistake(config, str(error)) from error


def ask(proposer: TaskProposer, seeds: Seeds, kinds: Collection[TaskKind]) -> None:
    """Let the model, if there is one, propose inputs for functions that have none."""
    count = proposer.config.proposer.induction_inputs
    asked = seeds.without_inputs[:MOST_ASKED] if proposer.backend is not None else []
    answers: dict[str, Proposal] = {}
    if asked:
        r = Round(proposer.config.seed, 0)
        answers = proposer.inputs_for(r, [one.program for one in asked])
    for one in seeds.without_inputs:
        if (answer := answers.get(one.program)) is not None:
            one.inputs, one.message = list(answer.inputs), one.message or answer.message
        offers = _offers(one, kinds, count)
        seeds.offers += offers
        seeds.refused["without inputs"] += not offers
    seeds.without_inputs = []


def admit(proposer: TaskProposer, seeds: Seeds) -> str:
    """Offer all to the gate; what it takes joins the buffer, until the buffer is full. Returns a
    line that says how many were taken, and why others were not.

    Raises:
        ConfigError: none was taken.
    """
    refused, taken = Counter(seeds.refused), Counter[TaskKind]()
    waiting = deque(seeds.offers)
    while waiting:
        room = {kind: proposer.buffer.capacity - taken[kind] for kind in TaskKind}
        offers: list[Offer] = []
        while waiting and len(offers) < AT_ONCE and room[kind := waiting[0][0].kind]:
            room[kind] -= 1
            offers.append(waiting.popleft())
        if not offers:
            waiting.popleft()
            refused["beyond task_buffer_size"] += 1
        _judge(proposer, offers, taken, refused)
    told = f"; {refused.total()} not: {reasons(refused)}" if refused.total() else ""
    if not taken:
        raise _mistake(proposer.config, f"no first task{told}; give another path, or templates")
    found = ", ".join(f"{count} of {kind.value}" for kind, count in taken.items())
    return f"first tasks from {proposer.config.proposer.seed_tasks}: {found}{told}"


def _judge(
    proposer: TaskProposer,
    offers: list[Offer],
    taken: Counter[TaskKind],
    refused: Counter[str],
) -> None:
    results = iter(proposer.gate.admit([draft for offer in offers for draft in offer]))
    for offer in offers:
        own = [next(results) for _ in offer]
        if any(result.task is not None for result in own):
            taken[offer[0].kind] += 1
        else:
            refused[own[0].reason] += 1


def reasons(refused: Counter[str]) -> str:
    """How often each reason was met, the most frequent first."""
    return ", ".join(f"{count} {why}" for why, count in refused.most_common() if count)


def _mistake(config: Config, why: str) -> ConfigError:
    return ConfigError([f"proposer.seed_tasks: {config.proposer.seed_tasks or '(empty)'}: {why}"])


def _read(config: Config, kinds: Collection[TaskKind]) -> Seeds:
    given = config.proposer.seed_tasks
    path = Path(given)
    folder = bool(given) and os.path.isdir(path)
    if folder and os.path.isfile(path / TASKS_FILE):
        return _of_file(path / TASKS_FILE, kinds)
    if not folder and not os.path.isfile(path):
        near = get_close_matches(given, NAMED, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"no such file or folder; {hint}give {', '.join(NAMED)} or a path")
    if folder or path.suffix == ".py":
        return _of_code(path, config, kinds)
    if path.suffix == ".jsonl":
        return _of_file(path, kinds)
    raise UsageError("of another format; give a .jsonl file of tasks, or Python code")


def _of_file(path: Path, kinds: Collection[TaskKind]) -> Seeds:
    seeds = Seeds()
    for drafts in drafts_in(path, kinds):
        if drafts is None:
            seeds.refused["of no known format"] += 1
        else:
            seeds.offers += [[draft] for draft in drafts]
    return seeds


def _of_code(path: Path, config: Config, kinds: Collection[TaskKind]) -> Seeds:
    p = config.proposer
    rules = Rules(config.sandbox.allowed_imports, p.max_program_chars)
    functions, left_out = functions_in(path, rules)
    seeds = Seeds(refused=left_out)
    for one in functions:
        if one.reason:
            seeds.refused[one.reason] += 1
        elif offers := _offers(one, kinds, p.induction_inputs):
            seeds.offers += offers
        else:
            seeds.without_inputs.append(one)
    return seeds


def _offers(one: OwnFunction, kinds: Collection[TaskKind], count: int) -> list[Offer]:
    return [offer for kind in kinds if (offer := _offer(one, kind, count))]


def _offer(one: OwnFunction, kind: TaskKind, count: int) -> Offer:
    """Drafts of a function: of induction, if there are inputs enough; else with one input each, as
    the first may be one that raises an error on purpose."""
    if kind is not TaskKind.INDUCTION:
        proposals = [Proposal(one.program, (given,)) for given in one.inputs[:MOST_TRIED]]
    elif len(one.inputs) >= count:
        proposals = [Proposal(one.program, tuple(one.inputs), one.message)]
    else:
        proposals = []
    return [Draft(proposal, kind, source="code") for proposal in proposals]
