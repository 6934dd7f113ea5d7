"""Whether the model has practised on the problems that it is evaluated on.

Self-play writes its own tasks and has no benchmark to copy from, but the base model may remember
one. Two texts overlap if they share

- 13 tokens in a row (GPT-3's length, arXiv 2005.14165, appendix C). Tokens are words, numbers and
  operator characters, in lower case; brackets, commas, colons, dots and quotes are left out, since
  they are in every program;
- or a function, when names that it binds, constants, comments, docstrings and annotations are taken
  out (``parse.skeleton``).
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from azr_mlx import run_folder
from azr_mlx.errors import WRONG_VALUES, UsageError
from azr_mlx.evaluation.benchmarks import Problem
from azr_mlx.tasks.parse import skeleton
from azr_mlx.text import parsed
from azr_mlx.types import Task

GRAM = 13
_TOKEN = re.compile(r"\w+|[^\w\s()\[\]{},:;.'\"`]")
Fingerprint = set[str]


class Overlap(NamedTuple):
    """A self-play task and a problem that share something: "13-gram" or "function"."""

    task: str
    problem: str
    shares: str


@dataclass(frozen=True, slots=True)
class Contamination:
    """The overlaps of a run's ``tasks`` with the problems of one benchmark."""

    benchmark: str
    tasks: int
    problems: int
    overlaps: tuple[Overlap, ...]

    def lines(self) -> list[str]:
        compared = f"{self.tasks} self-play tasks of the run and {self.problems} problems"
        if not self.overlaps:
            return [f"{self.benchmark} contamination: none between {compared}"]
        by_problem = defaultdict[tuple[str, str], list[str]](list)
        for o in self.overlaps:
            by_problem[o.problem, o.shares].append(o.task)
        hit = len({problem for problem, _ in by_problem})
        return [
            f"{self.benchmark} contamination: {hit} problems overlap, of {compared}",
            *(f"  {p}: same {what} as {_named(ids)}" for (p, what), ids in by_problem.items()),
        ]

    def to_json(self) -> dict[str, Any]:
        return {
            "benchmark": self.benchmark,
            "tasks": self.tasks,
            "problems": self.problems,
            "overlaps": [o._asdict() for o in self.overlaps],
        }


def _named(tasks: Sequence[str], most: int = 3) -> str:
    more = f" and {len(tasks) - most} more" if len(tasks) > most else ""
    return f"task{'s' if len(tasks) > 1 else ''} {', '.join(tasks[:most])}{more}"


def check(benchmark: str, problems: Sequence[Problem], tasks: Sequence[Task]) -> Contamination:
    """Compare each task's program and message with each problem's question and solution."""
    grams, functions = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for p in problems:
        for gram in ngrams(p.question) | ngrams(p.solution):
            grams[gram].append(p.id)
        for shape in shapes(p.solution):
            functions[shape].append(p.id)
    found: list[Overlap] = []
    for task in tasks:
        texts = ngrams(task.program) | ngrams(task.message)
        found += _overlaps(task, texts, grams, f"{GRAM}-gram")
        found += _overlaps(task, shapes(task.program), functions, "function")
    return Contamination(
        benchmark, len(tasks), len(problems), tuple(sorted(set(found), key=_order))
    )


def _overlaps(
    task: Task, features: Fingerprint, owners: dict[str, list[str]], what: str
) -> Iterable[Overlap]:
    shared = {name for f in features if f in owners for name in owners[f]}
    return (Overlap(task.id, name, what) for name in shared)


def _order(overlap: Overlap) -> tuple[str, str, str]:
    return overlap.problem, overlap.shares, overlap.task


def ngrams(text: str) -> Fingerprint:
    """Every run of 13 tokens of a text."""
    tokens = _TOKEN.findall(text.lower())
    return {" ".join(tokens[i : i + GRAM]) for i in range(len(tokens) - GRAM + 1)}


def shapes(source: str) -> Fingerprint:
    """The shape of every function in a program; none if it does not parse."""
    tree = parsed(source)
    if tree is None:
        return set()
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {skeleton(ast.unparse(n)) for n in ast.walk(tree) if isinstance(n, functions)}


def tasks_of_run(adapters: Path) -> list[Task] | None:
    """The self-play tasks in the checkpoint that the adapters belong to; None if they belong to
    none.

    Raises:
        UsageError: the checkpoint's buffer cannot be read.
    """
    checkpoint = adapters.resolve()
    file = checkpoint / run_folder.BUFFER_FILE
    if not file.is_file():
        return None
    try:
        return [Task.from_json(row["task"]) for row in run_folder.read_buffer(checkpoint)]
    except (OSError, *WRONG_VALUES) as e:
        raise UsageError(
            f"{file}: the run's tasks cannot be read ({type(e).__name__}: {e}), so that nobody "
            "knows what the model has practised on; evaluate another checkpoint"
        ) from e
