"""A llama whose weights spell one text: after each token it says the next one of that text. Its
tokenizer is of the SentencePiece family, as Llama 2's is."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

PROMPT = 'def f(x):\n    """Give x."""\n'
BODY = "    return x"
_PIECES = ["▁▁▁▁return", "▁x"]  # the body's tokens; each token has one successor


def speller_folder(path: Path) -> None:
    """An MLX folder of a model that continues every prompt that ends a line with ``BODY``, and then
    ends."""
    import mlx.core as mx
    from mlx_lm.models import llama
    from mlx_lm.utils import save_model

    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "\n"]
    names += [*'defxrtun(): .,"Givabcmpohslky', *_PIECES]
    names = list(dict.fromkeys(names))
    width = -(-len(names) // 64) * 64
    config = dict(
        model_type="llama",
        hidden_size=width,
        num_hidden_layers=1,
        intermediate_size=64,
        num_attention_heads=4,
        num_key_value_heads=4,
        rms_norm_eps=1e-5,
        vocab_size=len(names),
        tie_word_embeddings=False,
        rope_theta=10000.0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = llama.Model(llama.ModelArgs.from_dict(config))
    layer = model.model.layers[0]
    layer.self_attn.o_proj.weight = mx.zeros_like(layer.self_attn.o_proj.weight)
    layer.mlp.down_proj.weight = mx.zeros_like(layer.mlp.down_proj.weight)
    model.model.embed_tokens.weight = mx.eye(width)[: len(names)]
    head = mx.zeros((len(names), width))
    chain = [names.index(name) for name in ("\n", *_PIECES, "</s>")]
    for token, following in itertools.pairwise(chain):
        head[following, token] = 1.0
    model.lm_head.weight = head
    path.mkdir(parents=True)
    save_model(path, model)
    (path / "config.json").write_text(json.dumps(config))
    _tokenizer(names).save(str(path / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"}
    (path / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": "</s>"}))


def _tokenizer(names: list[str]):
    from tokenizers import Tokenizer, decoders, models, normalizers, processors

    vocabulary = {name: i for i, name in enumerate(names)}
    model = models.BPE(vocabulary, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    blanks = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence(blanks)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    text = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*text, decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer
