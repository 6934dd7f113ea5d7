"""The gated delta rule in chunks against mlx-lm's, which takes one token at a time."""

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core", reason="mlx is not installed")

from mlx_lm.models import gated_delta as library  # noqa: E402

from azr_mlx.backends.mlx import MlxBackend, gated_delta  # noqa: E402
from azr_mlx.config import Lora  # noqa: E402
from tests import architectures  # noqa: E402
from tests.survey import HYPER, batch_of, opened, rollout  # noqa: E402
from tests.tiny import CharTokenizer  # noqa: E402

pytestmark = pytest.mark.backend

STEPS = gated_delta._step_by_step
NAMES = ["q", "k", "v", "log g", "beta", "state"]
GATES = pytest.mark.parametrize("channels", [False, True], ids=["scalar gates", "channel gates"])


def normal(draw, *shape):
    return mx.array(draw.normal(size=shape).astype(np.float32))


def given(length, channels, strength=1.0, heads=(2, 4), width=8):
    """q, k, v, the logarithm of g, beta and the state, of two rows."""
    draw = np.random.default_rng(length)
    shared, own = heads
    q, k = (normal(draw, 2, length, shared, width) for _ in range(2))
    q, k = library.normalize_qk(q, k, inv_scale=width**-0.5, eps=1e-6)
    v, state = normal(draw, 2, length, own, 2 * width), normal(draw, 2, own, 2 * width, width)
    fade = -strength * mx.exp(2 * normal(draw, 2, length, own, *[width] * channels))
    return [q, k, v, fade, mx.sigmoid(2 * normal(draw, 2, length, own)), state]


def value_and_gradients(function, arrays, mask=None):
    """[y, state, the gradients of a random function of them]."""
    draw = np.random.default_rng(0)
    seen = 1 if mask is None else mask[..., None, None]
    weights = [normal(draw, *arrays[2].shape) * seen, normal(draw, *arrays[5].shape)]

    def run(q, k, v, fade, beta, state):
        y, state = function(q, k, v, mx.exp(fade), beta, state, mask)
        return [y * seen, state]

    def loss(*arrays):
        return sum((a * w).sum() for a, w in zip(run(*arrays), weights, strict=True))

    return [*run(*arrays), *mx.grad(loss, argnums=list(range(6)))(*arrays)]


def assert_same(found, expected, limit):
    for name, a, b in zip(["y", "new state", *NAMES], found, expected, strict=True):
        size = np.abs(np.array(b)).max() + 1e-6
        np.testing.assert_allclose(np.array(a) / size, np.array(b) / size, atol=limit, err_msg=name)


@GATES
@pytest.mark.parametrize("length", [4, 5, 64, 65, 150])
@pytest.mark.parametrize("masked", [False, True])
def test_values_and_gradients_are_those_of_single_steps(length, channels, masked):
    arrays = given(length, channels)
    mask = mx.array(np.random.default_rng(1).random((2, length)) > 0.3) if masked else None
    found, expected = (
        value_and_gradients(f, arrays, mask) for f in (gated_delta.gated_delta, STEPS)
    )
    assert_same(found, expected, 2e-6)


@GATES
@pytest.mark.parametrize("strength", [30.0, 1e-3])
def test_neither_strong_nor_weak_gates_lose_digits(channels, strength):
    """Strong gates: e^-1000 within a chunk. Weak gates: all tokens of a chunk matter."""
    arrays = given(100, channels, strength)
    assert_same(*(value_and_gradients(f, arrays) for f in (gated_delta.gated_delta, STEPS)), 1e-5)


@GATES
@pytest.mark.parametrize(("beta", "limit"), [(1.0, 1e-5), (2.0, 5e-4)])
def test_a_key_that_never_changes_is_the_worst_case(channels, beta, limit):
    """All entries below the diagonal are ``beta``, so a power series of them would be useless. With
    2, the most that any model has, each token turns the state round, and nothing fades: rounding
    errors grow with the length of a chunk, more with some machines' matrix products."""
    q, k, v, fade, strengths, state = given(100, channels, 1e-3)
    k, strengths = mx.broadcast_to(k[:, :1], k.shape), mx.full(strengths.shape, beta)
    arrays = [q, k, v, fade, strengths, state]
    found, expected = (value_and_gradients(f, arrays) for f in (gated_delta.gated_delta, STEPS))
    assert_same(found, expected, limit)


