"""The gate, the judge of answers, and the public proposer and solver, on the real sandbox."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from azr_mlx.backends.base import OnStep, Policy, Sampling
from azr_mlx.config import Config
from azr_mlx.sandbox import Job, JobBatch, Limits, Result, Sandbox, parse_literal
from azr_mlx.selfplay.proposer import ProposalError, TaskProposer
from azr_mlx.selfplay.solver import TaskSolver
from azr_mlx.tasks import verdicts
from azr_mlx.tasks.buffer import TaskBuffer
from azr_mlx.tasks.gate import REJECT_REASONS, Draft, GateResult, GateRules, gate
from azr_mlx.tasks.parse import Proposal, parse_answer, parse_proposal
from azr_mlx.tasks.templates import draw
from azr_mlx.tasks.verdicts import Judge, TaskCheck, checks_of
from azr_mlx.types import Completion, Prompt, Status, Task, TaskKind, Verdict
from tests.judging import check_answers

pytestmark = pytest.mark.sandbox

DEDUCTION, ABDUCTION, INDUCTION = TaskKind.DEDUCTION, TaskKind.ABDUCTION, TaskKind.INDUCTION


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(workers=2, limits=Limits(wall_s=1.0, cpu_s=1, memory_mb=64)) as box:
        yield box


class Counting:
    """A sandbox that counts its calls."""

    def __init__(self, inner: Sandbox) -> None:
        self.inner, self.calls, self.jobs = inner, 0, list[Job]()

    def run(self, jobs: Sequence[Job]) -> list[Result]:
        self.calls += 1
        self.jobs += jobs
        return self.inner.run(jobs)

    def batch(self) -> JobBatch:
        self.calls += 1
        batch = self.inner.batch()
        submit = batch.submit

        def counted(job: Job) -> None:
            self.jobs.append(job)
            submit(job)

        batch.submit = counted  # type: ignore[method-assign]
        return batch


def _gate(sandbox: Sandbox, body: str, args: str = "(1,)", head: str = "") -> GateResult:
    """The gate's word on ``def f(x)`` with a body of one line."""
    program = f"{head}def f(x):\n    {body}\n"
    return gate([Draft(Proposal(program, (args,)), DEDUCTION)], sandbox)[0]


@pytest.mark.parametrize(
    ("body", "args", "output"),
    [
        ("return 'an error: ' + x", "('Traceback',)", "'an error: Traceback'"),
        (
            "return [x, (x,), {x: None}, {x}, True, 1.5, b'a']",
            "(1,)",
            "[1, (1,), {1: None}, {1}, True, 1.5, b'a']",
        ),
        ("return x  # a comment", "([ 1,2 ],)", "[1, 2]"),
        ("return sorted(set(x))", "('banana',)", "['a', 'b', 'n']"),
        ("return set(x)", "('banana',)", "{'a', 'b', 'n'}"),
    ],
)
def test_valid_proposals_become_tasks(sandbox: Sandbox, body: str, args: str, output: str) -> None:
    result = _gate(sandbox, body, args)
    assert result.task is not None, result
    assert result.task.outputs == (output,)
    assert (result.reason, result.verdict.status) == ("", Status.OK)
    assert "#" not in result.task.program


