"""A tiny random model and a character tokenizer, built in memory: the smallest thing that is still
a real 4-bit mlx-lm model with LoRA adapters."""

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


def tiny_model(
    seed: int = 0, *, quantized: bool = True, layers: int = 2, hidden: int = 32, scale: float = 1.0
):
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


def tiny_folder(path) -> None:
    """The tiny model as an MLX folder with a byte-level tokenizer: what ``azr-mlx train`` takes as
    model_id."""
    mx.random.seed(0)
    config = dict(
        model_type="llama",
        hidden_size=32,
        num_hidden_layers=2,
        intermediate_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
        vocab_size=257,
        tie_word_embeddings=False,
        rope_theta=10000.0,
        eos_token_id=EOS,
    )
    model = llama.Model(llama.ModelArgs.from_dict(config))
    nn.quantize(model, group_size=32, bits=4)
    config["quantization"] = {"group_size": 32, "bits": 4}
    write_folder(path, model, config)


def write_folder(path, model, config) -> None:
    """An MLX folder with this model of 257 tokens and a byte-level tokenizer."""
    import json

    from mlx_lm.utils import save_model
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<eos>": EOS, **{letter: i + 1 for i, letter in enumerate(letters)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<eos>"])
    path.mkdir(parents=True)
    save_model(path, model)
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "config.json").write_text(json.dumps(config))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>"}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
