"""A record of a step of self-play: its metrics, and its proposals as they are shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from azr_mlx.selfplay.round import Paid, Solution, Validated
from azr_mlx.tasks import parse
from azr_mlx.tasks.prompts import arguments
from azr_mlx.tasks.repeats import repeats
from azr_mlx.types import Completion, Experience, Prompt, Reward, Role, Status, TaskKind, Verdict

Metrics = dict[str, float]


@dataclass(frozen=True, slots=True)
class ShownProposal:
    """A proposal as it is shown: what was written, by whom, and what came of it."""

    kind: TaskKind
    source: str
    program: str
    example: str
    verdict: Verdict
    reason: str
    reward: Reward | None
    solve_rate: float | None = None


@dataclass(slots=True)
class RoundLog:
    """All rounds of a step: what was proposed and validated, how it was solved, and what was
    paid."""

    validated: list[Validated] = field(default_factory=list)
    solutions: list[Solution] = field(default_factory=list)
    paid: list[Paid] = field(default_factory=list)
    resampled: int = 0

    def add(
        self, validated: Sequence[Validated], solutions: Sequence[Solution], paid: Sequence[Paid]
    ) -> None:
        """Add a round."""
        self.validated += validated
        self.solutions += solutions
        self.paid += paid
        self.resampled += len({one.extra for one in solutions} - {0})

    @property
    def experiences(self) -> list[Experience]:
        return [one.experience for one in self.paid]

    @property
    def written(self) -> list[tuple[Prompt, Completion]]:
        """All that the model wrote, with what it was asked: the experiences, and those proposals
        that are neither paid nor trained on since their shape is reserved."""
        proposed = [one.proposed for one in self.validated]
        asked = [(one.prompt, one.completion) for one in proposed]
        both = [(prompt, done) for prompt, done in asked if prompt is not None and done is not None]
        return both + [(one.prompt, one.completion) for one in self.solutions]

    @property
    def trained(self) -> list[Experience]:
        """The experiences that are trained on."""
        return [one.experience for one in self.paid if one.trains]

    def shown(self) -> list[ShownProposal]:
        """The model's proposals that were paid."""
        return [_shown(one) for one in self.paid if one.validated is not None]

    def metrics(self) -> Metrics:
        """What follows from the step's rollouts and proposals."""
        duplicates = sum(one.result.reason == "duplicate" for one in self.validated)
        row: Metrics = {"buffer/duplicates": duplicates, "resampled": self.resampled}
        row |= _rewards(self.experiences) | _lengths(self.written) | self._repeats()
        return row | self._proposals() | self._programs() | self._runs()

    def _repeats(self) -> Metrics:
        """Of each kind that can be, the share of answers that repeat what their prompt shows."""
        row: Metrics = {}
        for kind in (TaskKind.DEDUCTION, TaskKind.ABDUCTION):
            own = [one for one in self.solutions if one.task.kind is kind]
            if own:
                row[f"repeats/{kind.value}"] = mean(repeats(one.answer, one.task) for one in own)
        return row

    def _proposals(self) -> Metrics:
        by_model = [one for one in self.validated if one.by_model]
        counted = [one for one in by_model if one.result.reason != "reserved"]
        templates = [one for one in self.validated if not one.by_model]
        row: Metrics = {
            "propose/count": len(by_model),
            "propose/valid": sum(one.task is not None for one in by_model),
            "propose/templates": sum(one.task is not None for one in templates),
        }
        for kind in TaskKind:
            row |= _proposals_of(kind, counted, self.paid)
        reasons = Counter(one.result.reason for one in by_model if one.result.reason)
        for reason, count in sorted(reasons.items()):
            row[f"propose/reject/{reason}"] = count / len(by_model)
        return row

    def _programs(self) -> Metrics:
        """Features of the step's new programs."""
        row: Metrics = {}
        shapes = [parse.features(one.task.program) for one in self.validated if one.task]
        for name in ("ast_nodes", "depth", "cyclomatic"):
            if shapes:
                row[f"program/{name}"] = mean(shape[name] for shape in shapes)
        traced = [one.result.steps for one in self.validated if one.task]
        steps = [count for count in traced if count is not None]
        return row | ({"program/steps": mean(steps)} if steps else {})

    def _runs(self) -> Metrics:
        """The sandbox's jobs and their latency."""
        verdicts = [one.result.verdict for one in self.validated]
        verdicts += [one.verdict for one in self.solutions]
        run = [v for v in verdicts if v.seconds > 0]
        if not run:
            return {"exec/count": 0}
        p50, p95 = np.percentile(np.array([v.seconds for v in run]) * 1e3, [50, 95])
        timeouts = mean(v.status is Status.TIMEOUT for v in run)
        return {
            "exec/count": len(run),
            "exec/timeout_rate": timeouts,
            "exec/p50_ms": float(p50),
            "exec/p95_ms": float(p95),
        }


def _shown(one: Paid) -> ShownProposal:
    assert one.validated is not None
    result, draft = one.validated.result, one.validated.proposed.draft
    program, example = draft.proposal.program if draft.proposal else "", ""
    if result.task is not None:
        program = result.task.program
        example = f"f({arguments(result.task.inputs[0])}) == {result.task.outputs[0]}"
    return ShownProposal(
        draft.kind,
        draft.source,
        program,
        example,
        result.verdict,
        result.reason,
        one.experience.reward,
        one.solve_rate,
    )


def _proposals_of(kind: TaskKind, counted: Sequence[Validated], paid: Sequence[Paid]) -> Metrics:
    """The valid rate of a kind's proposals (``counted`` are those of no reserved shape), and of the
    valid ones the mean learnability and the mean variance of an answer's success."""
    row: Metrics = {}
    own = [one.task is not None for one in counted if one.proposed.draft.kind is kind]
    if own:
        row[f"propose/valid_rate/{kind.value}"] = mean(own)
    valid = [
        (one.experience.reward.parts["learnability"], one.solve_rate)
        for one in paid
        if one.solve_rate is not None and one.experience.kind is kind
    ]
    if valid:
        row[f"propose/learnability/{kind.value}"] = mean(value for value, _ in valid)
        row[f"propose/variance/{kind.value}"] = mean(p * (1 - p) for _, p in valid)
    return row


def _rewards(experiences: Sequence[Experience]) -> Metrics:
    """Mean reward, of all and by role and kind; solve rate by kind, and by strategy."""
    row: Metrics = {"reward": mean(e.reward.total for e in experiences)} if experiences else {}
    for role in Role:
        for kind in TaskKind:
            own = [e for e in experiences if e.role is role and e.kind is kind]
            if own:
                row[f"reward/{role.value}/{kind.value}"] = mean(e.reward.total for e in own)
            if own and role is Role.SOLVE:
                row[f"solve_rate/{kind.value}"] = passed(own)
                for strategy in dict.fromkeys(e.prompt.strategy for e in own):
                    used = [e for e in own if e.prompt.strategy == strategy]
                    row[f"strategy/{kind.value}/{strategy}"] = passed(used)
    return row


def _lengths(written: Sequence[tuple[Prompt, Completion]]) -> Metrics:
    if not written:
        return {}
    lengths = [len(done.token_ids) for _, done in written]
    cut = mean(done.finish == "length" for _, done in written)
    return {"len/mean": mean(lengths), "len/max": max(lengths), "len/truncated_rate": cut}


def passed(experiences: Sequence[Experience]) -> float:
    """The share that the judge passed."""
    return mean(e.verdict.passed for e in experiences)


def mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