@pytest.mark.parametrize(
    ("body", "args", "reason"),
    [
        ("return (x", "(1,)", "syntax"),
        ("x += 1", "(1,)", "no_return"),
        ("import os; return x", "(1,)", "import"),
        ("return open(x)", "('a',)", "banned"),
        ("return x", "(int(3),)", "input"),
        ("return x", "(__import__('os'),)", "input"),
        ("return x", "3", "input"),
        ("return x", "()", "input"),
        ("return x", "('" + "a" * 500 + "',)", "input"),
        ("return x", "(1e999,)", "input"),
        ("return x / 0", "(1,)", "error"),
        ("raise KeyError(x)", "(1,)", "no_return"),
        ("return [][x]", "(1,)", "error"),
        ("return sum(1 for _ in iter(int, 1)) + x", "(1,)", "timeout"),
        ("return 'a' * (x << 30)", "(1,)", "memory"),
        ("return float('nan') * x", "(1,)", "invalid_value"),
        ("return [x, {1: (float('nan'),)}]", "(1,)", "invalid_value"),
        ("return float('inf') * x", "(1,)", "invalid_value"),
        ("return (i for i in [x])", "(1,)", "invalid_value"),
        ("return lambda: x", "(1,)", "invalid_value"),
        ("return ValueError(x)", "(1,)", "invalid_value"),
        ("return type('E', (), {'__eq__': lambda a, b: True})()", "(1,)", "invalid_value"),
        ("return type('I', (int,), {})(x)", "(1,)", "invalid_value"),
        ("return 'a' * 500", "(1,)", "invalid_value"),
        ("return list(range(500))", "(1,)", "invalid_value"),
        ("return hash('a' + x)", "('b',)", "nondeterministic"),
        ("return list({str(i) for i in range(x)})", "(20,)", "nondeterministic"),
        ("return str(object())", "(1,)", "nondeterministic"),
        ("return repr(lambda: x)[-12:]", "(1,)", "nondeterministic"),
    ],
)  # fmt: skip
def test_invalid_proposals_are_rejected_for_their_reason(
    sandbox: Sandbox, body: str, args: str, reason: str
) -> None:
    result = _gate(sandbox, body, args)
    assert result.task is None and result.reason == reason, result
    assert reason in REJECT_REASONS
    assert result.verdict.status not in (Status.OK, Status.PASS)


@pytest.mark.parametrize(
    "program",
    [
        "def f(a, a):\n    return a",
        "def f(a):\n    global a\n    return a",
        "def f(a):\n    nonlocal b\n    return a",
        "def f(a):\n    return [i := 0 for i in a]",
        "class A:\n    nonlocal a\ndef f(a):\n    return a",
    ],
)
def test_what_the_parser_takes_and_the_compiler_does_not_is_no_program(
    sandbox: Sandbox, program: str
) -> None:
    draft = Draft(Proposal(program, ("(1,)",)), TaskKind.DEDUCTION)
    assert gate([draft], sandbox)[0].reason == "syntax"
    pairs = ("(1,)", "(2,)", "(3,)", "(4,)")
    task = Task.create(TaskKind.INDUCTION, "def f(a):\n    return a\n", pairs, tuple("1234"))
    [verdict] = _verdicts(sandbox, task, [program])
    assert verdict.status is Status.FORMAT


@pytest.mark.parametrize("message", ["\ud800 of bytes", "long " * 1000])
def test_a_message_is_text_of_bounded_size(sandbox: Sandbox, message: str) -> None:
    proposal = Proposal("def f(a):\n    return a", ("(1,)",), message)
    [result] = gate([Draft(proposal, TaskKind.DEDUCTION)], sandbox)
    assert result.reason == "format" and "message" in result.verdict.detail


def test_no_proposal_is_a_format_error(sandbox: Sandbox) -> None:
    result = gate([Draft(None, DEDUCTION)], sandbox)[0]
    assert (result.task, result.reason, result.verdict.status) == (None, "format", Status.FORMAT)


def test_outputs_are_kept_whole_or_not_at_all(sandbox: Sandbox) -> None:
    """Not cut at a number of characters, which made wrong tasks of right programs."""
    rules = GateRules(max_value_chars=600)
    draft = Draft(Proposal("def f(x):\n    return 'a' * x\n", ("(500,)",)), DEDUCTION)
    task = gate([draft], sandbox, rules)[0].task
    assert task is not None and parse_literal(task.outputs[0]) == "a" * 500
    assert gate([draft], sandbox, GateRules(max_value_chars=400))[0].reason == "invalid_value"


def test_programs_of_several_functions_and_classes_are_valid(sandbox: Sandbox) -> None:
    head = (
        "import math\n\ndef g(x):\n    return h(x) + 1\n\n"
        "def h(x):\n    return math.gcd(x, 6)\n\nclass A:\n    k = 2\n\n"
    )
    result = _gate(sandbox, "return (lambda y: y * A.k)(g(x))", "(4,)", head)
    assert result.task is not None and result.task.outputs == ("6",)


def _induction(body: str, inputs: Sequence[str]) -> Draft:
    proposal = Proposal(f"def f(x):\n    return {body}\n", tuple(inputs), "a message")
    return Draft(proposal, INDUCTION, 0.4, 7, ("parent",))


