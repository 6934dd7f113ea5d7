"""Overlap of self-play tasks with problems: tokens in a row, and functions whatever their names."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass

import pytest

from azr_mlx.errors import UsageError
from azr_mlx.evaluation.contamination import GRAM, check, ngrams, shapes, tasks_of_run
from azr_mlx.types import Task, TaskKind

pytestmark = pytest.mark.pure

SOLUTION = '''def running_max(numbers):
    """The largest number so far, at every place."""
    best, out = None, []
    for n in numbers:
        best = n if best is None else max(best, n)
        out.append(best)
    return out
'''


@dataclass(frozen=True)
class Problem:
    """As much of a problem as is compared."""

    id: str
    question: str
    solution: str


PROBLEM = Problem("X/1", "Write a function that gives the largest number so far.", SOLUTION)


def task(program: str, message: str = "") -> Task:
    return Task.create(TaskKind.DEDUCTION, program, ("(1,)",), ("1",), message=message)


def shared(*tasks: Task, problem: Problem = PROBLEM) -> list[tuple[str, str]]:
    return [(o.problem, o.shares) for o in check("x", [problem], tasks).overlaps]


def test_a_function_under_other_names_constants_and_comments_is_the_same():
    renamed = (
        "def f(xs):\n    m, res = 0, []  # other words\n    for x in xs:\n"
        "        m = x if m is 7 else max(m, x)\n        res.append(m)\n    return res\n"
    )
    assert shared(task(renamed)) == [("X/1", "function")]
    assert shared(task(renamed.replace("max", "min"))) == []
    assert shared(task("import math\n\ndef g(a):\n    return a * 2\n\n" + renamed)) == [
        ("X/1", "function")
    ]


def test_thirteen_tokens_in_a_row_are_an_overlap_and_twelve_are_none():
    words = [f"w{i}" for i in range(40)]
    problem = Problem("X/2", " ".join(words), "")
    for count, expected in ((GRAM - 1, []), (GRAM, [("X/2", "13-gram")])):
        message = "other text " + " ".join(words[5 : 5 + count]) + " and the end"
        assert shared(task("def f(a): return a", message), problem=problem) == expected


def test_layout_case_brackets_and_quotes_are_no_tokens():
    assert ngrams("A b, (c) d e f g h i j k: l 'm'") == {"a b c d e f g h i j k l m"}
    assert len(ngrams("x = y + z * w % v - u / t")) == 1, "operators are tokens"
    assert ngrams("") == ngrams("a b") == set()


def test_what_does_not_parse_has_no_functions():
    assert shapes("def (") == shapes("x = 1") == shapes("\0") == set()
    assert len(shapes(SOLUTION)) == 1
    assert shared(task("def (")) == []


def test_the_report_names_problems_and_tasks():
    copies = [task(SOLUTION.replace("running_max", f"f{i}")) for i in range(5)]
    found = check("x", [PROBLEM, Problem("X/9", "", "def g():\n    return 1")], copies)
    lines = found.lines()
    assert lines[0] == (
        "x contamination: 1 problems overlap, of 5 self-play tasks of the run and 2 problems"
    )
    assert any("X/1: same function as tasks " in line and "and 2 more" in line for line in lines)
    row = json.loads(json.dumps(found.to_json()))
    named = {o["task"] for o in row["overlaps"]}
    assert named == {t.id for t in copies} and row["tasks"] == 5
    clean = check("x", [PROBLEM], [task("def f(a): return a + 1")])
    assert clean.lines() == [
        "x contamination: none between 1 self-play tasks of the run and 1 problems"
    ]


def test_the_tasks_of_the_checkpoint_are_found_through_the_link(tmp_path):
    checkpoint = tmp_path / "checkpoints" / "step_000003"
    checkpoint.mkdir(parents=True)
    (tmp_path / "adapters").symlink_to(checkpoint)
    assert tasks_of_run(tmp_path / "adapters") is None
    one = task(SOLUTION)
    with gzip.open(checkpoint / "buffer.jsonl.gz", "wt") as f:
        f.write(json.dumps({"task": one.to_json(), "attempts": 0, "successes": 0}) + "\n")
    assert tasks_of_run(tmp_path / "adapters") == [one]
    for damage in (b"no gzip", gzip.compress(b"{}\n"), gzip.compress(b"{")):
        (checkpoint / "buffer.jsonl.gz").write_bytes(damage)
        with pytest.raises(UsageError, match="tasks cannot be read"):
            tasks_of_run(tmp_path / "adapters")
