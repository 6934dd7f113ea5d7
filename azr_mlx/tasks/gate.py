"""The gate: the one way by which a proposal becomes a task.

A task is a program p with inputs i and outputs o = p(i): deduction asks for o, abduction for any i'
with p(i') = o, induction for a p' that is right on all pairs, half of them hidden (arXiv
2505.03335, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from azr_mlx.config import Config, SandboxConfig
from azr_mlx.sandbox import Job, JobBatch, Result, equal, literal, parse_literal
from azr_mlx.tasks.buffer import TaskBuffer
from azr_mlx.tasks.parse import Proposal, check_program, clean_source, is_reserved, skeleton
from azr_mlx.tasks.ruler import Ruler
from azr_mlx.text import is_text
from azr_mlx.types import Status, Task, TaskKind, Verdict

# Every reason for which a proposal is rejected, in the order of the checks; metric names are made
# of them.
REJECT_REASONS = (
    "format",
    "too_large",
    "syntax",
    "no_f",
    "no_params",
    "no_return",
    "import",
    "banned",
    "input",
    "few_inputs",
    "error",
    "timeout",
    "memory",
    "killed",
    "nondeterministic",
    "invalid_value",
    "constant",
    "duplicate",
    "reserved",
)

_STATUS_REASON = {
    Status.ERROR: "error",
    Status.TIMEOUT: "timeout",
    Status.MEMORY: "memory",
    Status.KILLED: "killed",
    Status.NONDETERMINISTIC: "nondeterministic",
}


class Runner(Protocol):
    """What the tasks need of a sandbox."""

    def run(self, jobs: Sequence[Job]) -> list[Result]: ...

    def batch(self) -> JobBatch: ...


@dataclass(frozen=True, slots=True)
class Draft:
    """A proposal on its way to the gate; ``proposal`` None if the text held none, and then
    ``lacking`` says why, if that is known."""

    proposal: Proposal | None
    kind: TaskKind
    difficulty: float = 0.5
    step: int = 0
    parents: tuple[str, ...] = ()
    source: str = "model"
    lacking: str = ""


@dataclass(frozen=True, slots=True)
class GateRules:
    """What a valid proposal keeps to. Sizes in characters."""

    allowed_imports: tuple[str, ...] = SandboxConfig().allowed_imports
    max_program_chars: int = 2000
    max_value_chars: int = 400
    n_inputs: int = 10
    reserve: bool = False  # whether the shapes of held-out tasks are kept out
    ruler: Ruler | None = None  # measures how difficult a task is; None: as it was asked for

    @classmethod
    def from_config(cls, config: Config) -> GateRules:
        proposer = config.proposer
        return cls(
            config.sandbox.allowed_imports,
            proposer.max_program_chars,
            proposer.max_value_chars,
            proposer.induction_inputs,
            config.held_out.tasks > 0,
            Ruler(proposer.template_set) if proposer.levels == "measured" else None,
        )


@dataclass(frozen=True, slots=True)
class GateResult:
    """The task, or the reason (one of ``REJECT_REASONS``) why there is none; ``steps`` where
    traced.
    """

    task: Task | None
    verdict: Verdict
    reason: str = ""
    steps: int | None = None


@dataclass(frozen=True, slots=True)
class _Candidate:
    program: str
    inputs: tuple[str, ...]


def gate(
    drafts: Sequence[Draft],
    sandbox: Runner,
    rules: GateRules | None = None,
    *,
    buffer: TaskBuffer | None = None,
    trace: bool = False,
) -> list[GateResult]:
    """Judge proposals, all of them in one call of the sandbox; one result each, in order.

    A proposal becomes a task if its program passes ``check_program``; its inputs are literal tuples
    of bounded size; and every input, in two fresh processes that differ in hash seed, random seed
    and clock, gives the same value, a plain literal of bounded size. The program that is run and
    kept has no comments and no docstrings. Induction takes the first ``n_inputs`` distinct inputs,
    refuses fewer, and hides the second half; a program that is constant on the hidden ones is
    refused, as any program that gives this constant would pass them. A program of the same shape as
    one in ``buffer``, or as an earlier one of the same call, of the same kind is a duplicate;
    ``buffer`` is not changed. ``trace`` counts the lines that the first input executes.
    """
    rules = rules or GateRules()
    checked = [_check(draft, rules, buffer) for draft in drafts]
    spans: list[slice] = []
    jobs: list[Job] = []
    for i, candidate in enumerate(checked):
        start = len(jobs)
        if isinstance(candidate, _Candidate):
            jobs += _validation_jobs(str(i), candidate, trace)
        spans.append(slice(start, len(jobs)))
    results = sandbox.run(jobs) if jobs else []
    judged: list[GateResult] = []
    seen: set[tuple[TaskKind, str]] = set()
    for draft, candidate, span in zip(drafts, checked, spans, strict=True):
        outcome = candidate
        if isinstance(outcome, _Candidate):
            outcome = _judge(draft, outcome, results[span], rules, seen)
        judged.append(outcome)
    return judged


class Gate:
    """The gate of one buffer, which all that passes joins."""

    def __init__(self, sandbox: Runner, rules: GateRules, buffer: TaskBuffer) -> None:
        self.sandbox, self.rules, self.buffer = sandbox, rules, buffer

    def admit(self, drafts: Sequence[Draft], *, trace: bool = False) -> list[GateResult]:
        """Judge drafts (see ``gate``); one result each, in order."""
        results = gate(drafts, self.sandbox, self.rules, buffer=self.buffer, trace=trace)
        for result in results:
            if result.task is not None:
                self.buffer.add(result.task)
        return results


def _validation_jobs(name: str, candidate: _Candidate, trace: bool) -> list[Job]:
    return [
        Job(
            id=f"{name}.{j}",
            code=candidate.program,
            call="f",
            args=args,
            deterministic=True,
            trace=trace and j == 0,
        )
        for j, args in enumerate(candidate.inputs)
    ]


def _rejected(
    reason: str, detail: str = "", status: Status = Status.INVALID, seconds: float = 0.0
) -> GateResult:
    return GateResult(None, Verdict(status, detail or reason, None, seconds), reason)


def _check(draft: Draft, rules: GateRules, buffer: TaskBuffer | None) -> _Candidate | GateResult:
    """The checks that need no run."""
    proposal = draft.proposal
    if proposal is None:
        why = draft.lacking or "no program with an input in the text"
        return _rejected("format", why, Status.FORMAT)
    reason = check_program(proposal.program, rules.allowed_imports, rules.max_program_chars)
    if reason is not None:
        return _rejected(reason)
    if not is_text(proposal.message) or len(proposal.message) > rules.max_program_chars:
        return _rejected("format", "the message is too long, or not Unicode text", Status.FORMAT)
    inputs = list[str]()
    for text in proposal.inputs:
        try:
            inputs.append(arguments_of(text, rules.max_value_chars))
        except ValueError as error:
            return _rejected("input", str(error))
    wanted = rules.n_inputs if draft.kind is TaskKind.INDUCTION else 1
    inputs = list(dict.fromkeys(inputs))[:wanted]
    if len(inputs) < wanted:
        return _rejected("few_inputs", f"{len(inputs)} distinct inputs of {wanted}")
    program = clean_source(proposal.program)
    # Without what never runs, a name may be Python's that was the program's own.
    reason = check_program(program, rules.allowed_imports)
    if reason is not None:
        return _rejected(reason)
    if rules.reserve and is_reserved(program):
        return _rejected("reserved", "held-out tasks are made of programs of this shape")
    if buffer is not None and buffer.is_duplicate(draft.kind, program):
        return _rejected("duplicate", "a task in the buffer has this program's shape")
    return _Candidate(program, tuple(inputs))


def arguments_of(text: str, max_chars: int) -> str:
    """The canonical text of a non-empty literal tuple of arguments. Raises ValueError with one
    line."""
    value = parse_literal(text, max_chars)
    if type(value) is not tuple or not value:
        raise ValueError("the input is no tuple of arguments")
    return literal(value)


def _judge(
    draft: Draft,
    candidate: _Candidate,
    results: Sequence[Result],
    rules: GateRules,
    seen: set[tuple[TaskKind, str]],
) -> GateResult:
    """What the runs say of a candidate; adds the shape of a new task to ``seen``."""
    seconds = sum(result.seconds for result in results)
    outputs = list[str]()
    for result in results:
        if result.status is not Status.OK:
            reason = _STATUS_REASON.get(result.status, "invalid_value")
            return _rejected(reason, result.detail, result.status, seconds)
        output = _output(result.value, rules.max_value_chars)
        if output is None:
            return _rejected(
                "invalid_value", "the value is no literal of bounded size", seconds=seconds
            )
        outputs.append(output)
    hidden = [outputs[i] for i in _hidden(draft, candidate)]
    if hidden and _are_equal(hidden):
        return _rejected("constant", f"hidden inputs all give {hidden[0][:80]}", seconds=seconds)
    shape = (draft.kind, skeleton(candidate.program))
    if shape in seen:
        return _rejected(
            "duplicate", "an earlier proposal has this program's shape", seconds=seconds
        )
    seen.add(shape)
    task = _task(draft, candidate, tuple(outputs), rules.ruler)
    verdict = Verdict(Status.OK, "", outputs[0], seconds)
    return GateResult(task, verdict, "", results[0].steps)


def _hidden(draft: Draft, candidate: _Candidate) -> tuple[int, ...]:
    """The inputs of an induction task that the solver is not shown: the second half."""
    count = len(candidate.inputs)
    return tuple(range((count + 1) // 2, count)) if draft.kind is TaskKind.INDUCTION else ()


def _are_equal(literals: Sequence[str]) -> bool:
    """As the judge compares: dicts in another order are equal, and so are 0.0 and -0.0."""
    first, *others = map(parse_literal, literals)
    return all(equal(first, other) for other in others)


def _output(value: str | None, max_chars: int) -> str | None:
    """The value's canonical text if it is a literal that reads back as itself."""
    if value is None:
        return None
    try:
        decoded = parse_literal(value, max_chars)
        text = literal(decoded)
        return text if equal(parse_literal(text), decoded) else None
    except ValueError:
        return None


def _task(
    draft: Draft, candidate: _Candidate, outputs: tuple[str, ...], ruler: Ruler | None
) -> Task:
    induction = draft.kind is TaskKind.INDUCTION
    level = draft.difficulty if ruler is None else ruler.level(candidate.program)
    return Task.create(
        draft.kind,
        candidate.program,
        candidate.inputs,
        outputs,
        message=draft.proposal.message if induction and draft.proposal else "",
        hidden=_hidden(draft, candidate),
        difficulty=level,
        origin_step=draft.step,
        parents=draft.parents,
        source=draft.source,
    )
