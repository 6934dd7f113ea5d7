"""The three kinds of task: validated, posed, solved and judged (prompts and parsing meet the
sandbox here).

A program p, an input i and an output o = p(i): deduction asks for o, abduction for any i' with
p(i') = o, induction for a p' that is right on hidden pairs (arXiv 2505.03335, section 3.2). A
proposal enters only through ``gate``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from azr_mlx import rng as keys
from azr_mlx.backends.base import Backend, Sampling
from azr_mlx.config import Config, SandboxConfig
from azr_mlx.errors import AzrError
from azr_mlx.sandbox import (
    Job,
    JobBatch,
    Result,
    equal,
    literal,
    parse_literal,
)
from azr_mlx.tasks import templates
from azr_mlx.tasks.buffer import TaskBuffer
from azr_mlx.tasks.parse import (
    Proposal,
    check_program,
    clean_source,
    is_reserved,
    parse_answer,
    parse_proposal,
    skeleton,
)
from azr_mlx.tasks.prompts import PromptForm, load_form, render
from azr_mlx.types import (
    Completion,
    Status,
    Task,
    TaskKind,
    Verdict,
)

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
    """A proposal on its way to the gate; ``proposal`` None where the text held none."""

    proposal: Proposal | None
    kind: TaskKind
    difficulty: float = 0.5
    step: int = 0
    parents: tuple[str, ...] = ()
    source: str = "model"


@dataclass(frozen=True, slots=True)
class GateRules:
    """What a valid proposal keeps to. Sizes in characters."""

    allowed_imports: tuple[str, ...] = SandboxConfig().allowed_imports
    max_program_chars: int = 2000
    max_value_chars: int = 400
    n_inputs: int = 10
    reserve: bool = False  # whether the shapes of held-out tasks are kept out

    @classmethod
    def from_config(cls, config: Config) -> GateRules:
        proposer = config.proposer
        return cls(
            config.sandbox.allowed_imports,
            proposer.max_program_chars,
            proposer.max_value_chars,
            proposer.induction_inputs,
            config.held_out.tasks > 0,
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
    refuses fewer, and refuses a program that is constant on them (any constant would solve it); its
    second half is hidden. A program of the same shape as one in ``buffer``, or as an earlier one of
    the same call, of the same kind is a duplicate; ``buffer`` is not changed. ``trace`` counts the
    lines that the first input executes.
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
    """What can be told without running anything."""
    proposal = draft.proposal
    if proposal is None:
        return _rejected("format", "no program with an input in the text", Status.FORMAT)
    reason = check_program(proposal.program, rules.allowed_imports, rules.max_program_chars)
    if reason is not None:
        return _rejected(reason)
    inputs = list[str]()
    for text in proposal.inputs:
        try:
            inputs.append(_arguments(text, rules.max_value_chars))
        except ValueError as error:
            return _rejected("input", str(error))
    wanted = rules.n_inputs if draft.kind is TaskKind.INDUCTION else 1
    inputs = list(dict.fromkeys(inputs))[:wanted]
    if len(inputs) < wanted:
        return _rejected("few_inputs", f"{len(inputs)} distinct inputs of {wanted}")
    program = clean_source(proposal.program)
    if rules.reserve and is_reserved(program):
        return _rejected("reserved", "held-out tasks are made of programs of this shape")
    if buffer is not None and buffer.is_duplicate(draft.kind, program):
        return _rejected("duplicate", "a task in the buffer has this program's shape")
    return _Candidate(program, tuple(inputs))


def _arguments(text: str, max_chars: int) -> str:
    """The canonical text of a non-empty literal tuple. Raises ValueError with one line."""
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
    if len(outputs) > 1 and len(set(outputs)) == 1:
        return _rejected("constant", f"every input gives {outputs[0][:80]}", seconds=seconds)
    shape = (draft.kind, skeleton(candidate.program))
    if shape in seen:
        return _rejected(
            "duplicate", "an earlier proposal has this program's shape", seconds=seconds
        )
    seen.add(shape)
    task = _task(draft, candidate, tuple(outputs))
    verdict = Verdict(Status.OK, "", outputs[0], seconds)
    return GateResult(task, verdict, "", results[0].steps)


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


def _task(draft: Draft, candidate: _Candidate, outputs: tuple[str, ...]) -> Task:
    count = len(candidate.inputs)
    induction = draft.kind is TaskKind.INDUCTION
    return Task.create(
        draft.kind,
        candidate.program,
        candidate.inputs,
        outputs,
        message=draft.proposal.message if induction and draft.proposal else "",
        hidden=tuple(range((count + 1) // 2, count)) if induction else (),
        difficulty=draft.difficulty,
        origin_step=draft.step,
        parents=draft.parents,
        source=draft.source,
    )


class Answers:
    """Answers that are judged while others are still being written; one verdict each, in the order
    of submission. A context manager: leaving it drops what has not been judged.

    Answers are decoded as literals, never evaluated. Deduction compares by value and exact type,
    here. Abduction runs the task's program on the answer and takes any pre-image. Induction runs
    the answer on every hidden pair. The expected value stays on this side. FORMAT: no answer, not a
    literal, or no program that defines ``f``.
    """

    def __init__(self, sandbox: Runner, *, max_chars: int = 20_000) -> None:
        self._batch, self._max_chars = sandbox.batch(), max_chars
        self._known: list[Verdict | int] = []  # a number: of jobs that will tell

    def __enter__(self) -> Answers:
        self._batch.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._batch.__exit__(*raised)

    def submit(self, task: Task, answer: str | None) -> None:
        """Take an answer as ``parse_answer`` gives it."""
        outcome = _prepare(str(len(self._known)), task, answer, self._max_chars)
        self._known.append(outcome if isinstance(outcome, Verdict) else len(outcome))
        for job in [] if isinstance(outcome, Verdict) else outcome:
            self._batch.submit(job)

    def poll(self) -> None:
        """Keep the sandbox busy, without waiting for it."""
        self._batch.poll()

    def verdicts(self) -> list[Verdict]:
        """Wait for all that has been submitted."""
        results = iter(self._batch.results())
        return [
            known if isinstance(known, Verdict) else _combined(list(islice(results, known)))
            for known in self._known
        ]


def check_answers(
    pairs: Sequence[tuple[Task, str | None]], sandbox: Runner, *, max_chars: int = 20_000
) -> list[Verdict]:
    """The verdicts on answers that are all there (see ``Answers``)."""
    with Answers(sandbox, max_chars=max_chars) as answers:
        for task, answer in pairs:
            answers.submit(task, answer)
        return answers.verdicts()


def _prepare(name: str, task: Task, answer: str | None, max_chars: int) -> Verdict | list[Job]:
    """The verdict, or the jobs that it takes."""
    if answer is None:
        return Verdict(Status.FORMAT, "no answer in the text")
    if task.kind is TaskKind.INDUCTION:
        fault = check_program(answer, (), max_chars)
        if fault in ("too_large", "syntax", "no_f", "no_params"):
            return Verdict(Status.FORMAT, fault)
        graded = task.hidden or tuple(range(len(task.inputs)))
        return [_graded(f"{name}.{j}", answer, task.inputs[j], task.outputs[j]) for j in graded]
    try:
        value = parse_literal(answer, max_chars)
        if task.kind is TaskKind.ABDUCTION:
            return [_graded(name, task.program, _arguments(answer, max_chars), task.outputs[0])]
    except ValueError as error:
        return Verdict(Status.FORMAT, str(error))
    same = equal(value, parse_literal(task.outputs[0]))
    return Verdict(Status.PASS if same else Status.FAIL, "", literal(value))


def _graded(name: str, code: str, args: str, expect: str) -> Job:
    return Job(id=name, code=code, call="f", args=args, expect=expect)


def _combined(results: Sequence[Result]) -> Verdict:
    """All must pass; the first that does not speaks for them."""
    seconds = sum(result.seconds for result in results)
    for i, result in enumerate(results):
        if result.status is not Status.PASS:
            where = f"pair {i + 1} of {len(results)}: " if len(results) > 1 else ""
            return Verdict(result.status, where + result.detail, result.value, seconds)
    return Verdict(Status.PASS, "", results[-1].value, seconds)


class ProposalError(AzrError):
    """No valid task came out of the allowed attempts."""


class TaskProposer:
    """Makes validated tasks, from templates or, with a backend, from the model.

    ``buffer`` supplies references and receives the tasks; without one the proposer keeps its own.
    The n-th call of a proposer with the same seed and history gives the same task.

    >>> with Sandbox() as sandbox:
    ...     task = TaskProposer(sandbox).propose("deduction", difficulty=0.7)
    """

    def __init__(
        self,
        sandbox: Runner,
        *,
        backend: Backend | None = None,
        form: PromptForm | str | None = None,
        config: Config | None = None,
        buffer: TaskBuffer | None = None,
        seed: int = 0,
        max_attempts: int = 32,
    ) -> None:
        self.sandbox, self.backend, self.seed = sandbox, backend, seed
        self.config = config or Config()
        self.rules = GateRules.from_config(self.config)
        self.buffer = TaskBuffer(self.config.task_buffer_size) if buffer is None else buffer
        self.max_attempts = max_attempts
        self.form = None if backend is None else _form(form, self.config)
        self._calls = 0

    def propose(self, kind: TaskKind | str, difficulty: float = 0.5, *, step: int = 0) -> Task:
        """A validated task of a kind, new to the buffer, which it joins.

        ``difficulty`` in [0, 1]. Raises ValueError for an unknown kind or difficulty,
        ``ProposalError`` after ``max_attempts`` rejected proposals.
        """
        kind = _kind(kind)
        if not 0.0 <= difficulty <= 1.0:
            raise ValueError(f"difficulty = {difficulty!r}: must lie in [0, 1]")
        self._calls += 1
        reasons: Counter[str] = Counter()
        for attempt in range(self.max_attempts):
            draft = self._draft(kind, difficulty, step, attempt)
            result = gate([draft], self.sandbox, self.rules, buffer=self.buffer)[0]
            if result.task is not None and self.buffer.add(result.task):
                return result.task
            reasons[result.reason or "duplicate"] += 1
        why = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        raise ProposalError(
            f"{kind.value} at difficulty {difficulty}: "
            f"no valid proposal in {self.max_attempts} ({why}); allow more, or use templates"
        )

    def _draft(self, kind: TaskKind, difficulty: float, step: int, attempt: int) -> Draft:
        rng = keys.generator(self.seed, "proposer", step, self._calls, attempt)
        which = self.config.proposer.template_set
        if self.backend is None or self.form is None:
            proposal = templates.draw(kind, difficulty, rng, self.rules.n_inputs, which)
            return Draft(proposal, kind, difficulty, step, source="template")
        references = list[Task]()
        program = ""
        if kind is TaskKind.INDUCTION:
            known = self.buffer.programs()
            references = [known[int(rng.integers(len(known)))]] if known else []
            drawn = templates.draw(TaskKind.DEDUCTION, difficulty, rng, which=which).program
            program = references[0].program if references else drawn
        else:
            count = self.config.proposer.references
            references = self.buffer.references(kind, count, difficulty, rng)
        shown = [] if kind is TaskKind.INDUCTION else references
        output = self.form.propose(
            kind, shown, difficulty, program=program, n_inputs=self.rules.n_inputs
        )
        sampling = Sampling(
            self.config.rollout.max_propose_tokens,
            self.config.rollout.temperature,
            self.config.rollout.top_p,
        )
        prompt = render(output, self.backend.tokenizer)
        key = keys.key(self.seed, "propose", step, self._calls, attempt)
        completion = self.backend.generate([prompt], [sampling], [key])[0]
        proposal_or_none = parse_proposal(completion.text, kind, self.form, program)
        parents = tuple(task.id for task in references)
        return Draft(proposal_or_none, kind, difficulty, step, parents)


@dataclass(frozen=True, slots=True)
class Solution:
    """What a solver answered (None: nothing that could be read), and the judge's verdict."""

    answer: str | None
    verdict: Verdict
    completion: Completion


