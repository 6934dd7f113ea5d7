"""The whole sandbox on a Mac that is made of Python: the real supervisor, zygote, watch and judge
in real processes, at every level, with what macOS lacks taken away (``tests/sandbox/mac``).

What a profile denies is denied here by an interpreter of its rules, wherever Python says what it is
about to do. What code does without Python's help, only a Mac can tell.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from azr_mlx.sandbox import Job, Sandbox
from tests.sandbox.conftest import LIMITS, ON_LINUX, Judge, folders_in
from tests.sandbox.hostile import ATTACKS, CONTROLS, Attack
from tests.sandbox.hostile.targets import Targets
from tests.sandbox.mac import on_a_mac
from tests.sandbox.test_hostile import check_verdict, rows

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(not ON_LINUX, reason="the Mac made of Python reads /proc"),
]

# Attacks on the machine that need no more than Python, and that a profile must stop.
_SHIELDED = set(
    """
    1a 1b 1c 1d 2a 2b 2c 2d 3a 3b 3c 3d 3e 12b 13d 13e 20 21a 21c 21d 22b 24a 24b 24d 25a 25b 25c
    25d 25e 28b 29a 29c 29d
    """.split()  # noqa: SIM905
)
# A Mac sends SIGXCPU once, so what ignores it has until its wall limit.
_OF_LINUX = {"8c"}


@pytest.fixture(scope="module", params=["limits-only", "strong"])
def sandbox(
    request: pytest.FixtureRequest, targets: Targets, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sandbox]:
    with (
        on_a_mac(tmp_path_factory.mktemp("mac")),
        folders_in(targets.temp),
        Sandbox(workers=1, isolation=request.param, limits=LIMITS) as made,
    ):
        made.run([Job("warm", "def f(): return 1", call="f", deterministic=True)])
        yield made


def _name(attack: Attack) -> str:
    return attack.label.split()[0]


def _suitable(attack: Attack) -> bool:
    if attack.linux or attack.strong or _name(attack) in _OF_LINUX:
        return False
    return not attack.shielded or _name(attack) in _SHIELDED


def test_the_named_attacks_are_there() -> None:
    assert {_name(attack) for attack in ATTACKS if attack.shielded} >= _SHIELDED


@pytest.mark.parametrize(("attack", "style"), rows(tuple(filter(_suitable, ATTACKS))))
def test_attack(
    judge: Judge, sandbox: Sandbox, targets: Targets, attack: Attack, style: str
) -> None:
    if attack.shielded and sandbox.isolation != "strong":
        pytest.skip("limits-only shields a Mac from no job")
    check_verdict(judge, targets, attack, style)


@pytest.mark.parametrize(("attack", "style"), rows(tuple(filter(_suitable, CONTROLS))))
def test_honest_program(judge: Judge, targets: Targets, attack: Attack, style: str) -> None:
    check_verdict(judge, targets, attack, style)
