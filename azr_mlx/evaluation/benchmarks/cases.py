"""What benchmarks have in common whose solutions are judged by test cases: programs that read an
input and print an answer, and functions or methods that are called. Each input is a process of its
own; what is expected stays here.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace

from azr_mlx.evaluation.benchmarks.problem import Grade
from azr_mlx.sandbox import Job, Limits, Result
from azr_mlx.text import parsed
from azr_mlx.types import Status

_ENTRY = """
def _entry(*args):
    owner = globals().get("Solution")
    return (getattr(owner(), "{name}") if owner else globals()["{name}"])(*args)
"""
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def headed(header: str, code: str) -> str:
    """With the header, but for code that begins with a ``from __future__``: nothing may precede."""
    return code if re.search(r"^from __future__ ", code, re.M) else header + code


def with_entry(code: str, name: str) -> str:
    """The code, with a function ``_entry`` that calls its function, or its method of ``class
    Solution``, of that name."""
    return f"{code}\n\n{_ENTRY.format(name=name)}"


def as_program(code: str) -> str:
    """The reference harnesses put a program into a function, and some solutions end with a
    ``return``: those are put into one here.
    """
    tree = parsed(code)
    if tree is None:
        return code
    outside = [n for n in tree.body if not isinstance(n, _SCOPES)]
    if not any(isinstance(n, ast.Return) for statement in outside for n in ast.walk(statement)):
        return code
    return f"def _main():\n{textwrap.indent(code, '    ')}\n_main()\n"


def jobs(program: str, inputs: Sequence[str], outputs: Sequence[str], limits: Limits) -> list[Job]:
    """The program on each of the inputs. What they print is kept until all have run, so no more is
    kept than a right output can have, with room for blanks and for longer spellings of numbers."""
    return [
        Job(str(i), program, stdin=text, limits=replace(limits, output_kb=_kept(wanted, limits)))
        for i, (text, wanted) in enumerate(zip(inputs, outputs, strict=True))
    ]


def _kept(wanted: str, limits: Limits) -> int:
    """In KiB: 64, and 16 bytes for each character."""
    return min(limits.output_kb, 64 + len(wanted) // 64)


def grade(
    results: Sequence[Result], outputs: Sequence[str], same: Callable[[str, str], bool]
) -> Grade:
    """The verdict on those jobs: ``same`` compares what was printed with what is expected."""
    right = [
        r.status is Status.OK and not r.stdout_cut and same(r.stdout, wanted)
        for r, wanted in zip(results, outputs, strict=True)
    ]
    return counted(right, next((r for r, ok in zip(results, right, strict=True) if not ok), None))


def counted(right: Sequence[bool], bad: Result | None) -> Grade:
    """The verdict on cases of which some are right; ``bad`` is the first that is not."""
    share = sum(right) / len(right)
    if bad is None:
        return Grade(Status.PASS, share)
    status = Status.FAIL if bad.status is Status.OK else bad.status
    return Grade(status, share, bad.detail or f"case {right.index(False)}: another output expected")
