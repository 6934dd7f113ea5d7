"""Hostile programs, numbered 1 to 50. Each asserts its verdict, ``judge`` that nothing else was
touched; honest programs of the same themes show that the sandbox does not block too much.

The programs are in ``tests/sandbox/hostile``.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from azr_mlx.sandbox import Job, Sandbox
from azr_mlx.types import Status
from tests.sandbox.conftest import ON_LINUX, Judge, is_confined
from tests.sandbox.hostile import ATTACKS, CONTROLS, Attack
from tests.sandbox.hostile.attack import USUAL
from tests.sandbox.hostile.targets import Targets

pytestmark = pytest.mark.sandbox


def rows(table: tuple[Attack, ...]) -> list[Any]:
    return [
        pytest.param(attack, style, id=f"{attack.label}, {style}".replace("::", ":"))
        for attack in table
        for style in attack.styles
    ]


def test_no_number_is_missing() -> None:
    assert {attack.number for attack in ATTACKS} == set(range(1, 51))


def test_labels_are_unique() -> None:
    labels = [attack.label for attack in (*ATTACKS, *CONTROLS)]
    assert len(set(labels)) == len(labels), "a label names one program"


@pytest.mark.parametrize(("attack", "style"), rows(ATTACKS))
def test_attack(
    judge: Judge, sandbox: Sandbox, targets: Targets, attack: Attack, style: str
) -> None:
    _run(judge, sandbox, targets, attack, style)


@pytest.mark.parametrize(("attack", "style"), rows(CONTROLS))
def test_honest_program(
    judge: Judge, sandbox: Sandbox, targets: Targets, attack: Attack, style: str
) -> None:
    _run(judge, sandbox, targets, attack, style)


def _run(judge: Judge, sandbox: Sandbox, targets: Targets, attack: Attack, style: str) -> None:
    if attack.shielded and not is_confined(sandbox):
        pytest.skip("limits-only without seccomp and Landlock shields the machine from no job")
    if attack.strong and sandbox.isolation != "strong":
        pytest.skip("nothing but namespaces bounds this attack")
    if attack.linux and not ON_LINUX:
        pytest.skip("this attack is made of Linux, or this limit does not hold elsewhere")
    check_verdict(judge, targets, attack, style)


def check_verdict(judge: Judge, targets: Targets, attack: Attack, style: str) -> None:
    """Run one program and check its result."""
    job = attack.job(style, targets.names())
    rest = {f.name: getattr(job, f.name) for f in fields(Job) if f.name not in ("id", "code")}
    result = judge(job.code, **rest)
    assert result.status in attack.allowed(style), f"{attack.label}: {result}"
    assert attack.detail in result.detail, f"{attack.label}: {result}"
    if result.status in (Status.INVALID, Status.NONDETERMINISTIC, Status.ERROR):
        assert result.value is None, f"there is no value to show: {result}"
    if attack.value is not None:
        shown = result.value if style == "call" else result.stdout.strip()
        assert shown == attack.value, f"{attack.label}: {result}"


def test_other_jobs_leave_no_trace_in_globals(sandbox: Sandbox) -> None:
    leave = Job("leave", "import math, sys\nmath.mark = sys.mark = 1\ndef f(): return 1", call="f")
    look = Job(
        "look",
        "import math, sys\ndef f(): return hasattr(math, 'mark') or hasattr(sys, 'mark')",
        call="f",
    )
    values = [r.value for r in sandbox.run([leave, look] * 4)]
    assert values == ["1", "False"] * 4, "a job's globals met the next job"


def test_many_attacks_at_once_leave_honest_jobs_alone(sandbox: Sandbox, targets: Targets) -> None:
    """Side by side with what ends badly, every honest job of a batch gets its verdict."""
    numbers = (17, 18, 19, 31, 35, 39, 42)
    bad = [a for a in ATTACKS if a.number in numbers and not a.shielded and a.limits == USUAL]
    honest = Job("honest", "def f(x): return x + 1", call="f", args="(1,)", expect="2")
    jobs = [job for a in bad for job in (a.job(a.styles[0], targets.names()), honest)]
    results = sandbox.run(jobs)
    assert [r.id for r in results] == [job.id for job in jobs], "results keep the jobs' order"
    assert {r.status for r in results[1::2]} == {Status.PASS}, "an honest job met its neighbour"
