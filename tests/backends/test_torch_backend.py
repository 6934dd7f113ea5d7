"""The torch backend against MLX and float64 numpy: same model, same rollouts, same numbers."""

from copy import deepcopy
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core", reason="mlx is not installed")
torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("peft", reason="peft is not installed")

from mlx.utils import tree_flatten  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

from azr_mlx import rng  # noqa: E402
from azr_mlx.backends.base import Hyper, Sampling  # noqa: E402
from azr_mlx.backends.mlx import MlxBackend  # noqa: E402
from azr_mlx.backends.mlx import adapters as mlx_adapters  # noqa: E402
from azr_mlx.backends.torch import (  # noqa: E402
    TorchBackend,
    adapters,
    attention,
    ppo,
    precision,
    prefix_sharing,
    trials,
)
from azr_mlx.backends.torch import model as models  # noqa: E402
from azr_mlx.backends.torch.fixed_decoder import FixedDecoder  # noqa: E402
from azr_mlx.config import Lora, Quantization  # noqa: E402
from azr_mlx.errors import AzrError, ModelError, UsageError, device_failed  # noqa: E402
from azr_mlx.models.mlx_model import to_float32  # noqa: E402
from azr_mlx.run_folder import ADAPTER_WEIGHTS  # noqa: E402
from azr_mlx.training.batch import collate_supervised  # noqa: E402
from azr_mlx.types import Prompt  # noqa: E402
from tests import reference  # noqa: E402
from tests.backends.test_mlx_ppo import FULL, VARIANTS, accumulated, grouped_batch, make_batch  # noqa: E402
from tests.numpy_llama import NumpyLlama  # noqa: E402
from tests.tiny import VOCABULARY, CharTokenizer, tiny_folder, tiny_model  # noqa: E402

pytestmark = pytest.mark.backend
TOKENIZER = CharTokenizer()
LORA = Lora(rank=4, scale=2.0)


def torch_model(model) -> LlamaForCausalLM:
    """transformers' model with the weights of the tiny one, its 4 bits dequantised."""
    args = model.args
    config = LlamaConfig(
        hidden_size=args.hidden_size,
        num_hidden_layers=args.num_hidden_layers,
        intermediate_size=args.intermediate_size,
        num_attention_heads=args.num_attention_heads,
        num_key_value_heads=args.num_key_value_heads,
        rms_norm_eps=args.rms_norm_eps,
        vocab_size=args.vocab_size,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": args.rope_theta},
        attn_implementation="sdpa",
    )
    made = LlamaForCausalLM(config).float()
    arrays = dict(tree_flatten(to_float32(deepcopy(model)).parameters()))
    state = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    missing, unexpected = made.load_state_dict(state, strict=False)
    assert not missing and not unexpected
    return made


def pair(**options) -> tuple[MlxBackend, TorchBackend]:
    """The two backends on one 4-bit model; LoRA B and the value head not zero, and equal."""
    model = tiny_model(scale=2.0)
    other = TorchBackend(torch_model(model), TOKENIZER, LORA, **options)
    ours = MlxBackend(model, TOKENIZER, LORA, **options)
    draw = np.random.default_rng(1)
    pairs = zip(
        mlx_adapters.adapter_layers(ours.policy.lm),
        adapters.adapter_layers(other.policy.lm),
        strict=True,
    )
    for (name, layer), (same, theirs) in pairs:
        assert name == same
        b = draw.normal(size=layer.lora_b.shape).astype(np.float32) * 0.2
        layer.lora_b = mx.array(b)
        theirs.lora_B["default"].weight.data.copy_(torch.from_numpy(b.T.copy()))
    head = draw.normal(size=(1, 32)).astype(np.float32) * 0.2
    ours.policy.value_head.weight = mx.array(head)
    other.policy.value_head.weight.data.copy_(torch.from_numpy(head))
    return ours, other


