"""Architectures of transformers: what training needs, or a refusal in one line."""

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="mlx is not installed")
torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("peft", reason="peft is not installed")

from azr_mlx.backends.torch import TorchBackend  # noqa: E402
from azr_mlx.backends.torch.logprobs import head_of, selected_logprob  # noqa: E402
from azr_mlx.config import Lora  # noqa: E402
from azr_mlx.errors import AzrError, UsageError  # noqa: E402
from tests.survey import HYPER, batch_of  # noqa: E402
from tests.tiny import CharTokenizer  # noqa: E402
from tests.torch_survey import SPECIAL, opened, rollout, survey, tiny  # noqa: E402

pytestmark = pytest.mark.backend

# One of each kind, with the way in which it is run.
KINDS = {
    "granite": "shared",  # scaled logits
    "gemma3_text": "alike",  # sliding windows
    "gpt_oss": "alike",  # sinks, experts
    "llama4_text": "alike",  # chunks; says that it is its own decoder
    "qwen3_5_text": "alike",  # gated delta rule
}


@pytest.fixture(autouse=True)
def one_thread():
    """Threads take longer to meet than these models to compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_is_trained(name):
    assert survey(name).path == KINDS[name]


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(set(SPECIAL) - set(KINDS)))
def test_each_architecture_is_trained(name):
    survey(name)


@pytest.mark.parametrize("name", ["gemma2", "granite", "cohere2"])
def test_logits_that_are_capped_or_scaled_are_differentiated(name):
    model = tiny(name)
    head = head_of(model)
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(9, 32, generator=draw).requires_grad_()
    targets = torch.arange(9)
    ours = selected_logprob(head, hidden, targets, 0.7, rows=4, entropy_gradient=True)
    plain = torch.log_softmax(head.logits(hidden) / 0.7, -1)
    expected = plain[targets, targets], -(plain.exp() * plain).sum(-1)
    assert not head.plain
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    gradients = [
        torch.autograd.grad(sum(x.sum() for x in pair), hidden) for pair in (ours, expected)
    ]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


def test_a_bias_of_the_head_is_part_of_it():
    model = tiny("llama")
    assert head_of(model).plain
    model.lm_head.bias = torch.nn.Parameter(torch.linspace(-1, 1, 128))
    hidden = torch.ones(2, 32)
    expected = hidden @ model.lm_head.weight.T + model.lm_head.bias
    torch.testing.assert_close(head_of(model).logits(hidden), expected)


def test_layers_that_are_not_used_as_linear_have_no_adapters():
    backend = opened("falcon_h1")
    assert backend.left_out == ["mamba.out_proj"]
    assert not any("out_proj" in name for name in backend.parameters)
    with pytest.raises(UsageError, match=r"'mamba.out_proj' is not a linear layer"):
        TorchBackend(tiny("falcon_h1"), CharTokenizer(), Lora(keys=("mamba.out_proj",)))


def test_a_model_whose_cache_changes_its_results_is_refused_in_one_line():
    model = tiny("gemma3_text")
    plain = model.model.forward

    def forgetting(*given, **named):
        """A cache that is not read."""
        return plain(*given, **{**named, "cache": None, "past_key_values": None})

    model.model.forward = forgetting
    with pytest.raises(AzrError, match="token by token") as refusal:
        TorchBackend(model, CharTokenizer(), Lora(rank=2))
    assert "\n" not in str(refusal.value) and "gemma3_text" in str(refusal.value)


def test_a_saved_model_continues_bit_for_bit(tmp_path):
    whole, resumed = opened("gemma3_text"), opened("gemma3_text")
    batch = batch_of(rollout(whole))
    whole.update(batch, HYPER)
    whole.save(tmp_path)
    resumed.load(tmp_path)
    assert whole.update(batch, HYPER) == resumed.update(batch, HYPER)
    for key, parameter in whole.parameters.items():
        assert np.array_equal(parameter.detach(), resumed.parameters[key].detach())
