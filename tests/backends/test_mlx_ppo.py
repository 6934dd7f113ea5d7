"""The MLX loss, statistics and gradients against float64 numpy, through LoRA on a tiny 4-bit
model."""

from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core", reason="mlx is not installed")

from mlx.utils import tree_flatten, tree_unflatten  # noqa: E402

from azr_mlx.backends.base import Hyper  # noqa: E402
from azr_mlx.backends.microbatch import Stage, split  # noqa: E402
from azr_mlx.backends.mlx import MlxBackend, adapters  # noqa: E402
from azr_mlx.backends.mlx.prefix_sharing import Span  # noqa: E402
from azr_mlx.config import Lora  # noqa: E402
from azr_mlx.errors import AzrError  # noqa: E402
from azr_mlx.training.batch import collate_supervised, token_weights, with_share  # noqa: E402
from azr_mlx.types import Batch  # noqa: E402
from tests import reference  # noqa: E402
from tests.numpy_llama import NumpyLlama  # noqa: E402
from tests.tiny import VOCABULARY, CharTokenizer, tiny_model  # noqa: E402

pytestmark = pytest.mark.backend

FULL = Hyper(
    lr=1e-3,
    temperature=0.8,
    clip_low=0.1,
    clip_high=0.15,
    dual_clip=1.5,
    value_coef=0.5,
    value_clip=0.1,
    entropy_coef=0.02,
    kl_coef=0.05,
    tis_cap=1.2,
    micro_batch_tokens=72,
)


def make_backend(**options) -> MlxBackend:
    """A tiny backend whose LoRA B and value head are not zero, so that every gradient has a
    path."""
    backend = MlxBackend(tiny_model(scale=2.0), CharTokenizer(), Lora(rank=4, scale=2.0), **options)
    draw = np.random.default_rng(1)
    for _, layer in adapters.adapter_layers(backend.policy.lm):
        layer.lora_b = mx.array(draw.normal(size=layer.lora_b.shape).astype(np.float32) * 0.2)
    head = backend.policy.value_head
    head.weight = mx.array(draw.normal(size=head.weight.shape).astype(np.float32) * 0.2)
    return backend


def make_batch(seed: int = 0, rows: int = 5, width: int = 24) -> Batch:
    """Rows of uneven length around an old policy that is near the current one, so that some tokens
    clip."""
    draw = np.random.default_rng(seed)
    tokens = draw.integers(1, VOCABULARY, (rows, width)).astype(np.int32)
    mask = np.zeros((rows, width), np.float32)
    for r in range(rows):
        start = int(draw.integers(2, 8))
        mask[r, start : start + int(draw.integers(3, width - 8))] = 1

    def noise(scale: float) -> np.ndarray:
        return (draw.normal(size=mask.shape) * scale * mask).astype(np.float32)

    return Batch(
        tokens=tokens,
        mask=mask,
        sampler_logp=noise(0.2),
        old_logp=noise(0.2),
        ref_logp=noise(0.3),
        values=noise(0.3),
        advantages=noise(1.0),
        returns=noise(1.0),
        weights=token_weights(mask, "sequence_mean"),
    )


def accumulated(backend: MlxBackend, batch: Batch, hyper: Hyper):
    """(loss, statistics, gradients) of a minibatch."""
    backend._clear_gradients()
    return *backend._accumulate(batch, hyper), backend._gradients()


def centred(batch: Batch, backend: MlxBackend, hyper: Hyper) -> Batch:
    """The batch with its log-probabilities moved around the current policy's."""
    logp = backend.score(batch, "current", hyper.temperature).logp
    return batch.with_(
        sampler_logp=logp + batch.sampler_logp,
        old_logp=logp + batch.old_logp,
        ref_logp=logp + batch.ref_logp,
    )


