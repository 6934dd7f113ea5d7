"""The level of a program is that of the templates that are as long."""

from __future__ import annotations

import numpy as np
import pytest

from azr_mlx.tasks import templates
from azr_mlx.tasks.ruler import LEVELS, Ruler
from azr_mlx.types import TaskKind

pytestmark = pytest.mark.pure


@pytest.mark.parametrize("which", ["chains", "programs"])
def test_templates_have_about_the_level_that_they_were_drawn_at(which: str) -> None:
    ruler = Ruler(which)
    found = []
    for level in LEVELS:
        draw = np.random.default_rng(round(10 * level))
        drawn = [templates.draw(TaskKind.DEDUCTION, level, draw, which=which) for _ in range(40)]
        found.append(np.mean([ruler.level(one.program) for one in drawn]))
    assert np.corrcoef(LEVELS, found)[0, 1] > 0.95
    if which == "chains":
        np.testing.assert_allclose(found, LEVELS, atol=0.1)


def test_a_ruler_is_always_the_same_and_never_falls() -> None:
    one, other = Ruler("chains"), Ruler("chains")
    assert one.sizes.tolist() == other.sizes.tolist() == sorted(one.sizes.tolist())
    longer = [one.level(f"def f(x):\n    return {' + '.join(['x'] * n)}") for n in range(1, 60)]
    assert longer == sorted(longer) and (longer[0], longer[-1]) == (LEVELS[0], LEVELS[-1])
