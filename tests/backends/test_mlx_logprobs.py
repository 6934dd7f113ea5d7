"""Log-probabilities and entropies from hidden states, and their gradients, against float64."""

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core", reason="mlx is not installed")

import mlx.nn as nn  # noqa: E402
from mlx.utils import tree_map  # noqa: E402

from azr_mlx.backends import limits  # noqa: E402
from azr_mlx.backends.mlx import kernels  # noqa: E402
from azr_mlx.backends.mlx.anatomy import Anatomy  # noqa: E402
from azr_mlx.backends.mlx.logprobs import head_of, linear_head, selected_logprob  # noqa: E402
from tests import architectures  # noqa: E402
from tests.tiny import tiny_model  # noqa: E402

pytestmark = pytest.mark.backend

N, D, V, TEMPERATURE = 37, 32, 128, 0.7


class Headed(nn.Module):
    """A model that is all head: dense, quantised, with a bias, or a tied embedding."""

    def __init__(self, kind: str):
        super().__init__()
        if kind == "tied":
            self.model = nn.Module()
            self.model.embed_tokens = nn.Embedding(V, D)
        else:
            self.lm_head = nn.Linear(D, V, bias=kind == "bias")
        if kind.startswith("4-bit"):
            nn.quantize(self, group_size=32, bits=4)

    def dense(self) -> tuple[np.ndarray, np.ndarray]:
        layer = self.lm_head if "lm_head" in self else self.model.embed_tokens
        weight = layer.weight
        if "scales" in layer:
            weight = mx.dequantize(weight, layer.scales, layer.biases, 32, 4)
        bias = np.array(layer.bias, np.float64) if "bias" in layer else np.zeros(V)
        return np.array(weight, np.float64), bias


def head(model):
    layer = model.lm_head if "lm_head" in model else model.model.embed_tokens
    return linear_head(layer, type(layer))


HEADS = pytest.mark.parametrize("kind", ["dense", "bias", "tied", "4-bit"])


def problem(kind: str):
    mx.random.seed(3)
    model = Headed(kind)
    hidden = mx.random.normal((N, D)) * 2
    targets = mx.random.randint(0, V, (N,))
    mx.eval(model.parameters(), hidden, targets)
    return model, hidden, targets


def float64(model, hidden, targets):
    """(logp, entropy, d logp / dh, d entropy / dh) of every row."""
    w, bias = model.dense()
    z = (np.array(hidden, np.float64) @ w.T + bias) / TEMPERATURE
    z -= z.max(axis=1, keepdims=True)
    logp = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    p, y = np.exp(logp), np.array(targets)
    entropy = -(p * logp).sum(axis=1)
    d_logp = (w[y] - p @ w) / TEMPERATURE
    d_entropy = -(p * (logp + entropy[:, None])) @ w / TEMPERATURE
    return logp[np.arange(N), y], entropy, d_logp, d_entropy


@HEADS
@pytest.mark.parametrize("rows", [1, 8, 37, 100])
@pytest.mark.parametrize("path", ["chunk on a CPU", "row kernel's oracle"])
def test_values_and_gradients_agree_with_float64(kind, rows, path, monkeypatch):
    if path != "chunk on a CPU":  # as on a GPU, where deltas come from the row kernel
        monkeypatch.setattr(kernels, "path", lambda: "metal")
        monkeypatch.setattr(kernels, "row_logprob", kernels.row_logprob_mlx)
    model, hidden, targets = problem(kind)
    a, b = (mx.array(np.random.default_rng(s).normal(size=N).astype(np.float32)) for s in (0, 1))

    def weighted(h):
        logp, entropy = selected_logprob(
            head(model), h, targets, TEMPERATURE, rows=rows, entropy_gradient=True
        )
        return (a * logp).sum() + (b * entropy).sum(), (logp, entropy)

    (_, values), gradient = mx.value_and_grad(weighted)(hidden)
    logp, entropy, d_logp, d_entropy = float64(model, hidden, targets)
    np.testing.assert_allclose(np.array(values[0]), logp, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.array(values[1]), entropy, rtol=1e-5, atol=1e-5)
    exact = np.array(a)[:, None] * d_logp + np.array(b)[:, None] * d_entropy
    assert np.abs(exact).max() > 0.1
    np.testing.assert_allclose(np.array(gradient), exact, atol=1e-5 * np.abs(exact).max())


