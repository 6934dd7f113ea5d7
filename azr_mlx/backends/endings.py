"""Where a completion ends, besides its limit and the tokens that end a turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from azr_mlx.backends.detokenize import Decodes
from azr_mlx.tasks.fences import is_open
from azr_mlx.tasks.thinking import LONGEST, Mark, Thoughts
from azr_mlx.types import Prompt

_FENCES = ("```", "~~~")
_SLACK = 4  # the blank that the first token of a text may lose is before the last tokens


def stop_in(text: str, prompt: Prompt) -> int | None:
    """Where the first stop string begins in a completion's text, its thoughts left out; None if it
    has none. In a chat, one that is a fence counts only as the end of a block: the fence that
    begins a block without a label looks the same."""
    found = (at for stop in prompt.stop if (at := _first(text, stop, prompt.chat)) >= 0)
    return min(found, default=None)


def _first(text: str, stop: str, chat: bool) -> int:
    at = text.find(stop)
    while at >= 0 and chat and stop.strip() in _FENCES and not is_open(text[:at]):
        at = text.find(stop, at + 1)
    return at


class Pieces:
    """The texts of single tokens, which are decoded once only: to decode the last tokens of every
    row in every step takes most of the time that a step has on the host."""

    def __init__(self, tokenizer: Decodes) -> None:
        self._tokenizer = tokenizer
        self._found: dict[int, str | None] = {}
        # Such a tokenizer removes blanks between tokens.
        self._changes_blanks = bool(getattr(tokenizer, "clean_up_tokenization_spaces", False))

    def of(self, token: int) -> str | None:
        """The token's text; None if it has another one after other tokens."""
        if token not in self._found:
            one, two = (self._tokenizer.decode([token] * n) for n in (1, 2))
            alike = two == one + one and not self._changes_blanks
            self._found[token] = one if alike else None
        return self._found[token]


class Ending:
    """Finds the token by which a completion has its stop string. A thought has none.

    The endings of several completions can share ``pieces``.
    """

    def __init__(self, tokenizer: Decodes, prompt: Prompt, pieces: Pieces | None = None) -> None:
        self._tokenizer, self._prompt = tokenizer, prompt
        self._longest = max((len(text.encode()) for text in prompt.stop), default=0)
        self._pieces = pieces or Pieces(tokenizer)
        # The last tokens' texts, as many as ``reached`` decodes. In characters of several bytes
        # they say nothing: such a character can be more than one token.
        self._last: deque[str | None] = deque(maxlen=self._longest + _SLACK)
        self._ascii = all(text.isascii() for text in prompt.stop)
        self._thoughts = Thoughts(prompt.text) if prompt.chat else None
        self._mark: Mark | None = None if self._thoughts is None else self._thoughts.opened
        # The current thought, or the answer, begins with this text and goes on with this token.
        self._begins, self._from = "", 0

    def reached(self, tokens: Sequence[int]) -> bool:
        """Whether a stop string is complete, with the last one of ``tokens``. It is asked for each
        token in turn."""
        if not self._longest:
            return False
        self._last.append(self._pieces.of(tokens[-1]))
        if self._thoughts is None and not self._may_end():
            return False
        if self._thoughts is not None and not self._answers(tokens, self._thoughts):
            return False
        # Each token is at least one byte, so these last tokens contain any stop string that has
        # just been completed.
        tail = self._tail(tokens, self._longest)
        if not any(text in tail for text in self._prompt.stop):
            return False
        return stop_in(self._tail(tokens, len(tokens)), self._prompt) is not None

    def _may_end(self) -> bool:
        """Whether the last tokens may contain a stop string, by their texts alone."""
        if not self._ascii or None in self._last:
            return True
        text = "".join(filter(None, self._last))
        return any(stop in text for stop in self._prompt.stop)

    def _answers(self, tokens: Sequence[int], thoughts: Thoughts) -> bool:
        """Whether the last token is one of the answer."""
        if self._mark is None:
            begun = self._tail(tokens, LONGEST)
            self._mark = thoughts.begun(begun)
            if self._mark is None and not thoughts.may_begin(begun):
                self._thoughts = None
                return True
        if self._mark is None:
            return False
        mark = self._mark.end
        _, end, rest = self._tail(tokens, len(mark.encode())).partition(mark)
        if not end:
            return False
        self._mark, self._begins, self._from = None, rest, len(tokens)
        return self._answers(tokens, thoughts)

    def _tail(self, tokens: Sequence[int], count: int) -> str:
        start = len(tokens) - count - _SLACK
        if start > self._from:
            return self._tokenizer.decode(tokens[start:])
        return self._begins + self._tokenizer.decode(tokens[self._from :])
