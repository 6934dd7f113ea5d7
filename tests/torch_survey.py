"""Everything that training needs of a transformers model, tried on a tiny random one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from azr_mlx.backends.base import Sampling
from azr_mlx.backends.sampler import Stream, draw_on_host
from azr_mlx.backends.torch import TorchBackend, adapters
from azr_mlx.backends.torch.model import with_attention
from azr_mlx.types import Batch, Completion, Prompt
from tests import survey as survey_of_mlx
from tests.architectures import VOCABULARY, WINDOW
from tests.survey import HYPER, LORA, POINTS, Finding, batch_of
from tests.tiny import EOS, CharTokenizer

PLAIN: dict[str, Any] = dict(
    vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=4,
    num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=512,
    eos_token_id=EOS, bos_token_id=None, pad_token_id=None, tie_word_embeddings=False,
)  # fmt: skip
HYBRID = ["sliding_attention", "full_attention"] * 2
LINEAR = ["linear_attention", "full_attention"] * 2
DELTA = dict(
    layer_types=LINEAR, linear_num_value_heads=4, linear_num_key_heads=2,
    linear_key_head_dim=8, linear_value_head_dim=8, linear_conv_kernel_dim=3,
)  # fmt: skip
EXPERTS = dict(
    num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32,
    shared_expert_intermediate_size=32, num_local_experts=4,
)  # fmt: skip
MLA = dict(
    q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8,
    n_routed_experts=4, n_shared_experts=1, n_group=1, topk_group=1, first_k_dense_replace=1,
    num_key_value_heads=4,
)  # fmt: skip
MAMBA = dict(
    mamba_d_state=8, mamba_d_conv=4, mamba_expand=2, mamba_n_heads=4, mamba_d_head=8,
    mamba_n_groups=1, mamba_d_ssm=32,
)  # fmt: skip
# What each architecture needs besides ``PLAIN``. The names are those of ``model_type``.
SPECIAL: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "qwen3_moe": dict(**EXPERTS, mlp_only_layers=[]),
    "phi3": dict(sliding_window=None),
    "mistral": dict(sliding_window=WINDOW),
    "ministral": dict(sliding_window=WINDOW, layer_types=HYBRID),
    "gemma2": dict(
        sliding_window=WINDOW, layer_types=HYBRID, query_pre_attn_scalar=8,
        final_logit_softcapping=0.5,
    ),
    "gemma3_text": dict(sliding_window=WINDOW, layer_types=HYBRID, query_pre_attn_scalar=8),
    "gpt_oss": dict(**EXPERTS, sliding_window=WINDOW, layer_types=HYBRID),
    "olmo2": {},
    "olmo3": dict(sliding_window=WINDOW, layer_types=HYBRID),
    "cohere2": dict(sliding_window=WINDOW, layer_types=HYBRID, logit_scale=0.5),
    "granite": dict(logits_scaling=3.0),
    "granitemoehybrid": dict(
        **{**EXPERTS, **MAMBA, "mamba_d_head": 16}, layer_types=["mamba", "attention"] * 2
    ),
    "llama4_text": dict(
        **EXPERTS, attention_chunk_size=WINDOW, intermediate_size_mlp=64,
        no_rope_layers=[1, 0] * 2, interleave_moe_layer_step=2,
    ),
    "qwen3_next": dict(**DELTA, **EXPERTS, mlp_only_layers=[0]),
    "qwen3_5_text": dict(**DELTA),
    "lfm2": dict(
        layer_types=["conv", "full_attention"] * 2, conv_L_cache=3, block_ff_dim=64,
        block_auto_adjust_ff_dim=False,
    ),
    "falcon_h1": dict(**MAMBA),
    "deepseek_v3": dict(**MLA, num_experts_per_tok=2, moe_intermediate_size=32),
    "glm4": dict(),
    "smollm3": dict(no_rope_layers=[1, 0] * 2),
}  # fmt: skip


def tiny(name: str) -> Any:
    """A random float32 model of this architecture, with larger weights than it would begin with,
    so that tokens differ in probability."""
    config = AutoConfig.for_model(name, **{**PLAIN, **SPECIAL[name]})
    config._experts_implementation = "eager"
    torch.manual_seed(0)
    make = AutoModelForCausalLM.from_config
    model = with_attention(lambda kind: make(config, attn_implementation=kind)).float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def survey(name: str) -> Finding:
    """Try everything; the first failure is raised as an AssertionError."""
    backend = opened(name)
    done = rollout(backend)
    batch = batch_of(done)
    check_scores(backend, batch)
    check_gradients(backend, batch)
    check_recomputed(name, backend, batch)
    check_updates(backend, batch)
    return Finding(backend.path, tuple(backend.left_out), recomputed=True)


def opened(name: str, **options: Any) -> TorchBackend:
    """A backend whose adapters are not zero, so that they change what the model says."""
    backend = TorchBackend(tiny(name), CharTokenizer(), LORA, max_rows=4, **options)
    draw = np.random.default_rng(1)
    for _, layer in adapters.adapter_layers(backend.policy.lm):
        weight = layer.lora_B["default"].weight.data
        weight.copy_(torch.from_numpy(draw.normal(size=weight.shape) * 0.05))
    return backend


def rollout(backend: TorchBackend) -> list[Completion]:
    """Completions that are the same as with a whole forward pass for each token."""
    return survey_of_mlx.rollout(backend, token_by_token)


@torch.no_grad()
def token_by_token(
    backend: TorchBackend, prompt: Prompt, sampling: Sampling, key: int
) -> tuple[list[int], list[float]]:
    model, stream = backend.policy.lm.eval(), Stream(key, sampling)
    tokens: list[int] = []
    logprobs: list[float] = []
    while len(tokens) < sampling.max_tokens and (not tokens or tokens[-1] != EOS):
        read = torch.tensor([[*prompt.token_ids, *tokens]])
        logits = model(input_ids=read, use_cache=False).logits[:, -1]
        token, logprob = draw_on_host(logits.numpy(), [stream])
        tokens, logprobs = [*tokens, int(token[0])], [*logprobs, float(logprob[0])]
    return tokens, logprobs


def check_scores(backend: TorchBackend, batch: Batch) -> None:
    """Log-probabilities are those of the sampler."""
    scores = backend.score(batch, "current", 1.0)
    np.testing.assert_allclose(scores.logp, batch.sampler_logp, atol=1e-4, err_msg="scores")


def check_gradients(backend: TorchBackend, batch: Batch) -> None:
    """The gradient is finite, and it is the slope of the loss."""
    backend._clear_gradients()
    backend.policy.train()
    backend._open_term(1.0)
    backend._accumulate_supervised(batch, 1.0)
    grads = {k: p.grad.clone() for k, p in backend.parameters.items() if p.grad is not None}
    assert grads and all(torch.isfinite(grad).all() for grad in grads.values()), "gradient"
    norm = float(sum(grad.square().sum() for grad in grads.values())) ** 0.5
    start = {k: p.detach().clone() for k, p in backend.parameters.items()}
    losses = []
    for point in POINTS:
        with torch.no_grad():
            for key, grad in grads.items():
                backend.parameters[key].copy_(start[key] + point / norm**2 * grad)
        losses.append(backend._accumulate_supervised(batch, 1.0))
    with torch.no_grad():
        for key, parameter in backend.parameters.items():
            parameter.copy_(start[key])
    slopes = np.diff(losses) / np.diff(POINTS)
    assert np.abs(slopes - 1).min() < 0.02, f"gradient: the slopes are {slopes} times its own"
    backend._clear_gradients()


def check_recomputed(name: str, plain: TorchBackend, batch: Batch) -> None:
    """Recomputed activations have the same gradients."""
    other = opened(name, grad_checkpoint=True)
    found = []
    for backend in (plain, other):
        backend._clear_gradients()
        backend._accumulate(batch, HYPER)
        gradients = {k: p.grad for k, p in backend.parameters.items() if p.grad is not None}
        found.append({k: gradient.clone() for k, gradient in gradients.items()})
        backend._clear_gradients()
    assert found[0].keys() == found[1].keys(), "recomputed: gradients are lost"
    size = max(float(gradient.abs().max()) for gradient in found[0].values())
    for key, gradient in found[0].items():
        np.testing.assert_allclose(found[1][key], gradient, atol=1e-3 * size, err_msg="recomputed")


def check_updates(backend: TorchBackend, batch: Batch) -> None:
    """Two updates move the adapters and nothing else."""
    before = {k: p.detach().clone() for k, p in backend.policy.lm.named_parameters()}
    for _ in range(2):
        scores = backend.score(batch, "current", 1.0)
        reference = backend.score(batch, "reference", 1.0)
        moved = batch.with_(old_logp=scores.logp, ref_logp=reference.logp, values=scores.values)
        stats = backend.update(moved, HYPER)
        assert np.isfinite(stats.loss) and stats.grad_norm > 0, "update"
    for path, array in backend.policy.lm.named_parameters():
        assert torch.equal(array, before[path]) or "lora_" in path, f"update: {path} changed"
