"""What nano learned from before any self-play: questions in the ``compact`` form, with their
answers.

Every program comes from ``azr_mlx.tasks.templates`` and every answer from running it, so no outside
data is in the model. Programs whose shape falls into one of eight buckets never become lessons:
held-out tasks are drawn from those alone (``parse.is_reserved``).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, cast

import numpy as np

from azr_mlx.tasks import templates
from azr_mlx.tasks.parse import Proposal, is_reserved
from azr_mlx.tasks.prompts import PromptForm, arguments
from azr_mlx.types import Task, TaskKind

DIFFICULTIES, SHARES = (0.1, 0.2), (0.3, 0.7)  # chains of one and of two operations
MOST_STEPS = 8  # values that the work of a step-by-step answer shows
N_INPUTS = 6
STEPS = 0.5  # share of the programs that have step-by-step lessons
MAX_VALUE = 120  # characters of an input or an output

Part = tuple[str, bool]  # text, and whether it is an answer
Lesson = tuple[Part, ...]  # one question with its answer, or several about one program


def lessons(form: PromptForm, seed: int, stream: int, slips: float = 0.0) -> Iterator[Lesson]:
    """Endless lessons of both roles and all three kinds; the arguments fix them all.

    ``slips`` is the share of answers that are wrong, as in text that people wrote: an operation
    forgotten, another input, another program, a call that does not fit the program. A model that
    learned from them knows better than it answers, and a reward has something to teach it.
    """
    rng = np.random.default_rng([seed, stream])
    shown: list[Task] = []
    # By first line and message; "" stands for any message.
    last: dict[tuple[str, str], Proposal] = {}
    while True:
        difficulty = float(rng.choice(DIFFICULTIES, p=SHARES))
        proposal = templates.draw(TaskKind.INDUCTION, difficulty, rng, N_INPUTS, "chains")
        if is_reserved(proposal.program):
            continue
        try:
            runs = [traced(proposal.program, args) for args in proposal.inputs]
        except (IndexError, ValueError):  # for example the first item of an empty list
            continue
        outputs = tuple(output for output, _ in runs)
        if max(map(len, outputs)) > MAX_VALUE or len(set(outputs)) == 1:
            continue
        head = proposal.program.splitlines()[0]
        other = last.get((head, proposal.message), last.get((head, ""), proposal))
        strays = [found for (line, any_), found in last.items() if line != head and not any_]
        stray = strays[int(rng.integers(len(strays)))] if strays else proposal
        works = tuple(work for _, work in runs)
        course = Course(form, proposal, outputs, works, difficulty, slips, other, stray)
        references = (
            [shown[i] for i in rng.integers(len(shown), size=rng.integers(3))] if shown else []
        )
        yield from course.lessons(references, rng)
        last[head, proposal.message] = last[head, ""] = proposal
        shown.append(course.task(TaskKind.DEDUCTION, [0]))
        del shown[:-50]


@dataclass(frozen=True, slots=True)
class Course:
    """All that is taught about one program; ``works`` are the values on the way to each output."""

    form: PromptForm
    proposal: Proposal
    outputs: tuple[str, ...]
    works: tuple[list[str], ...]
    difficulty: float
    slips: float
    other: Proposal  # a proposal with inputs of the same types
    stray: Proposal  # a proposal with inputs of other types

    def lessons(self, references: list[Task], rng: np.random.Generator) -> Iterator[Lesson]:
        """Solving it in all ways, and proposing it. Several questions about a program make one
        lesson, so that it is read once; single ones show where an answer ends."""
        for kind in (TaskKind.DEDUCTION, TaskKind.ABDUCTION):
            steps = bool(rng.random() < STEPS)
            for many in (N_INPUTS, 4) if steps else (N_INPUTS,):
                asked = rng.permutation(N_INPUTS)[:many]
                long = many < N_INPUTS
                questions = [self.solved(kind, [int(i)], long, rng) for i in asked]
                yield _joined(questions, "\n\n" if long else "\n")
            yield self.solved(kind, [int(rng.integers(N_INPUTS))], steps, rng)
        for _ in range(2):
            order = [int(i) for i in rng.permutation(N_INPUTS)]
            yield self.solved(TaskKind.INDUCTION, order, bool(rng.random() < STEPS / 2), rng)
        yield self.proposed(TaskKind.DEDUCTION, [int(rng.integers(N_INPUTS))], references, rng)
        yield self.proposed(TaskKind.INDUCTION, list(range(N_INPUTS)), [], rng)

    def task(self, kind: TaskKind, chosen: list[int]) -> Task:
        """On the inputs that are ``chosen``; induction shows the first half of them."""
        induction = kind is TaskKind.INDUCTION
        return Task.create(
            kind,
            self.proposal.program,
            tuple(self.proposal.inputs[i] for i in chosen),
            tuple(self.outputs[i] for i in chosen),
            message=self.proposal.message if induction else "",
            hidden=tuple(range(N_INPUTS // 2, N_INPUTS)) if induction else (),
            difficulty=self.difficulty,
        )

    def solved(
        self, kind: TaskKind, chosen: list[int], steps: bool, rng: np.random.Generator
    ) -> Lesson:
        """A task with the answer that it was made from, or with a slip."""
        task = self.task(kind, chosen)
        prompt = self.form.solve(task, "step_by_step" if steps else "direct").text
        args, output, work, program = (
            self._slip(task.outputs[0], self.works[chosen[0]], rng)
            if rng.random() < self.slips
            else (task.inputs[0], task.outputs[0], self.works[chosen[0]], task.program)
        )
        args, program = arguments(args), program.strip()
        if kind is TaskKind.DEDUCTION:
            answer = f" {', '.join(work)}\nassert f() == {output}" if steps else f" {output}"
        elif kind is TaskKind.ABDUCTION:
            answer = f" {', '.join(work[::-1])}\nassert f({args})" if steps else f"({args})"
        else:
            answer = f" {plan(program)}\n{program}" if steps else program.removeprefix("def f")
        return (prompt, False), (answer, True)

    def _slip(
        self, output: str, work: list[str], rng: np.random.Generator
    ) -> tuple[str, str, list[str], str]:
        """(input, output, work, program), each of them wrong: another input; the last operation
        forgotten, or the output of that input; another program, unless it does the same."""
        wrong = [i for i, own in enumerate(self.outputs) if own != output]
        i = wrong[int(rng.integers(len(wrong)))]
        forgotten = work[:-1] if work[:-1] and work[-2] != output else self.works[i]
        try:
            same = all(
                traced(self.other.program, args)[0] == own
                for args, own in zip(self.proposal.inputs, self.outputs, strict=True)
            )
        except (IndexError, ValueError):
            same = False
        program = self.proposal.program if same else self.other.program
        return self.proposal.inputs[i], forgotten[-1], forgotten, program

    def proposed(
        self, kind: TaskKind, chosen: list[int], references: list[Task], rng: np.random.Generator
    ) -> Lesson:
        """A task as its proposer would write it, or with calls that do not fit the program."""
        task = self.task(kind, chosen)
        request = self.form.propose(
            kind, references, self.difficulty, program=task.program, n_inputs=N_INPUTS
        ).text
        inputs = self.stray.inputs if rng.random() < self.slips else task.inputs
        calls = [f"f({arguments(text)})" for text in inputs]
        if kind is TaskKind.INDUCTION:
            return (request, False), (f" {task.message}\n" + "\n".join(calls), True)
        program = task.program.strip().removeprefix("def f")
        return (request, False), (f"{program}\nassert {calls[0]}", True)


def _joined(questions: list[Lesson], between: str) -> Lesson:
    """Questions about the program that the first one shows; the others leave it out."""
    first, *others = questions
    (prompt, _), _ = first
    # All that comes before the first line that the questions do not share.
    shared = zip(*(p.splitlines(keepends=True) for (p, _), _ in questions), strict=False)
    start = sum(len(lines[0]) for lines in takewhile(lambda found: len(set(found)) == 1, shared))
    start = min(start, prompt.rfind("\n") + 1)
    parts = list(first)
    for (prompt, _), answer in others:
        parts += [(between + prompt[start:], False), answer]
    return tuple(parts)


# -- work ------------------------------------------------------------------------------------------


class _Recording(ast.NodeTransformer):
    """Wraps each expression that computes something, outside inner scopes, in ``_seen``."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if isinstance(
            node, (ast.Lambda, ast.GeneratorExp, ast.ListComp, ast.SetComp, ast.DictComp)
        ):
            return self._wrapped(node) if isinstance(node, ast.ListComp) else node
        super().generic_visit(node)
        computes = (ast.BinOp, ast.Call, ast.Subscript, ast.IfExp)
        return self._wrapped(node) if isinstance(node, computes) else node

    @staticmethod
    def _wrapped(node: ast.AST) -> ast.AST:
        if isinstance(getattr(node, "ctx", None), (ast.Store, ast.Del)):
            return node
        return ast.Call(ast.Name("_seen", ast.Load()), [cast(ast.expr, node)], [])


