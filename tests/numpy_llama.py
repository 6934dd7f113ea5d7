"""A llama with LoRA in float64 numpy: an independent oracle for log-probabilities, losses and
gradients."""

from __future__ import annotations

import mlx.core as mx
import numpy as np


def weights(policy) -> dict[str, np.ndarray]:
    """Every parameter of a Policy as float64; 4-bit weights dequantised, LoRA factors under their
    own names."""
    out = {}
    for name, module in policy.named_modules():
        if "scales" in module:
            bits = dict(group_size=module.group_size, bits=module.bits, mode=module.mode)
            full = mx.dequantize(module.weight, module.scales, module.biases, **bits)
            out[f"{name}.weight"] = np.array(full, np.float64)
        elif "weight" in module:
            out[f"{name}.weight"] = np.array(module.weight, np.float64)
        for leaf in ("lora_a", "lora_b", "bias"):
            if leaf in module:
                out[f"{name}.{leaf}"] = np.array(module[leaf], np.float64)
    return out


class NumpyLlama:
    """logp, entropy and values of ``Policy`` from its weights, nothing else shared with the code
    under test."""

    def __init__(self, policy):
        self.args = policy.lm.args
        self.w = weights(policy)
        layer = policy.lm.layers[0].self_attn.q_proj
        self.scale = getattr(layer, "scale", 0.0)

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        if f"{name}.linear.weight" not in self.w:
            return x @ self.w[f"{name}.weight"].T
        low_rank = (x @ self.w[f"{name}.lora_a"]) @ self.w[f"{name}.lora_b"]
        return x @ self.w[f"{name}.linear.weight"].T + self.scale * low_rank

    def norm(self, name: str, x: np.ndarray) -> np.ndarray:
        rms = np.sqrt((x * x).mean(-1, keepdims=True) + self.args.rms_norm_eps)
        return x / rms * self.w[f"{name}.weight"]

    def rope(self, x: np.ndarray) -> np.ndarray:
        """x [B, heads, T, d]; halves rotate together (not interleaved pairs)."""
        half = x.shape[-1] // 2
        angle = np.arange(x.shape[2])[:, None] * self.args.rope_theta ** -(np.arange(half) / half)
        a, b = x[..., :half], x[..., half:]
        cos, sin = np.cos(angle), np.sin(angle)
        return np.concatenate([a * cos - b * sin, a * sin + b * cos], -1)

    def attention(self, name: str, x: np.ndarray) -> np.ndarray:
        batch, length, _ = x.shape
        heads, kv = self.args.num_attention_heads, self.args.num_key_value_heads

        def split(which: str, count: int) -> np.ndarray:
            y = self.linear(f"{name}.{which}_proj", x)
            return y.reshape(batch, length, count, -1).transpose(0, 2, 1, 3)

        q, k, v = self.rope(split("q", heads)), self.rope(split("k", kv)), split("v", kv)
        k, v = np.repeat(k, heads // kv, 1), np.repeat(v, heads // kv, 1)
        scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
        scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        y = (p / p.sum(-1, keepdims=True)) @ v
        return self.linear(f"{name}.o_proj", y.transpose(0, 2, 1, 3).reshape(batch, length, -1))

    def mlp(self, name: str, x: np.ndarray) -> np.ndarray:
        gate, up = self.linear(f"{name}.gate_proj", x), self.linear(f"{name}.up_proj", x)
        return self.linear(f"{name}.down_proj", gate / (1 + np.exp(-gate)) * up)

    def hidden(self, tokens: np.ndarray) -> np.ndarray:
        h = self.w["lm.model.embed_tokens.weight"][tokens]
        for i in range(self.args.num_hidden_layers):
            name = f"lm.model.layers.{i}"
            h = h + self.attention(f"{name}.self_attn", self.norm(f"{name}.input_layernorm", h))
            h = h + self.mlp(f"{name}.mlp", self.norm(f"{name}.post_attention_layernorm", h))
        return self.norm("lm.model.norm", h)

    def scores(
        self, tokens: np.ndarray, temperature: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(logp, entropy, values), [B, T], aligned on the emitted token; column 0 is 0."""
        h = self.hidden(tokens)[:, :-1]
        logits = h @ self.w["lm.lm_head.weight"].T / temperature
        logp = logits - logits.max(-1, keepdims=True)
        logp = logp - np.log(np.exp(logp).sum(-1, keepdims=True))
        chosen = np.take_along_axis(logp, tokens[:, 1:, None], -1)[..., 0]
        entropy = -(np.exp(logp) * logp).sum(-1)
        values = h @ self.w["value_head.weight"][0] + self.w["value_head.bias"][0]
        return tuple(np.pad(x, ((0, 0), (1, 0))) for x in (chosen, entropy, values))
