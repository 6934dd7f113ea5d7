"""The signs of a collapse: each trips on its own cause and says what to change."""

from __future__ import annotations

import json

import pytest

from azr_mlx.monitoring.health import QUIET, SIGNS, WINDOW, Health

pytestmark = pytest.mark.pure

WELL = {
    "propose/valid_rate/deduction": 0.6,
    "propose/valid_rate/induction": 0.4,
    "propose/count": 20,
    "propose/valid": 10,
    "propose/reject/duplicate": 0.1,
    "frac_reward_zero_std": 0.4,
    "len/truncated_rate": 0.05,
    "len/mean": 20.0,
    "entropy": 0.4,
}
ILL = {
    "valid": {"propose/valid_rate/deduction": 0.02, "propose/valid_rate/induction": 0.02,
              "propose/valid": 0.4, "propose/reject/duplicate": 0.0},
    "distinct": {"propose/reject/duplicate": 0.9, "propose/valid_rate/deduction": 0.15,
                 "propose/valid_rate/induction": 0.15, "propose/valid": 3},
    "flat_groups": {"frac_reward_zero_std": 0.99},
    "cut": {"len/truncated_rate": 0.8},
    "length": {"len/mean": 90.0},
    "entropy": {"entropy": 0.001},
}  # fmt: skip
FIXES = {
    "valid": "learning_rate",
    "distinct": "rollout.temperature",
    "flat_groups": "rollout.group_size",
    "cut": "rollout.max_solve_tokens",
    "length": "rollout.overlong_buffer",
    "entropy": "ppo.entropy_floor",
}


def fed(health, rows, start=1):
    said = []
    for step, row in enumerate(rows, start):
        metrics, texts = health.observe({"step": step, **row})
        said += texts
    return metrics, said


@pytest.mark.parametrize("sign", SIGNS)
def test_each_sign_trips_on_its_own_cause_and_names_a_key(sign):
    health = Health()
    metrics, said = fed(health, [WELL] * WINDOW)
    assert said == [] and not any(metrics.values())
    metrics, said = fed(health, [{**WELL, **ILL[sign]}] * WINDOW, WINDOW + 1)
    assert metrics == {f"health/{name}": float(name == sign) for name in SIGNS}
    assert len(said) == 1 and FIXES[sign] in said[0]


def test_a_kind_with_one_proposal_does_not_hide_that_the_others_are_alike():
    """A run that grows its own tasks asks for one induction task beside many of the others."""
    alike = {
        "propose/valid_rate/deduction": 0.1,
        "propose/valid_rate/abduction": 0.1,
        "propose/valid_rate/induction": 1.0,
        "propose/count": 41,
        "propose/valid": 5,
        "propose/reject/duplicate": 36 / 41,
    }
    metrics, said = fed(Health(), [alike] * WINDOW)
    assert metrics["health/distinct"] == 1.0 and "only 12%" in said[0]


def test_proposals_of_reserved_shapes_are_no_sign_of_anything():
    kept = {"propose/count": 100, "propose/valid": 9, "propose/reject/reserved": 0.5}
    metrics, said = fed(Health(), [kept] * WINDOW)
    assert said == [] and metrics["health/valid"] == 0.0
    only = {"propose/count": 100, "propose/valid": 0, "propose/reject/reserved": 1.0}
    assert fed(Health(), [only] * WINDOW)[1] == []


def test_one_bad_step_is_no_collapse():
    _, said = fed(Health(), [WELL] * WINDOW + [{**WELL, "entropy": 0.0}] + [WELL] * WINDOW)
    assert said == []


def test_a_warning_is_not_repeated_for_a_while():
    _, said = fed(Health(), [{**WELL, **ILL["cut"]}] * (WINDOW + QUIET - 1))
    assert len(said) == 1
    _, said = fed(Health(), [{**WELL, **ILL["cut"]}] * (WINDOW + QUIET))
    assert len(said) == 2


def test_it_goes_on_from_json_as_if_it_had_not_stopped():
    rows = [WELL] * 3 + [{**WELL, **ILL["length"]}] * 9
    whole = Health()
    fed(whole, rows)
    first = Health()
    fed(first, rows[:6])
    second = Health.from_json(json.loads(json.dumps(first.to_json())))
    fed(second, rows[6:], 7)
    assert second == whole


def test_steps_without_a_value_do_not_count():
    metrics, said = fed(Health(), [{}] * (2 * WINDOW))
    assert said == [] and not any(metrics.values())
