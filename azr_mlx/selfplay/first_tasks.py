"""The first tasks of a run, so that the first proposals have something to refer to."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from azr_mlx.config import Config, schema
from azr_mlx.errors import PROGRAM, AzrError
from azr_mlx.selfplay import own_seeds
from azr_mlx.selfplay.memory import Memory
from azr_mlx.selfplay.proposer import TaskProposer
from azr_mlx.selfplay.round import Round
from azr_mlx.tasks.gate import Draft
from azr_mlx.tasks.parse import Proposal
from azr_mlx.tasks.task_files import PAIRS
from azr_mlx.types import TaskKind

ROUNDS = 40  # how many rounds of templates are tried to fill the buffer
IDENTITY = Proposal("def f(a):\n    return a", ("('Hello World',)",))


def check(config: Config) -> None:
    """See, before a model is loaded, that the first tasks can be read. Raises ConfigError."""
    if own_seeds.is_path(config):
        own_seeds.read(config, _seeded(tuple(map(TaskKind, config.task_types))))


def seed(
    proposer: TaskProposer, memory: Memory, say: Callable[[str], None] = lambda text: None
) -> None:
    """Fill the buffer from templates, with the identity triplet alone (arXiv 2505.03335, figure 5),
    or from a path (``proposer.seed_tasks``); ``say`` hears what became of what the path offered.

    Raises:
        ConfigError: the path gave no task.
        AzrError: a kind got no task at all, so that self-play could not begin; with what the gate
        said of its templates.
    """
    refused: dict[TaskKind, Counter[str]] = defaultdict(Counter)
    if proposer.config.proposer.seed_tasks == "identity":
        kinds: list[TaskKind] = [k for k in memory.kinds if k is not TaskKind.INDUCTION]
        kinds = kinds or [TaskKind.DEDUCTION]
        _admit(proposer, [Draft(IDENTITY, kind, source="template") for kind in kinds], refused)
    elif own_seeds.is_path(proposer.config):
        kinds = _own(proposer, memory, say)
        _fill(proposer, memory, kinds, refused)
    else:
        kinds = _seeded(memory.kinds)
        _fill(proposer, memory, kinds, refused)
    if empty := [kind for kind in kinds if not memory.tasks.count(kind)]:
        own = proposer.config.proposer.template_set
        raise AzrError("\n".join(_complaint(kind, refused[kind], own) for kind in empty))


def _own(proposer: TaskProposer, memory: Memory, say: Callable[[str], None]) -> list[TaskKind]:
    """Take the tasks of the path; returns the kinds that still need templates. Induction is
    proposed from programs of the others, and needs none."""
    seeded = _seeded(memory.kinds)
    seeds = own_seeds.read(proposer.config, seeded)
    own_seeds.ask(proposer, seeds, seeded)
    say(own_seeds.admit(proposer, seeds))
    missing = [kind for kind in PAIRS if kind in seeded and not memory.tasks.count(kind)]
    for kind in missing:
        say(f"no first task of {kind.value} among them: templates give some")
    return missing


def _fill(
    proposer: TaskProposer,
    memory: Memory,
    kinds: Sequence[TaskKind],
    refused: dict[TaskKind, Counter[str]],
) -> None:
    p = proposer.config.proposer
    most = max(p.references, p.templates_per_step, 4)
    wanted = min(most, proposer.config.task_buffer_size)
    for number in range(ROUNDS):
        short = [kind for kind in kinds if memory.tasks.count(kind) < wanted]
        if not short:
            return
        r = Round(proposer.config.seed, 0, number)
        levels = [(kind, memory.curriculum.difficulty(kind, 0)) for kind in short * wanted]
        _admit(proposer, proposer.templates(r, levels), refused)


def _admit(
    proposer: TaskProposer, drafts: Sequence[Draft], refused: dict[TaskKind, Counter[str]]
) -> None:
    for draft, result in zip(drafts, proposer.gate.admit(drafts), strict=True):
        if result.task is None:
            refused[draft.kind][f"{result.reason} ({result.verdict.detail})"] += 1


def _complaint(kind: TaskKind, refused: Counter[str], template_set: str) -> str:
    """What the gate said; the templates that come with the project are not to blame for it."""
    told = "; ".join(f"{count} times {why}" for why, count in refused.most_common(2))
    own = schema.is_function(template_set)
    where = f"proposer.template_set: {template_set}" if own else "self-play"
    fix = "correct the function" if own else f"try the sandbox with {PROGRAM} doctor"
    return (
        f"{where}: none of {refused.total()} templates became a first task of {kind.value}: "
        f"{told}; {fix}"
    )


def _seeded(trained: tuple[TaskKind, ...]) -> list[TaskKind]:
    """Induction is proposed from programs of the other kinds, which are seeded even if they are not
    trained."""
    return list(trained if trained != (TaskKind.INDUCTION,) else TaskKind)
