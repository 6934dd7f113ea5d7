"""What a verdict is worth: the solver's and the proposer's rewards, the soft penalty on length, and
the pay of a whole round.

Sources: Absolute Zero Reasoner, arXiv 2505.03335 (Eq. 4 to 6); DAPO, arXiv 2503.14476 (Eq. 13).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from azr_mlx.config import Config, Proposer, Rollout, Solver, plugins, schema
from azr_mlx.selfplay.round import Paid, Round, Solution, Validated
from azr_mlx.tasks.gate import GateResult
from azr_mlx.tasks.guessing import above_chance, chance
from azr_mlx.tasks.repeats import repeats
from azr_mlx.types import Experience, Reward, Role, Status, Task, Verdict

VALID = frozenset({Status.OK, Status.PASS})


@dataclass(frozen=True, slots=True)
class ValidProposal:
    """What is known of a proposal that became a task, when it is paid.

    ``references`` are the tasks that its prompt showed (for induction the one whose program it
    uses). ``attempts`` answers of the solver were judged, at least one, and ``solved`` of them are
    right. ``chance`` in [0, 1] is how likely a guess is right, 0 if the program's text does not
    show that it has few outputs. ``step`` counts from 1.
    """

    task: Task
    references: tuple[Task, ...]
    attempts: int
    solved: int
    chance: float
    step: int

    @property
    def solve_rate(self) -> float:
        """The share of right answers, in [0, 1]."""
        return self.solved / self.attempts

    @property
    def above_chance(self) -> float:
        """The share of answers, in [0, 1], that are right and no guess: what the built-in rewards
        are computed from with ``proposer.guessing: corrected``."""
        return above_chance(self.solve_rate, self.chance)


class ProposerReward(Protocol):
    """The plug-in ``proposer.reward``: what a valid proposal is worth.

    Called once for each valid proposal of the model, after its task was solved. Returns a finite
    float; the built-in rewards lie in [-0.5, 1]. It takes the place of ``proposer.reward`` and
    ``proposer.extremes``. What is not valid earns ``proposer.invalid_reward`` or
    ``proposer.malformed_reward``, and ``rollout.overlong_penalty`` is added, as ever. Whatever it
    raises ends the run, which can be resumed.
    """

    def __call__(self, proposal: ValidProposal) -> float: ...


class SolverReward(Protocol):
    """The plug-in ``solver.reward``: what a verdict on an answer is worth.

    ``verdict`` is the judge's, which nothing here changes: solve rates, the buffer and all metrics
    but rewards go by it. PASS is right, FORMAT says that no answer could be read, and every other
    status that there was a wrong one. ``text`` is what the model wrote, after its thought if it had
    one. Returns a finite float; the built-in rewards lie in [-1, 1]. It takes the place of
    ``solver.binary_reward``, ``solver.wrong_reward`` and ``solver.malformed_reward``;
    ``rollout.overlong_penalty`` is added, as ever. It may be called more than once for an answer.
    Whatever it raises ends the run, which can be resumed.
    """

    def __call__(self, verdict: Verdict, text: str, task: Task) -> float: ...


def pay(
    r: Round, validated: Sequence[Validated], solutions: Sequence[Solution], config: Config
) -> list[Paid]:
    """The rollouts of a round with their rewards: first the model's proposals, then the solutions.

    A proposal is paid by the solve rate of its own task, as this round measured it, less what
    guessing explains (``proposer.guessing``). One whose shape is reserved for held-out tasks is
    neither good nor bad, and is left out.
    """
    with r.phase("verify"):
        passed = _passed(solutions, config)
        return [
            _paid_proposal(r.step, one, passed, config)
            for one in validated
            if one.by_model and one.result.reason != "reserved"
        ] + [_paid_solution(r.step, one, config) for one in solutions]


def _passed(solutions: Sequence[Solution], config: Config) -> dict[str, list[bool]]:
    """Of each task, by its id, which of the answers that measure it are right."""
    passed = defaultdict[str, list[bool]](list)
    for one in solutions:
        if config.rollout.reuse_rollouts or one.measures:
            passed[one.task.id].append(one.verdict.passed)
    return passed


def _paid_proposal(
    step: int, one: Validated, passed: dict[str, list[bool]], config: Config
) -> Paid:
    (proposed, result), task = one, one.task
    assert proposed.prompt is not None and proposed.completion is not None
    done, r = proposed.completion, config.rollout
    if task is None:
        rate, reward = None, _refused_reward(result, config.proposer)
    else:
        found = passed[task.id]
        known = ValidProposal(task, proposed.references, len(found), sum(found), chance(task), step)
        rate, reward = known.solve_rate, _task_reward(result.verdict, known, config.proposer)
    reward = with_overlong(reward, len(done.token_ids), done.finish, r.max_propose_tokens, r)
    experience = Experience(
        proposed.prompt,
        done,
        result.verdict,
        reward,
        Role.PROPOSE,
        proposed.draft.kind,
        proposed.group,
        step,
        "" if task is None else task.id,
    )
    return Paid(experience, config.proposer.train, one, rate)


def _refused_reward(result: GateResult, config: Proposer) -> Reward:
    """The reward of a proposal that became no task. A program that is known already is valid, and
    a step from a new one, so it may cost less than what does not run."""
    if result.reason == "duplicate":
        value = config.duplicate_cost * config.invalid_reward
        return Reward(value, {"duplicate": value})
    return proposer_reward(result.verdict, None, config)


def _task_reward(verdict: Verdict, known: ValidProposal, config: Proposer) -> Reward:
    """The reward of a valid proposal: the built-in one, or the plug-in's."""
    if schema.is_function(config.reward):
        plug_in = plugins.resolve("proposer.reward", config.reward, ProposerReward)
        value = plug_in.number(known)
        return Reward(value, {"learnability": value})
    corrected = config.guessing == "corrected"
    rate = known.above_chance if corrected else known.solve_rate
    return proposer_reward(verdict, rate, config)


