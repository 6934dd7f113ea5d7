"""Randomness by key: stable for ever, and independent between keys."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from azr_mlx.rng import generator, key, uniforms

pytestmark = pytest.mark.pure

int64 = st.integers(-(2**63), 2**63 - 1)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((0, "propose", 0), 10192152794343486491),
        ((0, "solve", 120, 3, 7), 10481640449132501803),
        ((-1, "", 2**62), 3056289318674494904),
    ],
)
def test_keys_are_the_same_on_every_machine_and_version(args, expected):
    """A change here breaks the exact resume of every run that was saved before it."""
    assert key(*args) == expected


def test_draws_of_a_key_are_pinned():
    np.testing.assert_allclose(
        uniforms(key(0, "solve", 1), 3), [0.35296959, 0.06022888, 0.1032927], rtol=1e-6
    )
    assert generator(0, "solve", 1).integers(0, 1000, 4).tolist() == [352, 60, 103, 383]


def test_neighbouring_keys_differ():
    grid = itertools.product(
        range(4), ("propose", "solve", "a", "ab"), range(8), range(8), range(4)
    )
    keys = [key(seed, stream, step, i, j) for seed, stream, step, i, j in grid]
    assert len(set(keys)) == len(keys) == 4 * 4 * 8 * 8 * 4


def test_the_parts_of_a_key_do_not_run_together():
    assert len({key(0, "s", 1), key(0, "s", 1, 0), key(0, "s", 1, 0, 0), key(1, "s", 0)}) == 4
    assert key(0, "s", 1, 2, 3) != key(0, "s", 1, 3, 2)
    assert key(0, "s1", 0) != key(0, "s", 1)


@given(int64, st.text(max_size=20), int64, st.lists(int64, max_size=3))
def test_any_key_is_64_bits_and_repeats(seed, stream, step, index):
    first = key(seed, stream, step, *index)
    assert 0 <= first < 2**64
    assert first == key(seed, stream, step, *index)


def test_the_bits_of_consecutive_keys_are_uncorrelated():
    """4096 consecutive steps: each of the 64 bits is set in half of them, and flips in half."""
    keys = np.array([key(0, "solve", step) for step in range(4096)], np.uint64)
    bits = (keys[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    bound = 5 * 0.5 / np.sqrt(4096)
    assert abs(bits.mean(axis=0) - 0.5).max() < bound
    assert abs((bits[1:] ^ bits[:-1]).mean(axis=0) - 0.5).max() < bound


def test_first_draws_of_consecutive_keys_are_uniform():
    first = np.array([uniforms(key(3, "solve", 0, i), 1)[0] for i in range(4096)])
    counts = np.histogram(first, bins=16, range=(0, 1))[0]
    chi2 = ((counts - 256) ** 2 / 256).sum()
    assert chi2 < 45, "15 degrees of freedom: 45 is beyond 1 in 10,000"
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.08


def test_uniforms_are_a_sequence_of_their_own():
    """A longer decode draws the same first numbers; float32 in [0, 1)."""
    draws = uniforms(key(1, "solve", 2), 1000)
    assert draws.dtype == np.float32
    assert draws.min() >= 0.0
    assert draws.max() < 1.0
    np.testing.assert_array_equal(uniforms(key(1, "solve", 2), 10), draws[:10])


def test_generators_share_no_state():
    first = generator(0, "a", 0)
    first.random(100)
    np.random.default_rng(0).random(5)
    again = generator(0, "a", 0).random(3)
    np.testing.assert_array_equal(again, generator(0, "a", 0).random(3))
    assert not np.array_equal(again, generator(0, "b", 0).random(3))
