"""The adaptive KL coefficient, and the weight of the entropy bonus."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azr_mlx.training.controllers import LEAST, MOST, AdaptiveKL, EntropyFloor

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(
    ("kl", "factor"),
    [
        (0.05, 1.0),
        (0.055, 1.01),
        (0.045, 0.99),
        (1.0, 1.02),
        (0.0, 0.98),
        (-3.0, 0.98),
        (math.inf, 1.02),
    ],
)
def test_one_update_is_proportional_and_clipped(kl, factor):
    control = AdaptiveKL(coef=0.1, target=0.05, horizon=10)
    assert control.update(kl) == pytest.approx(0.1 * factor)
    assert control.coef == pytest.approx(0.1 * factor)


def test_it_settles_where_the_target_is_met():
    """On a plant where KL falls as beta rises, KL = 0.01 / beta, the fixed point is beta = 0.2."""
    control = AdaptiveKL(coef=0.02, target=0.05, horizon=10)
    for _ in range(500):
        control.update(0.01 / control.coef)
    assert control.coef == pytest.approx(0.2, rel=1e-3)


@given(st.lists(st.floats(-1, 10), max_size=30))
def test_a_restored_controller_continues_exactly(measured):
    whole, half = AdaptiveKL(0.01, 0.05), AdaptiveKL(0.01, 0.05)
    for kl in measured[: len(measured) // 2]:
        whole.update(kl)
        half.update(kl)
    restored = AdaptiveKL(0.5, 0.05)
    restored.restore(json.loads(json.dumps(half.to_json())))
    for kl in measured[len(measured) // 2 :]:
        assert restored.update(kl) == whole.update(kl)
    assert restored == whole
    assert restored.coef > 0


def test_zero_stays_zero():
    assert AdaptiveKL(0.0, 0.05).update(3.0) == 0.0


@pytest.mark.parametrize(
    "options", [{"coef": -1.0}, {"target": 0.0}, {"target": math.nan}, {"horizon": 0.5}]
)
def test_impossible_settings_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options)).replace("coef", "kl_coef")):
        AdaptiveKL(**{"coef": 0.1, "target": 0.05, **options})


def test_nan_is_refused_and_leaves_the_coefficient():
    control = AdaptiveKL(0.1, 0.05)
    with pytest.raises(ValueError, match="NaN"):
        control.update(math.nan)
    assert control.coef == 0.1


# -- the entropy's floor ---------------------------------------------------------------------------


def test_the_bonus_grows_below_the_floor_and_goes_above_it():
    floor = EntropyFloor(0.0, 0.3)
    floor.update(0.5)
    assert floor.coef == 0.0
    floor.update(0.2)
    assert floor.coef == LEAST
    seen = []
    for _ in range(20):
        floor.update(0.1)
        seen.append(floor.coef)
    assert seen == sorted(seen) and seen[-1] == MOST
    for _ in range(20):
        floor.update(0.4)
    assert floor.coef == 0.0


def test_no_floor_leaves_the_weight_alone_and_state_round_trips():
    off = EntropyFloor(0.01, 0.0)
    off.update(0.0)
    assert off.coef == 0.01
    on = EntropyFloor(0.01, 0.3)
    on.update(0.0)
    again = EntropyFloor(0.01, 0.3)
    again.restore(json.loads(json.dumps(on.to_json())))
    assert again == on and again.coef == 0.01 + LEAST
