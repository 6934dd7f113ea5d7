"""What is known of each architecture, for reading its files and for writing them; and making a
config.json for mlx-lm and transformers.

The names are those of llama.cpp's gguf-py/gguf/constants.py and src/llama-arch.cpp; what each key
means is in load_hparams of its src/llama-model.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from azr_mlx.errors import ModelError, ModelUsageError
from azr_mlx.models.gguf.keys import check_keys
from azr_mlx.models.gguf.reader import GgufFile
from azr_mlx.models.gguf.rope import rotary

# Modules outside the layers, which all architectures have.
TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_ATTENTION = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
}
_MLP = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
_DENSE = {**_ATTENTION, **_MLP, "ffn_norm": "post_attention_layernorm"}
_HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_EXPERTS = {
    **{**_ATTENTION, "ffn_norm": "post_attention_layernorm"},
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.switch_mlp.gate_proj",
    "ffn_up_exps": "mlp.switch_mlp.up_proj",
    "ffn_down_exps": "mlp.switch_mlp.down_proj",
}
_SHARED_EXPERT = {
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}
_GEMMA = {
    **{**_ATTENTION, **_MLP, **_HEAD_NORMS},
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_PHI = {
    "attn_norm": "input_layernorm",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_up": "mlp.gate_up_proj",
    "ffn_down": "mlp.down_proj",
}
# Entries of config.json, and the metadata keys that hold the same whole numbers. All architectures
# have these.
SIZES = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
}
EPS = "attention.layer_norm_rms_epsilon"
_EXPERT_SIZES = {
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
}
_SHARED_EXPERT_SIZES = {"shared_expert_intermediate_size": "expert_shared_feed_forward_length"}
_WINDOW, _PATTERN = "attention.sliding_window", "attention.sliding_window_pattern"
_LOCAL_BASE = "rope.freq_base_swa"
_USUAL_PATTERN = 6
_GEMMA_27B_LAYERS = 62
_FIX = "convert the Hugging Face folder instead"


@dataclass(frozen=True, slots=True)
class Architecture:
    """How the files of one ``general.architecture`` become a model of Hugging Face, and back.

    ``layer`` names the modules of a layer; ``sizes`` adds to ``SIZES``; ``keys`` names the metadata
    keys that are used beside those; ``scalings`` the rotary scalings that mlx-lm and transformers
    both have for it; ``rows`` says that the rows of queries and keys are in llama.cpp's order, and
    ``norms`` what llama.cpp has added to the weights of norms. ``config`` makes the entries of
    config.json that only this architecture has, ``metadata`` the keys that only it has, from
    mlx-lm's arguments of a model.
    """

    model_type: str
    cls: str
    layer: Mapping[str, str]
    config: Callable[[GgufFile, dict[str, Any]], dict[str, Any]]
    metadata: Callable[[Any], dict[str, Any]] = lambda args: {}
    sizes: Mapping[str, str] = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    scalings: tuple[str, ...] = ()
    rows: bool = False
    norms: float = 0.0
    partial_rotary: bool = False

    def module(self, tensor: str) -> str | None:
        """The module that has this tensor of ggml; None if the architecture has none."""
        match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(?:weight|bias)", tensor)
        layer, leaf = match.groups() if match else (None, "")
        name = (TOP if layer is None else self.layer).get(leaf)
        return name if name is None or layer is None else f"model.layers.{layer}.{name}"

    def tensor(self, parameter: str) -> str | None:
        """ggml's name of a parameter, the reverse of ``module``; None if ggml has none."""
        module, _, part = parameter.rpartition(".")
        match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", module)
        names = {name: leaf for leaf, name in (self.layer if match else TOP).items()}
        leaf = names.get(match[2] if match else module)
        if leaf is None or part not in ("weight", "bias"):
            return None
        return f"blk.{match[1]}.{leaf}.{part}" if match else f"{leaf}.{part}"


def _llama(file: GgufFile, config: dict[str, Any]) -> dict[str, Any]:
    return {"attention_bias": _biased(file), "mlp_bias": "blk.0.ffn_up.bias" in file.tensors}


