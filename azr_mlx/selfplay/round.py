"""One round of self-play: propose, validate, solve, verify.

The model proposes tasks in answer to references from its own buffer; the gate lets the valid ones
in, beside tasks from templates; the model then solves every new task ``group_size`` times. Those
rollouts do two jobs: their mean success is the task's measured difficulty, which pays the proposer,
and they are themselves training data, in groups that share a baseline (with ``reuse_rollouts:
false`` they only measure, as in the paper's code).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from azr_mlx import rng
from azr_mlx.backends.base import Backend, Sampling
from azr_mlx.config import Config
from azr_mlx.errors import UsageError
from azr_mlx.selfplay.curriculum import Curriculum, StrategyBandit
from azr_mlx.selfplay.rewards import proposer_reward, solver_reward, with_overlong
from azr_mlx.selfplay.round_log import (
    Attempt,
    Proposed,
    StepLog,
    mean,
    passed,
)
from azr_mlx.tasks import parse, templates
from azr_mlx.tasks.buffer import SolutionBuffer, TaskBuffer, VerifiedSolution
from azr_mlx.tasks.gate import (
    Answers,
    Draft,
    GateResult,
    GateRules,
    Runner,
    gate,
)
from azr_mlx.tasks.prompts import arguments, load_form, render
from azr_mlx.training.advantage import zero_variance_fraction
from azr_mlx.types import (
    Completion,
    Experience,
    Prompt,
    Reward,
    Role,
    Task,
    TaskKind,
    Verdict,
)

Phase = Callable[[str], AbstractContextManager[Any]]
SEED_ROUNDS = 40  # of template tasks at the start, before giving up on filling the buffers
IDENTITY = parse.Proposal("def f(a):\n    return a", ("('Hello World',)",))
ROUND_GROUPS = 1_000_000  # group ids of one round lie below; the next round's follow


class Announce(Protocol):
    """Told of the phase that begins, and of how many of its rollouts are done."""

    def __call__(self, name: str, step: int, done: int = 0, total: int = 0) -> None: ...


class SelfPlay:
    """The buffers, the curriculum and the bandit, and the rounds that they drive."""

    def __init__(self, config: Config, backend: Backend, sandbox: Runner):
        """Raises UsageError where the prompt form is unknown or lacks one of
        ``solver.strategies``."""
        c = self.config = config
        self.backend, self.sandbox = backend, sandbox
        self.kinds = tuple(TaskKind(k) for k in c.task_types)
        self.form = _load_form(c, self.kinds, backend.tokenizer)
        self.rules = GateRules.from_config(c)
        self.buffer = TaskBuffer(c.task_buffer_size)
        self.solutions = SolutionBuffer(c.distill.buffer_size, c.distill.max_age)
        self.curriculum = Curriculum(
            c.difficulty_schedule,
            c.initial_difficulty,
            c.final_difficulty,
            c.max_steps,
            target=c.proposer.target_solve_rate,
        )
        self.bandit = StrategyBandit(c.solver.strategies, c.solver.strategy_floor)
        self.log = StepLog()
        self.proposed: list[Proposed] = []

    def seed(self) -> None:
        """Fill the buffers so that the first proposers have references: from templates, or the
        identity triplet."""
        c = self.config
        if c.proposer.seed_tasks == "identity":
            kinds = [k for k in (TaskKind.DEDUCTION, TaskKind.ABDUCTION) if k in self.kinds]
            self._enter(
                [Draft(IDENTITY, k, source="template") for k in kinds or [TaskKind.DEDUCTION]]
            )
            return
        wanted = max(c.proposer.references, c.proposer.templates_per_step, 4)
        for number in range(SEED_ROUNDS):
            short = [k for k in self._seeded() if self.buffer.count(k) < wanted]
            if not short:
                return
            self._enter([self._template(k, 0, number, i) for i, k in enumerate(short * wanted)])

    def _seeded(self) -> tuple[TaskKind, ...]:
        """Induction is proposed from programs of the other kinds: they are seeded too, though not
        trained."""
        return self.kinds if self.kinds != (TaskKind.INDUCTION,) else tuple(TaskKind)

    # -- a round -----------------------------------------------------------------------------------

    def round(self, step: int, number: int, phase: Phase, announce: Announce) -> list[Experience]:
        """Propose, validate, solve, verify; every rollout comes back as an experience."""
        if number == 0:
            self.log = StepLog()
        first = number * ROUND_GROUPS
        announce("propose", step)
        with phase("propose"):
            attempts = self._propose(step, number, first)
        announce("verify", step)
        with phase("verify"):
            tasks = self._validate(step, number, attempts)
        solved = self._solve_all(step, number, tasks, phase, announce)
        with phase("verify"):
            proposals = self._pay_proposers(step, attempts, solved)
        return proposals + solved

    def _propose(self, step: int, number: int, group: int) -> list[Attempt]:
        """``batch_size`` proposals over the kinds in turn; those of one kind share their
        references."""
        c = self.config
        kinds = [self.kinds[(i + step) % len(self.kinds)] for i in range(c.batch_size)]
        references = {k: self._references(k, step, number) for k in dict.fromkeys(kinds)}
        asked = [
            self._request(kinds[i], references[kinds[i]], step, number, i)
            for i in range(len(kinds))
        ]
        sampling = Sampling(c.rollout.max_propose_tokens, c.rollout.temperature, c.rollout.top_p)
        keys = [rng.key(c.seed, "propose", step, number, i) for i in range(len(asked))]
        done = self.backend.generate(
            [prompt for prompt, *_ in asked], [sampling] * len(asked), keys
        )
        attempts = []
        for kind, (prompt, parents, program), completion in zip(kinds, asked, done, strict=True):
            proposal = parse.parse_proposal(completion.text, kind, self.form, program)
            difficulty = self.curriculum.difficulty(kind, step)
            draft = Draft(proposal, kind, difficulty, step, parents)
            attempts.append(Attempt(draft, prompt, completion, group + self.kinds.index(kind)))
        self.log.attempts += attempts
        return attempts

    def _references(self, kind: TaskKind, step: int, number: int) -> list[Task]:
        draw = rng.generator(self.config.seed, "references", step, number, self.kinds.index(kind))
        difficulty = self.curriculum.difficulty(kind, step)
        return self.buffer.references(kind, self.config.proposer.references, difficulty, draw)

    def _request(
        self, kind: TaskKind, references: list[Task], step: int, number: int, index: int
    ) -> tuple[Prompt, tuple[str, ...], str]:
        """(prompt, ids of the parents, the program that an induction proposal is for)."""
        c, program = self.config, ""
        if kind is TaskKind.INDUCTION:
            draw = rng.generator(c.seed, "programs", step, number, index)
            known = self.buffer.programs()
            references = [known[int(draw.integers(len(known)))]] if known else []
            # Every program has its induction task already: a fresh one from a template.
            program = references[0].program if known else self._fresh_program(step, draw)
        output = self.form.propose(
            kind,
            [] if kind is TaskKind.INDUCTION else references,
            self.curriculum.difficulty(kind, step),
            program=program,
            n_inputs=c.proposer.induction_inputs,
        )
        return render(output, self.backend.tokenizer), tuple(t.id for t in references), program

    def _validate(self, step: int, number: int, attempts: Sequence[Attempt]) -> list[Task]:
        """The gate, for the model's proposals and this round's templates; what passes joins the
        buffer."""
        count = self.config.proposer.templates_per_step
        kinds = [self.kinds[(i + step) % len(self.kinds)] for i in range(count)]
        drawn = [self._template(k, step, number, i) for i, k in enumerate(kinds)]
        results = self._enter([a.draft for a in attempts] + drawn)
        for attempt, result in zip(attempts, results, strict=False):
            attempt.result = result
        tasks = [r.task for r in results if r.task is not None]
        self.log.templates += sum(r.task is not None for r in results[len(attempts) :])
        self.log.tasks += tasks
        self.log.traced += [r.steps for r in results if r.task is not None and r.steps is not None]
        return tasks

    def _enter(self, drafts: Sequence[Draft]) -> list[GateResult]:
        results = gate(drafts, self.sandbox, self.rules, buffer=self.buffer, trace=True)
        self.log.verdicts += [r.verdict for r in results]
        self.log.duplicates += sum(r.reason == "duplicate" for r in results)
        for result in results:
            if result.task is not None:
                self.buffer.add(result.task)
        return results

    def _fresh_program(self, step: int, draw: np.random.Generator) -> str:
        difficulty = self.curriculum.difficulty(TaskKind.INDUCTION, step)
        which = self.config.proposer.template_set
        return templates.draw(TaskKind.DEDUCTION, difficulty, draw, which=which).program

    def _template(self, kind: TaskKind, step: int, number: int, index: int) -> Draft:
        difficulty = self.curriculum.difficulty(kind, step)
        draw = rng.generator(self.config.seed, "templates", step, number, index)
        p = self.config.proposer
        while True:
            proposal = templates.draw(kind, difficulty, draw, p.induction_inputs, p.template_set)
            if not (self.rules.reserve and parse.is_reserved(proposal.program)):
                break
        return Draft(proposal, kind, difficulty, step, source="template")

    # -- solving -----------------------------------------------------------------------------------

    def _solve_all(
        self,
        step: int,
        number: int,
        tasks: list[Task],
        phase: Phase,
        announce: Announce,
    ) -> list[Experience]:
        """New tasks in groups, tasks from the buffer, and further rounds where no group had any
        contrast. Without reuse, the groups only measure: every new task is then solved once more,
        and tasks from the buffer fill up the batch (the paper's section 3.3)."""
        c = self.config
        group = number * ROUND_GROUPS + 100
        count = c.solver.buffer_tasks_per_step
        plan = [(t, c.rollout.group_size) for t in tasks]
        if c.rollout.reuse_rollouts:
            again = self._from_buffer(step, number, 0, count, {t.id for t in tasks})
            plan += [(t, c.rollout.group_size) for t in again]
        else:
            self.log.measuring |= {group + i for i in range(len(tasks))}
            count = max(count, c.batch_size - len(tasks))
            again = self._from_buffer(step, number, 0, count, {t.id for t in tasks})
            plan += [(t, 1) for t in [*tasks, *again]]
        solved = self._solve(step, number, 0, plan, group, phase, announce)
        for extra in range(1, c.rollout.resample + 1):
            rewards = np.array([e.reward.total for e in solved])
            if solved and zero_variance_fraction(rewards, np.array([e.group for e in solved])) < 1:
                break
            group += len(plan)
            fresh = self._from_buffer(step, number, extra, c.batch_size, set())
            plan = [(t, c.rollout.group_size) for t in fresh]
            solved += self._solve(step, number, extra, plan, group, phase, announce)
            self.log.resampled += 1
        return solved

    def _from_buffer(
        self, step: int, number: int, extra: int, count: int, without: set[str]
    ) -> list[Task]:
        """``count`` tasks to solve again, spread over the kinds."""
        draw = rng.generator(self.config.seed, "replay", step, number, extra)
        kinds = len(self.kinds)
        share = [count // kinds + ((i + step) % kinds < count % kinds) for i in range(kinds)]
        pools = [
            self.buffer.sample(k, n + len(without), draw)
            for k, n in zip(self.kinds, share, strict=True)
        ]
        fresh = [
            [t for t in pool if t.id not in without][:n]
            for pool, n in zip(pools, share, strict=True)
        ]
        return [t for pool in fresh for t in pool]

    def _solve(
        self,
        step: int,
        number: int,
        extra: int,
        plan: Sequence[tuple[Task, int]],
        group: int,
        phase: Phase,
        announce: Announce,
    ) -> list[Experience]:
        """Rollouts of every (task, count), judged and rewarded; the i-th task's rollouts form group
        + i."""
        c = self.config
        if not plan:
            return []
        announce("solve", step)
        with phase("solve"):
            rows = [(i, task) for i, (task, count) in enumerate(plan) for _ in range(count)]
            prompts = []
            for index, (_, task) in enumerate(rows):
                draw = rng.generator(c.seed, "strategies", step, number, extra, index)
                strategy = self.bandit.draw(task.kind, draw)
                prompts.append(render(self.form.solve(task, strategy), self.backend.tokenizer))
            sampling = Sampling(c.rollout.max_solve_tokens, c.rollout.temperature, c.rollout.top_p)
            keys = [rng.key(c.seed, "solve", step, number, extra, i) for i in range(len(rows))]
        with Answers(self.sandbox) as answers:
            order: list[int] = []

            def judge(ended: Sequence[tuple[int, Completion]]) -> None:
                answers.poll()
                for index, completion in ended:
                    task = rows[index][1]
                    answers.submit(task, parse.parse_answer(completion.text, task.kind, self.form))
                    order.append(index)
                if ended:
                    announce("solve", step, len(order), len(rows))

            with phase("solve"):
                done = self.backend.generate(prompts, [sampling] * len(rows), keys, judge)
            announce("verify", step)
            with phase("verify"):  # what the rollouts did not hide
                by_row = dict(zip(order, answers.verdicts(), strict=True))
        verdicts = [by_row[index] for index in range(len(rows))]
        self.log.verdicts += verdicts
        return [
            Experience(
                prompt,
                completion,
                verdict,
                self._solver_reward(verdict, completion),
                Role.SOLVE,
                task.kind,
                group + i,
                step,
                task.id,
            )
            for prompt, completion, verdict, (i, task) in zip(
                prompts, done, verdicts, rows, strict=True
            )
        ]

    def _solver_reward(self, verdict: Verdict, completion: Completion) -> Reward:
        r = self.config.rollout
        reward = solver_reward(verdict, self.config.solver)
        return with_overlong(
            reward, len(completion.token_ids), completion.finish, r.max_solve_tokens, r
        )

    def _pay_proposers(
        self, step: int, attempts: Sequence[Attempt], solved: Sequence[Experience]
    ) -> list[Experience]:
        """A proposal's reward is what the measured solve rate of its task, and of no other,
        says."""
        outcomes = defaultdict(list)
        for e in solved:
            if self.config.rollout.reuse_rollouts or e.group in self.log.measuring:
                outcomes[e.task_id].append(e.verdict.passed)
        experiences, self.proposed = [], []
        for attempt in attempts:
            result = attempt.result
            assert result is not None
            if result.reason == "reserved":  # neither good nor bad: no reward, no lesson
                continue
            task = result.task
            rate = mean(outcomes[task.id]) if task is not None else None
            experience = self._proposal_experience(step, attempt, result, rate)
            experiences.append(experience)
            self.proposed.append(_describe(attempt.draft, result, experience.reward, rate))
        return experiences

    def _proposal_experience(
        self, step: int, attempt: Attempt, result: GateResult, rate: float | None
    ) -> Experience:
        r = self.config.rollout
        done = attempt.completion
        reward = proposer_reward(result.verdict, rate, self.config.proposer)
        reward = with_overlong(reward, len(done.token_ids), done.finish, r.max_propose_tokens, r)
        return Experience(
            attempt.prompt,
            done,
            result.verdict,
            reward,
            Role.PROPOSE,
            attempt.draft.kind,
            attempt.group,
            step,
            "" if result.task is None else result.task.id,
        )

    def trains_on(self, e: Experience) -> bool:
        """Whether an experience is training data: not where it only measured, nor a proposer's that
        is frozen."""
        if e.role is Role.PROPOSE:
            return self.config.proposer.train
        return e.group not in self.log.measuring

    # -- after the rounds of a step ----------------------------------------------------------------

    def absorb(self, step: int, experiences: Sequence[Experience]) -> dict[str, float]:
        """Let curriculum, bandit and solution buffer learn from the step; returns the step's
        metrics."""
        metrics = self.log.metrics(experiences)
        for kind in self.kinds:
            metrics[f"difficulty/{kind.value}"] = self.curriculum.difficulty(kind, step)
        solved = [e for e in experiences if e.role is Role.SOLVE]
        for kind in self.kinds:
            own = [e for e in solved if e.kind is kind]
            if own:
                self.curriculum.observe(kind, passed(own))
            for strategy in self.bandit.strategies:
                used = [e for e in own if e.prompt.strategy == strategy]
                self.bandit.update(kind, strategy, sum(e.verdict.passed for e in used), len(used))
        for task_id, count in Counter(e.task_id for e in solved).items():
            wins = sum(e.verdict.passed for e in solved if e.task_id == task_id)
            self.buffer.record(task_id, count, wins)
        for e in solved:
            if e.verdict.passed and e.completion.finish == "stop":
                ids = e.prompt.token_ids, e.completion.token_ids
                self.solutions.add(VerifiedSolution(e.task_id, *ids, e.reward.total, step))
        self.solutions.evict(step)
        metrics["buffer/solutions"] = len(self.solutions)
        return metrics | {f"buffer/{k.value}": self.buffer.count(k) for k in self.kinds}

    # -- state -------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        return {
            "curriculum": self.curriculum.to_json(),
            "bandit": self.bandit.to_json(),
            "solutions": self.solutions.to_json(),
        }

    def buffer_rows(self) -> list[dict[str, Any]]:
        return self.buffer.to_json()

    def restore(self, row: Mapping[str, Any], buffer_rows: Iterable[Mapping[str, Any]]) -> None:
        c = self.config
        self.buffer = TaskBuffer.from_json(buffer_rows, c.task_buffer_size)
        self.solutions = SolutionBuffer.from_json(
            row["solutions"], c.distill.buffer_size, c.distill.max_age
        )
        self.curriculum.from_json(row["curriculum"])
        self.bandit.from_json(row["bandit"])


def _load_form(config: Config, kinds: Sequence[TaskKind], tokenizer: Any) -> Any:
    try:
        form = load_form(config.rollout.form)
    except ValueError as e:
        raise UsageError(str(e)) from e
    if form.style == "chat" and not getattr(tokenizer, "chat_template", None):
        raise UsageError(
            f"rollout.form: {form.name}: this model has no chat template; give "
            "rollout.form=few_shot solver.strategies=[direct]"
        )
    for kind in kinds:
        lacking = [s for s in config.solver.strategies if s not in form.strategies(kind)]
        if lacking:
            raise UsageError(
                f"solver.strategies: {', '.join(lacking)}: prompt form {form.name!r} has none such "
                f"for {kind.value}; it has {', '.join(form.strategies(kind))}"
            )
    return form


def _describe(draft: Draft, result: GateResult, reward: Reward, rate: float | None) -> Proposed:
    program = (
        result.task.program if result.task else draft.proposal.program if draft.proposal else ""
    )
    example = ""
    if result.task is not None:
        example = f"f({arguments(result.task.inputs[0])}) == {result.task.outputs[0]}"
    return Proposed(
        draft.kind, draft.source, program, example, result.verdict, result.reason, reward, rate
    )