@pytest.fixture(scope="module")
def both():
    return pair(micro_batch_tokens=48)


def centred(batch, backend, hyper):
    logp = backend.score(batch, "current", hyper.temperature).logp
    return batch.with_(
        sampler_logp=logp + batch.sampler_logp,
        old_logp=logp + batch.old_logp,
        ref_logp=logp + batch.ref_logp,
    )


def weights_of(backend) -> dict[str, np.ndarray]:
    """The adapters in mlx-lm's layout, and the value head."""
    if backend.name == "mlx":
        found = mlx_adapters.adapter_weights(backend.policy.lm)
        head = backend.policy.value_head
        return {**{k: np.array(v) for k, v in found.items()}, "head": np.array(head.weight)}
    found = {k: adapters.transposed(p).numpy() for k, p in backend.parameters.items()}
    return {**found, "head": backend.policy.value_head.weight.detach().numpy().copy()}


def assert_same(a, b, atol: float) -> None:
    assert_close(weights_of(a), weights_of(b), atol)


def assert_close(a, b, atol: float) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=atol, err_msg=name)


def test_a_seed_gives_the_same_adapters():
    model = tiny_model()
    other = TorchBackend(torch_model(model), TOKENIZER, LORA, seed=5)
    assert_same(MlxBackend(model, TOKENIZER, LORA, seed=5), other, atol=1e-7)
    assert other.adapter_config == MlxBackend(tiny_model(), TOKENIZER, LORA).adapter_config


@pytest.mark.parametrize("batch", [make_batch(), grouped_batch()], ids=["rows", "groups"])
@pytest.mark.parametrize("policy", ["current", "reference"])
def test_scores_agree(both, policy, batch):
    ours, theirs = (backend.score(batch, policy, 0.8) for backend in both)
    np.testing.assert_allclose(theirs.logp, ours.logp, atol=1e-4)
    np.testing.assert_allclose(theirs.entropy, ours.entropy, atol=1e-4)
    if policy == "current":
        np.testing.assert_allclose(theirs.values, ours.values, atol=1e-4)
    assert np.abs(theirs.logp).max() > 1


@pytest.mark.parametrize("name", VARIANTS)
def test_loss_statistics_and_gradients_agree_with_mlx_and_numpy(both, name):
    ours, theirs = both
    hyper, without = VARIANTS[name]
    batch = centred(make_batch(), ours, hyper).with_(**without)
    loss, sums, grads = accumulated(ours, batch, hyper)
    theirs._clear_gradients()
    other, stats = theirs._accumulate(batch, hyper)
    oracle = NumpyLlama(ours.policy).scores(batch.tokens, hyper.temperature)
    exact, exact_stats, _ = reference.ppo_loss(*oracle, batch, hyper)
    assert other == pytest.approx(exact, abs=1e-5) and other == pytest.approx(loss, abs=1e-5)
    for key, value in stats.items():
        assert value == pytest.approx(sums[key], rel=1e-4, abs=1e-5), key
        assert value == pytest.approx(exact_stats[key], rel=1e-4, abs=1e-5), key
    flat = dict(tree_flatten(grads))
    largest = 0.0
    for key, parameter in theirs.parameters.items():
        own, expected = adapters.transposed(parameter.grad).numpy(), np.array(flat[f"lm.{key}"])
        np.testing.assert_allclose(own, expected, atol=1e-5, err_msg=key)
        largest = max(largest, np.abs(own).max())
    assert largest > 1e-3
    if "returns" not in without:
        np.testing.assert_allclose(
            theirs.policy.value_head.weight.grad, flat["value_head.weight"], atol=1e-5
        )


