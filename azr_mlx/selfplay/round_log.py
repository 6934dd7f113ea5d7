"""What a step of self-play did, and the metrics that say so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from azr_mlx.tasks import parse
from azr_mlx.tasks.gate import Draft, GateResult
from azr_mlx.types import (
    Completion,
    Experience,
    Prompt,
    Reward,
    Role,
    Status,
    Task,
    TaskKind,
    Verdict,
)

Row = dict[str, float]


@dataclass(slots=True)
class Attempt:
    """A model proposal on its way: what it answered, and what the gate said."""

    draft: Draft
    prompt: Prompt
    completion: Completion
    group: int
    result: GateResult | None = None


@dataclass(frozen=True, slots=True)
class Proposed:
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
class StepLog:
    """What a step's metrics are made of; ``measuring`` are the groups that are not trained on."""

    attempts: list[Attempt] = field(default_factory=list)
    templates: int = 0
    tasks: list[Task] = field(default_factory=list)
    traced: list[int] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    duplicates: int = 0
    resampled: int = 0
    measuring: set[int] = field(default_factory=set)

    def metrics(self, experiences: Sequence[Experience]) -> Row:
        """The step's metrics, as far as they follow from its rollouts and proposals."""
        row: Row = {"buffer/duplicates": self.duplicates, "resampled": self.resampled}
        row |= _rewards(experiences) | _lengths(experiences) | self._proposals(experiences)
        return row | self._programs() | self._runs()

    def _proposals(self, experiences: Sequence[Experience]) -> Row:
        valid = [a for a in self.attempts if a.result is not None and a.result.task is not None]
        counted = [a for a in self.attempts if not _reserved(a)]
        row: Row = {
            "propose/count": len(counted),
            "propose/valid": len(valid),
            "propose/templates": self.templates,
        }
        for kind in TaskKind:
            own = [a for a in counted if a.draft.kind is kind]
            if own:
                row[f"propose/valid_rate/{kind.value}"] = mean(a in valid for a in own)
            proposals = [e for e in experiences if e.role is Role.PROPOSE and e.kind is kind]
            paid = [e.reward.parts.get("learnability") for e in proposals]
            if any(value is not None for value in paid):
                row[f"propose/learnability/{kind.value}"] = mean(v for v in paid if v is not None)
        results = [a.result for a in self.attempts if a.result is not None]
        for reason, count in sorted(Counter(r.reason for r in results if r.reason).items()):
            row[f"propose/reject/{reason}"] = count / max(len(counted), 1)
        return row

    def _programs(self) -> Row:
        """Features of the step's new programs."""
        row: Row = {}
        shapes = [parse.features(t.program) for t in self.tasks]
        for name in ("ast_nodes", "depth", "cyclomatic"):
            if shapes:
                row[f"program/{name}"] = mean(shape[name] for shape in shapes)
        if self.traced:
            row["program/steps"] = mean(self.traced)
        return row

    def _runs(self) -> Row:
        """The sandbox's jobs and their latency."""
        run = [v for v in self.verdicts if v.seconds > 0]
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


def _reserved(attempt: Attempt) -> bool:
    return attempt.result is not None and attempt.result.reason == "reserved"


def _rewards(experiences: Sequence[Experience]) -> Row:
    """Mean reward by role and kind; solve rate by kind, and by strategy."""
    row: Row = {}
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


def _lengths(experiences: Sequence[Experience]) -> Row:
    if not experiences:
        return {}
    lengths = [len(e.completion.token_ids) for e in experiences]
    cut = mean(e.completion.finish == "length" for e in experiences)
    return {"len/mean": mean(lengths), "len/max": max(lengths), "len/truncated_rate": cut}


def passed(experiences: Sequence[Experience]) -> float:
    """The share that the judge passed."""
    return mean(e.verdict.passed for e in experiences)


def mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