def _qwen2(file: GgufFile, config: dict[str, Any]) -> dict[str, Any]:
    heads, width, hidden = (
        config[name] for name in ("num_attention_heads", "head_dim", "hidden_size")
    )
    if width * heads != hidden:
        raise ModelError(
            f"{file.path}: mlx-lm has no qwen2 with {heads} heads of width {width} in {hidden}"
        )
    return _bias(file, True)


def _qwen3(file: GgufFile, config: dict[str, Any]) -> dict[str, Any]:
    return _bias(file, False)


def _biased(file: GgufFile) -> bool:
    return "blk.0.attn_q.bias" in file.tensors


def _bias(file: GgufFile, wanted: bool) -> dict[str, Any]:
    if _biased(file) != wanted:
        kind = file.architecture
        raise ModelError(
            f"{file.path}: {kind} {'without' if wanted else 'with'} attention biases",
            _FIX,
        )
    return {}


# Every layer has experts.
_ALL_SPARSE: dict[str, Any] = {"decoder_sparse_step": 1, "mlp_only_layers": []}


def _qwen2moe(file: GgufFile, config: dict[str, Any]) -> dict[str, Any]:
    return {**_qwen2(file, config), **_ALL_SPARSE, "norm_topk_prob": False}


def _qwen3moe(file: GgufFile, config: dict[str, Any]) -> dict[str, Any]:
    return {**_qwen3(file, config), **_ALL_SPARSE, "norm_topk_prob": True}


def _phi3(file: GgufFile, config: dict[str, Any]) -> dict[str, Any]:
    """llama.cpp ignores Phi-3's sliding window, and so does mlx-lm."""
    rotated = file.count("rope.dimension_count", config["head_dim"])
    share = rotated / config["head_dim"]
    return {
        "partial_rotary_factor": share,
        "rope_parameters": {**config["rope_parameters"], "partial_rotary_factor": share},
        "sliding_window": None,
        "original_max_position_embeddings": config["max_position_embeddings"],
    }


def _gemma3(file: GgufFile, config: dict[str, Any]) -> dict[str, Any]:
    """Every sixth layer sees everything, the others a window, with a rotary base of their own."""
    layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
    window = file.key(_WINDOW, 0)
    pattern = file.count(_PATTERN, _USUAL_PATTERN) if window else 1
    if pattern > layers:
        raise ModelError(
            f"{file.path}: mlx-lm has no gemma3 of {layers} layers of which every {pattern}th sees "
            "everything",
            _FIX,
        )
    local = file.number(_LOCAL_BASE, 10000.0)
    wide = layers == _GEMMA_27B_LAYERS
    whole = [(i + 1) % pattern == 0 for i in range(layers)]
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": config["hidden_size"] // heads if wide else config["head_dim"],
        "sliding_window": file.count(_WINDOW) if window else 4096,
        "sliding_window_pattern": pattern,
        "layer_types": ["full_attention" if w else "sliding_attention" for w in whole],
        "rope_local_base_freq": local,
        "rope_parameters": {
            "full_attention": config["rope_parameters"],
            "sliding_attention": {"rope_type": "default", "rope_theta": local},
        },
    }


def _gemma3_metadata(args: Any) -> dict[str, Any]:
    """The usual pattern is left out: earlier versions of llama.cpp know no other."""
    pattern = args.sliding_window_pattern
    return {
        _WINDOW: args.sliding_window,
        _LOCAL_BASE: float(args.rope_local_base_freq),
        **({} if pattern == _USUAL_PATTERN else {_PATTERN: pattern}),
    }


