"""MBPP (Austin et al., arXiv 2108.07732): short programs from a sentence and a test."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Sequence
from dataclasses import replace

from azr_mlx.evaluation.benchmarks.problem import AssertCheck, DataRow, Problem, Spec
from azr_mlx.sandbox import Limits

# The reference solution of task 123 takes 14 s on a slow core.
LIMITS = Limits(wall_s=40.0, cpu_s=20.0, memory_mb=2048, output_kb=256)
# EvalPlus's for MBPP: imports may come before the function, so a "\ndef " does not end it.
STOP = ('\n"""', "\nassert", "\nprint(", "\nif __name__", "\n```")
FORM = "docstring with the task and its first assert (EvalPlus)"


def parse(row: DataRow) -> Problem | None:
    """A row of the full file, or of the sanitized one, whose fields have other names."""
    text = row["text"] if "text" in row else row["prompt"]
    asserts = [t for t in row["test_list"] if t.strip()]
    if not asserts:
        return None
    # The set-up code builds values from the solution's own classes: it comes after it.
    imports = row.get("test_imports") or []
    imports = [imports] if isinstance(imports, str) else imports
    setup = "\n".join([row.get("test_setup_code") or "", *imports])
    return Problem(
        id=f"Mbpp/{row['task_id']}",
        prompt=prompt(text, asserts[0]),
        question=question(text, asserts[0]),
        prefix="",
        entry_point=tested_function(row["code"], asserts),
        reference=row["code"],
        check=AssertCheck("\n".join([setup, *asserts]) + "\n", LIMITS),
        visible=AssertCheck(f"{setup}\n{asserts[0]}\n", LIMITS),
    )


def prompt(text: str, shown: str) -> str:
    """EvalPlus's base prompt: a docstring with the task and one test."""
    return f'"""\n{text.strip()}\n{shown.strip()}\n"""\n'


def question(text: str, shown: str) -> str:
    """What a chat model is asked."""
    return (
        f"{text.strip()}\nYour code should pass this test:\n{shown.strip()}\n"
        "Answer with the whole program in one ```python block."
    )


def tested_function(code: str, asserts: Sequence[str]) -> str:
    """The last function of the reference that the tests call."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ignore warnings about the data's escapes
        tests, program = ast.parse("\n".join(asserts)), ast.parse(code)
    calls = [n for n in ast.walk(tests) if isinstance(n, ast.Call)]
    called = {n.func.id for n in calls if isinstance(n.func, ast.Name)}
    defined = [n.name for n in program.body if isinstance(n, ast.FunctionDef)]
    return next((name for name in reversed(defined) if name in called), "")


def in_test_split(name: str) -> bool:
    """Section 2.1 of the paper: tasks 11 to 510."""
    return 11 <= int(name.rpartition("/")[2]) <= 510


def _id(row: DataRow) -> str:
    return f"Mbpp/{row['task_id']}"


_WHERE = "https://github.com/google-research/google-research/raw/master/mbpp/"
SPEC = Spec(
    name="mbpp",
    parse=parse,
    id_of=_id,
    selected=in_test_split,
    stop=STOP,
    limits=LIMITS,
    form=FORM,
    files=("mbpp.jsonl", "mbpp.jsonl.gz"),
    hub=("google-research-datasets/mbpp", "full"),
    fix=f"give as --data the file {_WHERE}mbpp.jsonl",
)
SANITIZED = replace(
    SPEC,
    name="mbpp-sanitized",
    files=("sanitized-mbpp.json", "sanitized-mbpp.jsonl"),
    hub=("google-research-datasets/mbpp", "sanitized"),
    fix=f"give as --data the file {_WHERE}sanitized-mbpp.json",
)
