"""Tiny models with adapters that change what they say, to be exported."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.utils import save_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from azr_mlx.backends.mlx import MlxBackend, adapters
from azr_mlx.config import Lora
from tests import architectures

ROWS = 272  # of the embedding; the tokenizer has fewer tokens
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN = pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(add_prefix_space=False)])


def byte_level(splitter: Any = QWEN, merges: Iterable[str] = ("h e", "t he")) -> Tokenizer:
    """A byte-level tokenizer with two merges and the tokens of ChatML."""
    pairs = [tuple(merge.split(" ")) for merge in merges]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*SPECIAL, *letters, *(a + b for a, b in pairs)]
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, pairs))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def write_base(
    folder: Path,
    model: Any,
    config: dict[str, Any],
    tokenizer: Tokenizer | None = None,
    template: str | None = CHATML,
    **settings: Any,
) -> Path:
    """An MLX folder with this model, and a tokenizer whose turns end in <|im_end|>."""
    folder.mkdir(parents=True)
    save_model(folder, model)
    (tokenizer or byte_level()).save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"eos_token_id": 2, **config}))
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", **settings}
    kept = {name: value for name, value in named.items() if value is not None}
    (folder / "tokenizer_config.json").write_text(json.dumps({**kept, "chat_template": template}))
    return folder


def write_kind(folder: Path, monkeypatch: Any, kind: str, **changes: Any) -> Path:
    """An MLX folder with a tiny random model of this kind of mlx-lm."""
    monkeypatch.setitem(architectures.SIZES, "vocab_size", ROWS)
    monkeypatch.setattr(architectures, "VOCABULARY", ROWS)
    monkeypatch.setitem(
        architectures.SPECIAL, kind, {**architectures.SPECIAL.get(kind, {}), **changes}
    )
    return write_base(folder, architectures.tiny(kind), architectures.configuration(kind))


def train(base: Path, run: Path, size: float = 0.05) -> Path:
    """A folder of random adapters on every linear layer of the model in ``base``."""
    backend = MlxBackend.from_folder(base, Lora(rank=4, scale=2.0), base=str(base))
    draw = np.random.default_rng(1)
    for _, layer in adapters.adapter_layers(backend.policy.lm):
        drawn = draw.normal(size=layer.lora_b.shape).astype(np.float32)
        layer.lora_b = mx.array(drawn * size)
    run.mkdir(parents=True)
    backend.save(run)
    return run
