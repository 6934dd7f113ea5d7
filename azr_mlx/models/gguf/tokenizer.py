"""Making the tokenizer's files and the chat template from a GGUF file's metadata.

The rules are llama.cpp's (src/llama-vocab.cpp); what is built is a ``tokenizers.Tokenizer``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
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
from azr_mlx.models.gguf.splits import SPLITS, Split
from azr_mlx.models.gguf.turns import CONTROL_NAMES, turn_ends

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # tokenizer.ggml.token_type
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # SentencePiece's stand-in for a space
_FIX = "convert the Hugging Face folder instead"
# Tokens that a sentencepiece vocabulary has if the file does not say.
_LLAMA_IDS = {"bos": 1, "eos": 2, "unknown": 0}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens of a file, with their types, and how text becomes tokens.

    ``tokens`` has no unused tokens at its end, which pad the vocabulary to the size of the
    embedding. ``ids`` are those of special tokens by the name in the metadata (``bos``).
    """

    file: GgufFile
    model: str
    tokens: list[str]
    types: list[int]
    ids: dict[str, int]

    @classmethod
    def of(cls, file: GgufFile) -> Vocabulary:
        """Raises ModelError if the file has no vocabulary, or one that cannot be used."""
        model = file.metadata.get("tokenizer.ggml.model")
        if model not in ("gpt2", "llama"):
            what = "has no tokenizer" if model is None else f"has a tokenizer of model {model!r}"
            raise ModelError(f"{file.path} {what}; only gpt2 and llama are supported", _FIX)
        tokens = [
            token or f"[EMPTY_{index}]" for index, token in enumerate(_list(file, "tokens", str))
        ]
        types = _list(file, "token_type", int) or [NORMAL] * len(tokens)
        if not tokens or len(types) < len(tokens):
            raise ModelError(
                f"{file.path}: the tokenizer has {len(tokens)} tokens and {len(types)} types", _FIX
            )
        ids = dict(_special_ids(file, model, len(tokens)))
        used = len(tokens)
        while used - 1 > max(ids.values(), default=0) and types[used - 1] == UNUSED:
            used -= 1
        _check(file, tokens[:used])
        kinds = [
            CONTROL if token in CONTROL_NAMES else kind
            for token, kind in zip(tokens[:used], types, strict=False)
        ]
        return cls(file, model, tokens[:used], kinds, ids)

    def flag(self, name: str, default: bool) -> bool:
        value = self.file.metadata.get(f"tokenizer.ggml.{name}", default)
        if not isinstance(value, bool):
            raise ModelError(
                f"{self.file.path}: tokenizer.ggml.{name} is not true or false: {value!r}", _FIX
            )
        return value

    def ends(self) -> list[int]:
        """The tokens that end a turn or a text, the file's eos token first."""
        named = [self.ids[name] for name in ("eos", "eot", "eom") if name in self.ids]
        return turn_ends(self.tokens, named)

    def config_entries(self) -> dict[str, int | None]:
        """The entries of config.json; None for a token that the file does not have, since
        transformers would take that of the architecture's first model."""
        names = {"bos": "bos_token_id", "eos": "eos_token_id", "padding": "pad_token_id"}
        return {entry: self.ids.get(name) for name, entry in names.items()}

    def of_type(self, *kinds: int) -> list[str]:
        return [token for token, kind in zip(self.tokens, self.types, strict=True) if kind in kinds]


def _list(file: GgufFile, name: str, *items: type) -> list[Any]:
    """A list in the metadata, empty if there is none. Raises ModelError if it holds anything but
    ``items``."""
    values = file.metadata.get(f"tokenizer.ggml.{name}", [])
    if not isinstance(values, list) or not all(isinstance(value, items) for value in values):
        what = items[0].__name__
        raise ModelError(
            f"{file.path}: tokenizer.ggml.{name} is not a list of {what}", "fetch it again"
        )
    return values


