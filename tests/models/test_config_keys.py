"""Folders as transformers 5 saves them: mlx-lm computes the same from them.

The models are tiny and random. Each is saved by transformers, found as a command finds it, and
compared in float32.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

mx = pytest.importorskip("mlx.core", reason="mlx is not installed")
torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

from azr_mlx.errors import ModelError  # noqa: E402
from azr_mlx.models.config_keys import missing_keys  # noqa: E402
from azr_mlx.models.locate import resolve  # noqa: E402
from azr_mlx.models.mlx_model import open_model  # noqa: E402
from tests.commands.test_convert import (  # noqa: E402
    IDS,
    PLAIN,
    TOLERANCE,
    make_tokenizer,
    torch_logits,
)

pytestmark = pytest.mark.backend

SIZES: dict[str, Any] = {
    **{"vocab_size": 384, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16},
    **{"max_position_embeddings": 256, "initializer_range": 0.2},
    **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2},
}
VISION = {
    **{"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1},
    **{"num_attention_heads": 2, "image_size": 28, "patch_size": 14},
}
QWEN_VISION = {
    **{"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32},
    **{"out_hidden_size": 64, "deepstack_visual_indexes": [0]},
}
NEAR, FAR = "sliding_attention", "full_attention"


def rope(kind: str = "default", **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": 500.0, "rope_type": kind, **more}}


LLAMA3 = {
    **{"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "original_max_position_embeddings": 64,
}
MAMBA = {
    **{"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1},
    **{"num_local_experts": 0, "shared_intermediate_size": 96, "position_embedding_type": "nope"},
}
TEXT = {
    "qwen3": rope("yarn", factor=4.0, original_max_position_embeddings=64, attention_factor=1.3),
    "qwen3_moe": {
        **{"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
        **rope(),
    },
    "gemma3_text": {"sliding_window": 5, "layer_types": [NEAR, FAR] * 2},
    "cohere2": {"sliding_window": 5, "layer_types": [NEAR, FAR] * 2, **rope()},
    "gpt_neox": {"intermediate_size": 256, **rope(partial_rotary_factor=0.5)},
    "lfm2": {
        **{"block_auto_adjust_ff_dim": False, "layer_types": ["conv", FAR] * 2},
        **rope(),
    },
    "apertus": rope("llama3", **LLAMA3),
    "hunyuan_v1_dense": rope("dynamic", factor=1.0, alpha=1000.0),
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2, **MAMBA, **rope()},
}
WRAPPED = {
    "gemma3": ({"sliding_window": 5, "num_hidden_layers": 6}, VISION),
    "gemma4": (
        {
            **{"sliding_window": 5, "layer_types": [NEAR, NEAR, NEAR, FAR]},
            **{"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0},
        },
        VISION,
    ),
    "mistral3": (
        {"model_type": "mistral", "sliding_window": None, **rope()},
        {**VISION, "model_type": "pixtral"},
    ),
    "qwen2_5_vl": (rope(mrope_section=[2, 3, 3]), QWEN_VISION),
    "qwen3_vl": (rope(mrope_section=[4, 2, 2]), QWEN_VISION),
}


def save(model: Any, folder: Path) -> np.ndarray:
    """What the model computes, after it was saved."""
    model = model.eval().float()
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return torch_logits(model)


def computed(folder: Path, cache: Path) -> np.ndarray:
    found = resolve(str(folder), quantization=PLAIN, cache_dir=cache)
    return np.array(open_model(found.path, dense=True).model(mx.array([IDS]))[0])


@pytest.mark.parametrize("kind", TEXT)
def test_a_text_model(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **{**SIZES, **TEXT[kind]})
    wanted = save(transformers.AutoModelForCausalLM.from_config(config), tmp_path / "hf")
    found = computed(tmp_path / "hf", tmp_path / "cache")
    # mlx-lm computes GPT-NeoX's activation by another approximation.
    bound = 2e-3 if kind == "gpt_neox" else TOLERANCE
    assert np.abs(found - wanted).max() < bound


@pytest.mark.parametrize("own", [True, False], ids=["a head of its own", "the embedding again"])
def test_a_head_in_the_weights_counts_more_than_the_flag(tmp_path: Path, own: bool) -> None:
    """Programs that train the head leave the flag as it was. transformers believes the weights."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model("llama", **SIZES, tie_word_embeddings=True)
    save(transformers.AutoModelForCausalLM.from_config(config), tmp_path / "hf")
    file = tmp_path / "hf" / "model.safetensors"
    arrays = load_file(file)
    embedding = arrays["model.embed_tokens.weight"]
    save_file({**arrays, "lm_head.weight": embedding[::-1].copy() if own else embedding}, file)
    made = transformers.AutoModelForCausalLM
    wanted = torch_logits(made.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval())
    found = resolve(str(tmp_path / "hf"), quantization=PLAIN, cache_dir=tmp_path / "cache").path
    assert json.loads((found / "config.json").read_text())["tie_word_embeddings"] is not own
    assert np.abs(computed(tmp_path / "hf", tmp_path / "cache") - wanted).max() < TOLERANCE


@pytest.mark.parametrize("kind", WRAPPED)
def test_the_text_model_in_a_wrapper(tmp_path: Path, kind: str) -> None:
    text, vision = WRAPPED[kind]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        kind, text_config={**SIZES, **text}, vision_config=vision
    )
    made = transformers.AutoModelForImageTextToText.from_config(config)
    wanted = save(made, tmp_path / "hf")
    assert np.abs(computed(tmp_path / "hf", tmp_path / "cache") - wanted).max() < TOLERANCE


@pytest.mark.parametrize("layers", [[NEAR, FAR, FAR, NEAR], [NEAR] * 4, [FAR, NEAR] * 2])
def test_layers_that_alternate_as_no_model_of_mlx_lm(layers: list[str]) -> None:
    with pytest.raises(ModelError, match="mlx-lm has no gemma3_text whose layers alternate so"):
        missing_keys({"model_type": "gemma3_text", "layer_types": layers}, set())


def test_what_mlx_lm_finds_by_itself_stays_as_it_is() -> None:
    """A folder with a key too many would be linked into the cache for nothing."""
    layers = [FAR if i % 6 == 5 else NEAR for i in range(26)]
    assert missing_keys({"model_type": "gemma3_text", "layer_types": layers}, set()) == {}
    assert missing_keys({"model_type": "qwen3_moe", "num_experts": 8}, set()) == {}
    yarn = {"rope_type": "yarn", "factor": 8.0, "attention_factor": 1.2079441541679836}  # OLMo 3
    assert missing_keys({"model_type": "olmo3", "rope_scaling": yarn}, set()) == {}
