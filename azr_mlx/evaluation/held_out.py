"""Tasks that self-play cannot have seen: the solver before and after training, on the same ones.

They are drawn from templates: an eighth of all program shapes is reserved for them
(``parse.is_reserved``). Nano's pre-training left those out, and the gate of a run that has held-out
tasks keeps them from its buffer. The distributions are ``in_range`` (difficulties up to
``held_out.in_range``), ``harder`` (at ``held_out.harder``) and, if asked for, ``hardest``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

from azr_mlx import rng
from azr_mlx.backends.base import Backend, Sampling
from azr_mlx.config import Config
from azr_mlx.errors import WRONG_VALUES, UsageError
from azr_mlx.evaluation import likelihood, statistics
from azr_mlx.evaluation.progress import SILENT, Reporter, reported
from azr_mlx.files import read_json, write_json
from azr_mlx.run_folder import HELD_OUT_FILE
from azr_mlx.selfplay.round import Round
from azr_mlx.selfplay.solver import TaskSolver
from azr_mlx.tasks import parse, templates
from azr_mlx.tasks.buffer import TaskBuffer
from azr_mlx.tasks.gate import Draft, GateRules, Runner, gate
from azr_mlx.tasks.prompts import PromptForm, named_form
from azr_mlx.tasks.verdicts import GRADING
from azr_mlx.types import Task, TaskKind

SEED = 20_000  # seed of the tasks: every run is measured on the same ones
FRUITLESS = 6  # how many rounds in a row may bring no task before drawing ends

NAMES = {"in_range": "in range", "harder": "one step harder", "hardest": "two steps harder"}
WAYS = {"greedy": "greedy", "sampled": "sampled as in training"}
SHOWN_K = 16  # the k of the pass@k that stands beside the other figures
# A task whose right answer goes from less likely than the first to likelier than the second.
HARDLY, MOSTLY = 1 / 64, 1 / 2

Verdicts = dict[str, dict[str, list[float]]]  # way of answering -> task id -> its verdicts
Probabilities = dict[str, float]  # task id -> the probability of its right answer
Lines = dict[str, list["HeldOutLine"]]  # by distribution


def draw(
    config: Config, low: float, high: float, sandbox: Runner, progress: Reporter = SILENT
) -> list[Task]:
    """Up to ``held_out.tasks`` tasks of each kind, of distinct reserved shapes, difficulty ``low``
    to ``high``.

    They pass the gate that every proposal passes. There are fewer if the templates have no more
    shapes.
    """
    kinds, wanted = [TaskKind(k) for k in config.task_types], config.held_out.tasks
    known = TaskBuffer(max(wanted, 1))
    rules = replace(GateRules.from_config(config), reserve=False, ruler=None)
    source = rng.generator(SEED, "held_out", round(low * 1e6), round(high * 1e6))

    fruitless = 0
    while fruitless < FRUITLESS:  # after that the templates have no more shapes
        short, before = [k for k in kinds if known.count(k) < wanted], len(known)
        if not short:
            break
        fresh: dict[tuple[TaskKind, str], Draft] = {}
        for kind in short:
            for _ in range(4 * wanted):
                difficulty = float(source.uniform(low, high))
                proposal = templates.draw(
                    kind, difficulty, source, rules.n_inputs, config.proposer.template_set
                )
                if parse.is_reserved(proposal.program):
                    draft = Draft(proposal, kind, difficulty, source="template")
                    fresh.setdefault((kind, parse.shape(proposal.program)), draft)
        for result in gate(list(fresh.values()), sandbox, rules, buffer=known):
            if result.task is not None and known.count(result.task.kind) < wanted:
                known.add(result.task)
                progress.advance()
        fruitless = fruitless + 1 if len(known) == before else 0
    return [task for kind in kinds for task in known.tasks(kind)]


@dataclass(frozen=True, slots=True)
class HeldOutLine:
    """Shares of tasks solved, with 95 % intervals; ``gain`` is paired by task."""

    name: str
    tasks: int
    before: statistics.Estimate
    after: statistics.Estimate
    gain: statistics.Estimate


@dataclass(frozen=True, slots=True)
class RightAnswerLine:
    """How likely the right answers to deduction tasks are (a line of mean probabilities); the
    shares of tasks that went from under ``HARDLY`` to over ``MOSTLY`` (``gained``) and back
    (``lost``)."""

    probability: HeldOutLine
    gained: statistics.Estimate
    lost: statistics.Estimate


class HeldOut:
    """The tasks of a run, and what the solver makes of them."""

    def __init__(
        self,
        config: Config,
        backend: Backend,
        sandbox: Runner,
        form: PromptForm,
        tasks: Mapping[str, Sequence[Task]] | None = None,
        progress: Reporter = SILENT,
    ) -> None:
        """``tasks`` by distribution; drawn if none are given. ``progress`` hears of each task that
        is drawn, and of each answer."""
        self.config, self.backend, self.progress = config, backend, progress
        self.solver = TaskSolver(backend, sandbox, form, config=config)
        self.tasks = tasks or self._drawn(sandbox)

    def _drawn(self, sandbox: Runner) -> dict[str, list[Task]]:
        c = self.config.held_out
        ranges = {"in_range": (0.0, c.in_range), "harder": (c.harder, c.harder)}
        if c.hardest:
            ranges["hardest"] = c.hardest, c.hardest
        wanted = len(ranges) * len(self.config.task_types) * c.tasks
        with reported(self.progress, "tasks", wanted):
            return {
                name: draw(self.config, low, high, sandbox, self.progress)
                for name, (low, high) in ranges.items()
            }

    def measure(self) -> Verdicts:
        """Verdicts on every task: one greedy answer, and ``held_out.draws`` sampled as in
        training.

        The strategy is the first of ``solver.strategies``, and the keys are the same at every call:
        what differs from one call to the next is the model.
        """
        tasks = [task for group in self.tasks.values() for task in group]
        draws, temperature = self.config.held_out.draws, self.config.rollout.temperature
        with reported(self.progress, "answers", len(tasks) * (1 + draws)):
            found = {
                "greedy": self._scores(tasks, 1, 0.0),
                "sampled": self._scores(tasks, draws, temperature),
            }
        self.backend.forget()  # so that the next step does not depend on this measurement
        return found

    def right_answers(self) -> Probabilities:
        """The probability of the right answer to each deduction task, by teacher forcing, if it is
        a finite number. Empty if answers have no fixed words: if they are reached step by step, or
        in a chat."""
        form, strategy = self.solver.form, self.config.solver.strategies[0]
        tasks = [t for group in self.tasks.values() for t in group if t.kind is TaskKind.DEDUCTION]
        if strategy != "direct" or not tasks:
            return {}
        try:
            form.right_answer(tasks[0])
        except ValueError:  # the form does not fix them
            return {}
        found = likelihood.right_answers(self.backend, form, tasks)
        return {task.id: p for task, p in zip(tasks, found, strict=True) if isfinite(p)}

    def _scores(
        self, tasks: Sequence[Task], samples: int, temperature: float
    ) -> dict[str, list[float]]:
        rollout, strategy = self.config.rollout, self.config.solver.strategies[0]
        posed = [(task, strategy) for task in tasks for _ in range(samples)]
        top_p = rollout.top_p if temperature else 1.0
        sampling = Sampling(rollout.max_solve_tokens, temperature, top_p)
        keys = [rng.key(SEED, "held_out_answers", i) for i in range(len(posed))]
        found: dict[str, list[float]] = {task.id: [] for task in tasks}
        ended = 0

        def announce(name: str, step: int, done: int = 0, total: int = 0) -> None:
            nonlocal ended
            self.progress.advance(max(0, done - ended))
            ended = max(ended, done)

        r = Round(SEED, 0, announce=announce)
        for solution in self.solver.solve_all(r, posed, sampling, keys):
            found[solution.task.id].append(float(solution.verdict.passed))
        return found


def compare(
    groups: Mapping[str, Sequence[Task]],
    before: Verdicts,
    after: Verdicts,
    way: str,
    k: int | None = None,
) -> Lines:
    """Lines by distribution, the last one the mean of the kinds: shares of answers that are right,
    or, with ``k``, pass@k. Raises UsageError if a task has fewer than ``k`` answers."""
    old, new = before[way], after[way]
    out: Lines = {}
    for name, tasks in groups.items():
        by_kind = {kind: [t for t in tasks if t.kind is kind] for kind in TaskKind}
        lines = [_line(kind.value, own, old, new, k) for kind, own in by_kind.items() if own]
        if lines:
            out[name] = [*lines, mean_line(lines)]
    return out


def _line(
    name: str,
    tasks: Sequence[Task],
    before: Mapping[str, list[float]],
    after: Mapping[str, list[float]],
    k: int | None = None,
) -> HeldOutLine:
    old, new = ([_score(scores[t.id], k) for t in tasks] for scores in (before, after))
    # k answers together are one verdict of pass@k.
    return _paired(name, old, new, sum(len(before[t.id]) // (k or 1) for t in tasks))


def _score(verdicts: Sequence[float], k: int | None) -> float:
    if k is None:
        return fmean(verdicts)
    return statistics.pass_at_k(len(verdicts), sum(v == 1.0 for v in verdicts), k)


def _paired(name: str, old: Sequence[float], new: Sequence[float], count: int) -> HeldOutLine:
    """The line of tasks with these scores, which rest on ``count`` verdicts."""
    gain = statistics.difference(old, new, rng.generator(SEED, "bootstrap", 0))
    return HeldOutLine(
        name, len(old), statistics.estimate(old, count), statistics.estimate(new, count), gain
    )


def compare_right_answers(
    groups: Mapping[str, Sequence[Task]], before: Probabilities, after: Probabilities
) -> dict[str, RightAnswerLine]:
    """By distribution; one without a task in both measurements is left out."""
    out: dict[str, RightAnswerLine] = {}
    for name, tasks in groups.items():
        ids = [t.id for t in tasks if t.kind is TaskKind.DEDUCTION]
        pairs = [(before[i], after[i]) for i in ids if i in before and i in after]
        if not pairs:
            continue
        gained, lost = (
            [float(low < HARDLY and high > MOSTLY) for low, high in ordered]
            for ordered in (pairs, [(new, old) for old, new in pairs])
        )
        (old, new), count = zip(*pairs, strict=True), len(pairs)
        out[name] = RightAnswerLine(
            _paired(TaskKind.DEDUCTION.value, old, new, count),
            statistics.estimate(gained, count),
            statistics.estimate(lost, count),
        )
    return out


def mean_line(lines: Sequence[HeldOutLine]) -> HeldOutLine:
    """The mean of the kinds; their intervals are independent, so half-widths add in quadrature."""

    def joined(parts: Sequence[statistics.Estimate]) -> statistics.Estimate:
        value, n = fmean(p.value for p in parts), len(parts)
        low = sum((p.value - p.low) ** 2 for p in parts) ** 0.5 / n
        high = sum((p.high - p.value) ** 2 for p in parts) ** 0.5 / n
        return statistics.Estimate(value, value - low, value + high)

    return HeldOutLine(
        "mean",
        sum(one.tasks for one in lines),
        joined([one.before for one in lines]),
        joined([one.after for one in lines]),
        joined([one.gain for one in lines]),
    )


# -- the file of a run -----------------------------------------------------------------------------


def settings(config: Config) -> dict[str, Any]:
    """What a measurement depends on, besides the model: two are comparable if these agree. Raises
    UsageError if there is no such prompt form."""
    r, p = config.rollout, config.proposer
    return {
        **{f"held_out.{name}": value for name, value in asdict(config.held_out).items()},
        "task_types": list(config.task_types),
        "solver.strategies": config.solver.strategies[0],
        "rollout.form": r.form,
        "form_sha256": named_form(r.form).sha256,
        "grading": GRADING,
        "rollout.thinking": r.thinking,
        "rollout.temperature": r.temperature,
        "rollout.top_p": r.top_p,
        "rollout.max_solve_tokens": r.max_solve_tokens,
        "proposer.template_set": p.template_set,
        "proposer.induction_inputs": p.induction_inputs,
    }


@dataclass(slots=True)
class Record:
    """``held_out.json``: the tasks and settings of a run, and what was measured before and after;
    each empty until it is. ``after_step`` is the step after which the latter was. Earlier versions
    did not record it, nor how likely right answers are."""

    settings: dict[str, Any]
    tasks: Mapping[str, Sequence[Task]]
    before: Verdicts = field(default_factory=dict)
    after: Verdicts = field(default_factory=dict)
    right_before: Probabilities = field(default_factory=dict)
    right_after: Probabilities = field(default_factory=dict)
    after_step: int | None = None

    def is_of(self, step: int, last: int) -> bool:
        """Whether ``after`` was measured after this step. ``last`` is the run's last step, which is
        when it was if the record does not say."""
        return bool(self.after) and step == (last if self.after_step is None else self.after_step)

    @property
    def standing(self) -> dict[str, dict[str, float]]:
        """What was solved before training, in the mean of the kinds: by way of answering, then by
        distribution; empty until it is measured."""
        if not self.before:
            return {}
        alone = {way: compare(self.tasks, self.before, self.before, way) for way in WAYS}
        return {
            way: {name: own[-1].before.value for name, own in lines.items()}
            for way, lines in alone.items()
        }

    @property
    def compared(self) -> dict[str, Lines]:
        """What changed, by way of answering; empty until both measurements exist."""
        if not self.before or not self.after:
            return {}
        return {way: compare(self.tasks, self.before, self.after, way) for way in WAYS}

    @property
    def ks(self) -> list[int]:
        """The k of which pass@k can be estimated: powers of two, up to the sampled answers."""
        both = [m.get("sampled", {}).values() for m in (self.before, self.after)]
        draws = min((len(verdicts) for values in both for verdicts in values), default=0)
        return [1 << i for i in range(draws.bit_length())] if self.before and self.after else []

    def pass_at(self, k: int) -> Lines:
        """pass@k of the sampled answers, as ``compare`` gives it; empty if there are too few."""
        if k not in self.ks:
            return {}
        return compare(self.tasks, self.before, self.after, "sampled", k)

    @property
    def right_answers(self) -> dict[str, RightAnswerLine]:
        """How likely right answers became, by distribution."""
        return compare_right_answers(self.tasks, self.right_before, self.right_after)

    def outdated(self, config: Config) -> str:
        """Why a measurement would differ from the recorded one even with all settings of the
        configuration kept, in a few words; "" if it would not. Records of earlier versions do not
        say by which rules they were made."""
        then, now = self.settings, settings(config)
        if then.get("grading") != now["grading"]:
            return "answers are judged by other rules now"
        same_name = then.get("rollout.form") == now["rollout.form"]
        if same_name and then.get("form_sha256") != now["form_sha256"]:
            return f"the prompt form {now['rollout.form']} has changed"
        return ""

    def write(self, run_dir: Path) -> None:
        """Write the file, whole or not at all."""
        tasks = {name: [t.to_json() for t in group] for name, group in self.tasks.items()}
        row: dict[str, Any] = {"settings": self.settings, "tasks": tasks, "before": self.before}
        right = {"before": self.right_before, "after": self.right_after}
        row |= {"after": self.after, "after_step": self.after_step, "right_answers": right}
        write_json(run_dir / HELD_OUT_FILE, row)

    @classmethod
    def read(cls, run_dir: Path) -> Record | None:
        """The record of a run; None if it has none. Raises UsageError if the file is damaged."""
        path = run_dir / HELD_OUT_FILE
        if not path.is_file():
            return None
        try:
            row = read_json(path)
            groups = row["tasks"].items()
            tasks = {name: [Task.from_json(t) for t in group] for name, group in groups}
            before, after = (_verdicts(row[k]) for k in _MEASURED)
            right = row.get("right_answers", {})
            old, new = (_probabilities(right.get(k, {})) for k in _MEASURED)
            step = row.get("after_step")
            step = None if step is None else int(step)
            return cls({**_UNSAID, **row["settings"]}, tasks, before, after, old, new, step)
        except (OSError, *WRONG_VALUES) as error:
            raise UsageError(
                f"{path}: not a record of held-out tasks ({type(error).__name__}: {error}); "
                "remove it"
            ) from error


_MEASURED = ("before", "after")
# What measurements were made with before these settings existed.
_UNSAID = {"held_out.hardest": 0.0, "held_out.draws": 4}


def _probabilities(row: Mapping[str, Any]) -> Probabilities:
    """Probabilities as they were recorded. Raises ValueError, TypeError or AttributeError."""
    found = {name: float(p) for name, p in row.items()}
    if not all(0 <= p <= 1 for p in found.values()):
        raise ValueError("a probability is not between 0 and 1")
    return found


def _verdicts(row: Mapping[str, Any]) -> Verdicts:
    """Verdicts as they were recorded. Raises ValueError, TypeError or AttributeError."""
    found = {
        way: {name: [float(v) for v in verdicts] for name, verdicts in tasks.items()}
        for way, tasks in row.items()
    }
    if not all(0 <= v <= 1 for tasks in found.values() for vs in tasks.values() for v in vs):
        raise ValueError("a verdict is not between 0 and 1")
    return found


def recorded(run_dir: Path, config: Config, *, resumed: bool) -> Record | None:
    """The record of a run that goes on; None for a new one. It may be ``outdated``; then a run that
    has not been trained yet measures anew.

    Raises UsageError if what was measured at its start cannot be read, or cannot be compared with
    what would be at its end because a setting differs.
    """
    record = Record.read(run_dir)
    if record is None:
        if resumed:
            raise UsageError(
                f"held_out.tasks: {config.held_out.tasks}: the run in {run_dir} solved none at its "
                "start, so nothing can be compared; give held_out.tasks=0"
            )
        return None
    if record.outdated(config):
        return record if resumed else None
    for key, value in settings(config).items():
        if record.settings.get(key) != value:
            raise UsageError(
                f"{key}: {value!r}: the run in {run_dir} solved its held-out tasks with "
                f"{record.settings.get(key)!r}; keep that, or give held_out.tasks=0"
            )
    return record


class BeforeAndAfter:
    """The comparison of one run: its tasks, solved before the first step and after the last. A run
    that goes on keeps what it measured at its start."""

    def __init__(self, run_dir: Path, held: HeldOut, record: Record | None) -> None:
        self.run_dir, self.held = run_dir, held
        self.record = record or Record(settings(held.config), held.tasks)

    @property
    def shortage(self) -> list[str]:
        """A sentence for each distribution that has fewer tasks than asked."""
        c = self.held.config
        wanted = c.held_out.tasks * len(c.task_types)
        return [
            f"held_out.tasks: {NAMES[name]}: {len(tasks)} tasks instead of {wanted}, for the "
            "templates have no more reserved shapes of that difficulty"
            for name, tasks in self.held.tasks.items()
            if len(tasks) < wanted
        ]

    def measure_before(self, note: Callable[[str], None] = lambda text: None) -> None:
        """Solve the tasks, unless the run has done so; ``note`` hears of it first."""
        if not self.record.before:
            c, count = self.held.config.held_out, sum(map(len, self.held.tasks.values()))
            note(
                f"held-out tasks before training: {count} tasks ({c.tasks} of each kind and "
                f"difficulty), each with a greedy answer and {c.draws} sampled"
            )
            self.record.before = self.held.measure()
            self.record.right_before = self.held.right_answers()
            self.record.write(self.run_dir)

    def measure_after(self, step: int) -> dict[str, Lines]:
        """Solve the tasks after a step. What changed, by way of answering, then by distribution."""
        self.record.after, self.record.after_step = self.held.measure(), step
        if self.record.right_before:
            self.record.right_after = self.held.right_answers()
        self.record.write(self.run_dir)
        return self.record.compared