def _special_ids(file: GgufFile, model: str, size: int) -> Iterator[tuple[str, int]]:
    """(name, id) of each special token. Raises ModelError for one outside the vocabulary, but for
    padding, which says nothing of a text: llama.cpp passes it over, too."""
    usual = {name: index for name, index in _LLAMA_IDS.items() if model == "llama" and index < size}
    for name in ("bos", "eos", "eot", "eom", "unknown", "padding"):
        index = file.metadata.get(f"tokenizer.ggml.{name}_token_id", usual.get(name))
        if index is None:
            continue
        if type(index) is not int or not 0 <= index < size:
            if name == "padding":
                continue
            raise ModelError(
                f"{file.path}: tokenizer.ggml.{name}_token_id is {index!r}, and the vocabulary has "
                f"{size} tokens",
                "fetch another file",
            )
        yield name, index


def _check(file: GgufFile, tokens: list[str]) -> None:
    """Raise ModelError if a token is there twice, or if there are more than the embedding has."""
    if len(set(tokens)) < len(tokens):
        twice = Counter(tokens).most_common(1)[0][0]
        raise ModelError(f"{file.path}: the vocabulary has {twice!r} twice", _FIX)
    rows = file.tensors["token_embd.weight"].shape[0]
    if len(tokens) > rows:
        raise ModelError(
            f"{file.path}: the vocabulary has {len(tokens)} tokens, but the embedding {rows} rows",
            "fetch another file",
        )