VARIANTS = {
    "everything": (FULL, {}),
    "one update, so no old policy": (FULL, {"old_logp": None}),
    "no critic": (replace(FULL, value_coef=0.0), {"returns": None, "values": None}),
    "plain": (
        replace(FULL, kl_coef=0.0, tis_cap=0.0, dual_clip=0.0, value_clip=0.0, entropy_coef=0.0),
        {},
    ),
    "no reference, no sampler": (FULL, {"ref_logp": None, "sampler_logp": None}),
    "two rows with a share of their own": (
        FULL,
        {
            "weights": with_share(
                token_weights(make_batch().mask, "token_mean"), [1, 0, 1, 0, 0], 0.6
            )
        },
    ),
}


@pytest.fixture(scope="module")
def backend() -> MlxBackend:
    return make_backend(micro_batch_tokens=48)


def test_scores_agree_with_a_float64_model(backend):
    batch = make_batch()
    scores = backend.score(batch, "current", 0.8)
    for name, exact in zip(
        ("logp", "entropy", "values"),
        NumpyLlama(backend.policy).scores(batch.tokens, 0.8),
        strict=False,
    ):
        np.testing.assert_allclose(
            getattr(scores, name), exact * batch.mask, atol=5e-6, err_msg=name
        )


@pytest.mark.parametrize("name", VARIANTS)
def test_loss_and_statistics_agree_with_the_reference(backend, name):
    hyper, without = VARIANTS[name]
    batch = centred(make_batch(), backend, hyper).with_(**without)
    oracle = NumpyLlama(backend.policy).scores(batch.tokens, hyper.temperature)
    loss, stats, _ = reference.ppo_loss(*oracle, batch, hyper)
    ours, sums, _ = accumulated(backend, batch, hyper)
    assert ours == pytest.approx(loss, abs=1e-6)
    for key, value in sums.items():
        assert value == pytest.approx(stats[key], rel=1e-6, abs=1e-6), key
    if name == "everything":
        assert 0.1 < stats["clip_frac"] < 0.9, "the case must clip some tokens and leave others"


@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_agree_with_finite_differences_of_the_float64_loss(backend, name):
    hyper, without = VARIANTS[name]
    batch = centred(make_batch(), backend, hyper).with_(**without)
    _, _, grads = accumulated(backend, batch, hyper)
    require_slopes(backend, grads, batch, hyper)


def test_a_lesson_adds_its_weighted_gradient(backend, monkeypatch):
    """What ``update`` hands to the optimizer, against the float64 loss of both terms."""
    hyper, lesson = replace(FULL, distill_coef=0.3), plain_lesson()
    batch, found = centred(make_batch(), backend, hyper), []
    monkeypatch.setattr(backend, "_step", lambda hyper: found.append(backend._gradients()) or 0.0)
    backend.update(batch, hyper, lesson)
    require_slopes(backend, found[0], batch, hyper, lesson)


def plain_lesson() -> Batch:
    """Another batch, of which only the tokens count."""
    other = make_batch(3)
    return Batch(tokens=other.tokens, mask=other.mask)


def require_slopes(backend, grads, batch, hyper, lesson=None) -> None:
    """Each gradient has, in a random direction, the slope of the float64 loss."""
    flat = dict(tree_flatten(grads))
    oracle = NumpyLlama(backend.policy)
    draw = np.random.default_rng(7)
    largest, leaves = 0.0, set()
    for key in sorted(flat):
        grad = np.array(flat[key], np.float64)
        largest = max(largest, float(np.abs(grad).max()))
        leaves.add(key.rsplit(".", 1)[-1] if key.startswith("lm") else "value_head")
        direction = draw.normal(size=grad.shape)
        direction /= np.linalg.norm(direction)
        exact = _slope(oracle, key, direction, batch, hyper, lesson)
        assert float((grad * direction).sum()) == pytest.approx(exact, rel=1e-6, abs=1e-6), key
    assert largest > 1e-3, "the gradient is zero: the loss does not reach the adapters"
    assert leaves == {"lora_a", "lora_b", "value_head"}


def _slope(oracle, key, direction, batch, hyper, lesson, eps: float = 1e-5) -> float:
    """Central difference. One update's old policy and the trunk under the value head are constants
    of the loss."""
    at = oracle.scores(batch.tokens, hyper.temperature)
    old = at[0] if batch.old_logp is None else batch.old_logp
    losses = []
    for sign in (1, -1):
        oracle.w[key] = oracle.w[key] + sign * eps * direction
        logp, entropy, values = oracle.scores(batch.tokens, hyper.temperature)
        taught = None if lesson is None else oracle.scores(lesson.tokens, 1.0)[0]
        oracle.w[key] = oracle.w[key] - sign * eps * direction
        values = values if key.startswith("value_head") else at[2]
        fixed = batch.with_(old_logp=old)
        distill = None if taught is None else reference.Distill(taught, lesson.mask)
        losses.append(reference.ppo_loss(logp, entropy, values, fixed, hyper, distill=distill)[0])
    return (losses[0] - losses[1]) / (2 * eps)


def test_micro_batches_add_up(backend):
    """Batch 5 = 5 x 1 accumulated: every term is normalised over the minibatch."""
    batch = centred(make_batch(), backend, FULL)
    whole = accumulated(backend, batch, replace(FULL, micro_batch_tokens=4096))
    single = accumulated(backend, batch, replace(FULL, micro_batch_tokens=1))
    assert whole[0] == pytest.approx(single[0], abs=1e-6)
    for (key, a), (_, b) in zip(tree_flatten(whole[2]), tree_flatten(single[2]), strict=False):
        np.testing.assert_allclose(np.array(a), np.array(b), atol=2e-6, err_msg=key)


def test_padding_changes_nothing(backend):
    batch = centred(make_batch(), backend, FULL)
    wide = Batch(
        **{
            name: None if (a := getattr(batch, name)) is None else np.pad(a, ((0, 0), (0, 40)))
            for name in Batch.__dataclass_fields__
        }
    )
    assert accumulated(backend, wide, FULL)[0] == pytest.approx(
        accumulated(backend, batch, FULL)[0], abs=1e-6
    )


def test_compiled_equals_eager_after_five_updates():
    """A compiled step that captured the weights would keep giving the first step's gradients."""
    runs = {}
    for compiled in (False, True):
        backend = make_backend(compile=compiled)
        batch = centred(make_batch(), backend, FULL)
        stats = [
            backend.update(
                batch,
                replace(
                    FULL, lr=1e-3 * (i + 1), kl_coef=0.05 + i / 100, entropy_coef=0.02 + i / 50
                ),
            )
            for i in range(5)
        ]
        assert len(backend._grad_functions) == 1, "a weight that changes was compiled anew"
        runs[compiled] = (stats, adapters.adapter_weights(backend.policy.lm))
        assert all(s.grad_norm > 0 for s in stats)
    for a, b in zip(runs[False][0], runs[True][0], strict=False):
        assert asdict(a) == pytest.approx(asdict(b), rel=1e-4, abs=1e-5)
    for key, value in runs[False][1].items():
        np.testing.assert_allclose(
            np.array(value), np.array(runs[True][1][key]), atol=1e-5, err_msg=key
        )
    first, last = runs[False][0][0], runs[False][0][-1]
    assert last.loss < first.loss - 0.01, "five updates on one batch must lower its loss"


def test_update_moves_the_adapters_and_nothing_else():
    backend = make_backend()
    before = {k: np.array(v) for k, v in tree_flatten(backend.policy.parameters())}
    backend.update(centred(make_batch(), backend, FULL), FULL)
    for key, value in tree_flatten(backend.policy.parameters()):
        moved = not np.array_equal(before[key], np.array(value))
        assert moved == ("lora_" in key or key.startswith("value_head")), key


