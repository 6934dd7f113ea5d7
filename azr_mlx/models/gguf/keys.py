"""Which metadata keys are known. Any other key of the model might change what it computes, so that
it is refused by its name."""

from __future__ import annotations

import math
from typing import Any

from azr_mlx.errors import ModelError
from azr_mlx.models.gguf.reader import GgufFile

# Used for every architecture beside its sizes, or without any meaning for what is computed.
_USED = (
    "vocab_size",
    "rope.freq_base",
    "rope.dimension_count",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.attn_factor",
    "rope.scaling.original_context_length",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
)
_HARMLESS = (
    "rope.scaling.finetuned",
    "tensor_data_layout",
    "attention.layer_norm_epsilon",  # these architectures have RMS norms only
    "pooling_type",  # of embeddings
)
# Values with which a key changes nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.sliding_window": (0,),
    "attention.scale": (0,),
    "attn_logit_softcapping": (0,),
    "final_logit_softcapping": (0,),
    "router_logit_softcapping": (0,),
    "logit_scale": (0, 1),
    "embedding_scale": (0, 1),
    "residual_scale": (0, 1),
    "use_parallel_residual": (False,),
    "nextn_predict_layers": (0,),
    "leading_dense_block_count": (0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "expert_shared_count": (0,),
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "expert_weights_scale": (0, 1),
    "expert_gating_func": (1,),  # softmax
    "rope.scaling.alpha": (0,),
    "rope.scaling.yarn_log_multiplier": (0,),
    "rope.scaling.yarn_ext_factor": (-1, 1),
    "rope.scaling.yarn_attn_factor": (1,),
    "rope.dimension_sections": (0,),
}
_TOKENIZER = (
    "model",
    "pre",
    "tokens",
    "token_type",
    "token_type_count",  # of BERT
    "scores",
    "merges",
    "add_bos_token",
    "add_eos_token",
    "add_space_prefix",
    "remove_extra_whitespaces",  # llama.cpp does so for unigram vocabularies only
    "precompiled_charsmap",  # of unigram vocabularies
    "suppress_tokens",  # for drawing tokens
)


def check_keys(file: GgufFile, used: tuple[str, ...], width: int) -> None:
    """Raise ModelError for a key that is neither used (``used`` and those of ``_USED``) nor known
    to change nothing. ``width`` is that of an attention head."""
    prefix = f"{file.architecture}."
    kind = file.metadata.get("general.type", "model")
    if kind != "model":
        raise ModelError(
            f"{file.path} is not a model, but general.type is {kind!r}", "name a model"
        )
    for key in file.metadata:
        name = key.removeprefix(prefix)
        if name == key:
            _check_tokenizer_key(file, key)
        elif name not in (*_USED, *_HARMLESS, *used) and not _neutral(file, name, width):
            raise file.wrong(name, file.key(name), "might change the model, and is not supported")


def _neutral(file: GgufFile, name: str, width: int) -> bool:
    value = file.key(name)
    if name in ("attention.value_length",):
        return bool(value == width)
    if name == "attention.scale" and isinstance(value, float):
        return value == 0 or math.isclose(value, width**-0.5, rel_tol=1e-5)
    if name == "attention.sliding_window" and isinstance(value, int):
        return value == 0 or value >= file.count("context_length")
    if name == "expert_weights_norm":
        return bool(value is (file.architecture == "qwen3moe"))
    return not isinstance(value, list) and value in _NEUTRAL.get(name, ())


def _check_tokenizer_key(file: GgufFile, key: str) -> None:
    name = key.removeprefix("tokenizer.ggml.")
    if name == key or name.endswith("_token_id") or name in _TOKENIZER:
        return
    if not file.metadata[key]:  # as add_sep_token false, which changes nothing
        return
    raise ModelError(
        f"{file.path}: {key} might change the tokens, and is not supported",
        "convert the Hugging Face folder instead",
    )
