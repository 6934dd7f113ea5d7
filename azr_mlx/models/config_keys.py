"""Keys of config.json that mlx-lm needs, and transformers 5 writes under other names or leaves out.

Without them a model cannot be loaded, or mlx-lm takes its own default values, and the model is
wrong without any error. Only what is missing is added, so that transformers reads the same model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isclose, log
from typing import Any

from azr_mlx.errors import ModelError

# mlx-lm's key -> transformers 5's, by type of model. The latter may be one that is found here.
_RENAMED: dict[str, dict[str, str]] = {
    "gpt_neox": {"rotary_emb_base": "rope_theta", "rotary_pct": "partial_rotary_factor"},
    "lfm2": {"block_dim": "hidden_size", "block_ff_dim": "intermediate_size"},
    "qwen3_moe": {"num_experts": "num_local_experts"},
}
# Keys with the one value that transformers' code has for them.
_FIXED: dict[str, dict[str, Any]] = {
    "apertus": {"mlp_bias": False, "post_norm": False, "qk_norm": True},
}
# Models whose layers see a window by a pattern in mlx-lm -> the number that it has by default:
# every n-th layer sees everything.
_PATTERN = {"cohere2": 4, "gemma3_text": 6}
# Wrappers that take the size of the vocabulary from the top level.
_OWN_VOCABULARY = ("gemma3", "gemma4")
# Names of layers that transformers 5 has changed.
_LAYERS = {"granitemoehybrid": {"linear_attention": "mamba", "full_attention": "attention"}}
# Models that read settings by kind of layer themselves. transformers takes the flat ones for those
# of all layers.
_BY_LAYER = ("gemma4", "gemma4_text", "laguna", "mellum")
_EMBEDDING, _HEAD = "embed_tokens.weight", "lm_head.weight"


def missing_keys(config: Mapping[str, Any], tensors: set[str]) -> dict[str, Any]:
    """Keys that mlx-lm needs at the top level of config.json, or of the configuration of the text
    model in it, but transformers 5 writes elsewhere. ``tensors`` are the names of the weights.

    transformers 5 keeps rotary settings in ``rope_parameters``, which many of mlx-lm's models
    ignore. Whether the head is tied is read from the weights. Raises ModelError if mlx-lm has no
    such model.
    """
    found = _of_model(config)
    text = config.get("text_config")
    inner = {} if not isinstance(text, Mapping) else _of_model(text)
    if (tied := _tied(tensors)) is not None:
        if config.get("tie_word_embeddings") is None:
            found["tie_word_embeddings"] = tied
        if isinstance(text, Mapping) and _contradicts(text, config, tied):
            inner["tie_word_embeddings"] = tied
    if isinstance(text, Mapping):
        if inner:
            found["text_config"] = {**text, **inner}
        if config.get("model_type") in _OWN_VOCABULARY and "vocab_size" in text:
            found.setdefault("vocab_size", config.get("vocab_size", text["vocab_size"]))
    return {key: value for key, value in found.items() if config.get(key, ...) != value}


def _of_model(config: Mapping[str, Any]) -> dict[str, Any]:
    """What is missing in the configuration of a text model."""
    kind = str(config.get("model_type"))
    found = _rotary(config)
    scaling = found.get("rope_scaling", config.get("rope_scaling"))
    if isinstance(scaling, Mapping) and (magnitude := _magnitude(scaling)) is not None:
        found["rope_scaling"] = {**scaling, "mscale": magnitude, "mscale_all_dim": 0.0}
    known = {**config, **found}
    for key, other in _RENAMED.get(kind, {}).items():
        if key not in config and other in known:
            found[key] = known[other]
    found |= {key: value for key, value in _FIXED.get(kind, {}).items() if key not in known}
    layers = config.get("layer_types")
    if isinstance(layers, list) and (names := _LAYERS.get(kind)):
        found["layer_types"] = [names.get(str(name), name) for name in layers]
    if isinstance(layers, list) and kind in _PATTERN and "sliding_window_pattern" not in config:
        pattern = _pattern(kind, layers)
        found |= {} if pattern == _PATTERN[kind] else {"sliding_window_pattern": pattern}
    return {key: value for key, value in found.items() if config.get(key, ...) != value}


def _pattern(kind: str, layers: Sequence[Any]) -> int:
    """The n of which every n-th layer sees everything. Raises ModelError if there is none."""
    whole = [layer == "full_attention" for layer in layers]
    first = whole.index(True) + 1 if any(whole) else 0
    if not first or whole != [(i + 1) % first == 0 for i in range(len(whole))]:
        raise ModelError(
            f"config.json: layer_types: mlx-lm has no {kind} whose layers alternate so",
            "take a model of another architecture, or --backend torch",
        )
    return first


def _contradicts(text: Mapping[str, Any], config: Mapping[str, Any], tied: bool) -> bool:
    """Whether a text model's own flag is missing, or another than that of its wrapper, which is the
    one that transformers goes by."""
    key = "tie_word_embeddings"
    return text.get(key) is None or (text[key] != tied and config.get(key) == tied)


def _tied(tensors: set[str]) -> bool | None:
    """Whether the head is the embedding; None if the weights do not show it."""
    if not any(name.endswith(_EMBEDDING) and "vision" not in name for name in tensors):
        return None
    return not any(name == _HEAD or name.endswith(f".{_HEAD}") for name in tensors)


def _rotary(config: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary settings under the names that they had before, as far as those are missing."""
    rope = config.get("rope_parameters")
    if not isinstance(rope, Mapping):
        return {}
    near = rope.get("sliding_attention")
    if isinstance(near, Mapping) and config.get("model_type") in _BY_LAYER:
        return {}
    whole = rope.get("full_attention") if isinstance(near, Mapping) else rope
    if not isinstance(whole, Mapping):
        return {}
    found: dict[str, Any] = {
        key: whole[key] for key in ("rope_theta", "partial_rotary_factor") if _is_number(whole, key)
    }
    if (kind := whole.get("rope_type", "default")) != "default":
        scaling = {key: value for key, value in whole.items() if key not in found}
        found["rope_scaling"] = {**scaling, "type": kind}  # some models know only the older name
    if isinstance(near, Mapping) and _is_number(near, "rope_theta"):
        found["rope_local_base_freq"] = near["rope_theta"]
    return {key: value for key, value in found.items() if config.get(key) is None}


def _magnitude(scaling: Mapping[str, Any]) -> float | None:
    """The ``mscale`` by which mlx-lm multiplies queries and keys by YaRN's ``attention_factor``,
    which it ignores; None if there is none, or it is the usual one (arXiv 2309.00071, Eq. 22)."""
    kind = scaling.get("type") or scaling.get("rope_type")
    numbers = _is_number(scaling, "attention_factor") and _is_number(scaling, "factor")
    if kind != "yarn" or not numbers or "mscale" in scaling or scaling["factor"] <= 1:
        return None
    found = (scaling["attention_factor"] - 1) / (0.1 * log(scaling["factor"]))
    return None if isclose(found, 1.0, rel_tol=1e-6) else found


def _is_number(values: Mapping[str, Any], key: str) -> bool:
    return isinstance(values.get(key), (int, float))