def _paid_solution(step: int, one: Solution, config: Config) -> Paid:
    experience = Experience(
        one.prompt,
        one.completion,
        one.verdict,
        _solution_reward(one, config),
        Role.SOLVE,
        one.task.kind,
        one.group,
        step,
        one.task.id,
    )
    return Paid(experience, not one.measures)


def _solution_reward(one: Solution, config: Config) -> Reward:
    r, done = config.rollout, one.completion
    reward = solver_reward(one.verdict, config.solver, repeats(one.answer, one.task))
    if schema.is_function(config.solver.reward):
        plug_in = plugins.resolve("solver.reward", config.solver.reward, SolverReward)
        value = plug_in.number(one.verdict, done.text, one.task)
        reward = Reward(value, dict.fromkeys(reward.parts, value))
    return with_overlong(reward, len(done.token_ids), done.finish, r.max_solve_tokens, r)


def has_contrast(solutions: Sequence[Solution], config: Config) -> bool:
    """Whether any two rewards that are compared differ: if none do, there is nothing to learn."""
    rewards = np.array([_solution_reward(one, config).total for one in solutions])
    by_group = config.ppo.by_group
    groups = np.array([one.group if by_group else one.task.kind.value for one in solutions])
    return bool(solutions) and zero_variance_fraction(rewards, groups) < 1


def zero_variance_fraction(scores: ArrayLike, groups: ArrayLike) -> float:
    """The share of groups (of two and more) with equal scores: they carry no gradient."""
    r, labels = np.asarray(scores, np.float64), np.asarray(groups)
    sets = [r[labels == g] for g in np.unique(labels)]
    shared = [s for s in sets if len(s) > 1]
    return sum(float(np.ptp(s)) == 0.0 for s in shared) / len(shared) if shared else 0.0


