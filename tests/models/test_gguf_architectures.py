"""GGUF files of each architecture, against transformers' model of the same weights in float32."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core")
mlx_lm = pytest.importorskip("mlx_lm")
torch = pytest.importorskip("torch")
pytest.importorskip("gguf")
transformers = pytest.importorskip("transformers")

from azr_mlx.config import Quantization  # noqa: E402
from azr_mlx.errors import ModelError  # noqa: E402
from azr_mlx.models.gguf import import_gguf  # noqa: E402
from azr_mlx.models.mlx_model import to_float32  # noqa: E402
from tests.models import tiny_gguf as t  # noqa: E402

pytestmark = pytest.mark.backend

PLAIN = Quantization(bits=0)
TOLERANCE = 1e-3
VOCABULARY = t.byte_vocabulary()
SIZE = len(VOCABULARY["tokenizer.ggml.tokens"])
IDS = [int(i) for i in np.random.default_rng(3).integers(0, SIZE, 40)]
SIZES = {
    "vocab_size": SIZE,
    "hidden_size": 64,  # whose root is exact in bfloat16, in which mlx-lm's gemma3 has it
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
KEYS = {
    "context_length": 128,
    "embedding_length": 64,
    "feed_forward_length": 96,
    "block_count": 4,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-6,
}
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
}
GEMMA_NAMES = NAMES | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def random_model(kind: str, **options: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **SIZES | {"rms_norm_eps": 1e-6} | options)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter.data, float("norm" in name), 0.2)
    return model


def ggml_tensors(model: Any, names: dict[str, str], norms: float = 0.0) -> dict[str, np.ndarray]:
    """The weights as convert_hf_to_gguf.py of llama.cpp names and changes them."""
    tied = model.config.tie_word_embeddings
    made: dict[str, np.ndarray] = {}
    for name, parameter in model.state_dict().items():
        weight = parameter.float().numpy()
        if name.startswith("model.layers."):
            layer, _, rest = name.removeprefix("model.layers.").partition(".")
            made |= layer_tensors(f"blk.{layer}", rest, weight, names)
        elif not (tied and name.startswith("lm_head")):
            module, _, part = name.rpartition(".")
            made[f"{names[module]}.{part}"] = weight
    return {name: w + norms if "norm" in name else w for name, w in made.items()}


def layer_tensors(
    prefix: str, name: str, weight: np.ndarray, names: dict[str, str]
) -> dict[str, np.ndarray]:
    if name == "mlp.experts.gate_up_proj":
        gate, up = np.split(weight, 2, 1)
        return {f"{prefix}.ffn_gate_exps.weight": gate, f"{prefix}.ffn_up_exps.weight": up}
    if name == "mlp.experts.down_proj":
        return {f"{prefix}.ffn_down_exps.weight": weight}
    module, _, part = name.rpartition(".")
    flat = weight[0] if module == "mlp.shared_expert_gate" else weight
    return {f"{prefix}.{names[module]}.{part}": np.ascontiguousarray(flat)}


def torch_logits(model: Any) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0].float().numpy()


def check(tmp_path: Path, model: Any, tensors: dict[str, np.ndarray], kind: str, keys: Any) -> None:
    """Write, convert, and compare mlx-lm's and transformers' logits with those of ``model``."""
    metadata = {f"{kind}.{name}": value for name, value in {**KEYS, **keys}.items()}
    t.write(tmp_path / "m.gguf", tensors, {**metadata, **VOCABULARY}, architecture=kind)
    import_gguf(tmp_path / "m.gguf", tmp_path / "m", PLAIN, "float32")
    expected = torch_logits(model)
    converted = to_float32(mlx_lm.load(str(tmp_path / "m"))[0])
    logits = np.array(converted(mx.array([IDS]))[0])
    assert np.abs(logits - expected).max() < TOLERANCE
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m").eval()
    assert np.abs(torch_logits(again) - expected).max() < TOLERANCE


def rope(theta: float, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": theta, "rope_type": "default", **more}}


@pytest.mark.parametrize("pattern", [4, 2, None])
def test_gemma3(tmp_path: Path, pattern: int | None) -> None:
    """Windows of 8 tokens, norms whose weights llama.cpp writes plus 1, and two rotary bases."""
    every = pattern or 1
    kinds = ["sliding_attention" if (i + 1) % every else "full_attention" for i in range(4)]
    bases = {"full_attention": 5000.0, "sliding_attention": 100.0}
    parameters = {
        name: {"rope_type": "default", "rope_theta": base} for name, base in bases.items()
    }
    options = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8}
    model = random_model("gemma3_text", layer_types=kinds, rope_parameters=parameters, **options)
    keys = {"attention.key_length": 32, "attention.value_length": 32, "rope.freq_base": 5000.0}
    if pattern:
        keys |= {"attention.sliding_window": 8, "rope.freq_base_swa": 100.0}
        keys["attention.sliding_window_pattern"] = pattern
    check(tmp_path, model, ggml_tensors(model, GEMMA_NAMES, norms=1.0), "gemma3", keys)


def test_gemma3_with_linear_scaling_of_its_whole_layers(tmp_path: Path) -> None:
    kinds = ["sliding_attention" if (i + 1) % 2 else "full_attention" for i in range(4)]
    parameters = {
        "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    }
    options = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8}
    model = random_model("gemma3_text", layer_types=kinds, rope_parameters=parameters, **options)
    keys = {"attention.key_length": 32, "rope.freq_base": 5000.0, "attention.sliding_window": 8}
    keys |= {"attention.sliding_window_pattern": 2}
    keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}
    check(tmp_path, model, ggml_tensors(model, GEMMA_NAMES, norms=1.0), "gemma3", keys)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_phi3(tmp_path: Path, share: float) -> None:
    model = random_model("phi3", **rope(500.0, partial_rotary_factor=share))
    keys = {"rope.freq_base": 500.0, "rope.dimension_count": int(16 * share)}
    keys |= {"attention.sliding_window": 8}  # which llama.cpp ignores
    check(tmp_path, model, ggml_tensors(model, NAMES), "phi3", keys)


EXPERTS = {"expert_count": 8, "expert_used_count": 2, "expert_feed_forward_length": 32}


def mixture(kind: str) -> Any:
    options = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    if kind == "qwen2_moe":
        options |= {"shared_expert_intermediate_size": 64, "norm_topk_prob": False}
    else:
        options |= {"head_dim": 32, "norm_topk_prob": True}
    return random_model(kind, tie_word_embeddings=False, **options, **rope(500.0))


def test_qwen2moe(tmp_path: Path) -> None:
    model = mixture("qwen2_moe")
    keys = {**EXPERTS, "expert_shared_feed_forward_length": 64, "rope.freq_base": 500.0}
    check(tmp_path, model, ggml_tensors(model, NAMES), "qwen2moe", keys)


def test_qwen3moe(tmp_path: Path) -> None:
    model = mixture("qwen3_moe")
    keys = {**EXPERTS, "attention.key_length": 32, "rope.freq_base": 500.0}
    check(tmp_path, model, ggml_tensors(model, NAMES), "qwen3moe", keys)


@pytest.mark.parametrize("kind", ["qwen2moe", "qwen3moe"])
def test_quantised_experts_are_kept(tmp_path: Path, kind: str) -> None:
    model = mixture(kind.replace("moe", "_moe"))
    tensors = ggml_tensors(model, NAMES)
    keys: dict[str, Any] = {**KEYS, **EXPERTS, "rope.freq_base": 500.0}
    if kind == "qwen2moe":
        keys["expert_shared_feed_forward_length"] = 64
    else:
        keys["attention.key_length"] = 32
    metadata = {f"{kind}.{name}": value for name, value in keys.items()}
    kinds = {name: "Q8_0" for name in tensors if "exps" in name and "layers.0" not in name}
    path = tmp_path / "m.gguf"
    t.write(path, tensors, {**metadata, **VOCABULARY}, kinds, architecture=kind)
    done = import_gguf(path, tmp_path / "k", PLAIN, "float32", keep_blocks=True)
    assert done.kept == 12
    import_gguf(path, tmp_path / "d", PLAIN, "float32")
    logits = [
        np.array(to_float32(mlx_lm.load(str(tmp_path / name))[0])(mx.array([IDS]))[0])
        for name in "kd"
    ]
    assert np.abs(logits[0] - logits[1]).max() < TOLERANCE


@pytest.mark.parametrize(
    ("kind", "keys", "message"),
    [
        ("gemma3", {}, "is not part of a gemma3"),
        ("phi3", {"rope.scaling.factor": 2.0}, "rotary scaling 'linear' of phi3"),
        ("qwen3moe", {**EXPERTS, "expert_gating_func": 2}, "qwen3moe.expert_gating_func"),
        ("qwen3moe", {**EXPERTS, "expert_weights_norm": False}, "expert_weights_norm"),
        (
            "gemma3",
            {"attention.sliding_window": 8},
            "gemma3 of 4 layers of which every 6th",
        ),
        ("gemma3", {"final_logit_softcapping": 30.0}, "gemma3.final_logit_softcapping"),
    ],
)
def test_what_an_architecture_does_not_have(
    tmp_path: Path, kind: str, keys: dict[str, Any], message: str
) -> None:
    metadata = {f"{kind}.{name}": value for name, value in {**KEYS, **keys}.items()}
    tensors = ggml_tensors(mixture("qwen3_moe"), NAMES)
    t.write(tmp_path / "m.gguf", tensors, {**metadata, **VOCABULARY}, architecture=kind)
    with pytest.raises(ModelError, match=re.escape(message)):
        import_gguf(tmp_path / "m.gguf", tmp_path / "m", PLAIN)
