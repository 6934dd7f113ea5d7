"""Answers that repeat what their prompt shows, without any thought about the program.

Of CRUXEval's programs 47 % give their own output back if it is one of their arguments
(``sorted(sorted(x)) == sorted(x)``), so a solver that writes the output where an input is asked for
is right that often. Self-play finds this out, and then a solver is right more often that
understands nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence

from azr_mlx.sandbox import equal, literal, parse_literal
from azr_mlx.tasks.gate import Runner
from azr_mlx.tasks.verdicts import Judge, TaskCheck
from azr_mlx.types import Task, TaskKind


def repeats(answer: str | None, task: Task) -> bool:
    """Whether an answer, as ``parse_answer`` reads it, repeats a value that its prompt shows: an
    output of deduction is one of the arguments, or one of the arguments of abduction is the
    output. Never of induction, whose answer is a program."""
    if answer is None or task.kind is TaskKind.INDUCTION:
        return False
    args, output = (
        (task.inputs[0], answer) if task.kind is TaskKind.DEDUCTION else (answer, task.outputs[0])
    )
    try:
        arguments, value = parse_literal(args), parse_literal(output)
    except ValueError:  # no literal
        return False
    return type(arguments) is tuple and any(equal(one, value) for one in arguments)


def solved_by_repeating(tasks: Sequence[Task], sandbox: Runner) -> list[bool]:
    """Of each task, whether an answer that repeats is right: one of its arguments as the output, or
    its input with the output in the place of one argument."""
    found = [False] * len(tasks)
    with Judge[int](sandbox) as judge:
        for number, task in enumerate(tasks):
            for answer in _repetitions(task):
                judge.submit(number, TaskCheck(task), answer)
        for number, verdict in judge.rest():
            found[number] |= verdict.passed
    return found


def _repetitions(task: Task) -> list[str]:
    args = parse_literal(task.inputs[0])
    if task.kind is TaskKind.DEDUCTION:
        return [literal(argument) for argument in args]
    if task.kind is TaskKind.INDUCTION:
        return []
    output = parse_literal(task.outputs[0])
    return [literal((*args[:i], output, *args[i + 1 :])) for i in range(len(args))]
