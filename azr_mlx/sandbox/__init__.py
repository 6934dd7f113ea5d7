"""Runs untrusted Python and judges it.

    with Sandbox(workers=2) as sandbox:
        results = sandbox.run([Job("a", "def f(x): return x + 1", call="f", args="(1,)",
                                   expect="2")])

``run`` takes a list of jobs, ``stream`` an iterable of any length, and ``batch`` takes jobs one by
one while others run.

The pool (this process) talks to *workers*. A worker consists of a supervisor, which watches jobs
from outside, and a *zygote*: a small interpreter that is already started and confined like a job,
and forks one disposable process per run. A value comes back as encoded plain literals. It is
decoded and compared here, so the expected value never leaves this process. Assertions are split so
that this holds for them too (``asserts``). Tests that cannot be split run in a process of their
own, separate from the process of the code (``examiner``).

docs/security.md says what is promised on which platform, what is not, and how it is tested.

The modules in this folder are the trusted side. Those in ``jail`` run in the workers. They import
only each other and the standard library, and share ``codec`` and ``wire`` with the trusted side.
"""

from azr_mlx.sandbox.jail.codec import is_opaque
from azr_mlx.sandbox.jail.wire import MAX_CALLS, MAX_REPORTED
from azr_mlx.sandbox.job import MAX_STDIN, Job, Limits, Result, job_from_json, size_of
from azr_mlx.sandbox.literals import equal, literal, parse_literal
from azr_mlx.sandbox.pool import JobBatch, Sandbox
from azr_mlx.sandbox.worker import SandboxError

__all__ = [
    "MAX_CALLS",
    "MAX_REPORTED",
    "MAX_STDIN",
    "Job",
    "JobBatch",
    "Limits",
    "Result",
    "Sandbox",
    "SandboxError",
    "equal",
    "is_opaque",
    "job_from_json",
    "literal",
    "parse_literal",
    "size_of",
]
