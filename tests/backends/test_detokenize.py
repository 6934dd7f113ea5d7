"""The text of tokens that continue a prompt: every blank, every character, with each family of
tokenizers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from azr_mlx.backends.detokenize import TextStream, text_after

pytestmark = pytest.mark.pure

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
PIECES = ["▁", "▁▁", "▁▁▁▁", *"defxyrtun():\n.,", "de", "def", "▁def", "ret", "▁ret", "urn", "é"]
TEXTS = [
    "    return x",
    " return\n  x",
    "  def x():\n    return y",
    "x é  ü 🤷🏽‍♀️ 漢字 end",
    "👩‍👩‍👧 ",
    "\n\n    return 'naïve'\n",
    "",
]
PROMPTS = ["def x():\n", "x", "  ", "ends with é", "🤷", "a: ", "\n", ""]


def sentencepiece_bpe() -> Tokenizer:
    """As Llama 2, TinyLlama and Mistral have it: byte fallback, and a blank before every text."""
    tokens = ["<unk>", "<s>", "</s>", *BYTES, *PIECES]
    merges = [("▁", "▁"), ("▁▁", "▁▁"), ("d", "e"), ("de", "f"), ("▁", "def")]
    model = models.BPE(
        {token: i for i, token in enumerate(tokens)},
        merges,
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


def sentencepiece_unigram() -> Tokenizer:
    scores = [("<unk>", 0.0), *((byte, -9.0) for byte in BYTES)]
    scores += [(piece, -8.0 / len(piece)) for piece in PIECES]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(split=False)]
    )
    return tokenizer


def byte_level() -> Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@pytest.fixture(params=[sentencepiece_bpe, sentencepiece_unigram, byte_level])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    build: Callable[[], Tokenizer] = request.param
    return build()


def completion(tokenizer: Tokenizer, text: str) -> list[int]:
    """The tokens with which a model would continue a prompt with ``text``."""
    anchor = tokenizer.encode("x").ids
    ids = tokenizer.encode("x" + text).ids
    assert ids[: len(anchor)] == anchor
    return ids[len(anchor) :]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_no_blank_and_no_character_is_lost(tokenizer: Tokenizer, prompt: str, text: str) -> None:
    before, tokens = tokenizer.encode(prompt).ids, completion(tokenizer, text)
    whole = text_after(tokenizer, before, tokens)
    if before:
        assert whole == text
    stream = TextStream(tokenizer, before)
    pieces = [stream.add(token) for token in tokens]
    assert "".join(pieces) + stream.rest() == whole
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_character_that_stays_incomplete_is_shown_at_the_end(tokenizer: Tokenizer) -> None:
    before, tokens = tokenizer.encode("x").ids, completion(tokenizer, "y🤷")[:-1]
    stream = TextStream(tokenizer, before)
    assert "".join(map(stream.add, tokens)) == "y"
    assert set(stream.rest()) == {"\ufffd"}
    assert text_after(tokenizer, before, tokens).rstrip("\ufffd") == "y"


def test_a_prompt_that_ends_within_a_character(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("x🤷 y").ids
    at = len(tokenizer.encode("x").ids) + 2  # two of the four bytes
    assert text_after(tokenizer, ids[:at], ids[at:]).endswith("🤷 y")
    assert "".join(map(TextStream(tokenizer, ids[:at]).add, ids[at:])).endswith("🤷 y")