class TaskSolver:
    """Has the model solve tasks, and judges what it answers."""

    def __init__(
        self,
        backend: Backend,
        sandbox: Runner,
        form: PromptForm | str | None = None,
        *,
        config: Config | None = None,
        seed: int = 0,
    ) -> None:
        self.backend, self.sandbox, self.seed = backend, sandbox, seed
        self.config = config or Config()
        self.form = _form(form, self.config)
        self._calls = 0

    def solve(self, task: Task, strategy: str = "direct") -> Solution:
        """One attempt with one strategy. Raises ValueError where the form lacks the strategy."""
        self._calls += 1
        prompt = render(self.form.solve(task, strategy), self.backend.tokenizer)
        rollout = self.config.rollout
        sampling = Sampling(rollout.max_solve_tokens, rollout.temperature, rollout.top_p)
        key = keys.key(self.seed, "solve", 0, self._calls)
        completion = self.backend.generate([prompt], [sampling], [key])[0]
        answer = parse_answer(completion.text, task.kind, self.form)
        verdict = check_answers([(task, answer)], self.sandbox)[0]
        return Solution(answer, verdict, completion)


def _form(form: PromptForm | str | None, config: Config) -> PromptForm:
    if isinstance(form, PromptForm):
        return form
    return load_form(config.rollout.form if form is None else form)


def _kind(kind: TaskKind | str) -> TaskKind:
    try:
        return TaskKind(kind)
    except ValueError:
        known = ", ".join(k.value for k in TaskKind)
        raise ValueError(f"task kind {kind!r}: must be one of {known}") from None
