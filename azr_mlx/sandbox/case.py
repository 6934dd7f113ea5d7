"""One job on its way to a result: the runs that it needs, and their outcomes."""

from __future__ import annotations

import ast
import marshal
import re
from collections import Counter
from typing import Any

from azr_mlx.sandbox import judge
from azr_mlx.sandbox.asserts import Suite, split
from azr_mlx.sandbox.job import Job, Limits, Result
from azr_mlx.sandbox.marks import marked
from azr_mlx.text import parsed
from azr_mlx.types import Status

ATTEMPTS = 2  # how often a run is started if its worker dies
RUNS, MANY_RUNS = 2, 8  # of a deterministic job; many if it may depend on hashes or addresses
# Sets and hashes; sets of a dict's keys; the text of an object that has none but its address.
_HASHING = re.compile(
    r"\b(set|frozenset|hash|id|object|class)\b|__hash__|__repr__"
    r"|\.(keys|items)\(\)\s*[-&|^]|[-&|^]\s*\w+\.(keys|items)\(\)"
    r"|\b(str|repr|ascii|format)\(\s*(f|self|lambda|iter|map|filter|zip|enumerate|reversed|\()\b"
)


class Case:
    """A job, its runs and its result. Raises ValueError, with one line, for a malformed job."""

    def __init__(self, job: Job, defaults: Limits) -> None:
        reason = job.shape_error()
        if reason:
            raise ValueError(reason)
        args, self.expected = job.literals()
        # Version 2 has no references: equal parts of the arguments do not become one shared object.
        self.args = marshal.dumps(args, 2)
        self.job, self.limits = job, job.limits or defaults
        self.suite = None if job.tests is None else split(job.tests)
        self._flavours = range(_runs(job))
        self.result: Result | None = None
        self._outcomes: dict[int, judge.Observed] = {}
        self._deaths: Counter[int] = Counter()  # of workers in the run of a flavour

    def flavours(self) -> range:
        """The flavours of workers that the job must run in."""
        return self._flavours

    def next_run(self, flavour: int) -> judge.Execution:
        """A run for a worker of this class. Each run has its own nonce."""
        spec = marshal.dumps(self._spec(flavour))
        return judge.Execution(self.job, self.limits, spec, self.suite or Suite())

    def take(self, flavour: int, outcome: judge.Observed) -> None:
        """Note the outcome of a run. Sets ``result`` once all outcomes are known."""
        self._outcomes[flavour] = outcome
        if self.result is not None or len(self._outcomes) < len(self.flavours()):
            return
        self.result = self._verdict(judge.agree([self._outcomes[f] for f in self.flavours()]))

    def worker_died(self, flavour: int) -> bool:
        """Note that the worker of a run has died. Returns whether to try the run once more."""
        self._deaths[flavour] += 1
        if self._deaths[flavour] < ATTEMPTS:
            return True
        detail = "ended the process that ran it"
        self.result = Result(self.job.id, Status.KILLED, detail=detail)
        return False

    def _verdict(self, outcome: judge.Observed) -> Result:
        return judge.verdict(self.job, self.expected, outcome)

    def _examined(self) -> dict[str, Any]:
        """The tests that run in a process of their own, if there are such: as text and compiled."""
        if self.suite is None or self.suite.sealed or self.job.tests is None:
            return {"tests": "", "marked": b""}
        return {"tests": self.job.tests, "marked": marked(self.job.tests)}

    def _spec(self, flavour: int) -> dict[str, Any]:
        """Everything that the job's process gets at the start. Only one of the runs of a
        deterministic job is traced, so that code which detects tracing gives itself away.
        """
        return {
            "style": self.job.style,
            **self._examined(),
            "code": self.job.code,
            "call": self.job.call,
            "args": self.args,
            "call_s": self.job.call_s or 0,
            "stdin": self.job.stdin,
            "trace": self.job.trace and flavour == 0,
            "heap": flavour if len(self._flavours) == MANY_RUNS else 0,
            "sealed": self.suite.compiled if self.suite is not None else b"",
            "cpu_s": self.limits.cpu_s,
            "memory_mb": self.limits.memory_mb,
            "processes": self.limits.processes,
        }


def _runs(job: Job) -> int:
    """How often a job runs. In two runs, a toss of a coin comes out alike half of the time."""
    if not job.deterministic:
        return 1
    return MANY_RUNS if _may_toss_coins(job.code) else RUNS


def _may_toss_coins(code: str) -> bool:
    """Whether a program makes sets, whose order depends on hashes, or asks for hashes or for what
    depends on the addresses of objects.
    """
    if _HASHING.search(code):
        return True
    tree = parsed(code) if "{" in code else None
    return tree is not None and any(
        isinstance(node, (ast.Set, ast.SetComp)) for node in ast.walk(tree)
    )