@pytest.mark.parametrize("distill", [False, True])
def test_five_updates_agree(distill):
    ours, theirs = pair(micro_batch_tokens=64)
    lesson = make_batch(9, rows=2) if distill else None
    hyper = replace(FULL, weight_decay=0.01, distill_coef=0.3 * distill)
    before = weights_of(theirs)
    for step in range(5):
        batch = centred(make_batch(step), ours, hyper)
        stats = [asdict(b.update(batch, hyper, lesson)) for b in (ours, theirs)]
        for key, value in stats[0].items():
            assert stats[1][key] == pytest.approx(value, rel=1e-3, abs=1e-4), (step, key)
    assert_same(ours, theirs, atol=1e-4)
    moved = [np.abs(weights_of(theirs)[k] - before[k]).max() for k in before]
    assert min(moved) > 1e-3


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_completions_agree(both, temperature):
    texts = ["abcabc", "abcabd", "xyz", "abcabc"]
    prompts = [Prompt(t, tuple(TOKENIZER.encode(t)), stop=("q",), prefix=0) for t in texts]
    prompts[1] = replace(prompts[1], prefix=5)
    prompts[0] = replace(prompts[0], prefix=5)
    sampling = [Sampling(12, temperature, top_p) for top_p in (1.0, 0.9, 1.0, 1.0)]
    keys = [rng.key(0, "test", 0, i) for i in range(4)]
    ours, theirs = (backend.generate(prompts, sampling, keys) for backend in both)
    assert [c.token_ids for c in theirs] == [c.token_ids for c in ours]
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(b.logprobs, a.logprobs, atol=1e-4)
        assert (a.text, a.finish) == (b.text, b.finish)


def test_rows_that_wait_are_decoded_as_alone():
    backend = pair(max_rows=2)[1]
    prompts = [Prompt(t, tuple(TOKENIZER.encode(t))) for t in ("ab", "cdefg", "hi", "abcdefgh")]
    sampling = [Sampling(4 + 3 * i) for i in range(4)]
    keys = [rng.key(0, "test", 1, i) for i in range(4)]
    together = backend.generate(prompts, sampling, keys)
    for i in range(4):
        alone = backend.generate([prompts[i]], [sampling[i]], [keys[i]])[0]
        assert alone.token_ids == together[i].token_ids
        np.testing.assert_allclose(alone.logprobs, together[i].logprobs, atol=1e-5)


def test_decoding_leaves_the_weights_as_they_were(both):
    base = both[1].policy.lm.model.layers[0].self_attn.q_proj.base_layer.weight
    before = base.detach().clone()
    prompt = Prompt("ab", tuple(TOKENIZER.encode("ab")))
    sampled, score = ([both[1].generate([prompt], [Sampling(6)], [3])[0]] for _ in range(2))
    assert sampled == score and torch.equal(base, before)
    assert all(p.requires_grad for p in both[1].parameters.values())


@pytest.mark.parametrize("way", ["to torch", "to mlx"])
def test_a_run_goes_on_on_the_other_backend(tmp_path, way):
    source, target = pair() if way == "to torch" else reversed(pair())
    hyper = replace(FULL, micro_batch_tokens=4096)
    first, second = make_batch(1), make_batch(2)
    source.update(centred(first, source, hyper), hyper)
    source.save(tmp_path)
    target.load(tmp_path)
    assert_same(source, target, atol=0)
    scores = [backend.score(second, "current", 1.0).logp for backend in (source, target)]
    np.testing.assert_allclose(*scores, atol=1e-4)
    batch = centred(second, source, hyper)
    for backend in (source, target):
        backend.update(batch, hyper)
    assert_same(source, target, atol=1e-5)


