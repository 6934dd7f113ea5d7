"""A tiny random model and a character tokenizer, built in memory: the smallest thing that is still a real
4-bit mlx-lm model with LoRA adapters."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models import llama

EOS = 0
VOCABULARY = 128


class CharTokenizer:
    """One token a character; token 0 ends a text."""

    chat_template = None
    eos_token_ids = frozenset({EOS})

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [min(ord(c), VOCABULARY - 1) for c in text]

    def decode(self, token_ids) -> str:
        return "".join(chr(t) for t in token_ids if t != EOS)


def tiny_model(seed: int = 0, *, quantized: bool = True, layers: int = 2, hidden: int = 32, scale: float = 1.0):
    """A llama of about 50,000 random parameters, its linear layers in 4 bits (groups of 32)."""
    mx.random.seed(seed)
    args = llama.ModelArgs(
        model_type="llama",
        hidden_size=hidden,
        num_hidden_layers=layers,
        intermediate_size=2 * hidden,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
        vocab_size=VOCABULARY,
        tie_word_embeddings=False,
    )
    model = llama.Model(args)
    model.lm_head.weight = model.lm_head.weight * scale
    if quantized:
        nn.quantize(model, group_size=32, bits=4)
    mx.eval(model.parameters())
    return model