def traced(program: str, args: str) -> tuple[str, list[str]]:
    """(output, values on the way to it) of a template's program, as literals.

    The program runs right here: it is one of our own templates, not a model's.
    """
    values: list[str] = []

    def seen(value: Any) -> Any:
        shown = repr(value)
        if isinstance(value, (int, str, list, tuple, dict)) and values[-1:] != [shown]:
            values.append(shown)
        return value

    tree = ast.fix_missing_locations(_Recording().visit(ast.parse(program)))
    space: dict[str, Any] = {"_seen": seen}
    exec(compile(tree, "<template>", "exec"), space)
    output = space["f"](*ast.literal_eval(args))
    shown = repr(output)
    kept = values[:MOST_STEPS]
    return shown, kept or [shown]


def plan(program: str) -> str:
    """The operations of a program in the order of its text: what to build it from."""
    names = list[str]()
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.Call):
            called = node.func
            names.append(
                called.id if isinstance(called, ast.Name) else getattr(called, "attr", "?")
            )
        elif isinstance(node, ast.BinOp):
            names.append(_OPERATORS.get(type(node.op), "?"))
        elif isinstance(node, (ast.ListComp, ast.If, ast.IfExp, ast.For, ast.While, ast.Subscript)):
            names.append(type(node).__name__.lower())
    return " ".join(names[:MOST_STEPS]) or "return"


_OPERATORS: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.FloorDiv: "//",
    ast.Mod: "%",
}