def solver_reward(verdict: Verdict, config: Solver, repeated: bool = False) -> Reward:
    """The reward of an answer: 1, or ``wrong_reward``, or ``malformed_reward`` if there is none, or
    if it is wrong, only repeats what the prompt shows (``repeated``), and ``config.repeats`` is
    "malformed".

    FORMAT alone is malformed: no answer could be read from the completion. Every other status but
    PASS says that there was an answer and that it did not hold: FAIL (another value), ERROR,
    TIMEOUT, MEMORY and KILLED (an answer that is a program or an input, and broke or was
    stopped when it ran), NONDETERMINISTIC and INVALID (it gave no comparable value). All of these
    count as wrong but well-formed, so that no way of failing to run is cheaper than another.
    ``binary_reward`` gives 1 or 0 instead.

    Raises ValueError on OK: that is a value that was not compared, and does not judge an answer.
    """
    if verdict.status is Status.OK:
        raise ValueError("verdict ok: the answer was compared with nothing, so it has no reward")
    name, value = "wrong", config.wrong_reward
    if verdict.passed:
        name, value = "correct", 1.0
    elif verdict.status is Status.FORMAT:
        name, value = "malformed", config.malformed_reward
    elif repeated and config.repeats == "malformed":
        name, value = "repeated", config.malformed_reward
    if config.binary_reward:
        value = float(verdict.passed)
    return Reward(value, {name: value})


def proposer_reward(verdict: Verdict, solve_rate: float | None, config: Proposer) -> Reward:
    """The reward of a proposal, from its validation and the solve rate p that was measured on it.

    A valid proposal (OK or PASS) earns its learnability; FORMAT earns ``malformed_reward`` and
    every other status ``invalid_reward``. ``solve_rate`` is the mean success of the solver's
    rollouts on this task, and is ignored for proposals that are not valid. Raises ValueError if
    a valid proposal has none.
    """
    if verdict.status is Status.FORMAT:
        return Reward(config.malformed_reward, {"malformed": config.malformed_reward})
    if verdict.status not in VALID:
        return Reward(config.invalid_reward, {"invalid": config.invalid_reward})
    if solve_rate is None:
        raise ValueError("solve_rate None: a valid proposal is paid by its measured solve rate")
    value = learnability(solve_rate, config)
    return Reward(value, {"learnability": value})


def learnability(solve_rate: float, config: Proposer) -> float:
    """How much a task with solve rate p teaches: 1 - p (arXiv 2505.03335, Eq. 4) or 4p(1 - p).

    A task that always or never is solved teaches nothing: 0, or -0.5 with ``extremes: minus_half``
    (what the paper's published code pays). Raises ValueError on a rate outside [0, 1] or an unknown
    option.
    """
    if not 0.0 <= solve_rate <= 1.0:
        raise ValueError(f"solve_rate {solve_rate}: not in [0, 1]; it is a fraction of rollouts")
    _one_of("proposer.extremes", config.extremes, ("zero", "minus_half"))
    _one_of("proposer.reward", config.reward, ("one_minus", "frontier"))
    if solve_rate in (0.0, 1.0):
        return -0.5 if config.extremes == "minus_half" else 0.0
    if config.reward == "frontier":
        return 4.0 * solve_rate * (1.0 - solve_rate)
    return 1.0 - solve_rate


def overlong_penalty(length: int, finish: str, max_tokens: int, config: Rollout) -> float:
    """The soft length penalty of DAPO (Eq. 13), scaled: from 0 to ``-config.overlong_penalty``.

    ``length`` and ``max_tokens`` are in tokens. The penalty is 0 up to ``max_tokens -
    overlong_buffer`` tokens and grows linearly over the buffer; a truncated completion (finish
    "length") pays all of it, wherever it was cut. A buffer of 0 turns it off, and one longer than
    ``max_tokens`` counts as ``max_tokens``.
    """
    buffer = min(config.overlong_buffer, max_tokens)
    if buffer <= 0:
        return 0.0
    excess = buffer if finish == "length" else min(max(length - (max_tokens - buffer), 0), buffer)
    return -config.overlong_penalty * excess / buffer if excess else 0.0


def with_overlong(
    reward: Reward, length: int, finish: str, max_tokens: int, config: Rollout
) -> Reward:
    """The reward with the length penalty as a further part, or unchanged if there is no penalty."""
    penalty = overlong_penalty(length, finish, max_tokens, config)
    if penalty == 0.0:
        return reward
    return Reward(reward.total + penalty, {**reward.parts, "overlong": penalty})


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{key} {value!r}: unknown; use one of {', '.join(allowed)}")
