"""``python -m azr_mlx.sandbox --jobs FILE.jsonl --out FILE.jsonl``: run and judge a list of jobs.

Input and output have one JSON object per line, in the same order; ``-`` stands for stdin or stdout.
A malformed job gets the status ``invalid``. The exit status is 0 unless the sandbox itself failed
(1) or the command line is wrong (2).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any

from azr_mlx.files import Unreadable, from_json, lines_of, open_bytes
from azr_mlx.sandbox import Job, Result, Sandbox, SandboxError, job_from_json
from azr_mlx.sandbox.pool import ISOLATION
from azr_mlx.text import is_text, one_line
from azr_mlx.types import Status

_FORMAT = """jobs, in one of four styles:
  {"id": "a", "code": "def f(x): return x + 1", "call": "f", "args": "(2,)", "expect": "3"}
  {"id": "n", "code": "def f(x): return x + 1", "call": "f", "calls": ["(2,)", "(3,)"]}
  {"id": "b", "code": "def add(a, b): return a + b", "tests": "assert add(1, 2) == 3"}
  {"id": "c", "code": "print(int(input()) + 1)", "stdin": "1\\n", "expect_stdout": "2\\n"}
args, expect and the result's value are Python literals, as text. So are "values", the values of
"calls".
Optional in a job: "limits", an object with wall_s, cpu_s, memory_mb, output_kb, processes;
"deterministic": true.

results: {"id", "status", "value", "detail", "stdout", "seconds"}, where status is one of pass,
fail, ok (it ran, and nothing was expected), error, timeout, memory, killed, nondeterministic,
invalid"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(argv)
    try:
        with contextlib.ExitStack() as stack:
            lines = _lines(stack, options.jobs)
            sandbox = stack.enter_context(Sandbox(options.workers, options.isolation))
            out = _out(stack, options.out)
            _say(sandbox.summary)
            if sandbox.warning:
                _say(f"warning: {sandbox.warning}")
            _run(sandbox, lines, out)
    except (SandboxError, OSError) as error:
        name = getattr(error, "filename", None)
        why = getattr(error, "strerror", None)
        _say(f"error: {name}: {why}; check the path" if name else f"error: {error}")
        return 1
    except Unreadable as error:
        _say(f"error: {options.jobs}: {error}")
        return 1
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    return 0


def _say(line: str) -> None:
    if sys.stderr is not None:  # stderr may have been closed before the start
        sys.stderr.write(one_line(line) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m azr_mlx.sandbox",
        description="Run and judge untrusted Python.",
        epilog=_FORMAT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--jobs", required=True, metavar="FILE", help="jobs, one JSON object per line (-: stdin)"
    )
    parser.add_argument(
        "--out", required=True, metavar="FILE", help="results, in the same order (-: stdout)"
    )
    parser.add_argument(
        "--workers", type=int, default=0, help="jobs that run at a time (0: one per core)"
    )
    parser.add_argument("--isolation", choices=ISOLATION, default="auto")
    return parser


def _lines(stack: contextlib.ExitStack, path: str) -> Iterator[str]:
    """The lines of the file of jobs. Bytes that are not text become lone surrogates, so that only
    the jobs that have them are malformed."""
    if path == "-":
        if sys.stdin is None:
            raise OSError("stdin is closed")
        return lines_of(sys.stdin.buffer, "surrogateescape")
    lines = lines_of(stack.enter_context(open_bytes(Path(path))), "surrogateescape")
    first = next(lines, "")  # a file that is not text is reported before anything is written
    return chain([first], lines)


def _out(stack: contextlib.ExitStack, path: str) -> IO[str]:
    if path != "-":
        return stack.enter_context(open(path, "w", encoding="utf-8"))
    if sys.stdout is None:
        raise OSError("stdout is closed")
    return sys.stdout


def _run(sandbox: Sandbox, lines: Iterable[str], out: IO[str]) -> None:
    """Write one result per job, in the order of the jobs. Ids come back as they were given."""
    given: deque[tuple[Any, Result | None]] = deque()  # id, and result if malformed

    def jobs() -> Iterator[Job]:
        for line in lines:
            if line.strip():
                name, job = _parse(sandbox, line)
                given.append((name, job if isinstance(job, Result) else None))
                if isinstance(job, Job):
                    yield job

    def write(judged: Result | None) -> None:
        while given and (given[0][1] is not None or judged is not None):
            name, known = given.popleft()
            row = known or judged
            assert row is not None
            out.write(json.dumps({**row.to_json(), "id": name}) + "\n")
            if known is None:
                judged = None

    for result in sandbox.stream(jobs()):
        write(result)
        out.flush()
    write(None)
    out.flush()


def _parse(sandbox: Sandbox, line: str) -> tuple[Any, Job | Result]:
    given: Any = None
    try:
        if not is_text(line):
            raise ValueError("not UTF-8 text; save the file as UTF-8")
        row = from_json(line)
        given = row.get("id") if isinstance(row, dict) else None
        return given, job_from_json(row, sandbox.limits)
    except (ValueError, TypeError, RecursionError) as error:
        return given, Result("", Status.INVALID, detail=f"malformed job: {error}"[:300])


if __name__ == "__main__":
    sys.exit(main())
