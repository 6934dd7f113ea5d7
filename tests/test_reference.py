"""The numpy PPO loss: hand-derived gradients, exact micro-batches, cases worked out by hand."""

from dataclasses import fields, replace

import numpy as np
import pytest

from azr_mlx.backends.base import Hyper
from azr_mlx.training.batch import token_weights
from azr_mlx.types import Batch, UpdateStats
from tests.reference import Distill, ppo_loss

pytestmark = pytest.mark.pure

FULL = Hyper(
    lr=0.0, clip_low=0.1, clip_high=0.15, dual_clip=1.5, value_coef=0.5, value_clip=0.2,
    entropy_coef=0.02, kl_coef=0.05, tis_cap=1.2, distill_coef=0.3,
)  # fmt: skip
PLAIN = Hyper(lr=0.0, value_clip=0.0, value_coef=0.0)
MEANS = ("approx_kl", "clip_frac", "entropy", "kl_ref", "mismatch_mean")


def case(seed: int = 0, rows: int = 6, width: int = 9):
    """(logp, entropy, values, batch, distill): every branch is taken somewhere (checked below)."""
    draw = np.random.default_rng(seed)
    mask = (draw.random((rows, width)) < 0.7).astype(np.float32)
    mask[:, 0], mask[rows // 2] = 0, 0
    logp = draw.normal(-2.0, 1.0, mask.shape)

    def near(x, scale):
        return x + draw.normal(0.0, scale, mask.shape)

    old = near(logp, 0.3)
    values = draw.normal(size=mask.shape)
    batch = Batch(
        tokens=np.zeros(mask.shape, np.int32),
        mask=mask,
        sampler_logp=near(old, 0.2),
        old_logp=old,
        ref_logp=near(logp, 0.5),
        values=near(values, 0.3),
        advantages=draw.normal(size=mask.shape),
        returns=draw.normal(size=mask.shape),
        weights=token_weights(mask, "sequence_mean").astype(np.float64),
    )
    distill = Distill(draw.normal(-1.0, 0.5, (2, 4)), np.array([[0, 1, 1, 0], [0, 0, 1, 1.0]]))
    return logp, draw.random(mask.shape) * 3, values, batch, distill


def frozen_old(logp, batch: Batch) -> Batch:
    """With no old policy given, the current one is it, as a constant."""
    return batch if batch.old_logp is not None else batch.with_(old_logp=logp.copy())


VARIANTS = {
    "everything": (FULL, {}),
    "no old policy": (FULL, {"old_logp": None}),
    "no reference, no sampler": (FULL, {"ref_logp": None, "sampler_logp": None}),
    "no critic": (FULL, {"returns": None, "values": None}),
    "value loss without clipping": (replace(FULL, value_clip=0.0), {}),
    "value loss without old values": (FULL, {"values": None}),
    "no dual clip, no correction": (replace(FULL, dual_clip=0.0, tis_cap=0.0), {}),
    "plain": (PLAIN, {}),
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("seed", range(3))
def test_gradients_agree_with_central_differences(name, seed):
    hyper, without = VARIANTS[name]
    logp, entropy, values, batch, distill = case(seed)
    batch = batch.with_(**without)
    grads = ppo_loss(logp, entropy, values, batch, hyper, distill=distill)[2]
    held = frozen_old(logp, batch)
    places = {"logp": logp, "entropy": entropy, "values": values, "distill_logp": distill.logp}

    def loss_at(place: str, x: np.ndarray) -> float:
        at = {**places, place: x}
        moved = Distill(at["distill_logp"], distill.mask)
        return ppo_loss(at["logp"], at["entropy"], at["values"], held, hyper, distill=moved)[0]

    eps = 1e-6
    for place, x in places.items():
        numeric = np.zeros_like(x)
        for index in np.ndindex(x.shape):
            step = np.zeros_like(x)
            step[index] = eps
            numeric[index] = (loss_at(place, x + step) - loss_at(place, x - step)) / (2 * eps)
        np.testing.assert_allclose(grads[place], numeric, atol=1e-8, err_msg=place)


def test_the_case_takes_every_branch():
    """Else the gradient test would not see the clips it is there to check."""
    logp, _, values, batch, _ = case()
    on = batch.mask > 0
    ratio, adv = np.exp(logp - batch.old_logp), batch.advantages
    up, down = (ratio > 1.15) & on, (ratio < 0.9) & on
    for branch in (up & (adv > 0), up & (adv < 0), down & (adv > 0), down & (adv < 0)):
        assert branch.any()
    assert (on & (adv < 0) & (ratio > 1.5)).any(), "dual clip"
    assert (on & (np.exp(batch.old_logp - batch.sampler_logp) > 1.2)).any(), "truncated weight"
    moved = np.abs(values - batch.values) > 0.2
    held = batch.values + np.clip(values - batch.values, -0.2, 0.2)
    worse = (held - batch.returns) ** 2 > (values - batch.returns) ** 2
    assert (on & moved & worse).any(), "value clip"
    assert (on & moved & ~worse).any(), "value clip that does not bind"


@pytest.mark.parametrize("how", ["token_mean", "sequence_mean", "constant"])
@pytest.mark.parametrize("name", VARIANTS)
def test_micro_batches_add_up_to_the_minibatch(name, how):
    """Weights and token count of the whole minibatch make uneven micro-batches exact."""
    hyper, without = VARIANTS[name]
    logp, entropy, values, batch, _ = case()
    weights = token_weights(batch.mask, how, constant=9)
    batch = batch.with_(**without, weights=weights)
    loss, stats, grads = ppo_loss(logp, entropy, values, batch, hyper)
    total = float(batch.mask.sum())
    parts = [
        (
            rows,
            ppo_loss(
                logp[rows], entropy[rows], values[rows], batch.rows(rows), hyper, tokens=total
            ),
        )
        for rows in (np.array([4, 0]), np.array([3]), np.array([1, 5, 2]))
    ]
    assert sum(p[0] for _, p in parts) == pytest.approx(loss, rel=1e-12)
    for key in ("policy_loss", "value_loss", *MEANS):
        assert sum(p[1][key] for _, p in parts) == pytest.approx(stats[key], rel=1e-12), key
    for key in ("ratio_max", "mismatch_max"):
        assert max(p[1][key] for _, p in parts) == stats[key]
    for key in ("logp", "entropy", "values"):
        for rows, part in parts:
            np.testing.assert_allclose(part[2][key], grads[key][rows], rtol=1e-12)


@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_off_the_mask_is_not_read(name):
    hyper, without = VARIANTS[name]
    logp, entropy, values, batch, _ = case()
    batch = batch.with_(**without)
    off = batch.mask == 0
    spoiled = {
        key: np.where(off, np.nan, getattr(batch, key))
        for key in ("sampler_logp", "old_logp", "ref_logp", "values", "advantages", "returns")
        if getattr(batch, key) is not None
    }
    bad = [np.where(off, np.nan, x) for x in (logp, entropy, values)]
    loss, stats, grads = ppo_loss(*bad, batch.with_(**spoiled), hyper)
    clean_loss, clean_stats, clean_grads = ppo_loss(logp, entropy, values, batch, hyper)
    assert loss == clean_loss
    assert stats == clean_stats
    for key in ("logp", "entropy", "values"):
        np.testing.assert_array_equal(grads[key], clean_grads[key])
        assert not grads[key][off].any()


def one_token(ratio: float, advantage: float, **arrays) -> tuple[np.ndarray, Batch]:
    """One row with one trained token, whose old log-probability is -1."""
    mask = np.array([[0, 1]], np.float32)
    full = {k: np.full((1, 2), v) for k, v in {"advantages": advantage, **arrays}.items()}
    batch = Batch(
        np.zeros((1, 2), np.int32), mask, old_logp=np.full((1, 2), -1.0), weights=mask, **full
    )
    return np.full((1, 2), -1.0 + np.log(ratio)), batch


@pytest.mark.parametrize(
    ("ratio", "advantage", "dual", "loss", "gradient"),
    [
        (1.1, 2.0, 0.0, -2.2, -2.2),  # inside
        (1.5, 2.0, 0.0, -2.4, 0.0),  # above, good: held at 1.2
        (0.5, 2.0, 0.0, -1.0, -1.0),  # below, good: free to come back
        (0.5, -2.0, 0.0, 1.6, 0.0),  # below, bad: held at 0.8
        (1.5, -2.0, 0.0, 3.0, 3.0),  # above, bad: free to come back
        (4.0, -2.0, 3.0, 6.0, 0.0),  # far above, bad: held at 3 by the dual clip
        (4.0, 2.0, 3.0, -2.4, 0.0),  # the dual clip leaves good tokens alone
    ],
)
def test_the_surrogate_by_hand(ratio, advantage, dual, loss, gradient):
    logp, batch = one_token(ratio, advantage)
    got, stats, grads = ppo_loss(logp, logp * 0, None, batch, replace(PLAIN, dual_clip=dual))
    assert got == stats["policy_loss"] == pytest.approx(loss)
    assert grads["logp"][0, 1] == pytest.approx(gradient)
    assert stats["clip_frac"] == float(not 0.8 <= ratio <= 1.2)
    assert stats["ratio_max"] == pytest.approx(ratio)
    assert stats["approx_kl"] == pytest.approx(ratio - 1 - np.log(ratio))


@pytest.mark.parametrize(("gap", "weight"), [(-0.5, np.exp(-0.5)), (0.1, np.exp(0.1)), (3.0, 2.0)])
def test_importance_weights_are_truncated_constants(gap, weight):
    logp, batch = one_token(1.1, 2.0, sampler_logp=-1.0 - gap)
    loss, stats, grads = ppo_loss(logp, logp * 0, None, batch, replace(PLAIN, tis_cap=2.0))
    assert loss == pytest.approx(-2.2 * weight)
    assert grads["logp"][0, 1] == pytest.approx(-2.2 * weight)
    assert stats["mismatch_mean"] == stats["mismatch_max"] == pytest.approx(abs(gap))


def test_value_loss_by_hand():
    """V moved from 0 to R = 1; clipped to 0.2 it is 0.8 away: 0.32, and no gradient."""
    logp, batch = one_token(1.0, 0.0, values=0.0, returns=1.0)
    values = np.full((1, 2), 1.0)
    hyper = replace(PLAIN, value_coef=0.5, value_clip=0.2)
    loss, stats, grads = ppo_loss(logp, logp * 0, values, batch, hyper)
    assert stats["value_loss"] == pytest.approx(0.32)
    assert loss == pytest.approx(0.16)
    assert not grads["values"].any()
    loss, stats, grads = ppo_loss(logp, logp * 0, values - 3, batch, replace(hyper, value_clip=0.0))
    assert stats["value_loss"] == pytest.approx(4.5)
    assert grads["values"][0, 1] == pytest.approx(0.5 * -3.0)


def test_reference_entropy_and_distillation_terms_by_hand():
    logp, batch = one_token(1.0, 0.0, ref_logp=-1.5)
    hyper = replace(PLAIN, kl_coef=0.1, entropy_coef=0.01, distill_coef=0.5)
    distill = Distill(np.array([[7.0, -1.0, -3.0]]), np.array([[0, 1, 1]]))
    loss, stats, grads = ppo_loss(logp, np.full((1, 2), 2.0), None, batch, hyper, distill=distill)
    k3 = np.exp(-0.5) + 0.5 - 1
    assert loss == pytest.approx(0.1 * k3 - 0.01 * 2.0 + 0.5 * 2.0)
    assert (stats["entropy"], stats["kl_ref"], stats["distill_loss"]) == (2.0, 0.5, 2.0)
    assert grads["logp"][0, 1] == pytest.approx(0.1 * (1 - np.exp(-0.5)))
    assert grads["distill_logp"].tolist() == [[0, -0.25, -0.25]]


def test_on_policy_the_gradient_is_the_policy_gradient():
    """With no old policy the ratio is 1: REINFORCE, -w A, and nothing is clipped."""
    logp, entropy, values, batch, _ = case()
    hyper = replace(FULL, tis_cap=0.0, kl_coef=0.0)
    _, stats, grads = ppo_loss(logp, entropy, values, batch.with_(old_logp=None), hyper)
    np.testing.assert_allclose(grads["logp"], -batch.weights * batch.advantages, atol=1e-15)
    assert (stats["approx_kl"], stats["clip_frac"], stats["ratio_max"]) == (0.0, 0.0, 1.0)


def test_knobs_at_zero_reduce_to_plain_ppo():
    logp, entropy, values, batch, distill = case()
    full = replace(
        PLAIN, dual_clip=0.0, tis_cap=0.0, kl_coef=0.0, entropy_coef=0.0, distill_coef=0.0
    )
    loss, stats, _ = ppo_loss(logp, entropy, values, batch, full, distill=distill)
    assert loss == stats["policy_loss"]
    wide = replace(full, clip_low=1.0, clip_high=1e9)
    ratio = np.exp(logp - batch.old_logp)
    expected = -(batch.weights * ratio * batch.advantages).sum()
    assert ppo_loss(logp, entropy, values, batch, wide)[0] == pytest.approx(expected)


def test_an_empty_batch_has_no_loss_and_no_gradient():
    logp, entropy, values, batch, _ = case()
    empty = batch.with_(mask=batch.mask * 0, weights=batch.weights * 0)
    loss, stats, grads = ppo_loss(logp, entropy, values, empty, FULL)
    assert loss == 0.0
    assert not any(stats.values())
    assert not any(g.any() for g in grads.values())


def test_statistics_have_the_names_of_update_stats():
    _, stats, _ = ppo_loss(*case()[:4], FULL)
    assert set(stats) == {f.name for f in fields(UpdateStats)} - {"grad_norm", "lr", "applied"}
