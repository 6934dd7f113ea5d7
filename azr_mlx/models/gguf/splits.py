"""How text is split before merges: the meaning of tokenizer.ggml.pre.

The regular expressions are those of the original tokenizer.json files; which name means which is in
llama.cpp's src/llama-vocab.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Split:
    """Patterns that are split off, one after the other; whether a piece that is a token stays
    whole whatever the merges say; whether a text begins with a BOS token if the file does not say;
    whether the original tokenizer composes characters (NFC)."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    bos: bool = False
    composed: bool = False


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SUFFIX}"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SUFFIX}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The ranges are CJK, as in the original files.
_DEEPSEEK_CODER = (
    r"[\r\n]",
    r"\s?\p{L}+",
    r"\s?\p{P}+",
    "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
    r"\p{N}",
)
_DEEPSEEK_3 = (
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
_DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]")

_KINDS = {
    Split((GPT2,)): "gpt-2 gpt2 phi-2 mpt olmo jais trillion granite-docling exaone4 gigachat"
    " mellum modern-bert a.x-4.0 jina-es jina-de jina-v2-es jina-v2-de",
    Split((r"\p{N}", GPT2)): "smollm starcoder refact command-r codeshell exaone minerva-7b"
    " mellum2",
    Split((_LLAMA3,), ignore_merges=True, bos=True): "llama-bpe llama3 llama-v3 falcon3 falcon-h1"
    " pixtral midm-2.0 lfm2 jina-v5-nano",
    Split((_LLAMA3,)): "smaug-bpe dbrx glm4 chatglm-bpe",
    Split((_QWEN2,), composed=True): "qwen2 deepseek-r1-qwen megrez kormo f2llmv2",
    Split((_QWEN2,)): "stablelm2 hunyuan solar-open grok-2",
    Split((_TEKKEN,), ignore_merges=True, bos=True): "tekken",
    Split((_GPT4O,)): "gpt-4o llama4 kanana2 talkie minimax-m2",
    Split(_DEEPSEEK_CODER): "deepseek-coder",
    Split(_DEEPSEEK_3): "deepseek-v3 hunyuan-dense joyai-llm",
    Split(_DEFAULT): "default",
}
SPLITS = {name: split for split, names in _KINDS.items() for name in names.split()}


def split_name(patterns: tuple[str, ...], ignore_merges: bool, composed: bool) -> str | None:
    """The name of a split, the reverse of ``SPLITS``; None if it has none. llama.cpp never composes
    characters, so that one that does has to do if there is no other."""
    fits = [
        name
        for name, split in SPLITS.items()
        if (split.patterns, split.ignore_merges) == (patterns, ignore_merges)
    ]
    return min(fits, key=lambda name: SPLITS[name].composed != composed, default=None)