def test_a_resumed_run_is_the_same_bit_for_bit(tmp_path):
    a, b = pair()[1], pair()[1]
    batch = centred(make_batch(), a, FULL)
    a.update(batch, FULL)
    a.save(tmp_path)
    b.load(tmp_path)
    for backend in (a, b):
        backend.update(batch, FULL)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for backend, name in ((a, "a"), (b, "b")):
        backend.save(tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


def test_a_checkpoint_before_any_update_can_be_loaded(tmp_path):
    ours, theirs = pair()
    theirs.save(tmp_path)
    ours.load(tmp_path)
    theirs.load(tmp_path)
    hyper = replace(FULL, micro_batch_tokens=4096)
    batch = centred(make_batch(), ours, hyper)
    for backend in (ours, theirs):
        backend.update(batch, hyper)
    assert_same(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(
    ("option", "against"),
    [
        ({"grad_checkpoint": True}, {}),
        ({"grad_checkpoint": True, "share_prompts": False}, {"share_prompts": False}),
        ({"share_prompts": False}, {}),
    ],
)
def test_recomputed_layers_and_repeated_prompts_change_no_gradient(option, against):
    plain, other = (pair(micro_batch_tokens=4096, **o)[1] for o in (against, option))
    batch = grouped_batch()
    batch = centred(batch, plain, FULL) if batch.old_logp is not None else batch
    seen = []
    for backend in (plain, other):
        calls = counted(backend.policy.trunk.layers[0].mlp)
        backend._accumulate(batch, FULL)
        seen.append(sum(calls))
    if "grad_checkpoint" in option:
        assert seen[1] == 2 * seen[0], "the layers were not computed again"
    assert seen[1] > seen[0], "the option did nothing"
    for key, parameter in plain.parameters.items():
        np.testing.assert_allclose(
            other.parameters[key].grad, parameter.grad, atol=1e-6, err_msg=key
        )


def test_layers_are_recomputed_with_the_same_dropout():
    lora, batch = replace(LORA, dropout=0.3), grouped_batch()
    found = []
    for again in (False, True):
        model = torch_model(tiny_model(scale=2.0))
        backend = TorchBackend(model, TOKENIZER, lora, grad_checkpoint=again)
        backend.update(batch, Hyper(lr=1e-2))
        found.append(weights_of(backend))
    assert_close(found[0], found[1], atol=1e-6)


def in_bfloat16(**options) -> TorchBackend:
    """The same backend as ``pair`` has, with the base model in bfloat16."""
    full = pair()[1]
    half = TorchBackend(torch_model(tiny_model(scale=2.0)).bfloat16(), TOKENIZER, LORA, **options)
    for name, parameter in half.parameters.items():
        parameter.data.copy_(full.parameters[name].data)
    half.policy.value_head.load_state_dict(full.policy.value_head.state_dict())
    return half


@pytest.mark.parametrize("again", [False, True])
def test_a_model_in_bfloat16_computes_its_adapters_in_bfloat16(again):
    full, half = pair()[1], in_bfloat16(grad_checkpoint=again)
    attention.use_grouped(half.policy.lm)
    seen = []
    layer = half.policy.trunk.layers[0].mlp.up_proj.lora_A["default"]
    layer.register_forward_hook(lambda _, inputs, out: seen.append((inputs[0].dtype, out.dtype)))
    batch = grouped_batch()
    for backend in (full, half):
        backend._accumulate(batch, Hyper(lr=1e-2))
    assert set(seen) == {(torch.bfloat16, torch.bfloat16)}
    for name, parameter in half.parameters.items():
        exact, own = full.parameters[name].grad, parameter.grad
        assert own.dtype == torch.float32, name
        assert (own - exact).norm() < 0.1 * exact.norm(), name


def test_a_rollout_in_bfloat16_rounds_the_adapters_and_gives_them_back():
    half = in_bfloat16()
    attention.use_grouped(half.policy.lm)
    before, seen = weights_of(half), []
    layer = half.policy.trunk.layers[0].mlp.up_proj.lora_A["default"]
    layer.register_forward_hook(lambda module, *unused: seen.append(module.weight.dtype))
    prompt = Prompt("ab", tuple(TOKENIZER.encode("ab")))
    (done,) = half.generate([prompt], [Sampling(6)], [3])
    assert set(seen) == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in half.parameters.values())
    after = weights_of(half)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    batch = collate_supervised([(prompt.token_ids, done.token_ids)])
    logp = half.score(batch, "current", 1.0).logp[batch.mask > 0]
    np.testing.assert_allclose(done.logprobs, logp, atol=0.05)


@pytest.mark.parametrize("half", [True, False], ids=["bfloat16", "float32"])
def test_ctrl_c_before_a_rollout_leaves_the_weights_as_they_are(half, monkeypatch):
    """A run that is interrupted saves them."""
    backend = in_bfloat16() if half else TorchBackend(torch_model(tiny_model()), TOKENIZER, LORA)
    layers = [layer for _, layer in adapters.adapter_layers(backend.policy.lm)]
    own = [*backend.parameters.values(), *(layer.base_layer.weight for layer in layers)]
    before = [(one.dtype, one.detach().clone()) for one in own]
    done = []

    def interrupted(*given):
        done.append(given)
        if len(done) == 3:
            raise KeyboardInterrupt
        return 1

    class Copy:
        """Adapters in 16 bits."""

        def copy_(self, data):
            interrupted()
            return data.bfloat16()

    backend._rounded.copies = [Copy() for _ in backend.parameters]
    for layer in layers:
        monkeypatch.setattr(layer, "get_delta_weight", interrupted)
    prompt = Prompt("a", tuple(TOKENIZER.encode("ab")))
    with pytest.raises(KeyboardInterrupt):
        backend.generate([prompt], [Sampling(2)], [1])
    assert len(done) == 3
    for one, (dtype, values) in zip(own, before, strict=True):
        assert one.dtype == dtype and torch.equal(one, values)
    assert not any(layer.disable_adapters for layer in layers)


@pytest.mark.parametrize("share", [False, True])
def test_recomputing_keeps_little_for_the_backward_pass(share):
    """With and without shared prompts: a layer keeps its input, and not its activations."""
    kept = []
    for again in (False, True):
        backend = pair(micro_batch_tokens=4096, share_prompts=share, grad_checkpoint=again)[1]
        batch, sizes = grouped_batch(), {}

        def note(array, sizes=sizes):
            sizes[array.untyped_storage().data_ptr()] = array.untyped_storage().nbytes()
            return array

        micro = backend._micro_batches(batch, 4096)[0]
        arrays = ppo.arrays_of(batch, micro, backend.device)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda array: array):
            held = prefix_sharing.hidden_states(backend.policy.trunk, arrays["stages"])
        kept.append(sum(sizes.values()))
        assert held.requires_grad
    assert kept[1] < 0.25 * kept[0]


