"""Runs untrusted Python and judges it.

    with Sandbox(workers=2) as sandbox:
        results = sandbox.run([Job("a", "def f(x): return x + 1", call="f", args="(1,)",
                                   expect="2")])

``run`` takes a list, ``stream`` a list of any length, ``batch`` jobs that are still being made.

The pool (this process) talks to *workers*. A worker is a supervisor, which watches from outside,
and a *zygote*, a slim warm interpreter confined like a job, which forks one disposable process per
run. A value comes back as an encoding of plain literals, is decoded by a total parser and compared
here; what it is compared with never leaves this process. Assertions are split so that this holds
for them too (``asserts``); tests that cannot be split run in a process of their own, separate from
that of the code (``examiner``).

What is promised on which platform, what is not, and how it is tested: docs/security.md.

The modules here are the trusted side. Those of ``jail`` run in the workers, import nothing but each
other and the standard library, and share ``codec`` and ``wire`` with the trusted side.
"""

from azr_mlx.sandbox.jail.codec import is_opaque
from azr_mlx.sandbox.job import Job, Limits, Result, job_from_json
from azr_mlx.sandbox.literals import equal, literal, parse_literal
from azr_mlx.sandbox.pool import JobBatch, Sandbox
from azr_mlx.sandbox.worker import SandboxError

__all__ = [
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
]