def same_arrays(one, other) -> bool:
    of, theirs = (dict(tree_flatten(b.policy.parameters())) for b in (one, other))
    return all(np.array_equal(np.array(value), np.array(theirs[k])) for k, value in of.items())


def test_an_update_is_left_out_if_the_policy_has_moved_too_far():
    backend = make_backend()
    batch, bound = centred(make_batch(), backend, FULL), replace(FULL, max_kl=1e-7)
    batch = batch.with_(old_logp=backend.score(batch, "current", FULL.temperature).logp)
    assert backend.update(batch, bound).applied, "nothing has moved before the first"
    before = {k: np.array(v) for k, v in tree_flatten(backend.policy.parameters())}
    again = backend.update(batch, bound)
    assert not again.applied and again.approx_kl > 1e-7 and backend.updates == 1
    after = dict(tree_flatten(backend.policy.parameters()))
    assert all(np.array_equal(value, np.array(after[k])) for k, value in before.items())
    plain = make_backend()
    for hyper in (FULL, FULL):
        plain.update(batch, hyper)
    backend.update(batch, FULL)
    assert same_arrays(backend, plain), "a gradient was left over"


@pytest.mark.parametrize("quantized", [True, False])
def test_adapters_off_is_the_base_model_bit_for_bit(quantized):
    base = tiny_model(quantized=quantized)
    tokens = mx.array(make_batch().tokens)
    expected = np.array(base(tokens))
    backend = MlxBackend(base, CharTokenizer(), Lora(rank=4))
    for _, layer in adapters.adapter_layers(base):
        layer.lora_b = mx.ones_like(layer.lora_b)
    with_adapters = np.array(backend.policy.lm(tokens))
    with adapters.bypassed(base):
        assert np.array_equal(np.array(base(tokens)), expected)
    assert np.array_equal(np.array(backend.policy.lm(tokens)), with_adapters), (
        "the adapters did not come back"
    )
    assert not np.allclose(with_adapters, expected)


def test_reference_scores_ignore_the_adapters(backend):
    batch = make_batch()
    fresh = MlxBackend(tiny_model(scale=2.0), CharTokenizer(), Lora(rank=4, scale=2.0))
    assert np.array_equal(
        backend.score(batch, "reference", 1.0).logp, fresh.score(batch, "current", 1.0).logp
    )


def test_distillation_raises_the_probability_of_its_tokens():
    backend = make_backend()
    batch = centred(make_batch(), backend, FULL).with_(advantages=np.zeros((5, 24), np.float32))
    lesson = plain_lesson()
    hyper = replace(FULL, value_coef=0.0, entropy_coef=0.0, kl_coef=0.0, distill_coef=1.0, lr=3e-3)
    losses = [backend.update(batch, hyper, lesson).distill_loss for _ in range(6)]
    exact = -(NumpyLlama(make_backend().policy).scores(lesson.tokens, 1.0)[0] * lesson.mask).sum()
    assert losses[0] == pytest.approx(exact / lesson.mask.sum(), abs=1e-5)
    assert losses[-1] < losses[0] - 0.1


def test_gradient_checkpointing_changes_no_gradient():
    plain, checkpointed = make_backend(), make_backend(grad_checkpoint=True)
    for batch in (make_batch(), grouped_batch()):
        batch = centred(batch, plain, FULL)
        _, _, expected = accumulated(plain, batch, FULL)
        _, _, grads = accumulated(checkpointed, batch, FULL)
        assert_close(expected, grads, 1e-6)