def test_what_decoding_keeps_is_freed_for_an_update():
    prompt = Prompt("ab", tuple(TOKENIZER.encode("ab")))
    for backend, stays in ((in_bfloat16(), True), (pair()[1], False)):
        decoder = FixedDecoder(backend.policy.lm, torch.device("cpu"))
        backend.engine.decoder = decoder
        addresses = []
        for _ in range(2):
            backend.generate([prompt], [Sampling(6)], [3])
            addresses.append([copy.data_ptr() for copy in backend._rounded.copies])
            assert (decoder.board is not None) == stays, "merged weights are elsewhere each time"
        assert addresses[0] == addresses[1], "graphs would read other adapters"
        backend.score(make_batch(), "current", 1.0)
        assert decoder.board is None


@pytest.mark.parametrize("again", [False, True])
def test_heads_that_share_keys_and_values_need_no_copies_of_them(again, monkeypatch):
    """Attention as on CUDA: the numbers are the same, and keys come as they are."""
    plain, other = (pair(micro_batch_tokens=4096, grad_checkpoint=again)[1] for _ in range(2))
    attention.use_grouped(other.policy.lm)
    config, seen = other.policy.lm.config, []
    own = torch.nn.functional.scaled_dot_product_attention

    def noted(query, key, *rest, **options):
        seen.append((options["attn_mask"] is not None, key.shape[1]))
        return own(query, key, *rest, **options)

    batch = grouped_batch()
    for backend in (plain, other):
        backend.policy.lm.double()  # in float32 rounding alone passes 1e-5 now and then
        if backend is other:
            monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
        backend._accumulate(batch, FULL)
    assert config.num_key_value_heads < config.num_attention_heads
    assert {heads for masked, heads in seen if masked} == {config.num_key_value_heads}
    for name, parameter in plain.parameters.items():
        np.testing.assert_allclose(
            other.parameters[name].grad, parameter.grad, rtol=1e-9, atol=1e-9, err_msg=name
        )
    prompts = [Prompt(t, tuple(TOKENIZER.encode(t)), prefix=5) for t in ("abcabc", "abcabd", "x")]
    ours, theirs = (b.generate(prompts, [Sampling(9)] * 3, [1, 2, 3]) for b in (plain, other))
    assert [c.token_ids for c in ours] == [c.token_ids for c in theirs]
    scores = [b.score(make_batch(), "current", 1.0).logp for b in (plain, other)]
    np.testing.assert_allclose(*scores, atol=1e-5)


