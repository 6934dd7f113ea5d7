"""Tokenizers with the chat templates of popular families: shortened, but with the same behaviour
where it matters (roles, dates, tools, thoughts, special tokens)."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "chat_templates"
FAMILIES = tuple(sorted(path.stem for path in FOLDER.glob("*.jinja")))
SPECIAL = ("<s>", "</s>")


def template(family: str) -> str:
    return (FOLDER / f"{family}.jinja").read_text("utf-8")


@cache
def _bytes() -> Any:
    """A byte-level tokenizer that begins a text with <s>, as Llama's and Gemma's do."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    names = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]
    )
    return tokenizer


def tokenizer_with(chat_template: Any) -> Any:
    """A tokenizer with this template, or these templates by their names."""
    from transformers import PreTrainedTokenizerFast

    build: Any = PreTrainedTokenizerFast
    made = build(tokenizer_object=_bytes(), bos_token=SPECIAL[0], eos_token=SPECIAL[1])
    made.chat_template = chat_template
    return made


def tokenizer_of(family: str) -> Any:
    return tokenizer_with(template(family))