def write_tokenizer(vocabulary: Vocabulary, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and the chat template. Raises ModelError."""
    from transformers import PreTrainedTokenizerFast

    file, tokens, ids = vocabulary.file, vocabulary.tokens, vocabulary.ids
    names = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
    build: Any = PreTrainedTokenizerFast
    tokenizer = build(
        tokenizer_object=backend_tokenizer(vocabulary),
        clean_up_tokenization_spaces=False,
        model_max_length=file.count("context_length"),
        **{option: tokens[ids[name]] for name, option in names.items() if name in ids},
    )
    template = file.metadata.get("tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        raise ModelError(f"{file.path}: tokenizer.chat_template is not a text", "fetch it again")
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)


def backend_tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    """The ``tokenizers.Tokenizer`` of a file. Raises ModelError."""
    if vocabulary.model == "gpt2":
        tokenizer, bos = _byte_level(vocabulary)
    else:
        tokenizer, bos = _sentencepiece(vocabulary), True
    _add_special(tokenizer, vocabulary)
    steps = [] if vocabulary.model == "llama" else [processors.ByteLevel(trim_offsets=False)]
    wanted = vocabulary.flag("add_bos_token", bos), vocabulary.flag("add_eos_token", False)
    tokenizer.post_processor = processors.Sequence([*steps, _template(vocabulary, *wanted)])
    return tokenizer


def _byte_level(vocabulary: Vocabulary) -> tuple[Tokenizer, bool]:
    """The tokenizer, and whether a BOS token is added if the file does not say."""
    file = vocabulary.file
    name = file.metadata.get("tokenizer.ggml.pre", "default")
    if not isinstance(name, str) or name not in SPLITS:
        raise ModelError(
            f"{file.path}: tokenizer.ggml.pre {name!r} is not one of {', '.join(SPLITS)}", _FIX
        )
    split = SPLITS[name]
    ids = {token: index for index, token in enumerate(vocabulary.tokens)}
    merges = [pair for pair in _pairs(file) if _known(pair, ids)]
    tokenizer = Tokenizer(models.BPE(ids, merges, ignore_merges=split.ignore_merges))
    if split.composed:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _pre_tokenizer(split)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, split.bos


def _pairs(file: GgufFile) -> Iterator[tuple[str, str]]:
    """The two parts of each merge. The first may begin with a space."""
    for merge in _list(file, "merges", str):
        at = merge.find(" ", 1)
        if at > 0:
            yield merge[:at], merge[at + 1 :]


def _known(pair: tuple[str, str], ids: dict[str, int]) -> bool:
    """Whether both parts and the whole are tokens; other merges are passed over."""
    return pair[0] in ids and pair[1] in ids and pair[0] + pair[1] in ids


def _pre_tokenizer(split: Split) -> Any:
    steps: list[Any] = [
        pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in split.patterns
    ]
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([*steps, last])


def _add_special(tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    """Add control tokens as special tokens, and user-defined ones (``<think>``) as plain ones. None
    of them is ever split. After those of Phi-3 spaces are dropped."""
    name = str(vocabulary.file.metadata.get("general.name", "")).lower()
    strips = "phi-3" in name or "phi3" in name
    control = [
        AddedToken(
            token,
            normalized=False,
            special=True,
            rstrip=strips and token not in ("<unk>", "<s>", "<|endoftext|>"),
        )
        for token in vocabulary.of_type(CONTROL, UNKNOWN)
    ]
    defined = [
        AddedToken(token, normalized=False, special=False)
        for token in vocabulary.of_type(USER_DEFINED)
    ]
    tokenizer.add_special_tokens(control)
    tokenizer.add_tokens(defined)


def _template(vocabulary: Vocabulary, bos: bool, eos: bool) -> Any:
    """Adds the tokens with which a text begins and ends."""
    found = {
        name: vocabulary.ids[name]
        for name, wanted in (("bos", bos), ("eos", eos))
        if wanted and name in vocabulary.ids
    }
    first = ["bos:0"] if "bos" in found else []
    last = ["eos:0"] if "eos" in found else []
    single = [*first, "$A:0", *last]
    return processors.TemplateProcessing(
        single=single,
        pair=[*single, *(piece.replace(":0", ":1").replace("$A", "$B") for piece in single)],
        special_tokens=[
            {"id": name, "ids": [index], "tokens": [vocabulary.tokens[index]]}
            for name, index in found.items()
        ],
    )


def _sentencepiece(vocabulary: Vocabulary) -> Tokenizer:
    """BPE over characters, with bytes for those that are not tokens. Text begins with a space,
    and does so after each special token, too, unless the file says not to."""
    ids = {token: index for index, token in enumerate(vocabulary.tokens)}
    unknown = vocabulary.tokens[vocabulary.ids["unknown"]]
    merges = _merges_by_score(vocabulary, ids)
    tokenizer = Tokenizer(
        models.BPE(ids, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    prefix = vocabulary.flag("add_space_prefix", True)
    escape = normalizers.Replace(" ", SPACE)
    tokenizer.normalizer = (
        normalizers.Sequence([normalizers.Prepend(SPACE), escape]) if prefix else escape
    )
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    return tokenizer


def _merges_by_score(vocabulary: Vocabulary, ids: dict[str, int]) -> list[tuple[str, str]]:
    """All pairs of tokens that form a token, that of the highest score first, as SentencePiece
    merges them. Of equal scores it takes the leftmost pair, and what begins with a space is most
    often on the left."""
    scores = _list(vocabulary.file, "scores", float, int) or [0.0] * len(ids)
    if len(scores) < len(ids):
        raise ModelError(
            f"{vocabulary.file.path}: there are {len(ids)} tokens but {len(scores)} scores",
            "fetch another file",
        )
    whole = {CONTROL, UNKNOWN, BYTE}  # never found in a text, or never merged
    order = [index for index, kind in enumerate(vocabulary.types) if kind not in whole]
    pairs: list[tuple[str, str]] = []
    spaced = [token.startswith(SPACE) for token in vocabulary.tokens]
    for index in sorted(order, key=lambda index: (-scores[index], not spaced[index])):
        token = vocabulary.tokens[index]
        for at in range(1, len(token)):
            if token[:at] in ids and token[at:] in ids:
                pairs.append((token[:at], token[at:]))
    return pairs