@pytest.mark.parametrize("changed", [{"num_key_value_heads": 4}, {"attn_logit_softcapping": 30.0}])
def test_attention_of_other_kinds_is_left_to_transformers(changed):
    model = torch_model(tiny_model())
    for name, value in changed.items():
        setattr(model.config, name, value)
    assert model.config.num_attention_heads == 4
    attention.use_grouped(model)
    assert model.config._attn_implementation == "sdpa"
    assert attention.heads_together(model.config) == 1


def test_tf32_is_for_cuda_only():
    before = torch.get_float32_matmul_precision()
    try:
        precision.allow_tf32(torch.device("cpu"))
        assert torch.get_float32_matmul_precision() == before == "highest"
        precision.allow_tf32(torch.device("cuda"))
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def counted(module) -> list[int]:
    """The tokens that a layer reads, call by call."""
    calls = []
    module.register_forward_pre_hook(lambda _, args: calls.append(args[0][..., 0].numel()))
    return calls


def test_a_gradient_that_is_not_finite_changes_nothing():
    backend = pair()[1]
    before = weights_of(backend)
    batch = make_batch()
    with pytest.raises(AzrError, match="was not applied"):
        backend.update(batch.with_(advantages=batch.advantages * np.inf), FULL)
    after = weights_of(backend)
    assert all(np.array_equal(before[k], after[k]) for k in before)
    assert all(p.grad is None for p in backend.parameters.values())


def test_dropout_is_keyed():
    lora = replace(LORA, dropout=0.3)
    batch = make_batch()
    hyper = Hyper(lr=1e-2)
    made = []
    for used in (lora, lora, LORA):
        backend = TorchBackend(torch_model(tiny_model(scale=2.0)), TOKENIZER, used)
        torch.manual_seed(np.random.default_rng().integers(1 << 30))
        for _ in range(2):
            backend.update(batch, hyper)
        made.append(weights_of(backend))
    assert all(np.array_equal(made[0][k], made[1][k]) for k in made[0])
    assert not all(np.allclose(made[0][k], made[2][k], atol=1e-4) for k in made[0])


def test_a_model_s_own_dropout_is_off():
    model = torch_model(tiny_model())
    model.model.layers[0].self_attn.attention_dropout = 0.5
    models.without_dropout(model)
    assert model.model.layers[0].self_attn.attention_dropout == 0


def test_a_window_of_the_configuration_means_the_model_s_own_cache():
    """A mask that is given replaces the model's own, and a trial does not see a long window."""
    model = torch_model(tiny_model())
    assert trials.path_of(model) == "shared"
    model.config.sliding_window = 4096
    assert trials.path_of(model) == "alike"
    model.config.use_sliding_window = False
    assert trials.path_of(model) == "shared"


