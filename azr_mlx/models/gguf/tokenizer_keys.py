"""The metadata of a tokenizer: the reverse of ``tokenizer``, from Hugging Face's tokenizer.json."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from azr_mlx.errors import ModelUsageError
from azr_mlx.models.gguf.splits import GPT2, split_name
from azr_mlx.models.gguf.tokenizer import (
    BYTE,
    CONTROL,
    NORMAL,
    SPACE,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
)
from azr_mlx.models.gguf.turn_texts import turn_texts
from azr_mlx.tasks.chat import template_of

_BYTE_NAME = re.compile(r"<0x[0-9A-F]{2}>")
_PREFIX = "tokenizer.ggml."


def tokenizer_keys(tokenizer: Any, rows: int) -> dict[str, Any]:
    """The metadata of a tokenizer of transformers, for an embedding of ``rows`` rows: a token for
    each. Raises ModelUsageError if llama.cpp has no such tokenizer."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    made = json.loads(backend.to_str()) if backend is not None else {}
    model = made.get("model") or {}
    if model.get("type") != "BPE":
        raise _unknown(f"is {model.get('type', 'not a fast one')}, not BPE")
    # The smallest Gemma 3 has a special token for images, which only the larger ones see: no row of
    # the embedding, and no text that makes it.
    there = (t for t in made.get("added_tokens") or () if t["id"] < rows or not t.get("special"))
    added = {token["id"]: token for token in there}
    names = {index: name for name, index in model["vocab"].items()}
    most = max((*names, *added)) + 1
    if most > rows:
        raise _unknown(f"has {most} tokens, and the model's embedding {rows} rows")
    pieces = bool(model.get("byte_fallback"))
    kinds = dict(_kinds(names, added, getattr(tokenizer, "unk_token", None), pieces))
    texts = {**names, **{index: token["content"] for index, token in added.items()}}
    keys = {
        **(_piece_keys(made, texts, rows) if pieces else _byte_level_keys(made)),
        "tokens": [texts.get(index, f"[PAD{index}]") for index in range(rows)],
        "token_type": [kinds.get(index, UNUSED) for index in range(rows)],
        **_special_ids(tokenizer, texts, kinds),
    }
    found = {f"{_PREFIX}{name}": value for name, value in keys.items()}
    template = template_of(tokenizer)
    return {**found, "tokenizer.chat_template": template} if template else found


def check_same_tokens(tokenizer: Any, other: Any, texts: tuple[str, ...]) -> None:
    """Raise ModelUsageError if the two split one of the texts differently. ``other`` is a
    ``tokenizers.Tokenizer``."""
    for text in texts:
        if list(tokenizer.encode(text)) != other.encode(text).ids:
            raise _unknown(f"splits {text[:40]!r} in a way of its own")


def _unknown(why: str) -> ModelUsageError:
    return ModelUsageError(
        f"the model's tokenizer cannot be written as GGUF: it {why}", "use --to hf or --to mlx"
    )


def _kinds(
    names: dict[int, str], added: dict[int, Any], unknown: str | None, pieces: bool
) -> Iterator[tuple[int, int]]:
    """(id, type) of each token."""
    for index, name in names.items():
        yield index, BYTE if pieces and _BYTE_NAME.fullmatch(name) else NORMAL
    for index, token in added.items():
        yield index, CONTROL if token["special"] else USER_DEFINED
    for index, name in names.items():
        if pieces and name == unknown:
            yield index, UNKNOWN


def _special_ids(tokenizer: Any, texts: dict[int, str], kinds: dict[int, int]) -> dict[str, Any]:
    """The ids of special tokens, and which of them begin and end each text."""
    names = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
    ids = {name: getattr(tokenizer, f"{own}_token_id") for name, own in names.items()}
    if ids["eos"] is None:
        raise _unknown("has no token that ends a text (eos_token)")
    ids["eot"] = _turn_end(tokenizer, {texts[i]: i for i, kind in kinds.items() if kind == CONTROL})
    text = tokenizer.encode("a")
    return {
        **{f"{name}_token_id": index for name, index in ids.items() if index is not None},
        "add_bos_token": ids["bos"] is not None and text[0] == ids["bos"],
        "add_eos_token": text[-1] == ids["eos"],
    }