def test_induction_needs_every_input(sandbox: Sandbox) -> None:
    ten = [f"({i},)" for i in range(10)]
    task = gate([_induction("x * 2", [*ten, "('b',)"])], sandbox)[0].task
    assert task is not None and task.outputs == tuple(str(2 * i) for i in range(10))
    assert task.hidden == (5, 6, 7, 8, 9) and task.message == "a message"
    assert (task.difficulty, task.origin_step, task.parents) == (0.4, 7, ("parent",))
    drafts = [
        _induction("x * 2", ten[:9]),
        _induction("x * 2", [*ten[:9], "(0,)", "( 1 , )"]),
        _induction("6 // (x - 7)", ten),
        _induction("x % 2", ten),
        _induction("x * 0", ten),
        _induction("min(x, 5)", ten),
        _induction("x == 3", ten),
    ]
    assert [r.reason for r in gate(drafts[:3], sandbox)] == ["few_inputs", "few_inputs", "error"]
    assert gate(drafts[3:], sandbox)[0].task is not None, "two hidden outputs are enough"
    hidden_alike = [gate([draft], sandbox)[0] for draft in drafts[4:]]
    assert [r.reason for r in hidden_alike] == ["constant"] * 3
    assert hidden_alike[1].verdict.detail == "hidden inputs all give 5"


@pytest.mark.parametrize(
    "body",
    [
        "{'a': 1, 'b': 2} if x % 2 else {'b': 2, 'a': 1}",
        "0.0 if x % 2 else -0.0",
    ],
)
def test_what_the_judge_takes_for_equal_is_constant(sandbox: Sandbox, body: str) -> None:
    draft = _induction(body, [f"({i},)" for i in range(10)])
    assert gate([draft], sandbox)[0].reason == "constant"


def test_duplicates_are_rejected_within_a_kind(sandbox: Sandbox) -> None:
    buffer = TaskBuffer(4)
    first = Draft(Proposal("def f(x):\n    return x + 1\n", ("(1,)",)), DEDUCTION)
    near = Draft(Proposal("def f(y):\n    return y + 2\n", ("(5,)",)), DEDUCTION)
    bad = Draft(Proposal("def f(z):\n    return z + 'a'\n", ("(5,)",)), ABDUCTION)
    other = Draft(Proposal("def f(z):\n    return z + 3\n", ("(5,)",)), ABDUCTION)
    results = gate([first, near, bad, other], sandbox, buffer=buffer)
    assert [r.reason for r in results] == ["", "duplicate", "error", ""]
    assert len(buffer) == 0, "the gate does not change the buffer"
    assert results[0].task is not None and buffer.add(results[0].task)
    assert gate([near], sandbox, buffer=buffer)[0].reason == "duplicate"


def test_the_gate_runs_everything_in_one_call_and_traces_on_demand(sandbox: Sandbox) -> None:
    counting = Counting(sandbox)
    ten = [f"({i},)" for i in range(10)]
    program = "def f(x):\n    for i in range(x):\n        x += i\n    return x\n"
    drafts = [Draft(Proposal(program, ("(50,)",)), DEDUCTION), _induction("x + 1", ten)]
    results = gate(drafts, counting, trace=True)
    assert counting.calls == 1 and len(counting.jobs) == 11
    assert all(job.deterministic for job in counting.jobs)
    steps = [r.steps for r in results]
    assert steps[0] is not None and steps[1] is not None and steps[0] > 100 > steps[1]
    assert gate([Draft(None, DEDUCTION)], counting)[0].reason == "format"
    assert counting.calls == 1


def test_template_draws_pass_the_gate(sandbox: Sandbox) -> None:
    drafts = [
        Draft(draw(kind, 0.1 + 0.04 * i, np.random.default_rng([i, n]), 10), kind)
        for n, kind in enumerate(TaskKind)
        for i in range(20)
    ]
    for draft, result in zip(drafts, gate(drafts, sandbox), strict=True):
        assert result.task is not None, (result, draft)


# ---------------------------------------------------------------- answers

PROGRAM = "def f(x):\n    return abs(x) * 2\n"
ONE = Task.create(DEDUCTION, PROGRAM, ("(3,)",), ("6",))
BACK = Task.create(ABDUCTION, PROGRAM, ("(3,)",), ("6",))
MANY = Task.create(
    INDUCTION,
    PROGRAM,
    tuple(f"({i},)" for i in range(-2, 4)),
    ("4", "2", "0", "2", "4", "6"),
    hidden=(3, 4, 5),
)
ALWAYS_EQUAL = "type('E', (), {'__eq__': lambda a, b: True, '__hash__': lambda a: 0})()"


