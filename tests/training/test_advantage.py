"""Advantage estimators against naive loops, and against each other where one reduces to another."""

import json

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from azr_mlx.selfplay.rewards import zero_variance_fraction
from azr_mlx.training.advantage import (
    ESTIMATORS,
    EmaBaselines,
    dr_grpo,
    ema_advantage,
    estimate,
    explained_variance,
    gae,
    grpo,
    rloo,
    trr,
    whiten,
)

pytestmark = pytest.mark.pure

seeds = st.integers(0, 2**32 - 1)
unit = st.floats(0.0, 1.0)
SIX = [f"{role}/{kind}" for role in ("propose", "solve") for kind in ("ded", "abd", "ind")]


def episode(seed: int, rows: int = 4, width: int = 7):
    """Rewards, values (both with rubbish off the mask) and a mask with holes and an empty row."""
    draw = np.random.default_rng(seed)
    mask = (draw.random((rows, width)) < 0.6).astype(np.float32)
    mask[:, 0], mask[-1] = 0, 0
    rewards, values = draw.normal(size=(2, rows, width))
    return np.where(mask > 0, rewards, np.nan), np.where(mask > 0, values, 1e9), mask


def labelled(seed: int, rows: int = 24):
    """Scores from the rewards' own grid, group numbers (some alone), cells, lengths."""
    draw = np.random.default_rng(seed)
    scores = draw.choice([-1.0, -0.5, 0.0, 0.3, 1.0], rows)
    groups = draw.integers(0, rows // 3, rows) * 17
    return scores, groups, [SIX[g % 5] for g in groups], draw.integers(1, 9, rows)


@given(seeds, unit, unit)
def test_gae_is_the_discounted_sum_of_temporal_differences(seed, gamma, lam):
    """The definition, Eq. 16 of the paper: A_t = sum_l (gamma lam)^l delta_{t+l}, per row."""
    rewards, values, mask = episode(seed)
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    assert advantages.dtype == returns.dtype == np.float32
    for b in range(len(mask)):
        at = np.flatnonzero(mask[b])
        r, v = rewards[b, at], [*values[b, at], 0.0]
        delta = [r[t] + gamma * v[t + 1] - v[t] for t in range(len(at))]
        for i, t in enumerate(at):
            expected = sum((gamma * lam) ** k * delta[i + k] for k in range(len(at) - i))
            assert advantages[b, t] == pytest.approx(expected, abs=1e-5)
            assert returns[b, t] == pytest.approx(expected + v[i], abs=1e-5)
    assert not advantages[mask == 0].any()
    assert not returns[mask == 0].any()


@given(seeds, unit)
def test_gae_with_lambda_one_is_monte_carlo_less_the_value(seed, gamma):
    rewards, values, mask = episode(seed)
    advantages, returns = gae(rewards, values, mask, gamma, 1.0)
    for b in range(len(mask)):
        at = np.flatnonzero(mask[b])
        for i, t in enumerate(at):
            expected = sum(gamma**k * rewards[b, u] for k, u in enumerate(at[i:]))
            assert returns[b, t] == pytest.approx(expected, abs=1e-5)
            assert advantages[b, t] == pytest.approx(expected - values[b, t], abs=1e-5)


@given(seeds, unit)
def test_gae_with_lambda_zero_is_the_one_step_error(seed, gamma):
    rewards, values, mask = episode(seed)
    advantages, _ = gae(rewards, values, mask, gamma, 0.0)
    for b in range(len(mask)):
        at = np.flatnonzero(mask[b])
        following = [*values[b, at[1:]], 0.0] if len(at) else []
        expected = rewards[b, at] + gamma * np.array(following) - values[b, at]
        np.testing.assert_allclose(advantages[b, at], expected, atol=1e-5)


def test_gae_of_a_perfect_critic_is_zero():
    rewards = np.array([[0, 0, 0, 1.0]])
    advantages, returns = gae(rewards, np.ones((1, 4)), np.array([[0, 1, 1, 1]]), 1.0, 0.95)
    assert not advantages.any()
    assert returns.tolist() == [[0, 1, 1, 1]]


@given(seeds)
def test_rloo_leaves_one_out(seed):
    scores, groups, _, _ = labelled(seed)
    got = rloo(scores, groups)
    assert got.dtype == np.float32
    for i, g in enumerate(groups):
        others = [scores[j] for j in range(len(scores)) if groups[j] == g and j != i]
        expected = scores[i] - sum(others) / len(others) if others else 0.0
        assert got[i] == pytest.approx(expected, abs=1e-6)


@given(seeds)
def test_grpo_and_dr_grpo_per_group(seed):
    scores, groups, _, _ = labelled(seed)
    normalised, centred = grpo(scores, groups), dr_grpo(scores, groups)
    assert normalised.dtype == centred.dtype == np.float32
    for g in set(groups.tolist()):
        rows = groups == g
        r = scores[rows]
        np.testing.assert_allclose(centred[rows], r - r.mean(), atol=1e-6)
        std = r.std(ddof=1) if len(r) > 1 else 0.0
        np.testing.assert_allclose(
            normalised[rows], (r - r.mean()) / (std + 1e-4), rtol=1e-5, atol=1e-6
        )


@given(seeds)
def test_rloo_is_dr_grpo_times_n_over_n_minus_one(seed):
    scores, groups, _, _ = labelled(seed)
    size = np.array([(groups == g).sum() for g in groups])
    factor = np.where(size > 1, size / np.maximum(size - 1, 1), 0.0)
    np.testing.assert_allclose(rloo(scores, groups), factor * dr_grpo(scores, groups), atol=1e-6)


@pytest.mark.parametrize("estimator", [rloo, grpo, dr_grpo])
@pytest.mark.parametrize("scores", [[0.3], [0.1, 0.1, 0.1], [-0.5, -0.5]])
def test_groups_without_contrast_carry_no_gradient(estimator, scores):
    np.testing.assert_allclose(estimator(scores, [4] * len(scores)), 0.0, atol=1e-10)


@given(seeds, st.permutations(range(24)))
def test_the_order_of_rows_does_not_matter(seed, order):
    scores, groups, cells, _ = labelled(seed)
    shuffled = [cells[i] for i in order]
    for function in (rloo, grpo, dr_grpo):
        np.testing.assert_allclose(
            function(scores[order], groups[order]), function(scores, groups)[order], atol=1e-6
        )
    np.testing.assert_allclose(trr(scores[order], shuffled), trr(scores, cells)[order], atol=1e-5)


@given(seeds)
def test_trr_has_a_mean_and_a_deviation_per_cell(seed):
    scores, _, cells, _ = labelled(seed)
    got, labels = trr(scores, cells), np.array(cells)
    for cell in set(cells):
        r = scores[labels == cell]
        expected = (r - np.mean(r)) / np.std(r) if np.ptp(r) > 0 else np.zeros(len(r))
        np.testing.assert_allclose(got[labels == cell], expected, rtol=1e-4, atol=1e-6)


@given(seeds)
def test_trr_by_tokens_is_trr_of_rows_repeated_by_their_length(seed):
    scores, _, cells, lengths = labelled(seed)
    repeated = trr(np.repeat(scores, lengths), np.repeat(cells, lengths))
    by_tokens = trr(scores, cells, lengths)
    np.testing.assert_allclose(np.repeat(by_tokens, lengths), repeated, atol=1e-5)


@given(seeds)
def test_trr_by_tokens_with_one_cell_is_whitening(seed):
    scores, _, _, lengths = labelled(seed)
    mask = (np.arange(9)[None] < lengths[:, None]).astype(np.float32)
    one = ["all"] * len(scores)
    assume(np.ptp(scores) > 0)
    whitened = whiten(scores[:, None] * mask, mask, one)
    np.testing.assert_allclose(trr(scores, one, lengths)[:, None] * mask, whitened, atol=1e-5)


def test_cells_do_not_mix():
    """A task kind that is always solved must not lend its mean to one that never is."""
    scores, cells = [1.0, 1.0, -1.0, 0.0], ["solve/ded", "solve/ded", "solve/ind", "solve/ind"]
    np.testing.assert_allclose(trr(scores, cells), [0, 0, -1, 1], atol=1e-5)
    mixed = trr(scores, ["solve"] * 4)
    assert (mixed[:2] > 0).all()


@given(seeds)
def test_whiten_gives_each_cell_mean_zero_and_deviation_one(seed):
    draw = np.random.default_rng(seed)
    mask = (draw.random((6, 5)) < 0.7).astype(np.float32)
    adv = np.where(mask > 0, draw.normal(3.0, 4.0, mask.shape), np.nan)
    cells = ["a", "b", "a", "c", "b", "a"]
    got = whiten(adv, mask, cells)
    assert got.dtype == np.float32
    assert not got[mask == 0].any()
    for cell in "abc":
        rows = [i for i, c in enumerate(cells) if c == cell]
        tokens, before = got[rows][mask[rows] > 0], adv[rows][mask[rows] > 0]
        if len(tokens) < 2:
            np.testing.assert_allclose(tokens, before, rtol=1e-6)
            continue
        assert tokens.mean() == pytest.approx(0, abs=1e-5)
        assert tokens.std() == pytest.approx(1, abs=1e-4)
        np.testing.assert_array_equal(np.argsort(tokens), np.argsort(before))


@pytest.mark.parametrize("value", [0.0, 0.1, -3.7, 1e-12])
def test_whiten_leaves_a_cell_without_variance(value):
    mask = np.array([[0, 1, 1, 1], [0, 0, 1, 0]], np.float32)
    got = whiten(np.full((2, 4), value), mask, ["a", "b"])
    np.testing.assert_allclose(got, value * mask, rtol=1e-6)


@given(seeds)
def test_ema_that_forgets_everything_is_trr(seed):
    baselines = EmaBaselines(decay=0.0)
    for offset in range(3):
        scores, _, cells, _ = labelled(seed + offset)
        np.testing.assert_allclose(
            ema_advantage(scores, cells, baselines), trr(scores, cells), atol=1e-6
        )


@given(seeds, st.floats(0.0, 1.0))
def test_ema_is_a_weighted_mean_over_all_that_was_seen(seed, decay):
    """Brute force: keep every sample with weight decay ** (updates of its cell since)."""
    draw = np.random.default_rng(seed)
    baselines, seen = EmaBaselines(decay), {}
    for _ in range(6):
        size = int(draw.integers(1, 6))
        scores, cells = draw.normal(size=size), draw.choice(["a", "b"], size).tolist()
        got = ema_advantage(scores, cells, baselines)
        for cell in set(cells):
            rows = [i for i, c in enumerate(cells) if c == cell]
            seen[cell] = [(w * decay, x) for w, x in seen.get(cell, [])]
            seen[cell] += [(1.0, scores[i]) for i in rows]
            w, x = np.array(seen[cell]).T
            mean = (w * x).sum() / w.sum()
            std = np.sqrt((w * (x - mean) ** 2).sum() / w.sum())
            assert baselines.mean(cell) == pytest.approx(mean, abs=1e-9)
            assert baselines.std(cell) == pytest.approx(std, abs=1e-7)
            np.testing.assert_allclose(
                got[rows], (scores[rows] - mean) / (std + 1e-6), rtol=1e-4, atol=1e-5
            )


def test_ema_gives_one_row_a_signal_that_its_batch_cannot():
    baselines = EmaBaselines(0.9)
    for _ in range(20):
        ema_advantage([1.0, -1.0], ["a", "a"], baselines)
    assert ema_advantage([1.0], ["a"], baselines)[0] > 0.9
    assert ema_advantage([-1.0], ["a"], baselines)[0] < -0.9
    assert trr([1.0], ["a"])[0] == 0.0


def test_ema_stays_bounded_after_a_past_without_variance():
    """A hundred equal scores leave a deviation of 0; the first other score must not explode."""
    baselines = EmaBaselines(0.9)
    for _ in range(100):
        assert ema_advantage([-1.0], ["a"], baselines)[0] == pytest.approx(0.0, abs=1e-6)
    assert 0 < ema_advantage([1.0], ["a"], baselines)[0] <= 10 / 3 + 1e-6


@given(seeds)
def test_restored_ema_continues_exactly(seed):
    scores, _, cells, _ = labelled(seed)
    whole = EmaBaselines(0.8)
    whole.update(scores, cells)
    restored = EmaBaselines.from_json(json.loads(json.dumps(whole.to_json())))
    again = labelled(seed + 1)
    np.testing.assert_array_equal(
        ema_advantage(again[0], again[2], restored), ema_advantage(again[0], again[2], whole)
    )
    assert restored == whole


def test_the_state_that_is_saved_is_a_copy():
    baselines = EmaBaselines(0.5)
    baselines.update([1.0], ["a"])
    saved = baselines.to_json()
    restored = EmaBaselines.from_json(saved)
    restored.update([5.0], ["a"])
    assert saved == baselines.to_json()


@pytest.mark.parametrize("decay", [-0.1, 1.1, float("nan")])
def test_ema_decay_outside_the_unit_interval_is_refused(decay):
    with pytest.raises(ValueError, match=r"ppo\.ema_decay"):
        EmaBaselines(decay)


def inputs(**changes):
    mask = np.array([[0, 1, 1], [0, 1, 0], [0, 0, 0], [0, 1, 1]], np.float32)
    rewards = np.array([[0, -0.25, 1.0], [0, 0.5, 0], [0, 0, 0], [0, 0.125, -1.0]], np.float32)
    return {
        "rewards": rewards,
        "scores": np.array([1.0, 0.5, -0.5, -1.0]),
        "groups": np.array([7, 7, 7, 7]),
        "cells": ["solve/deduction"] * 4,
        "mask": mask,
        "values": np.full(mask.shape, 0.5, np.float32),
        "ema": EmaBaselines(0.9),
        **changes,
    }


# The return of each row: its token rewards, and the score of the row that has no token.
TOTALS = np.array([0.75, 0.5, -0.5, -0.875])


@pytest.mark.parametrize(
    ("name", "scalar"),
    [
        ("rloo", rloo(TOTALS, [7] * 4)),
        ("grpo", grpo(TOTALS, [7] * 4)),
        ("dr_grpo", dr_grpo(TOTALS, [7] * 4)),
        ("trr++", trr(TOTALS, ["x"] * 4)),
        ("ema", ema_advantage(TOTALS, ["x"] * 4, EmaBaselines(0.9))),
    ],
)
def test_estimate_broadcasts_the_return_of_a_row_over_its_mask(name, scalar):
    given_ = inputs()
    got = estimate(name, **given_)
    assert got.returns is None
    assert got.advantages.dtype == np.float32
    assert np.ptp(scalar) > 0
    np.testing.assert_allclose(got.advantages, scalar[:, None] * given_["mask"], rtol=1e-5)


def test_estimate_gae_is_gae():
    given_ = inputs()
    got = estimate("gae", **given_, gamma=0.9, lam=0.8)
    advantages, returns = gae(given_["rewards"], given_["values"], given_["mask"], 0.9, 0.8)
    np.testing.assert_array_equal(got.advantages, advantages)
    np.testing.assert_array_equal(got.returns, returns)


def test_estimate_trr_can_weight_by_tokens():
    given_ = inputs()
    got = estimate("trr++", **given_, token_weighted=True)
    expected = trr(TOTALS, ["x"] * 4, given_["mask"].sum(axis=1))
    np.testing.assert_allclose(got.advantages, expected[:, None] * given_["mask"], rtol=1e-5)


def test_estimate_ema_updates_its_baselines():
    given_ = inputs()
    estimate("ema", **given_)
    assert given_["ema"].mean("solve/deduction") == pytest.approx(TOTALS.mean())


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_keeps_shape_type_and_mask(name):
    given_ = inputs(cells=["a", "b", "b", "a"], groups=np.array([1, 2, 2, 1]))
    got = estimate(name, **given_).advantages
    assert got.shape == given_["mask"].shape
    assert got.dtype == np.float32
    assert np.isfinite(got).all()
    assert not got[given_["mask"] == 0].any()
    assert got[0, 2] > got[3, 2], "the better of two rollouts has the higher advantage"


@pytest.mark.parametrize("name", sorted(set(ESTIMATORS) - {"gae"}))
def test_equal_scores_give_no_advantage(name):
    """0.3 is not a float32: a row without tokens must still equal the others."""
    given_ = inputs(scores=np.full(4, 0.3))
    given_["rewards"] = np.zeros((4, 3), np.float32)
    given_["rewards"][[0, 1, 3], [2, 1, 2]] = 0.3
    np.testing.assert_allclose(estimate(name, **given_).advantages, 0.0, atol=1e-6)


def test_estimate_refuses_an_unknown_name():
    with pytest.raises(ValueError, match=r"ppo\.advantage 'vtrace': unknown; use one of gae, rloo"):
        estimate("vtrace", **inputs())


@pytest.mark.parametrize(("name", "missing"), [("gae", "values"), ("ema", "ema")])
def test_estimate_says_what_it_lacks(name, missing):
    with pytest.raises(ValueError, match=f"ppo.advantage {name}: needs"):
        estimate(name, **inputs(**{missing: None}))


@given(seeds)
def test_explained_variance_of_good_constant_and_opposite_critics(seed):
    returns, _, mask = episode(seed, rows=6)
    assume(mask.sum() > 1)
    assert explained_variance(returns, returns, mask) == pytest.approx(1.0)
    assert explained_variance(returns + 5, returns, mask) == pytest.approx(1.0)
    assert explained_variance(np.full(mask.shape, 3.0), returns, mask) == pytest.approx(0.0)
    assert explained_variance(-returns, returns, mask) == pytest.approx(-3.0)
    halved = explained_variance(returns / 2, returns, mask)
    assert halved == pytest.approx(0.75)


@pytest.mark.parametrize("mask", [np.zeros((2, 3)), np.ones((2, 3))])
def test_explained_variance_of_nothing_is_zero(mask):
    assert explained_variance(np.zeros((2, 3)), np.full((2, 3), 2.0), mask) == 0.0


@pytest.mark.parametrize(
    ("scores", "groups", "expected"),
    [
        ([1, 1, 0, 1], [0, 0, 1, 1], 0.5),
        ([1, 1, 0, 1, 5], [0, 0, 1, 1, 2], 0.5),
        ([0.1, 0.1, 0.1], [9, 9, 9], 1.0),
        ([1, 2], [0, 1], 0.0),
        ([], [], 0.0),
    ],
)
def test_zero_variance_fraction_counts_groups_that_could_vary(scores, groups, expected):
    assert zero_variance_fraction(scores, groups) == expected
