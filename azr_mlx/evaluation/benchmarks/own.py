"""A benchmark of the user's own: a plug-in gives the problems, and the project's checks judge."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import fields
from itertools import islice
from typing import Any, Protocol, get_args, get_origin, get_type_hints

from azr_mlx.config import ConfigError, plugins
from azr_mlx.evaluation.benchmarks import humaneval, mbpp
from azr_mlx.evaluation.benchmarks.apps import CallCheck, StdinCheck
from azr_mlx.evaluation.benchmarks.cruxeval import InputCheck, OutputCheck
from azr_mlx.evaluation.benchmarks.problem import AssertCheck, DataRow, Problem, Spec
from azr_mlx.sandbox import parse_literal
from azr_mlx.text import is_text, parsed
from azr_mlx.types import Task

# Answers run in the sandbox, and what is expected does not: these checks keep to that.
CHECKS = (AssertCheck, StdinCheck, CallCheck, OutputCheck, InputCheck)
MOST = 100_000  # problems; a function may give them without end
_FIX = "correct the function (docs/plug-ins.md has an example)"


class OwnProblems(Protocol):
    """The plug-in ``evaluation.benchmarks``, and ``--benchmark`` of eval: the problems.

    Called once, before the model is loaded. Ids are texts of which no two are equal, and must be
    the same in every call: they decide on the halves that select and report. The checks are those
    in ``CHECKS``, mostly ``AssertCheck``. Base models continue ``prompt`` up to HumanEval's stop
    strings if every problem has a ``prefix``, else up to MBPP's; chat models are asked
    ``question``. Whatever it raises ends the command.
    """

    def __call__(self) -> Iterable[Problem]: ...


def rows(name: str) -> tuple[Spec, Iterator[DataRow]]:
    """The benchmark ``module:function``, and its problems as rows of it. Raises ConfigError if it
    cannot be imported or called, or raises anything."""
    plug_in = plugins.resolve("--benchmark", name, OwnProblems)
    try:
        with plug_in.guarded():
            found = list(islice(plug_in.function(), MOST + 1))
            if len(found) > MOST:
                raise plugins.PlugInError(plug_in, f"gives more than {MOST:,} problems")
    except plugins.PlugInError as error:
        raise ConfigError([str(error)]) from error
    return _spec(name, found), ({"problem": one} for one in found)


def _spec(name: str, given: list[Problem]) -> Spec:
    """How all the problems are asked and read. What is none is found when it is parsed."""
    found = [one for one in given if isinstance(one, Problem)]
    completed = all(one.prefix for one in found)
    limits = [one.check.limits for one in found if isinstance(one.check, AssertCheck)]
    return Spec(
        name=name,
        parse=_problem,
        id_of=lambda row: _problem(row).id,
        stop=humaneval.STOP if completed else mbpp.STOP,
        limits=limits[0] if limits else humaneval.LIMITS,
        form="the problem's own prompt",
        files=(),
        hub=(),
        fix=_FIX,
    )


def _problem(row: DataRow) -> Problem:
    """The problem in a row. Raises TypeError if it is none, or cannot be asked or judged."""
    problem = row["problem"]
    if not isinstance(problem, Problem):
        raise TypeError(f"{plugins.kind_of(problem)}, and not a Problem")
    for check in (problem.check, problem.visible or problem.check):
        _see_check(check, problem.id)
    for name in ("id", "prompt", "question"):
        if not getattr(problem, name):
            raise TypeError(f"an empty {name} in {problem.id!r}")
    if not isinstance(problem.task, Task | None):
        raise TypeError(f"{plugins.kind_of(problem.task)} as the task of {problem.id!r}")
    return problem


def _see_check(check: Any, problem: str) -> None:
    """Raises TypeError if a check is another's, or holds what it cannot judge by."""
    if type(check) not in CHECKS:
        names = ", ".join(one.__name__ for one in CHECKS)
        raise TypeError(f"{plugins.kind_of(check)} as a check, and not one of {names}")
    if type(check) is AssertCheck and not _is_python(check.tests):
        raise TypeError(f"tests of {problem!r} that are not a text of Python")
    hints = get_type_hints(type(check))
    for name in (f.name for f in fields(check)):
        if not _fits(getattr(check, name), hints[name]):
            wanted = getattr(hints[name], "__name__", hints[name])
            raise TypeError(f"{name} of a check of {problem!r} that is no {wanted}")
    if isinstance(check, StdinCheck | CallCheck):
        given = check.inputs if isinstance(check, StdinCheck) else check.calls
        if not len(given) == len(check.outputs) > 0:
            raise TypeError(f"{len(given)} cases and {len(check.outputs)} outputs of {problem!r}")
    try:
        json.dumps(check.content())
        if isinstance(check, OutputCheck | InputCheck):
            parse_literal(check.output)
    except (TypeError, ValueError) as error:
        raise TypeError(f"an output of {problem!r} that is no plain value: {error}") from error


def _fits(value: object, hint: Any) -> bool:
    """Whether a value is of the type that a field of a check has: a class, or a tuple of one."""
    if get_origin(hint) is not tuple:
        return hint is Any or (isinstance(value, hint) and (hint is not str or is_text(value)))
    inner, _ = get_args(hint)
    return isinstance(value, tuple) and all(_fits(one, inner) for one in value)


def _is_python(tests: object) -> bool:
    return isinstance(tests, str) and parsed(tests) is not None