def _turn_end(tokenizer: Any, control: dict[str, int]) -> int | None:
    """The first control token after an answer; None if there is none."""
    texts = turn_texts(tokenizer)
    after = texts.answer[1] if texts else ""
    places = {after.find(name): index for name, index in control.items() if name in after}
    return places[min(places)] if places else None


def _merges(made: dict[str, Any]) -> list[list[str]]:
    """The two parts of each merge."""
    merges = made["model"]["merges"]
    return [merge.split(" ", 1) if isinstance(merge, str) else list(merge) for merge in merges]


def _steps(made: dict[str, Any], name: str, inner: str) -> Iterator[dict[str, Any]]:
    """The steps of a part of tokenizer.json, with those in a sequence one by one."""
    part = made.get(name)
    steps = [] if part is None else part[inner] if part["type"] == "Sequence" else [part]
    yield from steps


def _byte_level_keys(made: dict[str, Any]) -> dict[str, Any]:
    composed = False
    for step in _steps(made, "normalizer", "normalizers"):
        if step["type"] != "NFC":
            raise _unknown(f"changes texts by {step['type']}")
        composed = True
    steps = list(_steps(made, "pre_tokenizer", "pretokenizers"))
    if not any(step["type"] == "ByteLevel" for step in steps):
        raise _unknown("has neither bytes for tokens nor bytes to fall back on")
    patterns = tuple(pattern for step in steps for pattern in _patterns(step))
    ignore = bool(made["model"].get("ignore_merges"))
    name = split_name(patterns, ignore, composed)
    if name is None:
        raise _unknown("splits texts in a way that has no name in llama.cpp (tokenizer.ggml.pre)")
    merges = [" ".join(pair) for pair in _merges(made)]
    if not merges:
        raise _unknown("has no merges, and llama.cpp reads none without")
    return {"model": "gpt2", "pre": name, "merges": merges}


def _patterns(step: dict[str, Any]) -> list[str]:
    """The patterns that a step splits off, as they are in ``splits``."""
    kind = step["type"]
    if kind == "ByteLevel" and not step.get("add_prefix_space"):
        return [GPT2] if step.get("use_regex", True) else []
    if kind == "Digits":
        return [r"\p{N}" if step["individual_digits"] else r"\p{N}+"]
    if kind == "Split" and (step["behavior"], step["invert"]) in (
        ("Isolated", False),
        ("Removed", True),  # the same if the pattern leaves nothing out
    ):
        ((how, text),) = step["pattern"].items()
        return [text if how == "Regex" else re.escape(text)]
    raise _unknown(f"splits texts by {kind} in a way that llama.cpp does not know")


def _piece_keys(made: dict[str, Any], texts: dict[int, str], rows: int) -> dict[str, Any]:
    """SentencePiece's: llama.cpp merges the neighbours that form the token of the highest score."""
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(_merges(made)):
        ranks.setdefault(left + right, rank)
    scores = [-float(ranks.get(texts.get(index, ""), 0)) for index in range(rows)]
    return {"model": "llama", "scores": scores, "add_space_prefix": _prefixed(made)}


def _prefixed(made: dict[str, Any]) -> bool:
    """Whether a text begins with a space that is not its own."""
    prefixed = False
    for step in _steps(made, "normalizer", "normalizers"):
        if step["type"] == "Prepend" and step["prepend"] == SPACE:
            prefixed = True
        elif step["type"] != "Replace" or (step["pattern"], step["content"]) != (
            {"String": " "},
            SPACE,
        ):
            raise _unknown(f"changes texts by {step['type']}")
    for step in _steps(made, "pre_tokenizer", "pretokenizers"):
        if step["type"] == "Metaspace" and not step.get("split", True):
            prefixed = prefixed or step["prepend_scheme"] != "never"
        elif step["type"] != "Split" or step["pattern"] != {"String": " "}:  # no space is left
            raise _unknown(f"splits texts by {step['type']} in a way that llama.cpp does not know")
    return prefixed