def test_recomputed_layers_drop_the_same_again():
    """Otherwise the gradient would be that of another function than the loss."""
    lora = Lora(rank=4, scale=2.0, dropout=0.3)
    backend = MlxBackend(tiny_model(scale=2.0), CharTokenizer(), lora, grad_checkpoint=True)
    batch = centred(make_batch(), backend, FULL)
    draw = np.random.default_rng(5)
    start = dict(tree_flatten(backend._adapter_parameters()))
    along = {k: mx.array(draw.normal(size=v.shape).astype(np.float32)) for k, v in start.items()}

    def moved(by):
        there = [(k, v + by * along[k]) for k, v in start.items()]
        backend.policy.update(tree_unflatten(there))
        mx.random.seed(7)
        return accumulated(backend, batch, FULL)

    loss, _, grads = moved(0.0)
    assert moved(0.0)[0] == loss
    found = dict(tree_flatten(grads))
    slope = sum(float((found[k] * along[k]).sum()) for k in start)
    measured = (moved(2e-4)[0] - moved(-2e-4)[0]) / 4e-4
    assert abs(slope) > 1e-2 and measured == pytest.approx(slope, rel=0.03)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_adapters_in_16_bits_are_trained_in_32(kind, tmp_path):
    backend = make_backend()
    backend.save(tmp_path)
    file = tmp_path / "adapters.safetensors"
    arrays = {k: v.astype(getattr(mx, kind)) for k, v in mx.load(str(file)).items()}
    mx.save_safetensors(str(file), arrays)
    backend.load_adapters(tmp_path)
    assert {v.dtype for _, v in tree_flatten(backend._adapter_parameters())} == {mx.float32}
    before = dict(tree_flatten(backend._adapter_parameters()))
    backend.update(centred(make_batch(), backend, FULL), replace(FULL, lr=1e-5))
    after = dict(tree_flatten(backend._adapter_parameters()))
    moved = max(float(mx.abs(after[k] - before[k]).max()) for k in before)
    assert 0 < moved < 2e-5
    backend.save(tmp_path)


