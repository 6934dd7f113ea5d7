"""``python -m azr_mlx.sandbox --jobs FILE.jsonl --out FILE.jsonl``: run and judge a list of jobs.

One JSON object a line in, one a line out, in the same order; ``-`` is stdin or stdout. A malformed
job gets the status ``invalid``. The exit status is 0 unless the sandbox itself failed (1) or the
command line is wrong (2).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from itertools import islice
from typing import IO, Any

from azr_mlx.sandbox import Job, Result, Sandbox, SandboxError, job_from_json
from azr_mlx.sandbox.pool import ISOLATION
from azr_mlx.types import Status

CHUNK = 512  # jobs held at a time
_FORMAT = """jobs, in one of three styles:
  {"id": "a", "code": "def f(x): return x + 1", "call": "f", "args": "(2,)", "expect": "3"}
  {"id": "b", "code": "def add(a, b): return a + b", "tests": "assert add(1, 2) == 3"}
  {"id": "c", "code": "print(int(input()) + 1)", "stdin": "1\\n", "expect_stdout": "2\\n"}
args, expect and the result's value are Python literals, as text. Optional in a job: "limits",
an object with wall_s, cpu_s, memory_mb, output_kb, processes; "deterministic": true.

results: {"id", "status", "value", "detail", "stdout", "seconds"}, status one of pass, fail, ok
(a value, and no "expect"), error, timeout, memory, killed, nondeterministic, invalid"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(argv)
    try:
        with contextlib.ExitStack() as stack:
            lines = _open(stack, options.jobs, "r")
            sandbox = stack.enter_context(Sandbox(options.workers, options.isolation))
            out = _open(stack, options.out, "w")
            sys.stderr.write(f"sandbox: {sandbox.workers} workers, isolation {sandbox.isolation}\n")
            _run(sandbox, lines, out)
    except (SandboxError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m azr_mlx.sandbox",
        description="Run and judge untrusted Python.",
        epilog=_FORMAT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--jobs", required=True, metavar="FILE", help="jobs, one JSON object a line (-: stdin)"
    )
    parser.add_argument(
        "--out", required=True, metavar="FILE", help="results, in the same order (-: stdout)"
    )
    parser.add_argument(
        "--workers", type=int, default=0, help="jobs that run at a time (0: one per core)"
    )
    parser.add_argument("--isolation", choices=ISOLATION, default="auto")
    return parser


def _open(stack: contextlib.ExitStack, path: str, mode: str) -> IO[str]:
    if path == "-":
        return sys.stdin if mode == "r" else sys.stdout
    return stack.enter_context(open(path, mode, encoding="utf-8", errors="surrogateescape"))


def _run(sandbox: Sandbox, lines: IO[str], out: IO[str]) -> None:
    rows = (line for line in lines if line.strip())
    while chunk := list(islice(rows, CHUNK)):
        for row in _judge(sandbox, chunk):
            out.write(json.dumps(row) + "\n")
        out.flush()


def _judge(sandbox: Sandbox, chunk: list[str]) -> Iterator[dict[str, Any]]:
    """The result rows of some lines; ids come back as they were given."""
    parsed = [_parse(sandbox, line) for line in chunk]
    results = iter(sandbox.run(job for _, job in parsed if isinstance(job, Job)))
    for given, job in parsed:
        result = next(results) if isinstance(job, Job) else job
        yield {**result.to_json(), "id": given}


def _parse(sandbox: Sandbox, line: str) -> tuple[Any, Job | Result]:
    given: Any = None
    try:
        row = json.loads(line)
        given = row.get("id") if isinstance(row, dict) else None
        return given, job_from_json(row, sandbox.limits)
    except (ValueError, TypeError, RecursionError) as error:
        return given, Result("", Status.INVALID, detail=f"malformed job: {error}"[:300])


if __name__ == "__main__":
    sys.exit(main())