def _verdicts(sandbox: Sandbox, task: Task, answers: Sequence[str | None]) -> list[Verdict]:
    return check_answers([(task, answer) for answer in answers], sandbox)


def test_deduction_is_by_value_and_exact_type(sandbox: Sandbox) -> None:
    counting = Counting(sandbox)
    answers = ["6", " 6 ", "0x6", "6.0", "True", "'6'", "7", None, "", "3 * 2", "f(3)", "0 or 6"]
    statuses = [v.status for v in check_answers([(ONE, a) for a in answers], counting)]
    assert statuses == [Status.PASS] * 3 + [Status.FAIL] * 4 + [Status.FORMAT] * 5
    assert counting.jobs == [], "a deduction needs no process"
    truth = Task.create(DEDUCTION, "def f(x):\n    return x > 1\n", ("(2,)",), ("True",))
    assert [v.status for v in _verdicts(sandbox, truth, ["True", "1"])] == [
        Status.PASS,
        Status.FAIL,
    ]


def test_any_pre_image_counts(sandbox: Sandbox) -> None:
    answers = ["(3,)", "(-3,)", "(3.0,)", "(4,)", "('a',)", "(3, 3)", "3", None, "(1 + 2,)"]
    statuses = [v.status for v in _verdicts(sandbox, BACK, answers)]
    assert statuses[:2] == [Status.PASS] * 2
    assert statuses[2:4] == [Status.FAIL] * 2, "6.0 is not 6"
    assert statuses[4:6] == [Status.ERROR] * 2
    assert statuses[6:] == [Status.FORMAT] * 3


def test_induction_is_judged_on_every_pair(sandbox: Sandbox) -> None:
    answers = [
        PROGRAM,
        "def g(x):\n    return x + x\n\ndef f(x):\n    return g(abs(x))\n",
        # wrong on shown pairs only
        "def g(x):\n    return x + x\n\ndef f(x):\n    return g(x) if x > 0 else 99\n",
        "def f(x):\n    return 2 if x == 1 else 4 if x == 2 else 0\n",
        "def f(x):\n    return x * 2.0\n",
        "def f(x):\n    return x.y\n",
        "def f(x):\n    while True: pass\n",
        "def g(x):\n    return x\n",
        "def f(x) return",
        None,
    ]
    verdicts = _verdicts(sandbox, MANY, answers)
    assert [v.status for v in verdicts] == [
        Status.PASS, Status.PASS, Status.FAIL, Status.FAIL, Status.FAIL, Status.ERROR,
        Status.TIMEOUT, Status.FORMAT, Status.FORMAT, Status.FORMAT,
    ]  # fmt: skip
    assert verdicts[2].detail.startswith("pair 1 of 6")


def test_what_equal_answers_need_runs_once(sandbox: Sandbox) -> None:
    counting, answers = Counting(sandbox), ["(3,)", "(4,)", "(3,)", "(3,)", "(4,)"]
    with Judge[int](counting) as judge:
        for i, answer in enumerate(answers):
            judge.submit(i, TaskCheck(BACK), answer)
        first = [*judge.rest()]
        judge.submit(5, TaskCheck(BACK), "(3,)")  # no answer that has it is open
        judge.submit(6, TaskCheck(replace(BACK, outputs=("8",))), "(3,)")  # another is expected
        later = [*judge.rest()]
    assert [verdict.passed for _, verdict in first] == [True, False, True, True, False]
    assert [(i, verdict.passed) for i, verdict in later] == [(5, True), (6, False)]
    assert [job.args for job in counting.jobs] == ["(3,)", "(4,)", "(3,)"]


def test_a_time_that_was_up_once_is_not_up_for_later_answers(sandbox: Sandbox) -> None:
    counting, endless = Counting(sandbox), "def f(x):\n    while True: pass\n"
    with Judge[int](counting) as judge:
        for i in range(2):
            judge.submit(i, TaskCheck(MANY, pairs=(0, 1)), endless)
            assert [verdict.status for _, verdict in judge.rest()] == [Status.TIMEOUT]
    assert len(counting.jobs) == 2


