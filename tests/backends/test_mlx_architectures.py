"""Every architecture of the installed mlx-lm: what training needs, or a refusal in one line."""

import json

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core", reason="mlx is not installed")

from mlx_lm.tuner.lora import LoRASwitchLinear  # noqa: E402

from azr_mlx.backends.mlx import MlxBackend  # noqa: E402
from azr_mlx.backends.mlx.adapters import adapter_layers  # noqa: E402
from azr_mlx.config import Lora  # noqa: E402
from azr_mlx.errors import AzrError  # noqa: E402
from tests import architectures  # noqa: E402
from tests.survey import HYPER, LORA, batch_of, opened, rollout, survey  # noqa: E402
from tests.tiny import CharTokenizer  # noqa: E402

pytestmark = pytest.mark.backend

# One of each kind, with the way in which it is run.
KINDS = {
    "phi3": "shared",  # fused projections
    "gpt_neox": "shared",  # other names of trunk and head
    "granite": "shared",  # scaled logits
    "qwen3_moe": "shared",  # experts
    "deepseek_v3": "shared",  # compressed keys
    "qwen3_vl": "shared",  # inside of a wrapper
    "gemma2": "alike",  # capped logits; a mask that cannot have a row for each prompt
    "llama4": "alike",  # chunks
    "gemma3_text": "shared",  # sliding windows
    "gemma3n": "shared",  # layers that need a cache to find each other's keys
    "gemma4": "shared",  # shared keys, capped logits, in a wrapper
    "gpt_oss": "shared",  # sinks
    "qwen3_5": "batched",  # gated delta rule
    "lfm2": "batched",  # convolutions
    "falcon_h1": "batched",  # attention and mamba2 in one layer
    "rwkv7": "batched",  # no attention
}
REFUSED = {
    "phi3small": "token by token",  # its forward pass sees later tokens
    "deepseek_v41": "VJP",
    "talkie": "head",
}
METAL = {"bitnet", "muse_spark"}  # their only implementation is a Metal kernel


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_is_trained(name, tmp_path):
    assert survey(name, tmp_path).path == KINDS[name]


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(set(architectures.names()) - set(KINDS) - set(REFUSED)))
def test_each_architecture_is_trained(name, tmp_path):
    if name in METAL and not mx.metal.is_available():
        pytest.skip("needs Metal")
    survey(name, tmp_path)


@pytest.mark.parametrize("name", REFUSED)
def test_the_others_are_refused_in_one_line(name):
    with pytest.raises(AzrError, match=REFUSED[name]) as refusal:
        MlxBackend(architectures.tiny(name), CharTokenizer(), Lora(rank=2))
    assert "\n" not in str(refusal.value) and name in str(refusal.value)
    assert "docs/models.md" in str(refusal.value)


@pytest.mark.parametrize("name", ["qwen3_5", "gemma4"])
def test_a_compiled_update_is_the_same(name):
    plain, compiled = opened(name), opened(name, compile=True)
    batch = batch_of(rollout(plain))
    stats = [backend.update(batch, HYPER) for backend in (plain, compiled)]
    assert stats[1].loss == pytest.approx(stats[0].loss, rel=1e-4)
    assert stats[1].grad_norm == pytest.approx(stats[0].grad_norm, rel=1e-3)


def test_adapters_of_experts_start_within_the_bound_of_their_width():
    backend = MlxBackend(architectures.tiny("qwen3_moe"), CharTokenizer(), Lora(rank=2))
    experts = [m for _, m in adapter_layers(backend.policy.lm) if type(m) is LoRASwitchLinear]
    assert experts
    for layer in experts:
        largest = float(mx.abs(layer.lora_a).max()) * layer.lora_a.shape[-1] ** 0.5
        assert 0.9 < largest <= 1


@pytest.mark.parametrize("name", ["qwen3_5", "gemma3n", "deepseek_v32"])
def test_a_saved_model_continues_bit_for_bit(name, tmp_path):
    """Also where some layers have no adapters, which the saved configuration has to say."""
    whole, resumed = opened(name), MlxBackend(architectures.tiny(name), CharTokenizer(), LORA)
    batch = batch_of(rollout(whole))
    whole.update(batch, HYPER)
    whole.save(tmp_path)
    resumed.load(tmp_path)
    arrays = []
    for backend in (whole, resumed):
        stats = backend.update(batch, HYPER)
        arrays.append((stats, {k: np.array(v) for k, v in backend._adapter_arrays().items()}))
    assert arrays[0][0] == arrays[1][0] and arrays[0][1].keys() == arrays[1][1].keys()
    assert all((array == arrays[1][1][key]).all() for key, array in arrays[0][1].items())
    keys = json.loads((tmp_path / "adapter_config.json").read_text())["lora_parameters"].get("keys")
    assert (keys is None) == (name == "qwen3_5")