@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize("entropy_gradient", [True, False])
def test_what_is_not_asked_for_has_no_gradient(gradient, entropy_gradient):
    model, hidden, targets = problem("dense")
    flags = {"gradient": gradient, "entropy_gradient": entropy_gradient}

    def of(index):
        return mx.grad(
            lambda h: selected_logprob(head(model), h, targets, rows=8, **flags)[index].sum()
        )(hidden)

    assert bool(mx.abs(of(0)).max() > 1e-3) == gradient
    assert bool(mx.abs(of(1)).max() > 1e-3) == entropy_gradient


def test_logits_of_one_chunk_are_held_and_not_those_of_all_rows():
    """Chunks that are not chained are all computed before the first is used."""
    model = nn.Module()
    model.lm_head = nn.Linear(64, 8192, bias=False)
    hidden, targets = mx.random.normal((2048, 64)), mx.zeros(2048, mx.int32)
    mx.eval(model.parameters(), hidden, targets)
    peaks = {}
    for rows in (32, 2048):
        step = mx.grad(
            lambda h, rows=rows: selected_logprob(head(model), h, targets, rows=rows)[0].sum()
        )
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        mx.eval(step(hidden))
        peaks[rows] = mx.get_peak_memory() - before
    logits = 2048 * 8192 * 4
    assert peaks[2048] > 1.5 * logits, "one chunk holds all: the comparison proves nothing"
    assert peaks[32] < 0.2 * logits


def test_the_chunk_follows_the_vocabulary():
    assert limits.chunk_rows(1000, "cpu") == (6 << 20) // 4000
    assert limits.chunk_rows(10**9, "gpu") == 32, (
        "a product with fewer rows is bound by reading the head"
    )


def test_a_head_of_another_kind_is_not_guessed_at():
    class Other(nn.Linear):
        pass

    model = tiny_model()
    model.lm_head = Other(32, 128, bias=False)
    assert linear_head(model.lm_head, Other) is None


@pytest.mark.parametrize("name", ["gemma2", "granite"])
def test_logits_that_are_capped_or_scaled_are_differentiated(name):
    """Against MLX's own gradient through the whole of the logits."""
    model = Anatomy(architectures.tiny(name))
    assert not model.plain
    hidden = mx.random.normal((N, model.width), key=mx.random.key(1)) * 3
    targets = mx.random.randint(0, V, (N,), key=mx.random.key(2))
    a, b = mx.random.normal((2, N), key=mx.random.key(3))

    def chunked(h):
        logp, entropy = selected_logprob(
            head_of(model), h, targets, TEMPERATURE, rows=8, entropy_gradient=True
        )
        return (a * logp).sum() + (b * entropy).sum()

    def plain(h):
        z = model.logits(h) / TEMPERATURE
        logp = z - mx.logsumexp(z, axis=-1, keepdims=True)
        chosen = mx.take_along_axis(logp, targets[:, None], axis=-1)[:, 0]
        return (a * chosen).sum() - (b * (mx.exp(logp) * logp).sum(axis=-1)).sum()

    (ours, gradient), (exact, expected) = (
        mx.value_and_grad(one)(hidden) for one in (chunked, plain)
    )
    assert ours.item() == pytest.approx(exact.item(), rel=1e-4)
    assert float(mx.abs(expected).max()) > 1e-3
    np.testing.assert_allclose(
        np.array(gradient), np.array(expected), atol=1e-5 * float(mx.abs(expected).max())
    )


def test_a_cap_that_small_logits_do_not_reach_is_seen(monkeypatch):
    capped = architectures.SPECIAL["gemma2"] | {"final_logit_softcapping": 30.0}
    monkeypatch.setitem(architectures.SPECIAL, "gemma2", capped)
    model = architectures.tiny("gemma2")
    model.update(tree_map(lambda array: array * 0.1, model.parameters()))
    assert 0 < float(mx.abs(model(mx.array([[1, 2, 3]]))).max()) < 1
    assert not Anatomy(model).plain