def test_no_more_results_are_kept_than_there_is_room_for(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdicts, "MOST_KEPT", 1)
    counting = Counting(sandbox)
    with Judge[int](counting) as judge:
        for i, answer in enumerate(["(3,)", "(4,)", "(4,)", "(3,)"]):
            judge.submit(i, TaskCheck(BACK), answer)
            assert len([*judge.rest()]) == 1
    assert [job.args for job in counting.jobs] == ["(3,)", "(4,)", "(3,)"]


def test_wrong_answers_to_induction_run_on_the_first_pair_alone() -> None:
    first, rest = checks_of(MANY)
    assert [job.args for job in first.jobs(PROGRAM)] == list(MANY.inputs[:1])
    assert [job.args for job in rest.jobs(PROGRAM)] == list(MANY.inputs[1:])
    failed = Result("", Status.FAIL, detail="no")
    assert first.grade(PROGRAM, [failed]).detail == "pair 1 of 6: no"
    assert rest.grade(PROGRAM, [failed]).detail == "pair 2 of 6: no"
    assert checks_of(ONE) == (TaskCheck(ONE),)
    assert checks_of(BACK) == (TaskCheck(BACK),)


def test_verdicts_of_answers_that_are_gone_are_not_given_to_later_ones(sandbox: Sandbox) -> None:
    """Python gives the address of a job that is gone to the next one."""
    with Judge[int](sandbox) as judge:
        for i in range(24):
            judge.submit(i, TaskCheck(BACK), "(4,)" if i % 2 else "(3,)")
            [(tag, verdict)] = [*judge.ready(), *judge.rest()]
            assert (tag, verdict.passed) == (i, i % 2 == 0)


def test_an_always_equal_object_passes_nothing(sandbox: Sandbox) -> None:
    assert _verdicts(sandbox, ONE, [ALWAYS_EQUAL])[0].status is Status.FORMAT
    assert _verdicts(sandbox, BACK, [f"({ALWAYS_EQUAL},)"])[0].status is Status.FORMAT
    answer = f"def f(x):\n    return {ALWAYS_EQUAL}\n"
    assert _verdicts(sandbox, MANY, [answer])[0].status is Status.INVALID


def test_true_by_precedence_passes_nothing(sandbox: Sandbox) -> None:
    """`assert f(0) or (True) == 6` is true; neither reading of it is an answer."""
    for text in ("(0) or (True) == 6", "(0) or (True"):
        answer = parse_answer(text, ABDUCTION, "few_shot")
        assert _verdicts(sandbox, BACK, [answer])[0].status is Status.FORMAT
    for answer in ("0) or (True", "(0) or (True,)", "0 or True"):
        assert _verdicts(sandbox, BACK, [answer])[0].status is Status.FORMAT
        assert _verdicts(sandbox, ONE, [answer])[0].status is Status.FORMAT


def test_answers_are_never_evaluated(sandbox: Sandbox, tmp_path: Any) -> None:
    mark = tmp_path / "mark"
    attack = f"open({str(mark)!r}, 'w').write('x')"
    _verdicts(sandbox, ONE, [attack, f"({attack},)"])
    _verdicts(sandbox, BACK, [attack, f"({attack},)"])
    gate([Draft(Proposal(PROGRAM, (f"({attack},)",)), DEDUCTION)], sandbox)
    assert not mark.exists()


def test_expected_values_stay_out_of_the_code(sandbox: Sandbox) -> None:
    counting = Counting(sandbox)
    check_answers([(BACK, "(4,)"), (MANY, PROGRAM)], counting)
    assert counting.calls == 1
    assert all(job.expect is not None and job.tests is None for job in counting.jobs)
    assert {job.code for job in counting.jobs} == {PROGRAM}


# ---------------------------------------------------------------- proposer and solver


class Scripted:
    """A backend that writes what it is told to, in turn."""

    name = "scripted"

    class Characters:
        chat_template = None

        def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
            return [ord(c) for c in text]

    def __init__(self, *texts: str) -> None:
        self.texts, self.prompts, self.tokenizer = list(texts), list[Prompt](), self.Characters()

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sequence[Sampling],
        keys: Sequence[int],
        on_step: OnStep = lambda ended: None,
        policy: Policy = "current",
    ) -> list[Completion]:
        self.prompts += prompts
        done = [Completion((1,), (0.0,), "stop", key, self.texts.pop(0)) for key in keys]
        on_step(list(enumerate(done)))
        return done