def grouped_batch(ends: Sequence[Sequence[int]] = ((3, 4), (5, 6, 7))) -> Batch:
    """Nine rows: four rows each for prompts that begin alike, and one that does not if two do."""
    draw = np.random.default_rng(4)
    start = draw.integers(1, VOCABULARY, 20).tolist()
    prompts = [*([*start, *end] for end in ends), draw.integers(1, VOCABULARY, 9).tolist()]
    rows = [(prompts[i // 4], draw.integers(1, VOCABULARY, 2 + i).tolist()) for i in range(9)]
    batch = collate_supervised(rows, pad_multiple=1)
    fields = ("sampler_logp", "old_logp", "ref_logp", "values", "advantages", "returns")
    kept = {name: draw.normal(size=batch.mask.shape).astype(np.float32) * 0.2 for name in fields}
    kept = {name: values * batch.mask for name, values in kept.items()}
    return batch.with_(**kept, weights=token_weights(batch.mask, "sequence_mean"))


def assert_close(expected, grads, tolerance: float) -> None:
    flat, got = dict(tree_flatten(expected)), dict(tree_flatten(grads))
    assert flat.keys() == got.keys()
    assert max(float(mx.abs(g).max()) for g in flat.values()) > 1e-3, "there is no gradient"
    for key, value in flat.items():
        np.testing.assert_allclose(np.array(value), np.array(got[key]), atol=tolerance, err_msg=key)


def test_prompts_that_are_read_once_give_the_gradients_of_prompts_read_for_each_row():
    backend = make_backend()
    batch = centred(grouped_batch(), backend, FULL)
    stages = [len(m.stages) for m in split(batch, 4096)]
    assert max(stages) == 3, "no rows share a prompt, no prompts a prefix: nothing is tried here"
    whole = accumulated(backend, batch, replace(FULL, micro_batch_tokens=4096))
    backend.share_prompts = False
    plain = accumulated(backend, batch, replace(FULL, micro_batch_tokens=4096))
    assert whole[0] == pytest.approx(plain[0], abs=1e-6)
    assert_close(plain[2], whole[2], 2e-6)


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        (((3, 4), (5, 6), (7, 8)), ["causal", "causal", "causal"]),  # prompts of one length
        (((3, 4), (5, 6, 7), (8,)), ["causal", "causal", "array"]),  # rows continue padded prompts
    ],
)
@pytest.mark.parametrize("options", [{}, {"grad_checkpoint": True}, {"compile": True}])
def test_what_continues_no_padding_has_no_array_as_its_mask(monkeypatch, ends, expected, options):
    """On Metal an array takes gigabytes. Without padding "causal" gives what the array gives."""
    backend = make_backend(**options)
    batch = centred(grouped_batch(ends), backend, FULL)
    hyper = replace(FULL, micro_batch_tokens=4096)
    masks = []
    plain = Span.mask

    def noted(self, return_array, window):
        mask = plain(self, return_array, window)
        masks.append(mask if isinstance(mask, str) else "array")
        return mask

    monkeypatch.setattr(Span, "mask", noted)
    shared = accumulated(backend, batch, hyper)
    assert masks[:3] == expected
    masks.clear()
    monkeypatch.setattr(Stage, "full", False)
    arrays = accumulated(make_backend(**options), batch, hyper)
    assert masks[:3] == ["causal", "array", "array"]
    assert shared[0] == pytest.approx(arrays[0], abs=1e-6)
    assert_close(arrays[2], shared[2], 2e-6)


def test_a_group_of_one_prompt_is_not_padded():
    prompt = list(range(1, 12))
    batch = collate_supervised([(prompt, [1, 2, 3]), (prompt, [4, 5])], pad_multiple=1)
    (micro,) = split(batch, 4096)
    assert micro.stages[0].tokens.shape == (1, len(prompt) - 1) and micro.stages[0].full


def test_a_gradient_that_is_not_finite_changes_nothing():
    backend = make_backend()
    batch = centred(make_batch(), backend, FULL)
    batch.advantages[batch.mask > 0] = np.nan
    before = {k: np.array(v) for k, v in adapters.adapter_weights(backend.policy.lm).items()}
    with pytest.raises(Exception, match="gradient norm is nan"):
        backend.update(batch, FULL)
    for key, value in adapters.adapter_weights(backend.policy.lm).items():
        assert np.array_equal(before[key], np.array(value)), key


def test_rows_without_a_trained_token_are_left_out():
    batch = make_batch()
    batch.mask[2] = 0
    rows = np.concatenate([m.rows for m in split(batch, 48)])
    assert 2 not in rows and set(rows) == {0, 1, 3, 4}


def test_on_a_cpu_nothing_is_padded_unless_it_is_compiled():
    batch, prompts = make_batch(rows=1, width=21), []
    for options in ({}, {"compile": True}):
        (micro,) = make_backend(**options)._micro_batches(batch, 4096)
        prompts.append([(int(s.lengths.max()), s.tokens.shape[1]) for s in micro.stages])
    assert all(longest == width for longest, width in prompts[0])
    assert prompts[1][-1][1] % 8 == 0 and prompts[1] != prompts[0]


def test_padding_cannot_poison_the_reference_penalty():
    """On padding the log-probability may be anything: exp of it overflows, and 0 x inf is NaN."""
    backend = make_backend()
    head = backend.policy.lm.lm_head
    head.scales, head.biases = head.scales * 100, head.biases * 100
    batch = make_batch()
    logp = backend.score(batch, "current", 1.0).logp
    hyper = replace(FULL, temperature=1.0, entropy_coef=0.0)
    loss, stats, _ = accumulated(backend, batch.with_(old_logp=logp, ref_logp=logp), hyper)
    assert np.isfinite(loss) and stats["kl_ref"] == 0


def test_dropout_is_keyed_and_compiles():
    runs = []
    for noise, compiled in ((0, False), (1, False), (2, True)):
        lora = Lora(rank=4, scale=2.0, dropout=0.3)
        backend = MlxBackend(tiny_model(scale=2.0), CharTokenizer(), lora, compile=compiled)
        backend.row_multiple = 8  # what is dropped depends on the padding
        mx.random.seed(noise)  # what else a process drew must not matter
        batch = centred(make_batch(), backend, FULL)
        stats = [backend.update(batch, FULL).entropy for _ in range(3)]
        runs.append(stats)
    assert runs[0] == runs[1]
    assert runs[0] == pytest.approx(runs[2], abs=1e-5)
    assert len(set(runs[0])) == 3


def test_a_model_without_a_trunk_is_refused_in_one_line():
    from mlx_lm.models import gpt2

    args = gpt2.ModelArgs(
        model_type="gpt2",
        n_ctx=32,
        n_embd=32,
        n_head=2,
        n_layer=1,
        n_positions=32,
        layer_norm_epsilon=1e-5,
        vocab_size=64,
    )
    model = gpt2.Model(args)
    del model.model
    with pytest.raises(AzrError, match=r"gpt2.*llama"):
        MlxBackend(model, CharTokenizer())


def counted(model) -> list[tuple[int, ...]]:
    """The shapes of the tokens that go through the trunk from now on, one for each pass."""
    passes, trunk = [], model.model

    class Counted(type(trunk)):
        def __call__(self, tokens, *args, **options):
            passes.append(tokens.shape)
            return super().__call__(tokens, *args, **options)

    trunk.__class__ = Counted
    return passes


def test_an_update_passes_through_the_trunk_once_for_each_stage_and_once_more_to_score():
    backend = make_backend()
    passes = counted(backend.policy.lm)
    batch = grouped_batch()
    micros = split(batch, 4096, multiple=backend.row_multiple)
    stages = [s.tokens.shape for m in micros for s in m.stages]
    scores = backend.score(batch, "current", FULL.temperature)
    assert passes == stages
    passes.clear()
    backend.update(batch.with_(old_logp=scores.logp), replace(FULL, micro_batch_tokens=4096))
    assert passes == stages, "the update runs a forward pass of its own, and no second one"


# -- half precision --------------------------------------------------------------------------------


def gradient_of(dtype: mx.Dtype, tokens: int) -> np.ndarray:
    """The adapters' gradient of a few rows, as part of an update of so many tokens, by a model in
    ``dtype``. All models have the same weights, which every type holds exactly."""
    model = tiny_model(quantized=False)
    model.set_dtype(mx.bfloat16)
    model.set_dtype(mx.float16)
    model.set_dtype(dtype)
    backend = MlxBackend(model, CharTokenizer(), Lora(rank=4, scale=2.0))
    draw = np.random.default_rng(1)
    for _, layer in adapters.adapter_layers(backend.policy.lm):
        layer.lora_b = mx.array(draw.normal(size=layer.lora_b.shape).astype(np.float32) * 0.05)
    batch = make_batch(rows=8, width=48)
    batch = batch.with_(
        old_logp=None, ref_logp=None, sampler_logp=None, values=None, returns=None,
        weights=(batch.mask / tokens).astype(np.float32),
    )  # fmt: skip
    hyper = replace(FULL, kl_coef=0.0, tis_cap=0.0, entropy_coef=0.0, micro_batch_tokens=4096)
    backend._clear_gradients()
    backend._open_term(1.0)
    for micro in backend._micro_batches(batch, 4096):
        backend._ppo_pass(batch, micro, tokens, hyper)
    flat = tree_flatten(backend._gradients())
    parts = [np.array(g.astype(mx.float32)).ravel() for n, g in flat if "lora" in n]
    return np.concatenate(parts).astype(np.float64)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_gradients_in_half_precision_do_not_underflow(dtype: str) -> None:
    tokens = 200_000
    exact, found = gradient_of(mx.float32, tokens), gradient_of(getattr(mx, dtype), tokens)
    assert np.abs(exact).max() > 0
    cosine = exact @ found / np.linalg.norm(exact) / np.linalg.norm(found)
    assert cosine >= 0.999
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(exact), rel=0.01)
