"""What replaces mlx-lm's functions on a CPU gives their values and gradients."""

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core", reason="mlx is not installed")

from mlx_lm.models import activations, llama  # noqa: E402
from mlx_lm.models import base as library  # noqa: E402
from mlx_lm.tuner.lora import LoRALinear  # noqa: E402

from azr_mlx.backends.mlx import MlxBackend, adapters, cpu  # noqa: E402
from azr_mlx.config import Lora  # noqa: E402
from tests.tiny import CharTokenizer, tiny_model  # noqa: E402

pytestmark = pytest.mark.backend


def normal(seed: int, *shape: int, scale: float = 1.0) -> mx.array:
    return mx.array(np.random.default_rng(seed).normal(size=shape).astype(np.float32) * scale)


def values_and_gradients(function, *arrays):
    weights = normal(9, *function(*arrays).shape)
    return mx.value_and_grad(
        lambda *a: (weights * function(*a)).sum(), argnums=list(range(len(arrays)))
    )(*arrays)


def assert_same(ours, theirs, *arrays, tolerance: float = 2e-6):
    a, b = ours(*arrays), theirs(*arrays)
    scale = float(mx.abs(b).max())
    np.testing.assert_allclose(np.array(a), np.array(b), atol=tolerance * scale)
    (_, mine), (_, reference) = (values_and_gradients(f, *arrays) for f in (ours, theirs))
    for one, other in zip(mine, reference, strict=True):
        largest = float(mx.abs(other).max())
        assert largest > 1e-3
        np.testing.assert_allclose(np.array(one), np.array(other), atol=2 * tolerance * largest)


@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_swiglu(scale):
    gate, x = normal(0, 3, 5, 64, scale=scale), normal(1, 3, 5, 64)
    assert_same(cpu.swiglu, activations.swiglu, gate, x)


def test_swiglu_far_out_is_finite():
    gate = mx.array([[-1e4, -100.0, 0.0, 100.0, 1e4]])
    value, gradients = values_and_gradients(cpu.swiglu, gate, mx.ones_like(gate))
    assert np.isfinite(value.item()) and all(np.isfinite(np.array(g)).all() for g in gradients)
    np.testing.assert_allclose(np.array(cpu.swiglu(gate, mx.ones_like(gate)))[0, 3:], [100.0, 1e4])


MASKS = {
    "none": lambda n, s: None,
    "causal": lambda n, s: "causal",
    "shared by the batch": lambda n, s: mx.array(np.tri(n, s, s - n, bool)),
    # The second row begins one slot later, where every query still sees something.
    "of each row": lambda n, s: mx.array(
        np.tri(n, s, s - n, bool)[None, None]
        & (np.arange(s) >= np.minimum([0, 1], s - n)[:, None, None, None])
    ),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("length", [1, 7])
@pytest.mark.parametrize("slots", [7, 20, 1500])
@pytest.mark.parametrize("heads", [(4, 4), (6, 2)])
def test_attention(mask, length, slots, heads):
    q, k, v = (normal(i, 2, h, n, 8) for i, h, n in
               ((0, heads[0], length), (1, heads[1], slots), (2, heads[1], slots)))  # fmt: skip
    seen = MASKS[mask](length, slots)

    def of(function):
        return lambda q, k, v: function(q, k, v, None, scale=0.5, mask=seen)

    assert_same(of(cpu.attention), of(library.scaled_dot_product_attention), q, k, v)


def test_slots_that_are_not_seen_have_no_part_in_it_whatever_they_hold():
    q, k, v = normal(0, 1, 2, 3, 8), normal(1, 1, 2, 6, 8), normal(2, 1, 2, 6, 8)
    seen = mx.array(np.arange(6) < 4)[None, None, None]
    seen = mx.broadcast_to(seen, (1, 1, 3, 6))
    expected = cpu.attention(q, k[:, :, :4], v[:, :, :4], None, 0.5, None)
    k[:, :, 4:], v[:, :, 4:] = 1e4, 1e4
    got = cpu.attention(q, k, v, None, 0.5, seen)
    np.testing.assert_allclose(np.array(got), np.array(expected), atol=1e-6)
    gradient = mx.grad(lambda v: cpu.attention(q, k, v, None, 0.5, seen).sum())(v)
    assert not np.array(gradient)[:, :, 4:].any()


def test_other_types_keep_the_librarys_own():
    q, k = normal(0, 1, 2, 3, 8).astype(mx.bfloat16), normal(1, 1, 2, 3, 8).astype(mx.bfloat16)
    ours = cpu.attention(q, k, k, None, 0.5, "causal")
    theirs = library.scaled_dot_product_attention(q, k, k, None, scale=0.5, mask="causal")
    assert mx.array_equal(ours, theirs)


def test_the_backend_installs_them():
    """A name that mlx-lm no longer imports would silently leave the slow function in place."""
    backend = MlxBackend(tiny_model(), CharTokenizer(), Lora(rank=2))
    assert llama.swiglu is cpu.swiglu and llama.scaled_dot_product_attention is cpu.attention
    kinds = {type(layer) for _, layer in adapters.adapter_layers(backend.policy.lm)}
    assert kinds == {cpu.FusedLoRALinear}


def test_a_lora_layer_with_one_operation_less_is_the_same_layer():
    theirs = LoRALinear(16, 24, r=4, scale=3.0)
    theirs.lora_a, theirs.lora_b = normal(0, 16, 4), normal(1, 4, 24)
    ours = LoRALinear(16, 24, r=4, scale=3.0)
    ours.update(theirs.parameters())
    ours.__class__ = cpu.FusedLoRALinear
    assert_same(ours, theirs, normal(2, 2, 5, 16))


def test_merged_weights_are_the_policy_and_leave_no_trace():
    backend = MlxBackend(tiny_model(quantized=False), CharTokenizer(), Lora(rank=4, scale=2.0))
    model = backend.policy.lm
    for i, (_, layer) in enumerate(adapters.adapter_layers(model)):
        layer.lora_b = normal(i, *layer.lora_b.shape, scale=0.2)
    tokens = mx.array([[1, 2, 3, 4]])
    expected, base = model(tokens), None
    with adapters.bypassed(model):
        base = model(tokens)
    with adapters.merged(model):
        assert not adapters.adapter_layers(model), "no layer was merged"
        got = model(tokens)
    assert not mx.allclose(base, expected, atol=1e-2)
    np.testing.assert_allclose(np.array(got), np.array(expected), atol=1e-5)
    assert mx.array_equal(model(tokens), expected)


@pytest.mark.parametrize("context", [adapters.merged, adapters.bypassed])
def test_adapters_come_back_if_they_are_interrupted_on_their_way_out(context, monkeypatch):
    """Ctrl-C may come while weights are merged, and a checkpoint is written then."""
    backend = MlxBackend(tiny_model(quantized=False), CharTokenizer(), Lora(rank=4))
    model, before = backend.policy.lm, adapters.adapter_layers(backend.policy.lm)
    update = type(model).update_modules

    def interrupted(self, modules):
        monkeypatch.undo()
        update(self, modules)
        raise KeyboardInterrupt

    monkeypatch.setattr(type(model), "update_modules", interrupted)
    with pytest.raises(KeyboardInterrupt), context(model):
        pass
    assert adapters.adapter_layers(model) == before


def test_quantised_weights_are_not_merged():
    backend = MlxBackend(tiny_model(), CharTokenizer(), Lora(rank=4))
    with adapters.merged(backend.policy.lm):
        assert adapters.adapter_layers(backend.policy.lm), "merging would quantise them again"
