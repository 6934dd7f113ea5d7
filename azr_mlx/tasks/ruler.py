"""How long a program is, on the scale of difficulty that templates are drawn with."""

from __future__ import annotations

from statistics import median

import numpy as np

from azr_mlx import rng
from azr_mlx.tasks import templates
from azr_mlx.tasks.parse import features
from azr_mlx.types import TaskKind

LEVELS = tuple(level / 10 for level in range(1, 10))
DRAWS = 40  # templates a level


class Ruler:
    """Gives programs the level of the templates that are as long.

    Length is the number of syntax nodes. ``which`` names the set of templates, of which some are
    drawn at each level; the same set always gives the same ruler. Raises what ``templates.draw``
    does.
    """

    def __init__(self, which: str) -> None:
        sizes = [median(_size(which, level, i) for i in range(DRAWS)) for level in LEVELS]
        # Chance, or a set whose programs get no longer, must not make a longer program easier.
        self.sizes = np.maximum.accumulate(sizes)

    def level(self, program: str) -> float:
        """The level of a program that parses, in [0.1, 0.9]."""
        size = features(program)["ast_nodes"]
        return round(float(np.interp(size, self.sizes, LEVELS)), 3)


def _size(which: str, level: float, index: int) -> int:
    draw = rng.generator(0, "ruler", round(10 * level), index)
    proposal = templates.draw(TaskKind.DEDUCTION, level, draw, which=which)
    return features(proposal.program)["ast_nodes"]
