"""The number of a model's parameters, before it is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from azr_mlx.config.model_class import class_of
from azr_mlx.models.parameters import INDEX, described, stored
from tests.models.tiny_gguf import byte_vocabulary, tiny

pytestmark = pytest.mark.pure


def decoder(layers: int, hidden: int, wide: Any, heads: int, kv: int, words: int, **more: Any):
    names = {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": wide,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": words,
    }
    return names | more


UNTIED = {"tie_word_embeddings": False}
LFM2 = {
    "tie_embedding": True,
    "block_auto_adjust_ff_dim": True,
    "block_ffn_dim_multiplier": 1.0,
    "block_multiple_of": 256,
}
# What counts of the config.json of each model, and its size as published.
REAL: dict[str, tuple[dict[str, Any], float]] = {
    "Qwen3-0.6B": (decoder(28, 1024, 3072, 16, 8, 151936, head_dim=128), 0.596e9),
    "gemma-3-1b-it": (decoder(26, 1152, 6912, 4, 1, 262144, head_dim=256), 0.99989e9),
    "LFM2-700M": (
        decoder(
            16,
            1536,
            10240,
            24,
            8,
            65536,
            **LFM2,
            layer_types=6 * ["full_attention"] + 10 * ["conv"],
        ),
        0.742e9,
    ),
    "Llama-3.2-1B": (decoder(16, 2048, 8192, 32, 8, 128256, head_dim=64), 1.236e9),
    "granite-3.1-1b-a400m": (
        decoder(24, 1024, 512, 16, 8, 49152, num_local_experts=32, num_experts_per_tok=8),
        1.334e9,
    ),
    "Qwen3-1.7B": (decoder(28, 2048, 6144, 16, 8, 151936, head_dim=128), 1.721e9),
    "gemma-2-2b-it": (decoder(26, 2304, 9216, 8, 4, 256000, head_dim=256), 2.614e9),
    "phi-2": (decoder(32, 2560, 10240, 32, 32, 51200, model_type="phi", **UNTIED), 2.780e9),
    "SmolLM3-3B": (decoder(36, 2048, 11008, 16, 4, 128256, tie_word_embeddings=True), 3.075e9),
    "Llama-3.2-3B": (decoder(28, 3072, 8192, 24, 8, 128256, head_dim=128), 3.213e9),
    "Phi-3.5-mini": (decoder(32, 3072, 8192, 32, 32, 32064, **UNTIED), 3.821e9),
    "gemma-3n-E4B": (
        {
            "model_type": "gemma3n",
            "text_config": decoder(
                *(35, 2048, [16384] * 35, 8, 2, 262400),
                head_dim=256,
                hidden_size_per_layer_input=256,
                vocab_size_per_layer_input=262144,
                layer_types=35 * ["sliding_attention"],
            ),
        },
        6.87e9,  # with the towers for images and sound 7.85e9
    ),
    "OLMoE-1B-7B": (decoder(16, 2048, 1024, 16, 16, 50304, num_experts=64, **UNTIED), 6.919e9),
    "LFM2-8B-A1B": (
        decoder(
            *(24, 2048, 7168, 32, 8, 65536),
            moe_intermediate_size=1792,
            num_experts=32,
            num_dense_layers=2,
            use_expert_bias=True,
            layer_types=6 * ["full_attention"] + 18 * ["conv"],
        ),
        8.340e9,
    ),
    "Qwen1.5-MoE-A2.7B": (
        decoder(
            *(24, 2048, 5632, 16, 16, 151936),
            num_experts=60,
            moe_intermediate_size=1408,
            shared_expert_intermediate_size=5632,
            decoder_sparse_step=1,
            mlp_only_layers=[],
            **UNTIED,
        ),
        14.316e9,
    ),
    "DeepSeek-V2-Lite": (
        decoder(
            *(27, 2048, 10944, 16, 16, 102400),
            n_routed_experts=64,
            n_shared_experts=2,
            moe_intermediate_size=1408,
            first_k_dense_replace=1,
            moe_layer_freq=1,
            kv_lora_rank=512,
            q_lora_rank=None,
            qk_nope_head_dim=128,
            qk_rope_head_dim=64,
            v_head_dim=128,
            **UNTIED,
        ),
        15.706e9,
    ),
    "gpt-oss-20b": (
        decoder(24, 2880, 2880, 64, 8, 201088, head_dim=64, num_local_experts=32, **UNTIED),
        20.915e9,
    ),
    "Qwen3-30B-A3B": (
        decoder(
            *(48, 2048, 6144, 32, 4, 151936),
            head_dim=128,
            num_experts=128,
            moe_intermediate_size=768,
            decoder_sparse_step=1,
            mlp_only_layers=[],
            **UNTIED,
        ),
        30.532e9,
    ),
    "Llama-4-Scout": (
        decoder(
            *(48, 5120, 8192, 40, 8, 202048),
            head_dim=128,
            intermediate_size_mlp=16384,
            num_local_experts=16,
            interleave_moe_layer_step=1,
            **UNTIED,
        ),
        107.8e9,
    ),
}


@pytest.mark.parametrize("name", REAL)
def test_the_size_that_is_described_is_the_models(name: str) -> None:
    config, size = REAL[name]
    found = described(config)
    assert found == pytest.approx(size, rel=0.02)
    assert class_of(found, True) == class_of(size, True)


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"vocab_size": None},
        {"hidden_size": "?"},
        {"num_hidden_layers": 10**18},
        {"text_config": 3},
        {"num_experts_per_tok": 4},  # of an unknown number of experts
        {"mamba_d_state": 128, "mamba_expand": 2},
        {"layer_types": ["attention", "mamba"] * 14},
        {"layer_types": ["linear_attention"]},
    ],
)
def test_what_decides_and_is_not_known_makes_the_size_unknown(row: dict[str, Any]) -> None:
    base = decoder(28, 1024, 3072, 16, 8, 151936)
    assert described(base | row if row else {}) is None


def test_layers_of_another_kind_are_described_by_name() -> None:
    """Qwen3.5-0.8B, whose vision tower is left out."""
    text = decoder(
        *(24, 1024, 3584, 8, 2, 248320),
        head_dim=256,
        attn_output_gate=True,
        mamba_ssm_dtype="float32",
        layer_types=["linear_attention"] * 18 + ["full_attention"] * 6,
        linear_num_key_heads=16,
        linear_key_head_dim=128,
        linear_num_value_heads=16,
        linear_value_head_dim=128,
    )
    assert described({"text_config": text}) == pytest.approx(0.75e9, rel=0.02)


def folder_of(path: Path, index: Any = None, **shards: dict[str, Any]) -> Path:
    path.mkdir()
    for name, tensors in shards.items():
        save_file(tensors, path / f"{name.replace('_', '-')}.safetensors")
    if index is not None:
        (path / INDEX).write_text(json.dumps(index))
    return path


def test_weights_that_are_here_are_counted(tmp_path: Path) -> None:
    one, two = (np.zeros((3, n), np.float16) for n in (4, 5))
    assert stored(folder_of(tmp_path / "one", model={"a": one, "b": two})) == 27
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    whole = folder_of(tmp_path / "two", index, model_1={"a": one}, model_2={"b": two})
    assert stored(whole) == 27
    assert stored(folder_of(tmp_path / "half", index, model_1={"a": one})) is None
    assert stored(folder_of(tmp_path / "none")) is None
    packed = {"a.weight": np.zeros((3, 1), np.uint32), "a.scales": one}
    assert stored(folder_of(tmp_path / "packed", model=packed)) is None
    told = {"metadata": {"total_parameters": 96}, "weight_map": {}}
    assert stored(folder_of(tmp_path / "told", told, model=packed)) == 96
    assert stored(folder_of(tmp_path / "only", told)) == 96, "what the hub gave"
    wrong = {"metadata": {"total_parameters": "many"}, "weight_map": [3]}
    assert stored(folder_of(tmp_path / "wrong", wrong)) is None
    (tmp_path / "one" / "model.safetensors").write_bytes(b"")
    assert stored(tmp_path / "one") is None, "said when the model is loaded"


def test_the_tensors_of_a_gguf_file_are_counted(tmp_path: Path) -> None:
    from azr_mlx.models.gguf.reader import read

    tiny(tmp_path / "a.gguf", byte_vocabulary())
    sizes = [np.prod(one.shape) for one in read(tmp_path / "a.gguf").tensors.values()]
    assert stored(tmp_path / "a.gguf") == sum(sizes) > 1000
    (tmp_path / "b.gguf").write_bytes(b"GGUF")
    assert stored(tmp_path / "b.gguf") is None
