"""Algorithm 1 of Absolute Zero Reasoner (arXiv 2505.03335): a step of self-play, on one page.

The model proposes tasks and solves them; the gate and the judge run all its code in the sandbox;
PPO learns from both roles. Departures from the paper: the rollouts that measure how hard a task is
are trained on, too (``rollout.reuse_rollouts: false`` is the paper's flow), and templates propose
tasks, too (with ``proposer.templates_per_step: 0`` only the model does). docs/how-it-works.md has
the others, and config/azr_paper.yaml those of the configuration that is nearest to the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from azr_mlx.backends.base import Backend
from azr_mlx.config import Config
from azr_mlx.selfplay import first_tasks, rewards
from azr_mlx.selfplay.memory import Memory
from azr_mlx.selfplay.proposer import TaskProposer
from azr_mlx.selfplay.round import Round
from azr_mlx.selfplay.round_log import RoundLog
from azr_mlx.selfplay.solver import TaskSolver
from azr_mlx.tasks.gate import Runner
from azr_mlx.tasks.prompts import form_for_training
from azr_mlx.training.learner import Learner


class SelfPlay:
    """The parts of self-play on one backend, and the steps that they make together."""

    def __init__(self, config: Config, backend: Backend, sandbox: Runner):
        """Raises UsageError if the model cannot be asked by the prompt form."""
        self.config, self.memory = config, Memory(config)
        form, tasks = form_for_training(config, backend.tokenizer), self.memory.tasks
        self.proposer = TaskProposer(
            sandbox, backend=backend, form=form, config=config, buffer=tasks
        )
        self.solver = TaskSolver(backend, sandbox, form, config=config)
        self.learner = Learner(config, backend)

    def seed(self, say: Callable[[str], None] = lambda text: None) -> None:
        """The first tasks, so that the first proposals have something to refer to (see
        ``first_tasks.seed``, also for what is raised)."""
        first_tasks.seed(self.proposer, self.memory, say)

    def step(
        self, first: Round, interruptible: AbstractContextManager[None] | None = None
    ) -> tuple[RoundLog, dict[str, float]]:
        """One optimization step: what happened, and its metrics. ``interruptible`` is in force
        until the policy begins to change."""
        log = RoundLog()
        # What is kept of prompts is of another policy, except after a step without an update; and a
        # resumed run has nothing.
        self.learner.backend.forget()
        with interruptible or nullcontext():
            for r in first.rounds(self.config.gradient_accumulation_steps):
                self.play(r, log)
        metrics = log.metrics() | self.memory.absorb(first.step, log.experiences)
        # advantages, epochs x minibatches of PPO
        return log, metrics | self.learner.learn(first, log.trained, self.memory.solutions)

    def play(self, r: Round, log: RoundLog) -> None:
        """One round: propose, validate, solve, verify, pay."""
        proposals = self.proposer.propose_batch(r, self.memory.levels(r.step))
        validated = self.proposer.validate(r, proposals)
        tasks = [one.task for one in validated if one.task is not None]
        # judged while others are still being written
        solutions = self.solver.solve_batch(r, tasks, self.memory)
        paid = rewards.pay(r, validated, solutions, self.config)  # Eq. 4 to 6
        log.add(validated, solutions, paid)
