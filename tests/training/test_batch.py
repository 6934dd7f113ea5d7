"""Collation, loss weights, minibatches and token rewards."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from azr_mlx.training.batch import (
    collate,
    collate_supervised,
    minibatches,
    token_rewards,
    token_weights,
    with_share,
)
from azr_mlx.types import Batch, Experience, Prompt
from tests.experiences import experience

pytestmark = pytest.mark.pure


def row(prompt, tokens, **rest) -> Experience:
    return experience(prompt=Prompt("", tuple(prompt)), tokens=tokens, **rest)


def masks(rows: int = 4, width: int = 7):
    """Hypothesis: float32 masks whose rows may be empty; column 0 is never set."""
    row = st.lists(st.booleans(), min_size=width - 1, max_size=width - 1)
    grid = st.lists(row, min_size=1, max_size=rows)
    return grid.map(lambda g: np.array([[False, *r] for r in g], np.float32))


def test_collate_aligns_tokens_mask_and_logprobs():
    batch = collate([row([5, 6], [7, 8, 9]), row([1], [2])], pad_multiple=4)
    assert batch.tokens.dtype == np.int32
    assert batch.tokens.tolist() == [[5, 6, 7, 8, 9, 0, 0, 0], [1, 2, 0, 0, 0, 0, 0, 0]]
    assert batch.mask.tolist() == [[0, 0, 1, 1, 1, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0, 0]]
    expected = [[0, 0, -0.1, -0.2, -0.3, 0, 0, 0], [0, -0.1, 0, 0, 0, 0, 0, 0]]
    np.testing.assert_allclose(batch.sampler_logp, expected, rtol=1e-6)
    assert batch.mask.dtype == batch.sampler_logp.dtype == np.float32


token_lists = st.lists(st.integers(0, 99), min_size=1, max_size=40)


@given(st.lists(st.tuples(token_lists, token_lists), min_size=1, max_size=5), st.integers(1, 33))
def test_collate_keeps_every_token(rows, multiple):
    batch = collate([row(p, c) for p, c in rows], pad_multiple=multiple)
    longest = max(len(p) + len(c) for p, c in rows)
    assert batch.tokens.shape[1] % multiple == 0
    assert longest <= batch.tokens.shape[1] < longest + multiple
    for b, (prompt, completion) in enumerate(rows):
        assert batch.tokens[b, : len(prompt) + len(completion)].tolist() == prompt + completion
        assert batch.tokens[b, batch.mask[b] > 0].tolist() == completion
        assert np.flatnonzero(batch.mask[b])[0] == len(prompt)
    assert not batch.mask[:, 0].any()


def test_max_length_cuts_the_end_and_bounds_the_padding():
    rows = [row([1, 2], [3, 4, 5, 6]), row([1] * 9, [2]), row([1], [2])]
    batch = collate(rows, max_length=5, pad_multiple=4)
    assert batch.tokens.tolist() == [[1, 2, 3, 4, 5], [1, 1, 1, 1, 1], [1, 2, 0, 0, 0]]
    assert batch.mask.tolist() == [[0, 0, 1, 1, 1], [0, 0, 0, 0, 0], [0, 1, 0, 0, 0]]
    np.testing.assert_allclose(batch.sampler_logp[0], [0, 0, -0.1, -0.2, -0.3], rtol=1e-6)


def test_truncated_completions_can_be_masked():
    rows = [
        row([1], [2, 3], finish="length"),
        row([1], [2, 3]),
        row([1], [2, 3, 4, 5, 6]),
    ]
    assert collate(rows, max_length=4).mask.sum(axis=1).tolist() == [2, 2, 3]
    masked = collate(rows, max_length=4, mask_truncated=True)
    assert masked.mask.sum(axis=1).tolist() == [0, 2, 0]
    assert not masked.sampler_logp[[0, 2]].any()
    assert masked.tokens[0, :3].tolist() == [1, 2, 3], "the tokens stay: only the mask goes"


def test_an_empty_completion_is_a_row_without_a_mask():
    batch = collate([row([1, 2], [])])
    assert batch.mask.sum() == 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"),
        ([row([], [1])], "empty prompt"),
        ([row([1], [2, 3], logprobs=(-1.0,))], "2 tokens, but 1 logprobs"),
    ],
)
def test_collate_refuses(rows, message):
    with pytest.raises(ValueError, match=message):
        collate(rows)


@pytest.mark.parametrize("options", [{"pad_multiple": 0}, {"max_length": 0}])
def test_collate_refuses_lengths_that_are_not_positive(options):
    with pytest.raises(ValueError, match="not positive"):
        collate([row([1], [2])], **options)


def test_collate_supervised_is_collate_without_a_sampler():
    rows = [([5, 6], [7, 8, 9]), ([1], [2])]
    ours, theirs = collate_supervised(rows), collate([row(p, c) for p, c in rows])
    np.testing.assert_array_equal(ours.tokens, theirs.tokens)
    np.testing.assert_array_equal(ours.mask, theirs.mask)
    assert ours.sampler_logp is None


def test_token_weights_by_hand():
    mask = np.array([[0, 1, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0]], np.float32)
    third, quarter = 1 / 3, 1 / 4
    expected = {
        "token_mean": [[0, quarter, quarter, quarter], [0, quarter, 0, 0], [0] * 4],
        "sequence_mean": [[0, third / 2, third / 2, third / 2], [0, 0.5, 0, 0], [0] * 4],
        "constant": [[0, 1 / 30, 1 / 30, 1 / 30], [0, 1 / 30, 0, 0], [0] * 4],
    }
    for how, weights in expected.items():
        got = token_weights(mask, how, constant=10)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, weights, rtol=1e-6, err_msg=how)


@given(masks(), st.integers(0, 2**32 - 1))
def test_token_weights_are_the_averages_they_are_named_after(mask, seed):
    loss = np.random.default_rng(seed).normal(size=mask.shape)
    rows = [loss[b][mask[b] > 0] for b in range(len(mask))]
    full = [r for r in rows if len(r)]
    expected = {
        "token_mean": np.concatenate(full).mean() if full else 0.0,
        "sequence_mean": np.mean([r.mean() for r in full]) if full else 0.0,
        "constant": np.mean([r.sum() / 16 for r in rows]),
    }
    for how, value in expected.items():
        weights = token_weights(mask, how, constant=16)
        assert not weights[mask == 0].any()
        assert (weights * loss).sum() == pytest.approx(value, rel=1e-5, abs=1e-6), how


@pytest.mark.parametrize("constant", [None, 0, -1])
def test_a_constant_must_be_positive(constant):
    with pytest.raises(ValueError, match="positive number of tokens"):
        token_weights(np.ones((1, 2)), "constant", constant)


def test_unknown_aggregation_is_refused():
    with pytest.raises(ValueError, match="'median': unknown; use one of token_mean"):
        token_weights(np.ones((1, 2)), "median")


def rows_of(count: int) -> Batch:
    return Batch(np.zeros((count, 2), np.int32), np.ones((count, 2), np.float32))


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 1000))
def test_minibatches_hold_every_row_once(rows, count, seed):
    parts = minibatches(rows_of(rows), count, np.random.default_rng(seed))
    assert sorted(np.concatenate(parts).tolist()) == list(range(rows))
    sizes = [len(p) for p in parts]
    assert len(parts) == min(count, rows)
    assert max(sizes) - min(sizes) <= 1


def test_minibatches_depend_on_the_generator_alone():
    def draw(seed):
        return [p.tolist() for p in minibatches(rows_of(32), 4, np.random.default_rng(seed))]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert draw(1) != [list(range(i, i + 8)) for i in range(0, 32, 8)], "rows must be shuffled"


def test_no_minibatches_are_refused():
    with pytest.raises(ValueError, match=r"ppo\.minibatches 0"):
        minibatches(rows_of(3), 0, np.random.default_rng(0))


def test_token_rewards_by_hand():
    mask = np.array([[0, 1, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0]], np.float32)
    batch = Batch(np.zeros(mask.shape, np.int32), mask)
    logp = np.array([[9, -1, -2, 9], [9, 9, -3, -4], [9] * 4], np.float32)
    ref = np.array([[0, -2, -1, 0], [0, 0, -3, -2], [0] * 4], np.float32)
    got = token_rewards(batch, [1.0, -0.5, 7.0], logp, ref, beta=0.1)
    assert got.dtype == np.float32
    np.testing.assert_allclose(
        got, [[0, -0.1, 0.1 + 1.0, 0], [0, 0, 0, 0.2 - 0.5], [0] * 4], rtol=1e-6
    )


@pytest.mark.parametrize(("ref", "beta"), [(None, 0.5), (np.full((1, 3), -9.0), 0.0)])
def test_token_rewards_without_a_penalty_are_the_score_on_the_last_token(ref, beta):
    batch = Batch(np.zeros((1, 3), np.int32), np.array([[0, 1, 1]], np.float32))
    got = token_rewards(batch, [0.25], np.zeros((1, 3)), ref, beta)
    assert got.tolist() == [[0.0, 0.0, 0.25]]


def test_token_rewards_do_not_read_off_the_mask():
    batch = Batch(np.zeros((1, 3), np.int32), np.array([[0, 1, 0]], np.float32))
    logp = np.array([[np.nan, -1.0, np.inf]])
    got = token_rewards(batch, [0.0], logp, np.zeros((1, 3)), 1.0)
    assert got.tolist() == [[0.0, 1.0, 0.0]]


@given(masks(), st.integers(0, 2**32 - 1), st.floats(0.0, 2.0))
def test_token_rewards_sum_to_the_score_less_the_drift(mask, seed, beta):
    draw = np.random.default_rng(seed)
    scores, logp, ref = draw.normal(size=len(mask)), *draw.normal(size=(2, *mask.shape))
    got = token_rewards(Batch(mask.astype(np.int32), mask), scores, logp, ref, beta)
    for b in range(len(mask)):
        on = mask[b] > 0
        expected = scores[b] - beta * (logp[b, on].sum() - ref[b, on].sum()) if on.any() else 0.0
        assert got[b].sum() == pytest.approx(expected, abs=1e-4)
        assert not got[b, ~on].any()


@given(masks(), st.lists(st.booleans(), min_size=4, max_size=4), st.floats(0.01, 0.99))
def test_a_share_moves_weight_between_two_sets_of_rows_and_within_neither(mask, chosen, share):
    own = np.array(chosen[: len(mask)])
    plain = token_weights(mask, "token_mean").astype(np.float64)
    found = with_share(plain, own, share)
    assert found.dtype == np.float32 and found.sum() == pytest.approx(plain.sum(), abs=1e-6)
    if mask[own].any() and mask[~own].any():
        assert found[own].sum() == pytest.approx(share * plain.sum(), rel=1e-5)
        for rows in (own, ~own):
            np.testing.assert_allclose(
                found[rows] * plain[rows].sum(), plain[rows] * found[rows].sum(), rtol=1e-5
            )
    else:
        np.testing.assert_array_equal(found, plain.astype(np.float32))
