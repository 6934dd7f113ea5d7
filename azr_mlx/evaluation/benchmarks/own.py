"""A benchmark of the user's own: a plug-in gives the problems, and the project's checks judge."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from azr_mlx.config import ConfigError, plugins
from azr_mlx.evaluation.benchmarks import humaneval, mbpp
from azr_mlx.evaluation.benchmarks.apps import CallCheck, StdinCheck
from azr_mlx.evaluation.benchmarks.cruxeval import InputCheck, OutputCheck
from azr_mlx.evaluation.benchmarks.problem import AssertCheck, DataRow, Problem, Spec
from azr_mlx.text import parsed

# Answers run in the sandbox, and what is expected does not: these checks keep to that.
CHECKS = (AssertCheck, StdinCheck, CallCheck, OutputCheck, InputCheck)
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
            found = list(plug_in.function())
    except plugins.PlugInError as error:
        raise ConfigError([str(error)]) from error
    return _spec(name, found), ({"problem": one} for one in found)


def _spec(name: str, found: list[Problem]) -> Spec:
    """How all the problems are asked and read."""
    completed = all(getattr(one, "prefix", "") for one in found)
    checks = [getattr(one, "check", None) for one in found]
    limits = [check.limits for check in checks if isinstance(check, AssertCheck)]
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
    """The problem in a row. Raises TypeError if it is none, or is judged by another's check."""
    problem = row["problem"]
    if not isinstance(problem, Problem):
        raise TypeError(f"{plugins.kind_of(problem)}, and not a Problem")
    for check in (problem.check, problem.visible or problem.check):
        if type(check) not in CHECKS:
            names = ", ".join(one.__name__ for one in CHECKS)
            raise TypeError(f"{plugins.kind_of(check)} as a check, and not one of {names}")
        if type(check) is AssertCheck and not _is_python(check.tests):
            raise TypeError(f"tests of {problem.id!r} that are not a text of Python")
    return problem


def _is_python(tests: object) -> bool:
    return isinstance(tests, str) and parsed(tests) is not None