@pytest.mark.parametrize("kind", ["deduction", "abduction", "induction"])
@pytest.mark.parametrize("difficulty", [0.1, 0.7])
def test_proposer_gives_validated_tasks_from_templates(
    sandbox: Sandbox, kind: str, difficulty: float
) -> None:
    proposer = TaskProposer(sandbox)
    task = proposer.propose(kind, difficulty=difficulty)
    assert (task.kind.value, task.difficulty, task.source) == (kind, difficulty, "template")
    own = None if kind == "abduction" else task.program if kind == "induction" else task.outputs[0]
    answer = task.inputs[0] if own is None else own
    assert check_answers([(task, answer)], sandbox)[0].passed
    assert proposer.propose(kind, difficulty=difficulty).id != task.id
    assert TaskProposer(sandbox).propose(kind, difficulty=difficulty) == task


def test_proposer_uses_the_model_and_tries_again(sandbox: Sandbox) -> None:
    backend: Any = Scripted(
        "no task",
        "(x):\n    return x / 0\nassert f(1) == 1",
        "(x):\n    return x + 1\nassert f(1) == 7",
    )
    buffer = TaskBuffer(8)
    buffer.add(Task.create(DEDUCTION, "def f(seen):\n    return -seen\n", ("(1,)",), ("-1",)))
    proposer = TaskProposer(sandbox, backend=backend, form="few_shot", buffer=buffer)
    task = proposer.propose("deduction", 0.9)
    assert task.outputs == ("2",), "the model's claim of an output is not believed"
    assert task.source == "model" and task.parents == (buffer.tasks(DEDUCTION)[0].id,)
    assert task.id in buffer and len(backend.prompts) == 3
    assert "def f(seen)" in backend.prompts[0].text and "level 9" in backend.prompts[0].text


def test_proposer_makes_induction_tasks_of_buffered_programs(sandbox: Sandbox) -> None:
    calls = "\n".join(f"f({i})" for i in range(10))
    backend: Any = Scripted(f" negates\n{calls}")
    buffer = TaskBuffer(8)
    buffer.add(Task.create(DEDUCTION, "def f(seen):\n    return -seen\n", ("(1,)",), ("-1",)))
    task = TaskProposer(sandbox, backend=backend, form="few_shot", buffer=buffer).propose(
        "induction"
    )
    assert task.program == "def f(seen):\n    return -seen\n" and task.message == "negates"
    assert task.outputs[3] == "-3" and task.parents


def test_proposer_says_why_nothing_came(sandbox: Sandbox) -> None:
    backend: Any = Scripted("x", "(x):\n    return x / 0\nassert f(1) == 1")
    proposer = TaskProposer(sandbox, backend=backend, form="few_shot", max_attempts=2)
    with pytest.raises(ProposalError, match=r"no valid proposal in 2 \(1 format, 1 error\)"):
        proposer.propose("abduction")
    with pytest.raises(ValueError, match="task kind 'guess': must be one of deduction"):
        proposer.propose("guess")
    with pytest.raises(ValueError, match=r"difficulty = 2: must lie in \[0, 1\]"):
        proposer.propose("deduction", 2)


def test_solver_answers_and_is_judged(sandbox: Sandbox) -> None:
    backend: Any = Scripted(
        " 6", " abs\nassert f(3) == 5", "(-3) == 6", "(x):\n    return abs(x) + abs(x)", " ?"
    )
    solver = TaskSolver(backend, sandbox, "few_shot", config=Config())
    solved = [
        solver.solve(ONE),
        solver.solve(ONE, "step_by_step"),
        solver.solve(BACK),
        solver.solve(MANY, "direct"),
        solver.solve(ONE),
    ]
    assert [s.verdict.status.value for s in solved] == ["pass", "fail", "pass", "pass", "format"]
    assert [s.answer for s in solved[:3]] == ["6", "5", "(-3,)"] and solved[4].answer is None
    assert [p.strategy for p in backend.prompts[:2]] == ["direct", "step_by_step"]
    assert len({s.completion.key for s in solved}) == 5


def test_a_whole_proposal_from_text_to_task(sandbox: Sandbox) -> None:
    text = "(s):\n    '''Always 3.'''\n    return len(s)  # 3\nassert f('abc') == 3"
    proposal = parse_proposal(text, DEDUCTION, "few_shot")
    task = gate([Draft(proposal, DEDUCTION)], sandbox)[0].task
    assert task is not None and task.program == "def f(s):\n    return len(s)\n"
