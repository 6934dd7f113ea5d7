"""The text of tokens that follow others.

A tokenizer of the SentencePiece family drops the blank that begins a text. A completion that is
decoded without its prompt would lose a blank of its indentation, and would not be Python any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from azr_mlx.backends.microbatch import common_length

_INCOMPLETE = "\ufffd"  # what a character decodes to if some of its bytes are still to come


class Decodes(Protocol):
    def decode(self, token_ids: Sequence[int]) -> str: ...


def text_after(tokenizer: Decodes, before: Sequence[int], tokens: Sequence[int]) -> str:
    """What ``tokens`` add to the text of the tokens ``before``."""
    known = tokenizer.decode(before)
    return _added(known, tokenizer.decode([*before, *tokens]))


def _added(known: str, text: str) -> str:
    # A prompt that ends within a character has other text before the bytes that complete it.
    return text[len(known) if text.startswith(known) else common_length(known, text) :]


class TextStream:
    """The text of tokens that come one by one after the tokens ``before``.

    Each token is decoded together with those before it, back to the last one that was shown. The
    bytes of a character are held back until it is complete.
    """

    def __init__(self, tokenizer: Decodes, before: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._tokens = list(before)  # from the beginning of the last text that was shown
        self._shown = len(self._tokens)

    def add(self, token: int) -> str:
        """The text that this token completes, which may be empty."""
        self._tokens.append(token)
        text = self._tokenizer.decode(self._tokens)
        if text.endswith(_INCOMPLETE):
            return ""
        known = self._tokenizer.decode(self._tokens[: self._shown])
        del self._tokens[: self._shown]
        self._shown = len(self._tokens)
        return _added(known, text)

    def rest(self) -> str:
        """What was held back, at the end."""
        return text_after(self._tokenizer, self._tokens[: self._shown], self._tokens[self._shown :])