def test_a_damaged_adapter_file_is_told(tmp_path):
    file = tmp_path / ADAPTER_WEIGHTS
    file.write_bytes(b"\0" * 40)
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        pair()[1].load_adapters(file)


def test_adapters_on_some_layers_only():
    lora = Lora(rank=2, num_layers=1, keys=("self_attn.q_proj", "mlp.up_proj"))
    theirs = TorchBackend(torch_model(tiny_model()), TOKENIZER, lora)
    assert_same(MlxBackend(tiny_model(), TOKENIZER, lora), theirs, atol=1e-7)
    assert len(theirs.parameters) == 4
    with pytest.raises(UsageError, match=r"lora.keys: 'q_proj' is not a linear layer"):
        TorchBackend(torch_model(tiny_model()), TOKENIZER, Lora(keys=("q_proj",)))


def test_adapters_of_another_rank_are_named(tmp_path):
    TorchBackend(torch_model(tiny_model()), TOKENIZER, Lora(rank=2)).save(tmp_path)
    other = TorchBackend(torch_model(tiny_model()), TOKENIZER, Lora(rank=4))
    with pytest.raises(ValueError, match=rf"{ADAPTER_WEIGHTS}: adapters of another model"):
        other.load(tmp_path)


def test_a_folder_that_is_quantised_for_mlx_is_refused_in_one_line(tmp_path):
    tiny_folder(tmp_path / "m")
    with pytest.raises(UsageError, match="quantised for MLX, which torch cannot read"):
        TorchBackend.from_folder(tmp_path / "m", LORA, Quantization(bits=0))


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (
            RuntimeError("None of the available devices are supported by the bitsandbytes"),
            UsageError,
        ),
        (ImportError("Using `bitsandbytes` requires accelerate"), UsageError),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), torch.OutOfMemoryError),
        (RuntimeError("the model is damaged"), ModelError),
    ],
)
def test_a_bitsandbytes_that_does_not_work_is_not_the_model_s_fault(
    tmp_path, monkeypatch, error, shown
):
    class Made:
        @staticmethod
        def from_pretrained(*given, **also):
            raise error

    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(models, "AutoModelForCausalLM", Made)
    monkeypatch.setattr(
        models, "AutoTokenizer", SimpleNamespace(from_pretrained=lambda *_, **__: 0)
    )
    monkeypatch.setattr(models, "choose_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(models, "quantized", lambda bits: {"quantization_config": bits})
    with pytest.raises(shown) as found:
        TorchBackend.from_folder(tmp_path, LORA, Quantization(bits=4))
    if shown is UsageError:
        told = str(found.value)
        assert told.startswith("quantization.bits: 4: ") and told.endswith("quantization.bits=0")


def test_the_vocabulary_is_larger_than_a_chunk():
    """The head works in chunks: one that ends within a row count must not lose rows."""
    backend = pair()[1]
    backend.policy.rows = 7
    whole = pair()[1]
    batch = make_batch(rows=6)
    np.testing.assert_allclose(
        backend.score(batch, "current", 1.0).logp,
        whole.score(batch, "current", 1.0).logp,
        atol=1e-6,
    )
    assert whole.policy.rows * VOCABULARY * 4 >= 6 << 20


def test_memory_that_runs_out_is_the_device_s_failure():
    with pytest.raises(RuntimeError) as found:
        torch.empty(10**15)
    errors = torch.OutOfMemoryError("CUDA out of memory"), torch.AcceleratorError("CUDA error: x")
    for error in (found.value, *errors):
        assert device_failed(error)


def test_a_gpu_that_fails_in_a_trial_is_not_the_model_s_fault(monkeypatch):
    """Otherwise the model would be called unsupported, or would be decoded the slow way."""
    lm = torch_model(tiny_model())

    def fail(*given, **also):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(trials, "hidden_states", fail)
    with pytest.raises(torch.OutOfMemoryError):
        TorchBackend(lm, TOKENIZER, LORA)