# general.architecture -> what it is
ARCHITECTURES = {
    "llama": Architecture(
        "llama",
        "LlamaForCausalLM",
        _DENSE,
        _llama,
        scalings=("linear", "yarn", "llama3"),
        rows=True,
    ),
    "qwen2": Architecture("qwen2", "Qwen2ForCausalLM", _DENSE, _qwen2, scalings=("linear", "yarn")),
    "qwen3": Architecture(
        "qwen3",
        "Qwen3ForCausalLM",
        {**_DENSE, **_HEAD_NORMS},
        _qwen3,
        scalings=("linear", "yarn"),
    ),
    "gemma3": Architecture(
        "gemma3_text",
        "Gemma3ForCausalLM",
        _GEMMA,
        _gemma3,
        metadata=_gemma3_metadata,
        keys=(_WINDOW, _PATTERN, _LOCAL_BASE),
        scalings=("linear",),
        norms=1.0,
    ),
    "phi3": Architecture(
        "phi3",
        "Phi3ForCausalLM",
        _PHI,
        _phi3,
        keys=(_WINDOW,),
        partial_rotary=True,
    ),
    "qwen2moe": Architecture(
        "qwen2_moe",
        "Qwen2MoeForCausalLM",
        {**_EXPERTS, **_SHARED_EXPERT},
        _qwen2moe,
        sizes={**_EXPERT_SIZES, **_SHARED_EXPERT_SIZES},
    ),
    "qwen3moe": Architecture(
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        {**_EXPERTS, **_HEAD_NORMS},
        _qwen3moe,
        sizes=_EXPERT_SIZES,
    ),
}


def architecture_of(file: GgufFile) -> Architecture:
    """Raises ModelError if the file's architecture is not supported."""
    kind = file.architecture
    if kind not in ARCHITECTURES:
        raise ModelError(
            f"{file.path}: GGUF architecture {kind!r} is not one of {', '.join(ARCHITECTURES)}",
            _FIX,
        )
    return ARCHITECTURES[kind]


def architecture_for(args: Any) -> tuple[str, Architecture]:
    """``general.architecture``, and what is known of it, of a model with these arguments of mlx-lm.
    Raises ModelUsageError if there is none."""
    module = type(args).__module__.rpartition(".")[2]
    for kind, known in ARCHITECTURES.items():
        if known.model_type == module:
            return kind, known
    kinds = ", ".join(known.model_type for known in ARCHITECTURES.values())
    raise ModelUsageError(
        f"model type {args.model_type!r} cannot be written as GGUF (only {kinds})",
        "use --to hf or --to mlx",
    )


def build_config(file: GgufFile) -> dict[str, Any]:
    """The contents of config.json, from metadata and tensors. Raises ModelError, also if a key of
    the metadata might change the model in a way that is not known here."""
    known = architecture_of(file)
    heads = file.count(SIZES["num_attention_heads"])
    hidden = file.count(SIZES["hidden_size"])
    usual = {"num_key_value_heads": heads, "head_dim": hidden // heads}
    width = file.count(SIZES["head_dim"], usual["head_dim"])
    check_keys(file, (*SIZES.values(), EPS, *known.sizes.values(), *known.keys), width)
    _check_shape(file, hidden)
    config = {
        "architectures": [known.cls],
        "model_type": known.model_type,
        "hidden_act": "silu",
        **{name: file.count(key, usual.get(name)) for name, key in SIZES.items()},
        **{name: file.count(key) for name, key in known.sizes.items()},
        "rms_norm_eps": file.number(EPS),
        "vocab_size": int(file.tensors["token_embd.weight"].shape[0]),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        **rotary(file, width, known.scalings, known.partial_rotary),
    }
    return {**config, **known.config(file, config)}


def _check_shape(file: GgufFile, hidden: int) -> None:
    """The layers and the width that the metadata claims must be those of the tensors: without
    this, a damaged number would have millions of layers made."""
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise ModelError(
            f"{file.path}: the file has no token_embd.weight (one part of a split file?)",
            "give all its parts their original names",
        )
    if len(embedding.shape) != 2 or embedding.shape[1] != hidden:
        raise file.wrong("embedding_length", hidden, "is not the width of token_embd.weight")
    layers = {name.split(".")[1] for name in file.tensors if name.startswith("blk.")}
    count = file.count("block_count")
    missing = next(i for i in range(len(layers) + 1) if str(i) not in layers)
    if missing < count:
        raise ModelError(
            f"{file.path}: layer {missing} of {count} is missing", "fetch the whole file again"
        )
