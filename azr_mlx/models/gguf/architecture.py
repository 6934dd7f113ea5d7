"""Making a config.json for mlx-lm and transformers from a GGUF file's metadata."""

from __future__ import annotations

from typing import Any

import numpy as np

from azr_mlx.errors import ModelError
from azr_mlx.models.gguf.reader import GgufFile

# general.architecture -> the class in transformers
ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


def build_config(file: GgufFile) -> dict[str, Any]:
    """The contents of config.json, from metadata and tensors. Raises ModelError."""
    kind = file.architecture
    if kind not in ARCHITECTURES:
        raise ModelError(
            f"{file.path}: GGUF architecture {kind!r} is not one of {', '.join(ARCHITECTURES)}",
            "convert the model's Hugging Face folder instead",
        )
    heads, hidden = int(file.key("attention.head_count")), int(file.key("embedding_length"))
    width = int(
        file.key(
            "attention.key_length",
            file.metadata.get(f"{kind}.rope.dimension_count", hidden // heads),
        )
    )
    if kind == "qwen2" and width * heads != hidden:
        raise ModelError(
            f"{file.path}: mlx-lm has no qwen2 with {heads} heads of width {width} in {hidden}"
        )
    config = {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": int(file.key("feed_forward_length")),
        "num_hidden_layers": int(file.key("block_count")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(file.key("attention.head_count_kv", heads)),
        "head_dim": width,
        "max_position_embeddings": int(file.key("context_length")),
        "rms_norm_eps": file.key("attention.layer_norm_rms_epsilon"),
        "vocab_size": _rows(file, "token_embd.weight"),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "bos_token_id": file.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": file.metadata.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": file.metadata.get("tokenizer.ggml.padding_token_id"),
        **_rope(file, width),
    }
    biased = "blk.0.attn_q.bias" in file.tensors
    if kind == "llama":
        config |= {"attention_bias": biased, "mlp_bias": "blk.0.ffn_up.bias" in file.tensors}
    elif biased != (kind == "qwen2"):
        raise ModelError(f"{file.path}: {kind} {'with' if biased else 'without'} attention biases")
    return config


def _rows(file: GgufFile, name: str) -> int:
    if name not in file.tensors:
        raise ModelError(
            f"{file.path}: the file has no {name} (one part of a split file?)",
            "merge its parts first",
        )
    return int(file.tensors[name].weight.shape[0])


def _rope(file: GgufFile, width: int) -> dict[str, Any]:
    """The rotary base and its scaling, in the places where mlx-lm and transformers 5 read them."""
    rotated = int(file.key("rope.dimension_count", width))
    if rotated != width:
        raise ModelError(
            f"{file.path}: rotary embedding of {rotated} of {width} dimensions is not supported"
        )
    theta = float(file.key("rope.freq_base", 10000.0))
    scaling = _rope_scaling(file, theta, width)
    rope = {
        "rope_theta": theta,
        "rope_parameters": {"rope_theta": theta, **(scaling or {"rope_type": "default"})},
    }
    return {**rope, "rope_scaling": scaling} if scaling else rope


def _rope_scaling(file: GgufFile, theta: float, width: int) -> dict[str, Any] | None:
    kind = file.metadata.get(f"{file.architecture}.rope.scaling.type", "none")
    if kind == "linear":
        return {"rope_type": "linear", "factor": float(file.key("rope.scaling.factor"))}
    if kind != "none":
        raise ModelError(
            f"{file.path}: rotary scaling {kind!r} is not supported",
            "convert the Hugging Face folder instead",
        )
    if "rope_freqs.weight" not in file.tensors:
        return None
    factors = np.asarray(file.tensors["rope_freqs.weight"].weight, dtype=np.float64)
    scaling = {
        "rope_type": "llama3",
        "factor": float(factors.max()),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    if not np.allclose(factors, _llama3_factors(scaling, theta, width), rtol=1e-4):
        raise ModelError(
            f"{file.path}: its rotary factors are not Llama 3's",
            "convert the Hugging Face folder instead",
        )
    return scaling


def _llama3_factors(scaling: dict[str, Any], theta: float, width: int) -> np.ndarray:
    """Llama 3.1's divisors of the rotary frequencies (transformers), float64 [width / 2]."""
    length, factor = scaling["original_max_position_embeddings"], scaling["factor"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = length / (2 * np.pi * theta ** (np.arange(0, width, 2) / width))
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    factors: np.ndarray = 1 / ((1 - smooth) / factor + smooth)
    return factors
