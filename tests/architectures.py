"""A tiny random model of every architecture in the installed mlx-lm.

Most are shrunk by the names of their sizes (``SIZES``). What differs from that is in ``SPECIAL``:
sizes that depend on each other, kinds of layers, and nested configurations.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import pkgutil
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_lm.models
from mlx.utils import tree_map_with_path

VOCABULARY, WINDOW, LAYERS = 128, 6, 4

SIZES: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "num_vocab", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "model_dim", "hidden_dim"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_hidden_size", "n_inner", "block_dim"), 64),
    **dict.fromkeys(("intermediate_size_mlp", "ff_intermediate_size", "block_ff_dim"), 64),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size", "share_expert_dim"), 32),
    **dict.fromkeys(("shared_intermediate_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("moe_shared_expert_intermediate_size",), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads", "n_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "n_kv_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("head_dim", "kv_channels", "hidden_size_per_head", "v_head_dim"), 8),
    **dict.fromkeys(("swa_num_attention_heads",), 4),
    **dict.fromkeys(("swa_num_key_value_heads", "num_attention_groups"), 2),
    **dict.fromkeys(("swa_head_dim", "swa_v_head_dim", "index_head_dim"), 8),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "o_lora_rank"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim"), 8),
    **dict.fromkeys(("index_n_heads", "index_topk"), 4),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "moe_top_k"), 2),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "num_shared_expert"), 1),
    **dict.fromkeys(("n_group", "topk_group", "moe_layer_freq", "decoder_sparse_step"), 1),
    **dict.fromkeys(("first_k_dense_replace", "num_dense_layers", "layer_group_size"), 1),
    **dict.fromkeys(("n_groups", "group_norm_size", "mamba_n_groups", "moe_num_shared_experts"), 1),
    **dict.fromkeys(("sliding_window", "window_size", "attention_window_size"), WINDOW),
    **dict.fromkeys(("sliding_window_size", "loop_window_size"), WINDOW),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "block_size"), 512),
    **dict.fromkeys(("model_max_length", "original_max_position_embeddings"), 512),
    **dict.fromkeys(("rope_theta", "swa_rope_theta", "rotary_emb_base"), 10000.0),
    **dict.fromkeys(
        ("rms_norm_eps", "norm_eps", "post_norm_eps", "layer_norm_eps", "layer_norm_epsilon"), 1e-5
    ),
    **dict.fromkeys(("layernorm_epsilon",), 1e-5),
    **dict.fromkeys(("state_size", "ssm_state_size", "mamba_d_state"), 8),
    **dict.fromkeys(("conv_kernel", "conv_L_cache", "conv_window", "linear_conv_kernel_dim"), 3),
    **dict.fromkeys(("mamba_num_heads", "mamba_n_heads"), 4),
    **dict.fromkeys(("mamba_head_dim", "mamba_d_head"), 8),
    **dict.fromkeys(("linear_num_value_heads",), 4),
    **dict.fromkeys(("linear_num_key_heads",), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("partial_rotary_factor", "rotary_pct"), 0.5),
    **dict.fromkeys(("rotary_dim",), 4),
    **dict.fromkeys(("a_low_rank_dim", "v_low_rank_dim"), 4),
    **dict.fromkeys(("gate_low_rank_dim", "decay_low_rank_dim"), 4),
    **dict.fromkeys(("routed_scaling_factor", "logits_scaling", "attention_multiplier"), 1.5),
    **dict.fromkeys(("embedding_multiplier", "residual_multiplier", "scale_depth"), 1.5),
    **dict.fromkeys(("scale_emb",), 2),
    "dim_model_base": 16,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "hidden_act": "relu2",
    "layer_types": None,
    "rope_scaling": None,
    "moe_layers_enum": "1,3",
    "norm_topk_prob": True,
    "tie_word_embeddings": False,
    "mlp_only_layers": [],
    "time_step_limit": (0.01, 10.0),
}

HYBRID = ["sliding_attention", "full_attention"] * 2
LINEAR = ["linear_attention", "full_attention"] * 2
ROPE = {
    "full_attention": {"rope_theta": 10000.0, "rope_type": "default"},
    "sliding_attention": {"rope_theta": 1000.0, "rope_type": "default"},
}
YARN = dict(rope_theta=10000.0, type="yarn", factor=4.0, llama_4_scaling_beta=0.1)
YARN |= dict(original_max_position_embeddings=8, beta_fast=32.0, beta_slow=1.0)
YARN |= dict(mscale=1.0, mscale_all_dim=1.0)
KIMI = {"num_heads": 4, "head_dim": 8, "short_conv_kernel_size": 3}

SPECIAL: dict[str, dict[str, Any]] = {
    "seed_oss": dict(tie_word_embeddings=False),
    "lille-130m": dict(n_embd=96),
    "prism_hadamard_qwen35": dict(
        full_attention_interval=2,
        num_experts=0,
        num_experts_per_tok=0,
        moe_intermediate_size=0,
        shared_expert_intermediate_size=0,
        intermediate_size=128,
    ),
    "qwen3_5_moe": dict(full_attention_interval=2),
    "qwen3_5": dict(
        full_attention_interval=2,
        num_experts=0,
        num_experts_per_tok=0,
        moe_intermediate_size=0,
        shared_expert_intermediate_size=0,
    ),
    "muse_spark": dict(
        num_shared_experts=0,
        layer_types=HYBRID,
        layer_rope_theta=[10000.0, 0] * 2,
        rope_parameters=dict(rope_theta=10000.0),
        post_norm_eps=1e-5,
        final_logit_softcapping=0.5,
        output_multiplier=0.5,
        moe_hidden_size=16,
    ),
    "minimax_m3_vl": dict(
        dense_intermediate_size=64,
        mlp_layer_types=["dense", "sparse"] * 2,
        layer_types=["full_attention", "minimax_m3_sparse"] * 2,
        index_block_size=4,
        index_topk_blocks=2,
    ),
    "kimi_k3": dict(
        linear_attn_config=KIMI
        | dict(kda_layers=[1, 3], full_attn_layers=[2, 4], gate_lower_bound=-5.0),
        activation_situ_beta=1.0,
        attn_res_block_size=2,
        num_experts_per_token=2,
        num_shared_experts=1,
        routed_expert_hidden_size=16,
    ),
    "llama4": dict(num_experts_per_tok=1, attention_chunk_size=WINDOW, interleave_moe_layer_step=2),
    "gemma3n": dict(
        num_kv_shared_layers=2,
        rope_local_base_freq=1000.0,
        final_logit_softcapping=0.5,
        layer_types=HYBRID,
        activation_sparsity_pattern=[0.5, 0.5, 0.0, 0.0],
        hidden_size_per_layer_input=8,
        altup_num_inputs=2,
        altup_coef_clip=1.0,
        altup_correct_scale=True,
        altup_active_idx=0,
        laurel_rank=4,
    ),
    "minicpm3": dict(
        rope_scaling=dict(
            original_max_position_embeddings=8, short_factor=[1.0] * 4, long_factor=[1.5] * 4
        )
    ),
    "glm_moe_dsa": dict(rope_parameters=dict(rope_theta=10000.0, rope_type="default")),
    "afm7": dict(num_kv_reuse_layers=2),
    "afmoe": dict(layer_types=HYBRID),
    "baichuan_m1": dict(sliding_window_layers=[0, 2], conv_window=2),
    "bailing_hybrid": dict(layer_group_size=2),
    "bailing_moe_linear": dict(layer_group_size=2, num_key_value_heads=4),
    "bailing_moe_v3": dict(layer_group_size=2),
    "cohere": dict(num_key_value_heads=4),
    "cohere2": dict(sliding_window_pattern=2),
    "dbrx": dict(
        ffn_config=dict(ffn_hidden_size=32, moe_num_experts=4, moe_top_k=2),
        attn_config=dict(kv_n_heads=2, clip_qkv=8.0, rope_theta=10000.0),
    ),
    "deepseek_v2": dict(topk_method="greedy", rope_scaling=YARN),
    "deepseek_v41": dict(num_attention_heads=8, head_dim=16, o_groups=2, index_topk=4),
    "exaone4": dict(sliding_window_pattern="LG"),
    "exaone_moe": dict(layer_types=HYBRID, is_moe_layer=[False, True] * 2),
    "falcon_h1": dict(mamba_d_ssm=32, mamba_d_head=8),
    "gear": dict(layer_types=["conv_mixer", "sliding_attention", "conv_mixer", "full_attention"]),
    "gemma2": dict(query_pre_attn_scalar=8.0, final_logit_softcapping=0.5),
    "gemma3_text": dict(sliding_window_pattern=2, query_pre_attn_scalar=8),
    "gemma4_text": dict(
        head_dim=8,
        global_head_dim=16,
        hidden_size_per_layer_input=8,
        num_kv_shared_layers=2,
        layer_types=HYBRID,
        final_logit_softcapping=0.5,
        num_key_value_heads=1,
    ),
    "gpt_oss": dict(layer_types=HYBRID),
    "granitemoehybrid": dict(layer_types=["mamba", "attention"] * 2, logits_scaling=3.0),
    "granite": dict(logits_scaling=3.0),
    "hunyuan": dict(
        use_cla=True,
        cla_share_factor=2,
        rope_scaling=dict(alpha=1000.0, factor=1.0, type="dynamic"),
    ),
    "jamba": dict(attn_layer_offset=1, attn_layer_period=2, expert_layer_offset=1)
    | dict(expert_layer_period=2),
    "kimi_linear": dict(
        linear_attn_config=KIMI | dict(kda_layers=[1, 3], full_attn_layers=[2, 4]),
        num_experts_per_token=2,
        num_shared_experts=1,
    ),
    "laguna": dict(
        layer_types=HYBRID, mlp_layer_types=["dense", "sparse"] * 2, rope_parameters=ROPE
    )
    | dict(num_attention_heads_per_layer=[4] * 4),
    "lfm2": dict(layer_types=["conv", "full_attention"] * 2)
    | dict(block_multiple_of=4, block_ffn_dim_multiplier=1, block_auto_adjust_ff_dim=False)
    | dict(block_dim=32, num_key_value_heads=2),
    "lfm2_moe": dict(layer_types=["conv", "full_attention"] * 2),
    "llama4_text": dict(no_rope_layers=[1, 0] * 2),
    "longcat_flash": dict(
        zero_expert_num=2,
        attention_method="MLA",
        zero_expert_type="identity",
        mla_scale_q_lora=True,
        mla_scale_kv_lora=True,
    ),
    "longcat_flash_ngram": dict(
        zero_expert_num=2,
        attention_method="MLA",
        zero_expert_type="identity",
        mla_scale_q_lora=True,
        mla_scale_kv_lora=True,
    ),
    "mamba": dict(time_step_rank=4),
    "mamba2": dict(num_heads=8, head_dim=8, time_step_rank=4, intermediate_size=64),
    "mellum": dict(layer_types=HYBRID, rope_parameters=ROPE),
    "mimo_v2_flash": dict(
        hybrid_layer_pattern=[1, 0] * 2,
        moe_layer_freq=[0, 1] * 2,
        add_swa_attention_sink_bias=True,
        add_full_attention_sink_bias=False,
    ),
    "ministral3": dict(layer_types=HYBRID, rope_parameters=YARN),
    "mistral4": dict(rope_parameters=YARN),
    "muse_glimmer": dict(layer_types=HYBRID),
    "nanbeige": dict(num_loops=2),
    "nemotron-nas": dict(
        block_configs=[
            dict(
                attention=dict(n_heads_in_group=2, no_op=False, replace_with_linear=False),
                ffn=dict(ffn_mult=1.3125, no_op=False, replace_with_linear=False),
            )
        ]
        * 4
    ),
    "nemotron_h": dict(hybrid_override_pattern=["*", "M", "E", "-"], moe_latent_size=None),
    "olmo3": dict(layer_types=HYBRID),
    "olmo_hybrid": dict(layer_types=LINEAR, linear_allow_neg_eigval=True),
    "openelm": dict(
        num_transformer_layers=2,
        ffn_dim_divisor=8,
        num_query_heads=[4, 4],
        num_kv_heads=[2, 2],
        ffn_multipliers=[1.0, 2.0],
    ),
    "phi3small": dict(
        vocab_size=100352,
        dense_attention_every_n_layers=2,
        gegelu_limit=20.0,
        blocksparse_block_size=32,
        blocksparse_num_local_blocks=2,
        blocksparse_vert_stride=2,
    ),
    "phixtral": dict(num_heads=4, model_dim=32, rotary_dim=4),
    "plamo": dict(n_shared_head=2),
    "plamo2": dict(mamba_num_heads=4, hidden_size_per_head=8, mamba_d_state=8),
    # mlx-lm's cache is one token shorter than the window, so a filled window gives other logits.
    "plamo3": dict(sliding_window_pattern=2, sliding_window=None, window_size=512),
    "qwen": dict(kv_channels=8),
    "qwen3_next": dict(full_attention_interval=2, mlp_only_layers=[0]),
    "recurrent_gemma": dict(
        block_types=["recurrent", "attention"], conv1d_width=3, logits_soft_cap=0.5
    ),
    "smollm3": dict(no_rope_layers=[1, 0] * 2),
    "spark2_5": dict(layer_types=HYBRID, rope_parameters=ROPE),
    "step3p5": dict(layer_types=HYBRID),
}
PACK: dict[str, dict[str, Any]] = {
    "prism_hadamard_qwen35": dict(
        schema_version=1,
        tensor_namespace="mlx-lm-text",
        quantization=dict(bits=2, group_size=128, mode="affine"),
        modules=[
            dict(path="model.layers.0.mlp.down_proj", embedding=False, dtype="float16", block=0)
        ],
    )
}
# The classes of the nested configurations, "module" or "module:class". What differs from them is in
# ``SPECIAL`` under the wrapper's name.
NESTED = {
    "gemma3": "gemma3_text",
    "gemma3n": "gemma3n:TextConfig",
    "gemma4": "gemma4_text",
    "kimi_k25": "deepseek_v3",
    "kimi_k3": "kimi_k3:TextArgs",
    "kimi_vl": "kimi_vl:TextArgs",
    "lfm2-vl": "lfm2",
    "llama4": "llama4:TextArgs",
    "minimax_m3_vl": "minimax_m3_vl:TextArgs",
    "mistral3": "ministral3",
    "muse_spark": "muse_spark:TextArgs",
    "pixtral": "llama",
    "prism_hadamard_qwen35": "qwen3_5:TextModelArgs",
    "qwen2_vl": "qwen2",
    "qwen3_vl": "qwen3",
    "qwen3_vl_moe": "qwen3_moe",
    "qwen3_5": "qwen3_5:TextModelArgs",
    "qwen3_5_moe": "qwen3_5:TextModelArgs",
}


def names() -> list[str]:
    """The modules of the installed mlx-lm that define a model."""
    found = sorted(m.name for m in pkgutil.iter_modules(mlx_lm.models.__path__))
    return [name for name in found if hasattr(_module(name), "Model")]


def _module(name: str) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            return importlib.import_module(f"mlx_lm.models.{name}")
        except SystemExit:  # a package that only this architecture needs is not installed
            return None


def configuration(name: str) -> dict[str, Any]:
    """The config.json of a tiny model of this architecture."""
    special = SPECIAL.get(name, {})
    if name not in NESTED:
        return {**_shrunk(_module(name).ModelArgs), "model_type": name, **special}
    module, _, kind = NESTED[name].partition(":")
    text = {"model_type": module, **_shrunk(getattr(_module(module), kind or "ModelArgs"))}
    text.update(SPECIAL.get(module, {}) if not kind else {}, **special)
    return {"model_type": name, "text_config": text, "vocab_size": VOCABULARY, **PACK.get(name, {})}


def _shrunk(arguments: Any) -> dict[str, Any]:
    """Values for the sizes among the fields of this class."""
    out: dict[str, Any] = {}
    for field in dataclasses.fields(arguments):
        required = field.default is dataclasses.MISSING
        required &= field.default_factory is dataclasses.MISSING
        if field.name in SIZES and (required or _sized(field.default)):
            out[field.name] = SIZES[field.name]
        elif required and field.name != "model_type":
            out[field.name] = False if field.type in (bool, "bool") else None
    return out


def _sized(default: Any) -> bool:
    return (isinstance(default, int | float) and not isinstance(default, bool)) or default is None


def tiny(name: str, seed: int = 0, scale: float = 1.0) -> nn.Module:
    """A random float32 model of this architecture. Matrices are multiplied by ``scale``; values
    that a layer starts with at zero or one are moved away from there."""
    mx.random.seed(seed)
    module = _module(name)
    model = module.Model(module.ModelArgs.from_dict(configuration(name)))
    model.update(tree_map_with_path(_moved, model.parameters()))
    mx.eval(model.parameters())
    return model


def _moved(path: str, array: mx.array) -> mx.array:
    if not mx.issubdtype(array.dtype, mx.floating):
        return array
    return array.astype(mx.float32) + 0.02 * mx.random.normal(array.shape)