@GATES
def test_a_gate_of_zero_forgets_everything(channels):
    q, k, v, fade, beta, state = given(20, channels)
    gate = mx.exp(fade) * (mx.arange(20) != 10).reshape(1, 20, *[1] * (fade.ndim - 2))
    found, expected = (f(q, k, v, gate, beta, state) for f in (gated_delta.gated_delta, STEPS))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.array(a), np.array(b), atol=1e-5)


def test_the_gradients_are_slopes_in_float32():
    """Finite differences, without mlx-lm's function."""
    arrays = given(70, True, 0.05)
    gradients = value_and_gradients(gated_delta.gated_delta, arrays)[2:]
    draw = np.random.default_rng(0)
    weights = normal(draw, *arrays[2].shape), normal(draw, *arrays[5].shape)

    def loss(arrays):
        q, k, v, fade, beta, state = arrays
        parts = gated_delta.gated_delta(q, k, v, mx.exp(fade), beta, state)
        return sum(
            np.sum(np.float64(p) * np.float64(w)) for p, w in zip(parts, weights, strict=True)
        )

    for number, name in enumerate(NAMES):
        direction = normal(np.random.default_rng(number), *arrays[number].shape)
        ends = []
        for step in (-1e-2, 1e-2):
            moved = list(arrays)
            moved[number] = arrays[number] + step * direction
            ends.append(loss(moved))
        slope = float((gradients[number] * direction).sum())
        assert (ends[1] - ends[0]) / 2e-2 == pytest.approx(slope, rel=2e-2), name


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_half_precision_is_computed_in_float32(dtype):
    q, k, v, fade, beta, state = given(70, False)
    args = [a.astype(dtype) for a in (q, k, v)] + [mx.exp(fade), beta.astype(dtype), state]
    (y, new), (y_steps, new_steps) = gated_delta.gated_delta(*args), STEPS(*args)
    assert y.dtype == y_steps.dtype == dtype and new.dtype == new_steps.dtype == mx.float32
    exact = gated_delta.gated_delta(*[a.astype(mx.float32) for a in args])[0]
    errors = [float(mx.abs(one.astype(mx.float32) - exact).max()) for one in (y, y_steps)]
    assert errors[0] <= errors[1] + 1e-3


@GATES
def test_the_backward_pass_takes_a_fraction_of_the_memory(channels):
    """One state per chunk is kept instead of several per token."""
    peaks = []
    for function in (gated_delta.gated_delta, STEPS):
        arrays = given(128, channels, width=64)
        mx.eval(arrays)
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        mx.eval(value_and_gradients(function, arrays)[2:])
        peaks.append(mx.get_peak_memory() - before)
    assert peaks[0] < peaks[1] / 4, f"{peaks[1] / peaks[0]:.1f} times less"


@pytest.mark.parametrize("name", ["qwen3_next", "kimi_linear", "olmo_hybrid"])
def test_an_update_in_chunks_is_that_of_single_steps(name, monkeypatch):
    backend = opened(name)
    assert library.gated_delta_ops is gated_delta.gated_delta, "it is not put in place"
    batch = batch_of(rollout(backend))
    found = []
    for function in (gated_delta.gated_delta, STEPS):
        monkeypatch.setattr(library, "gated_delta_ops", function)
        backend._clear_gradients()
        loss = backend._accumulate(batch, HYPER)[0]
        found.append((loss, backend._clip_gradients(1e9)))
    backend._clear_gradients()
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-4)


def test_another_function_than_mlx_lms_is_left_alone(monkeypatch):
    """If mlx-lm's function computes something else one day, chunks are not used."""
    monkeypatch.setattr(library, "gated_delta_ops", STEPS)
    monkeypatch.setattr(gated_delta, "_step_by_step", lambda *given: (given[2], given[5]))
    gated_delta._agrees.cache_clear()
    MlxBackend(architectures.tiny("qwen3_next"), CharTokenizer(), Lora(rank=2))
    gated_delta._agrees.cache_clear()
    assert library.gated_delta_ops is STEPS
