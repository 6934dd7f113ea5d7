"""Runs untrusted Python and judges it.

    with Sandbox(workers=2) as sandbox:
        results = sandbox.run([Job("a", "def f(x): return x + 1", call="f", args="(1,)",
        expect="2")])

The pool (this process) talks to *zygotes*: slim warm interpreters that hold nothing of this
package's models or data. A zygote forks one disposable process per job, watches it from outside,
ends everything it started, and relays bytes. A value comes back as an encoding of plain literals,
is decoded by a total parser and compared here, in this process; what it is compared with never
leaves it.

Covered, at both levels: wall time, CPU time, address space, file size, open files and output are
limited; the environment and the working directory are the job's own and gone afterwards; the job's
whole process tree is dead when the verdict is given. On Linux a seccomp filter denies child
processes (unless the job may have some), signals to others, tracing and sockets, and Landlock
(where the kernel has it) lets a job open no file but the interpreter's and its scratch. ``strong``
(Linux) adds user, mount, pid, network, IPC and UTS namespaces: a root without home, project or
data, no network device, a scratch of 64 MiB. A job that returns a value which is not a plain
literal of exact type, exits early, writes to descriptors it was not given, or forges a frame is not
passed.

Not covered:

- Assert-style tests run in the interpreter of the code they judge. The tests are withheld until the
  code has run, the proof of having reached their end until they have ended, and a pass counts only
  if a control (the same tests, made impossible) is not passed: always-equal objects and early exits
  fall to these. Code that reads the tests out of its own process while they run, and answers by
  them, does not. Call and program style have no such gap.
- Two runs with two hash seeds, random seeds and clocks find most nondeterminism, not all: a set of
  two strings comes out in the same order with chance one half.
- macOS has ``limits-only`` so far: memory is not held to its limit there, a job can signal the
  user's processes, open files and sockets, and (where it may have children) leave a daemon in a
  session of its own.
- Linux ``limits-only`` on a kernel without Landlock leaves readable what the user can read and
  writable what the user can write. Side channels, kernel bugs and a full disk within the limits are
  not covered at any level.
- Jobs have the standard library only: no installed packages.
"""

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
    "job_from_json",
    "literal",
    "parse_literal",
]
