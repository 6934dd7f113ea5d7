"""Hostile programs by theme, numbered 1 to 50, and the honest ones that stand beside them.

A number is one kind of attack and a letter one way of it: ``12c`` is the third way to end other
processes. Each row names its program, the styles it is run in and the verdicts it may get.
"""

from tests.sandbox.hostile.attack import Attack
from tests.sandbox.hostile.channels import CHANNELS
from tests.sandbox.hostile.cheats import CHEATS
from tests.sandbox.hostile.controls import CONTROLS
from tests.sandbox.hostile.crashes import CRASHES
from tests.sandbox.hostile.determinism import DETERMINISM
from tests.sandbox.hostile.files import FILES
from tests.sandbox.hostile.processes import PROCESSES

ATTACKS: tuple[Attack, ...] = (
    *PROCESSES,
    *CRASHES,
    *FILES,
    *CHANNELS,
    *CHEATS,
    *DETERMINISM,
)

__all__ = ["ATTACKS", "CONTROLS", "Attack"]
