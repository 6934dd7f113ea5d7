"""Making the tokenizer's files and the chat template from a GGUF file's metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from azr_mlx.errors import ModelError
from azr_mlx.models.gguf.reader import GgufFile

# How text is split before merges: tokenizer.ggml.pre -> kind. The regular expressions are those of
# the original tokenizer.json files. SmolLM and StarCoder first split off every digit, and then do
# the same as GPT-2.
_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_SPLIT = _LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
_PRE = {
    **dict.fromkeys(("gpt-2", "gpt2"), "gpt2"),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell"), "digits"),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "smaug-bpe"), "llama3"),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez"), "qwen2"),
}
_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5  # tokenizer.ggml.token_type


def build_tokenizer(file: GgufFile, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and the chat template. Raises ModelError."""
    from transformers import PreTrainedTokenizerFast

    tokens = _tokens(file)
    special = {
        name: tokens[index]
        for name, key in (
            ("bos_token", "bos_token_id"),
            ("eos_token", "eos_token_id"),
            ("unk_token", "unknown_token_id"),
            ("pad_token", "padding_token_id"),
        )
        if (index := file.metadata.get(f"tokenizer.ggml.{key}")) is not None and index < len(tokens)
    }
    build: Any = PreTrainedTokenizerFast
    tokenizer = build(
        tokenizer_object=backend_tokenizer(file, tokens),
        clean_up_tokenization_spaces=False,
        model_max_length=int(file.key("context_length")),
        **special,
    )
    tokenizer.chat_template = file.metadata.get("tokenizer.chat_template")
    tokenizer.save_pretrained(folder)


def _tokens(file: GgufFile) -> list[str]:
    """The vocabulary, without the unused tokens that pad it to the size of the embedding."""
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if not tokens:
        raise ModelError(
            f"{file.path}: the metadata has no tokenizer", "convert the Hugging Face folder instead"
        )
    types = list(file.metadata.get("tokenizer.ggml.token_type") or ())
    used = len(tokens)
    while used and used <= len(types) and types[used - 1] == _UNUSED:
        used -= 1
    return list(tokens[:used])


def backend_tokenizer(file: GgufFile, tokens: list[str]) -> Tokenizer:
    """The ``tokenizers.Tokenizer`` of a file. Byte-level BPE is built here, sentencepiece by
    transformers. Raises ModelError."""
    kind = file.metadata.get("tokenizer.ggml.model")
    if kind == "gpt2":
        return _byte_level(file, tokens)
    if kind == "llama":
        return _sentencepiece(file, tokens)
    raise ModelError(
        f"{file.path}: tokenizer.ggml.model {kind!r} is not supported",
        "convert the Hugging Face folder instead",
    )


def _byte_level(file: GgufFile, tokens: list[str]) -> Tokenizer:
    name = str(file.metadata.get("tokenizer.ggml.pre", "missing"))
    if name not in _PRE:
        raise ModelError(
            f"{file.path}: tokenizer.ggml.pre {name!r} is not one of {', '.join(_PRE)}",
            "convert the Hugging Face folder instead",
        )
    kind = _PRE[name]
    merges = [tuple(merge.split(" ")) for merge in file.metadata.get("tokenizer.ggml.merges", ())]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=kind == "llama3"))
    if kind == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _pre_tokenizer(kind)
    tokenizer.decoder = decoders.ByteLevel()
    _add_special(tokenizer, file, tokens)
    # If the file does not say, llama.cpp adds a BOS token for Llama 3 only.
    bos = file.metadata.get("tokenizer.ggml.add_bos_token", kind == "llama3")
    steps: list[Any] = [processors.ByteLevel(trim_offsets=False)]
    tokenizer.post_processor = processors.Sequence(steps + _bos_steps(file, tokens, bool(bos)))
    return tokenizer


def _pre_tokenizer(kind: str) -> Any:
    byte_level = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=kind in ("gpt2", "digits")
    )
    if kind == "gpt2":
        return byte_level
    if kind == "digits":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    split = Regex(_LLAMA3_SPLIT if kind == "llama3" else _QWEN2_SPLIT)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(split, behavior="isolated"), byte_level])


def _add_special(tokenizer: Tokenizer, file: GgufFile, tokens: list[str]) -> None:
    """Add control tokens as special tokens, and user-defined ones (``<think>``) as plain ones. None
    of them is ever split."""
    types = file.metadata.get("tokenizer.ggml.token_type") or ()
    kinds = list(zip(tokens, types, strict=False))  # there are types for the removed padding, too
    control = [token for token, kind in kinds if kind == _CONTROL]
    defined = [token for token, kind in kinds if kind == _USER_DEFINED]
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in control])
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in defined])


def _bos_steps(file: GgufFile, tokens: list[str], wanted: bool) -> list[Any]:
    index = file.metadata.get("tokenizer.ggml.bos_token_id")
    if not wanted or index is None:
        return []
    bos = tokens[index]
    single, pair = f"{bos}:0 $A:0", f"{bos}:0 $A:0 {bos}:1 $B:1"
    return [processors.TemplateProcessing(single=single, pair=pair, special_tokens=[(bos, index)])]


def _sentencepiece(file: GgufFile, tokens: list[str]) -> Tokenizer:
    """Built by transformers, which recovers the merges from the pieces and their scores."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer

    metadata = file.metadata
    described = {
        "tokenizer_type": "llama",
        "tokens": tokens,
        "scores": list(metadata.get("tokenizer.ggml.scores") or ())[: len(tokens)],
        "token_type": list(metadata.get("tokenizer.ggml.token_type") or ())[: len(tokens)],
    }
    if merges := metadata.get("tokenizer.ggml.merges"):
        described["merges"] = merges
    tokenizer: Tokenizer = convert_gguf_tokenizer(file.architecture, described)[0]
    bos = bool(metadata.get("tokenizer.ggml.add_bos_token", True))
    plain = processors.TemplateProcessing(single="$A:0", pair="$A:0 $B:1", special_tokens=[])
    tokenizer.post_processor = processors.Sequence(_bos_steps(file, tokens, bos) or [plain])
    return tokenizer
