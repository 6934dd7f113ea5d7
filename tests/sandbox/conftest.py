"""Sandboxes at every level that this machine has, and the invariants that no job may break."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from azr_mlx.sandbox import Job, Limits, Result, Sandbox, SandboxError
from azr_mlx.types import Status

LIMITS = Limits(wall_s=1.5, cpu_s=1, memory_mb=256, output_kb=16)
HONEST = Job("honest", "def f(x): return sorted(x)", call="f", args="([2, 1],)", expect="[1, 2]")


@pytest.fixture(scope="session", params=["limits-only", "strong"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    try:
        made = Sandbox(workers=2, isolation=request.param, limits=LIMITS)
    except SandboxError as error:
        pytest.skip(f"no {request.param} isolation on this machine: {error}")
    with made:
        yield made


@pytest.fixture
def confined(sandbox: Sandbox) -> Sandbox:
    """A sandbox that shields the machine from its jobs: only there may a test attack it."""
    if sandbox.isolation != "strong" and not (
        sandbox.features["seccomp"] and sandbox.features["landlock"]
    ):
        pytest.skip(
            "limits-only without seccomp and Landlock does not keep jobs from the user's files"
        )
    return sandbox


def descendants() -> set[int]:
    """Processes below this one that are not zombies (Linux)."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
            except OSError:
                continue
            if fields[0] != b"Z":
                parents[int(entry.name)] = int(fields[1])
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


def zygotes(sandbox: Sandbox) -> list[object]:
    return list(sandbox._crew)


def expected_processes(sandbox: Sandbox) -> int:
    """A worker is a supervisor and a zygote; under strong, one more outside their namespaces."""
    return len(zygotes(sandbox)) * (3 if sandbox.isolation == "strong" else 2)


Judge = Callable[..., Result]


@pytest.fixture
def judge(sandbox: Sandbox) -> Judge:
    """Runs one job and checks the invariants: in time, nothing left, the next honest job passes."""

    def run(code: str, **rest: object) -> Result:
        job = Job("hostile", code, **rest)  # type: ignore[arg-type]
        limits = job.limits or LIMITS
        started = time.monotonic()
        result = sandbox.run([job])[0]
        took = time.monotonic() - started
        runs = 2 if job.deterministic or job.tests is not None else 1
        assert took <= runs * limits.wall_s + 5, f"the job held the sandbox for {took:.1f} s"
        assert result.seconds <= limits.wall_s + 0.5, "the wall limit must hold"
        after = sandbox.run([HONEST])[0]
        assert after.status is Status.PASS, f"the next honest job was spoiled: {after}"
        check_nothing_left(sandbox)
        return result

    return run


def check_nothing_left(sandbox: Sandbox) -> None:
    if sys.platform == "linux":
        own = {z.process.pid for z in zygotes(sandbox)}  # type: ignore[attr-defined]
        below = [pid for pid in descendants() if _under(pid, own)]
        assert len(below) == expected_processes(sandbox), "a job's process outlived its verdict"
    for zygote in zygotes(sandbox):
        assert os.listdir(zygote.base) == [], "a job's files outlived its verdict"  # type: ignore[attr-defined]


def _under(pid: int, roots: set[int]) -> bool:
    while pid > 1 and pid not in roots:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
        except OSError:
            return False
    return pid in roots
