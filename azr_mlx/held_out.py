"""Tasks that self-play cannot have seen: the solver before and after training, on the same ones.

They are drawn from templates, apart: a sixteenth of all program shapes is reserved for them
(``parse.is_reserved``). Nano's pre-training left those out, and the gate of a run that has held-out
tasks keeps them from its buffer. Two distributions: ``in_range`` (difficulties up to
``held_out.in_range``) and ``harder`` (at ``held_out.harder``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np

from azr_mlx import paired, parse, passk, rng, templates
from azr_mlx.backends.base import Backend, Sampling
from azr_mlx.buffer import TaskBuffer
from azr_mlx.config import Config
from azr_mlx.prompts import PromptForm, render
from azr_mlx.tasks import Draft, GateRules, Runner, check_answers, gate
from azr_mlx.types import Task, TaskKind

FILE = "held_out.json"
DISTRIBUTIONS = ("in_range", "harder")
SEED = 20_000  # of the tasks: every run is measured on the same ones
SAMPLES = 4  # drawn answers to a task, beside the greedy one
ROUNDS = 60  # of drawing tasks, before giving up

Scores = dict[str, dict[str, list[float]]]  # way of answering -> task id -> its verdicts


def draw(config: Config, low: float, high: float, sandbox: Runner) -> list[Task]:
    """Up to ``held_out.tasks`` tasks of each kind, of distinct reserved shapes, difficulty ``low``
    to ``high``.

    They pass the gate that every proposal passes. Fewer, where the templates have no more shapes.
    """
    kinds, wanted = [TaskKind(k) for k in config.task_types], config.held_out.tasks
    known, rules = TaskBuffer(max(wanted, 1)), replace(GateRules.from_config(config), reserve=False)
    source = rng.generator(SEED, "held_out", round(low * 1e6), round(high * 1e6))

    for _ in range(ROUNDS):
        short = [k for k in kinds if known.count(k) < wanted]
        if not short:
            break
        fresh: dict[tuple[TaskKind, str], Draft] = {}
        for kind in short:
            for _ in range(4 * wanted):
                draft = _draft(config, kind, float(source.uniform(low, high)), source)
                if draft is not None and draft.proposal is not None:
                    fresh.setdefault((kind, parse.skeleton(draft.proposal.program)), draft)
        for result in gate(list(fresh.values()), sandbox, rules, buffer=known):
            if result.task is not None and known.count(result.task.kind) < wanted:
                known.add(result.task)
    return [task for kind in kinds for task in known.tasks(kind)]


def _draft(
    config: Config, kind: TaskKind, difficulty: float, source: np.random.Generator
) -> Draft | None:
    """A template's proposal, if its shape is reserved."""
    p = config.proposer
    proposal = templates.draw(kind, difficulty, source, p.induction_inputs, p.template_set)
    if not parse.is_reserved(proposal.program):
        return None
    return Draft(proposal, kind, difficulty, source="template")


@dataclass(frozen=True, slots=True)
class Line:
    """Shares of tasks solved, with 95 % intervals; ``gain`` is paired by task."""

    name: str
    tasks: int
    before: passk.Estimate
    after: passk.Estimate
    gain: passk.Estimate


class HeldOut:
    """The tasks of a run, and what the solver makes of them."""

    def __init__(self, config: Config, backend: Backend, sandbox: Runner, form: PromptForm) -> None:
        self.config, self.backend, self.sandbox, self.form = config, backend, sandbox, form
        c = config.held_out
        self.tasks = {
            "in_range": draw(config, 0.0, c.in_range, sandbox),
            "harder": draw(config, c.harder, c.harder, sandbox),
        }

    def measure(self) -> Scores:
        """Verdicts on every task: one greedy answer, and ``SAMPLES`` drawn as in training.

        Answers are direct ones, and their keys are the same at every call: what differs from one
        call to the next is the model.
        """
        tasks = [task for group in self.tasks.values() for task in group]
        return {
            "greedy": self._scores(tasks, 1, 0.0),
            "sampled": self._scores(tasks, SAMPLES, self.config.rollout.temperature),
        }

    def _scores(
        self, tasks: Sequence[Task], samples: int, temperature: float
    ) -> dict[str, list[float]]:
        r = self.config.rollout
        rows = [task for task in tasks for _ in range(samples)]
        strategy = self.config.solver.strategies[0]
        prompts = [render(self.form.solve(task, strategy), self.backend.tokenizer) for task in rows]
        sampling = Sampling(r.max_solve_tokens, temperature, r.top_p if temperature else 1.0)
        keys = [rng.key(SEED, "held_out_answers", i) for i in range(len(rows))]
        done = self.backend.generate(prompts, [sampling] * len(rows), keys)
        answers = [
            parse.parse_answer(one.text, task.kind, self.form)
            for task, one in zip(rows, done, strict=True)
        ]
        verdicts = check_answers(list(zip(rows, answers, strict=True)), self.sandbox)
        found: dict[str, list[float]] = {task.id: [] for task in tasks}
        for task, verdict in zip(rows, verdicts, strict=True):
            found[task.id].append(float(verdict.passed))
        return found

    def compare(self, before: Scores, after: Scores, way: str) -> dict[str, list[Line]]:
        """Lines by distribution, the last one the mean of the kinds."""
        out: dict[str, list[Line]] = {}
        for name, tasks in self.tasks.items():
            by_kind = {k: [t for t in tasks if t.kind is k] for k in TaskKind}
            lines = [
                _line(k.value, own, before[way], after[way]) for k, own in by_kind.items() if own
            ]
            if lines:
                out[name] = [*lines, mean_line(lines)]
        return out


def _line(
    name: str, tasks: Sequence[Task], before: Mapping[str, list[float]],
    after: Mapping[str, list[float]],
) -> Line:  # fmt: skip
    old, new = ([fmean(scores[t.id]) for t in tasks] for scores in (before, after))
    count = sum(len(before[t.id]) for t in tasks)
    gain = paired.difference(old, new, rng.generator(SEED, "bootstrap", 0))
    return Line(name, len(tasks), passk.estimate(old, count), passk.estimate(new, count), gain)


def mean_line(lines: Sequence[Line]) -> Line:
    """The mean of the kinds; their intervals are independent, so half-widths add in quadrature."""

    def joined(parts: Sequence[passk.Estimate]) -> passk.Estimate:
        value, n = fmean(p.value for p in parts), len(parts)
        low = sum((p.value - p.low) ** 2 for p in parts) ** 0.5 / n
        high = sum((p.high - p.value) ** 2 for p in parts) ** 0.5 / n
        return passk.Estimate(value, value - low, value + high)

    return Line(
        "mean",
        sum(one.tasks for one in lines),
        joined([one.before for one in lines]),
        joined([one.after for one in lines]),
        joined([one.gain for one in lines]),
    )


def write(run_dir: Path, before: Scores, after: Scores | None) -> Path:
    path = run_dir / FILE
    path.write_text(json.dumps({"before": before, "after": after}) + "\n", encoding="utf-8")
    return path


def read_before(run_dir: Path) -> Scores | None:
    """What a run that goes on measured at its start; None where it measured nothing."""
    path = run_dir / FILE
    return json.loads(path.read_text("utf-8"))["before"] if path.is_file() else None
