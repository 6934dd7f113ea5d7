"""The first tasks of a run, so that the first proposals have something to refer to."""

from __future__ import annotations

from azr_mlx.selfplay.memory import Memory
from azr_mlx.selfplay.proposer import TaskProposer
from azr_mlx.selfplay.round import Round
from azr_mlx.tasks.gate import Draft
from azr_mlx.tasks.parse import Proposal
from azr_mlx.types import TaskKind

ROUNDS = 40  # how many rounds of templates are tried to fill the buffer
IDENTITY = Proposal("def f(a):\n    return a", ("('Hello World',)",))


def seed(proposer: TaskProposer, memory: Memory) -> None:
    """Fill the buffer from templates, or with the identity triplet alone (``proposer.seed_tasks``;
    arXiv 2505.03335, figure 5)."""
    if proposer.config.proposer.seed_tasks == "identity":
        kinds = [k for k in (TaskKind.DEDUCTION, TaskKind.ABDUCTION) if k in memory.kinds]
        kinds = kinds or [TaskKind.DEDUCTION]
        proposer.gate.admit([Draft(IDENTITY, kind, source="template") for kind in kinds])
    else:
        _fill(proposer, memory)


def _fill(proposer: TaskProposer, memory: Memory) -> None:
    p = proposer.config.proposer
    wanted = max(p.references, p.templates_per_step, 4)
    for number in range(ROUNDS):
        short = [kind for kind in _seeded(memory) if memory.tasks.count(kind) < wanted]
        if not short:
            return
        r = Round(proposer.config.seed, 0, number)
        levels = [(kind, memory.curriculum.difficulty(kind, 0)) for kind in short * wanted]
        drafts = [proposer.template(r, i, *level) for i, level in enumerate(levels)]
        proposer.gate.admit(drafts)


def _seeded(memory: Memory) -> tuple[TaskKind, ...]:
    """Induction is proposed from programs of the other kinds, which are seeded even if they are not
    trained."""
    return memory.kinds if memory.kinds != (TaskKind.INDUCTION,) else tuple(TaskKind)
