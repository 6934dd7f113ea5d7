"""How many parameters a model has, before it is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

from azr_mlx.errors import WRONG_VALUES, ModelError
from azr_mlx.files import Unreadable, read_json
from azr_mlx.models.folder import INDEX, MOST_LAYERS, tensor_sizes, weight_files

# Types of tensors in which several parameters may be packed into one number.
_PACKED = frozenset({"I8", "U8", "I16", "U16", "I32", "U32", "U64"})
_EXPERTS = ("num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts")
_EXPERT_WIDTH = ("moe_intermediate_size", "expert_ffn_hidden_size")
_SHARED = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts")
_SHARED_WIDTH = (
    *("shared_expert_intermediate_size", "shared_intermediate_size"),
    "moe_shared_expert_intermediate_size",
)
_DENSE_FIRST = ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")
_SPARSE_STEP = ("decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_interval")
# Architectures whose MLP has no gate, and so two matrices.
_WITHOUT_GATE = frozenset(
    {"apertus", "arcee", "falcon", "gpt_neox", "nemotron", "persimmon", "phi", "starcoder2"}
)
# How keys begin that describe layers which are not counted here.
_UNCOUNTED = ("mamba_", "ssm_", "state_size", "rwkv", "lru_", "hybrid_", "linear_attn_config")


def stored(path: Path) -> int | None:
    """The parameters in a folder's weights or in a ``.gguf`` file, counted without reading them;
    None if they are not all here, are packed so that their number cannot be seen, or are damaged,
    which is said when the model is loaded."""
    try:
        return _in_gguf(path) if path.is_file() else _in_folder(path)
    except (ModelError, *WRONG_VALUES):
        return None


def _in_gguf(path: Path) -> int:
    from azr_mlx.models.gguf.reader import read

    return sum(prod(tensor.shape) for tensor in read(path).tensors.values())


def _in_folder(folder: Path) -> int | None:
    index = _index(folder)
    written = index.get("metadata", {}).get("total_parameters")
    if type(written) is int and written > 0:
        return written
    files = weight_files(folder)
    if {file.name for file in files} != set(index["weight_map"].values()):
        return None
    tensors = [tensor for file in files for tensor in tensor_sizes(file)]
    packed = any(kind in _PACKED for kind, _ in tensors)
    return None if packed else sum(count for _, count in tensors)


def _index(folder: Path) -> dict[str, Any]:
    """What the index of the weights says; a single file needs none."""
    try:
        found: dict[str, Any] = read_json(folder / INDEX)
    except (OSError, Unreadable):
        return {"weight_map": {"": "model.safetensors"}}
    return found


def described(config: Mapping[str, Any]) -> int | None:
    """The parameters of the decoder that a config.json describes, its norms and biases left out;
    None if something that decides on their number is not known."""
    try:
        row = {**config, **(config.get("text_config") or {})}
        return _embeddings(row) + sum(_layers(row))
    except WRONG_VALUES:
        return None


def _embeddings(row: Mapping[str, Any]) -> int:
    default = row.get("tie_embedding", row.get("model_type") != "mistral")
    ends = 1 if row.get("tie_word_embeddings", default) else 2
    per_layer = row.get("hidden_size_per_layer_input") or 0
    words = row.get("vocab_size_per_layer_input") or row["vocab_size"]
    whole = ends * row["vocab_size"] * row["hidden_size"]
    return int(whole + row["num_hidden_layers"] * words * per_layer)


def _layers(row: Mapping[str, Any]) -> Iterator[int]:
    """The parameters of each layer. Raises ValueError if they cannot be told."""
    kinds = row.get("layer_types")
    if not kinds and any(key.startswith(_UNCOUNTED) and value for key, value in row.items()):
        raise ValueError("layers of another kind")
    experts = _first(row, _EXPERTS)
    if not experts and any("expert" in key and value for key, value in row.items()):
        raise ValueError("experts under another name")
    if row["num_hidden_layers"] > MOST_LAYERS:
        raise ValueError("too many layers")
    for layer in range(row["num_hidden_layers"]):
        sparse = experts and _is_sparse(row, layer)
        mixer = _mixer(row, kinds[layer] if kinds else "attention")
        yield mixer + (_sparse(row, experts) if sparse else _dense(row, layer))


def _mixer(row: Mapping[str, Any], kind: str) -> int:
    """What mixes the tokens: attention, or what a layer has in its place."""
    if kind == "conv":
        return int(4 * row["hidden_size"] ** 2)
    if kind == "linear_attention":
        keys = row["linear_num_key_heads"] * row["linear_key_head_dim"]
        values = row["linear_num_value_heads"] * row["linear_value_head_dim"]
        return int(row["hidden_size"] * (2 * keys + 3 * values))
    if not kind.endswith("attention"):
        raise ValueError(f"layer {kind}")
    return _latent(row) if row.get("kv_lora_rank") else _attention(row)


def _attention(row: Mapping[str, Any]) -> int:
    heads, hidden = row["num_attention_heads"], row["hidden_size"]
    size = row.get("head_dim") or hidden // heads
    asked = 3 if row.get("attn_output_gate") else 2  # queries, outputs, and gates of these
    return int(hidden * size * (asked * heads + 2 * (row.get("num_key_value_heads") or heads)))


def _latent(row: Mapping[str, Any]) -> int:
    """Attention over compressed keys and values (DeepSeek V2, arXiv 2405.04434)."""
    heads, hidden, rank = row["num_attention_heads"], row["hidden_size"], row["kv_lora_rank"]
    turned, plain, value = (row[f"{n}_head_dim"] for n in ("qk_rope", "qk_nope", "v"))
    query, compressed = heads * (turned + plain), row.get("q_lora_rank")
    asked = compressed * (hidden + query) if compressed else hidden * query
    keys = hidden * (rank + turned) + rank * heads * (plain + value)
    return int(asked + keys + heads * value * hidden)


def _is_sparse(row: Mapping[str, Any], layer: int) -> bool:
    """Whether a layer of a model with experts has them."""
    often = row.get("moe_layer_freq") or 1
    if isinstance(often, list):
        return bool(often[layer])
    step = _first(row, _SPARSE_STEP) or often
    dense = layer < _first(row, _DENSE_FIRST) or layer in (row.get("mlp_only_layers") or ())
    return not dense and (layer + 1) % step == 0


def _sparse(row: Mapping[str, Any], experts: int) -> int:
    width = _first(row, _EXPERT_WIDTH) or row["intermediate_size"]
    shared = _first(row, _SHARED_WIDTH) or _first(row, _SHARED) * width
    if row.get("intermediate_size_mlp"):  # Llama 4: one expert is shared
        shared = width
    return int(_matrices(row) * row["hidden_size"] * (experts * width + shared))


def _dense(row: Mapping[str, Any], layer: int) -> int:
    width = row.get("intermediate_size_mlp") or row["intermediate_size"]
    if isinstance(width, list):
        width = width[layer]
    if row.get("block_auto_adjust_ff_dim"):  # LFM 2
        width = int(row.get("block_ffn_dim_multiplier", 1) * (2 * width // 3))
        width = -(-width // row["block_multiple_of"]) * row["block_multiple_of"]
    return int(_matrices(row) * row["hidden_size"] * width)


def _matrices(row: Mapping[str, Any]) -> int:
    return 2 if row.get("model_type") in _WITHOUT_GATE else 3


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> int:
    """The first number that there is under one of the names; 0 if there is none."""
    return next((int(row[name]) for name in names if row.get(name)), 0)
