"""The rollout engine: what prompts have in common is read once, and all rows are decoded together.

Batching is continuous: when a row ends, a waiting row takes its place. The sampler computes the
log-probability of the token that it draws, so no logits are kept after their step. A row's random
numbers come from its own key, so the other rows of its batch change its tokens only through
floating-point rounding. On a GPU the next step is queued before the tokens of the last one are
read, so that neither CPU nor GPU waits.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from azr_mlx.backends.base import OnStep, Sampling
from azr_mlx.backends.detokenize import text_after
from azr_mlx.backends.endings import Ending, Pieces, stop_in
from azr_mlx.backends.kv_places import ArrayLibrary, Places, Window
from azr_mlx.backends.limits import PREFILL_TOKENS, SLACK
from azr_mlx.backends.microbatch import Stage, Tokens, common_length, right_padded
from azr_mlx.backends.sampler import Stream
from azr_mlx.errors import AzrError
from azr_mlx.tasks.thinking import Thoughts
from azr_mlx.types import Completion, Prompt

SHRINK = 0.75  # if a smaller share of places is taken and no row waits, free places are dropped
REFILL = 0.75  # waiting rows are let in when at most this share of places is taken
IDLE = Stream(0, Sampling(1, temperature=0.0))  # what a free place draws, which nobody reads


class RowPlaces(Protocol):
    """The places in which rows are decoded, with what the model remembers of the row in each.
    ``kv_places.Places`` is one for plain keys and values."""

    def reserve(self, tokens: int) -> None:
        """Make room for rows that have read at most this many tokens."""
        ...

    def put(self, places: Sequence[int], sources: Sequence[tuple[int, int]], reading: Any) -> None:
        """Put new rows into ``places``. With (r, n) = ``sources[i]``, the i-th has read the n
        tokens of row r of ``reading``."""
        ...

    def release(self, places: Sequence[int]) -> None:
        """The rows in these places have ended."""
        ...

    def keep(self, places: Sequence[int]) -> None:
        """Keep only these places, in this order."""
        ...

    def open_step(self) -> None: ...

    def close_step(self) -> None: ...


class Decoder(ABC):
    """The model, as the engine uses it. With ``lookahead``, the engine queues a step before it has
    read the tokens of the last one. If rows must be ``alike``, only rows with equal prompts are
    decoded together. ``windows`` has, for each layer, how many tokens it sees."""

    windows: Sequence[Window]
    lookahead: bool
    alike: bool = False

    @property
    @abstractmethod
    def arrays(self) -> ArrayLibrary: ...

    @abstractmethod
    def read(self, stage: Stage, before: Any) -> Any:
        """What the model remembers of a stage that continues ``before``. It is computed on
        return."""

    @abstractmethod
    def step(self, tokens: Any, places: Any, streams: Sequence[Stream]) -> tuple[Any, Any]:
        """(tokens [B], log-probabilities [B]): the next token of every place, after ``tokens``,
        which ``inputs`` made. With ``lookahead`` they may still have to be computed."""

    @abstractmethod
    def chosen(self, pending: Sequence[bool], queued: Any, known: Any) -> Any:
        """[B]: the entries of ``queued`` where ``pending`` is true, of ``known`` elsewhere."""

    # A decoder that keeps more on its device than keys and values has its own version of these.

    def inputs(self, known: Sequence[int], pending: Sequence[bool], queued: Any) -> Any:
        """[B, 1]: the last token of every place. It is one of ``queued``, the tokens of the last
        step (None: there are none), if it has not been read yet, or else it is ``known``."""
        tokens = self.arrays.of(np.array(known, np.int32))
        if queued is not None:
            tokens = self.chosen(pending, queued, tokens)
        return tokens[:, None]

    def places(self, count: int, longest: int, refilled: bool) -> Any:
        """Free ``RowPlaces`` for ``count`` rows of at most ``longest`` tokens. If ``refilled``,
        they are used again."""
        return Places(self.arrays, self.windows, count, longest, refilled)

    def fewer(self, taken: int, count: int) -> int:
        """How many of ``count`` places to go on with when ``taken`` are taken and no row waits."""
        return taken if taken < SHRINK * count else count

    def forget(self) -> None:  # noqa: B027 - most keep nothing
        """Free what is kept on the device between rollouts, because the weights change or its
        memory is needed."""


@dataclass(slots=True)
class _Row:
    """One sequence being decoded."""

    index: int
    prompt: Prompt
    stream: Stream
    ending: Ending
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: str = ""
    drawn: int = 0  # number of tokens drawn, including those that have not been read yet

    @property
    def limit(self) -> int:
        return self.stream.sampling.max_tokens

    @property
    def width(self) -> int:
        """The most tokens whose keys and values the row can hold. Those of the last token are not
        needed."""
        return len(self.prompt.token_ids) + self.limit - 1


class _Drawn(NamedTuple):
    """The tokens and log-probabilities [B] of one step, and the rows that were in the places."""

    rows: list[_Row | None]
    tokens: Any
    logprobs: Any

    def at(self, rows: Sequence[_Row | None]) -> list[bool]:
        """Whether each place still has the row that it had in this step."""
        return [r is not None and r is q for r, q in zip(rows, self.rows, strict=True)]

    def of(self, places: list[int], arrays: ArrayLibrary) -> _Drawn:
        index = arrays.of(np.array(places))
        return _Drawn([self.rows[i] for i in places], self.tokens[index], self.logprobs[index])


class RolloutEngine:
    """Decodes with one model.

    At most ``max_rows`` rows are decoded at once, and fewer if their keys and values would take
    more than ``kv_tokens`` (places times tokens; 0: no bound). ``eos`` are the tokens that end a
    completion (None: the tokenizer's ``eos_token_ids``). ``model_calls`` counts forward passes as
    [prefill, decode], for the metrics and the tests.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Any,
        max_rows: int,
        kv_tokens: int = 0,
        eos: Collection[int] | None = None,
    ):
        self.decoder, self.tokenizer = decoder, tokenizer
        self.max_rows, self.kv_tokens = max_rows, kv_tokens
        self.eos = set(tokenizer.eos_token_ids if eos is None else eos)
        self.model_calls = [0, 0]
        self._pieces = Pieces(tokenizer)
        self._prefixes: dict[str, tuple[Tokens, Any]] = {}

    def forget(self) -> None:
        """Drop the shared beginnings: their keys and values are wrong once the weights change."""
        self._prefixes.clear()
        self.decoder.forget()

    def run(
        self,
        prompts: Sequence[Prompt],
        sampling: Sequence[Sampling],
        keys: Sequence[int],
        on_step: OnStep | None = None,
    ) -> list[Completion]:
        """One completion per prompt, in order; ``on_step`` as in ``Backend.generate``."""
        streams = list(map(Stream, keys, sampling))
        rows = [
            _Row(i, prompt, stream, Ending(self.tokenizer, prompt, self._pieces))
            for i, (prompt, stream) in enumerate(zip(prompts, streams, strict=True))
        ]
        waiting = _longest_first(rows)
        self._read_prefixes(prompts)
        done: dict[int, Completion] = {}
        for group in self._groups(waiting):
            self._decode(group, done, on_step)
        return [done[i] for i in range(len(prompts))]

    # -- decoding ----------------------------------------------------------------------------------

    def _decode(
        self, waiting: list[_Row], done: dict[int, Completion], on_step: OnStep | None
    ) -> None:
        """Decode until no row is left. A row that ends leaves its place in that step. If the next
        step was already queued with it, that step draws one more token for it, which is
        dropped."""
        count = self._place_count(waiting)
        longest = max(len(r.prompt.token_ids) for r in waiting) + max(r.limit for r in waiting) - 1
        decoder = self.decoder
        places = decoder.places(count, longest, refilled=count < len(waiting))
        at: list[_Row | None] = [None] * count
        queued: _Drawn | None = None
        while True:
            taken = sum(row is not None for row in at)
            if waiting and taken <= REFILL * len(at):
                self._admit(waiting, at, places)
            elif not waiting and taken and not _unread(queued, at):
                count = decoder.fewer(taken, len(at))
                if count < len(at):
                    keep = sorted(sorted(range(len(at)), key=lambda i: at[i] is None)[:count])
                    places.keep(keep)
                    at = [at[place] for place in keep]
                    queued = queued and queued.of(keep, decoder.arrays)
            if not any(at) and queued is None:
                return
            drawn = self._step(at, places, queued) if any(at) else None
            if not decoder.lookahead:
                queued = drawn
            if queued is not None:
                ended = self._collect(queued)
                done.update(ended)
                if on_step is not None:
                    on_step(ended)
                for place, row in enumerate(at):
                    if row is not None and row.finish:
                        _release(at, places, place)
            queued = drawn if decoder.lookahead else None

    def _groups(self, waiting: list[_Row]) -> list[list[_Row]]:
        """The rows in groups of which one is decoded after the other."""
        if not self.decoder.alike:
            return [waiting] if waiting else []
        groups: list[list[_Row]] = []
        for row in waiting:
            last = groups[-1] if groups else []
            same = last and last[0].prompt.token_ids == row.prompt.token_ids
            if same and len(last) < self._place_count([*last, row]):
                last.append(row)
            else:
                groups.append([row])
        return groups

    def _place_count(self, waiting: Sequence[_Row]) -> int:
        count = min(self.max_rows, len(waiting))
        if self.kv_tokens:
            longest = max(row.width for row in waiting) + SLACK
            count = min(count, self.kv_tokens // longest)
        return max(count, 1)

    def _step(self, at: list[_Row | None], places: RowPlaces, queued: _Drawn | None) -> _Drawn:
        """Decode one more token for the row in every place."""
        self.model_calls[1] += 1
        streams = [IDLE if row is None else row.stream for row in at]
        places.open_step()
        known = [0 if r is None else (r.tokens or r.prompt.token_ids)[-1] for r in at]
        pending = [False] * len(at) if queued is None else queued.at(at)
        tokens = self.decoder.inputs(known, pending, queued and queued.tokens)
        tokens, logprobs = self.decoder.step(tokens, places, streams)
        places.close_step()
        drawn = _Drawn(list(at), tokens, logprobs)
        for place, row in enumerate(drawn.rows):
            if row is not None:
                row.drawn += 1
                if row.drawn == row.limit:  # its last token, even if it is not read yet
                    _release(at, places, place)
        return drawn

    def _collect(self, drawn: _Drawn) -> list[tuple[int, Completion]]:
        """Give the rows their tokens. Returns (index, completion) of those that have ended."""
        ended = []
        values = zip(drawn.rows, drawn.tokens.tolist(), drawn.logprobs.tolist(), strict=True)
        for row, token, logprob in values:
            if row is None or row.finish:
                continue
            if not math.isfinite(logprob):
                raise AzrError(
                    "rollout: the model's probabilities are not numbers; its weights are damaged, "
                    "or an update was too large: go on from an earlier checkpoint with a lower "
                    "learning_rate"
                )
            row.tokens.append(token)
            row.logprobs.append(logprob)
            row.finish = self._finish(row)
            if row.finish:
                ended.append((row.index, self._completion(row)))
        return ended

    def _finish(self, row: _Row) -> str:
        if row.tokens[-1] in self.eos:
            return "stop"
        if row.ending.reached(row.tokens):
            return "stop"
        return "length" if len(row.tokens) >= row.limit else ""

    def _completion(self, row: _Row) -> Completion:
        ended = row.tokens[-1] in self.eos
        tokens = row.tokens[:-1] if ended else row.tokens
        thought, text = "", text_after(self.tokenizer, row.prompt.token_ids, tokens)
        if row.prompt.chat:
            thought, text = Thoughts(row.prompt.text).split(text)
        text = text[: stop_in(text, row.prompt)]
        drawn = tuple(row.tokens), tuple(row.logprobs)
        return Completion(*drawn, row.finish, row.stream.key, text, thought)

    # -- prefill -----------------------------------------------------------------------------------

    def _admit(self, waiting: list[_Row], at: list[_Row | None], places: RowPlaces) -> None:
        """Put waiting rows into the free places. Each distinct prompt is read once."""
        free = [place for place, row in enumerate(at) if row is None]
        rows = [waiting.pop(0) for _ in free[: len(waiting)]]
        number = dict(zip(free, rows, strict=False))
        places.reserve(max(len(row.prompt.token_ids) - 1 for row in rows))
        for prefix, prompts in self._by_prefix(rows):
            of = {p: [i for i, r in number.items() if r.prompt.token_ids == p] for p in prompts}
            for chunk in _chunks(prompts, 0 if prefix is None else len(prefix[0])):
                reading = self._read(chunk, prefix)
                targets = [(i, (j, len(p) - 1)) for j, p in enumerate(chunk) for i in of[p]]
                places.put([i for i, _ in targets], [source for _, source in targets], reading)
        for place, row in number.items():
            at[place] = row

    def _by_prefix(
        self, rows: Sequence[_Row]
    ) -> list[tuple[tuple[Tokens, Any] | None, list[Tokens]]]:
        """(a shared beginning that has been read, the distinct prompts that continue it) for each
        group of rows. The beginning is None for prompts without one."""
        groups: dict[str, dict[Tokens, None]] = {}
        for row in rows:
            text, ids = row.prompt.text[: row.prompt.prefix], row.prompt.token_ids
            known = self._prefixes.get(text)
            # At least one token must remain: the prompt's last is the input of the first decode
            # step.
            fits = (
                known is not None and len(known[0]) < len(ids) and ids[: len(known[0])] == known[0]
            )
            groups.setdefault(text if fits else "", {})[ids] = None
        return [(self._prefixes.get(text), list(prompts)) for text, prompts in groups.items()]

    def _read_prefixes(self, prompts: Sequence[Prompt]) -> None:
        """Read beginnings that several distinct prompts share, unless they were read before."""
        sharing: dict[str, set[Tokens]] = {}
        for p in prompts:
            if p.prefix:
                sharing.setdefault(p.text[: p.prefix], set()).add(p.token_ids)
        for text, sequences in sharing.items():
            # The last token of the shared text may include what follows it, so tokens are
            # compared, not text.
            common = common_length(min(sequences), max(sequences))
            tokens = min(sequences)[:common]
            known = self._prefixes.get(text, ((), None))[0]
            fits = known and common_length(known, tokens) == len(known)
            if len(sequences) > 1 and common > 1 and not fits:
                self._prefixes[text] = (tokens, self._read([(*tokens, 0)], None))

    def _read(self, prompts: Sequence[Tokens], prefix: tuple[Tokens, Any] | None) -> Any:
        """What the model remembers of prompts, without their last tokens, that continue
        ``prefix``."""
        start, before = (0, None) if prefix is None else (len(prefix[0]), prefix[1])
        rows = [p[start:-1] for p in prompts]
        stage = right_padded(rows, [0] * len(rows))
        read = before
        for at in range(0, max(stage.tokens.shape[1], 1), PREFILL_TOKENS):
            self.model_calls[0] += 1
            part = _columns(stage, at, at + PREFILL_TOKENS, first=at == 0)
            read = self.decoder.read(part, read)
        assert read is not None
        return read


def _longest_first(rows: Sequence[_Row]) -> list[_Row]:
    """The rows, long prompts first, and rows with equal prompts next to each other. Then a later
    row never needs more room than an earlier one, and prompts that are read together have similar
    lengths."""
    first: dict[Tokens, int] = {}
    for row in rows:
        first.setdefault(row.prompt.token_ids, row.index)
    return sorted(
        rows, key=lambda r: (-len(r.prompt.token_ids), first[r.prompt.token_ids], r.index)
    )


def _chunks(prompts: Sequence[Tokens], prefix: int) -> list[list[Tokens]]:
    """The prompts in groups that are read together, as many as PREFILL_TOKENS allow."""
    chunks: list[list[Tokens]] = []
    for prompt in sorted(prompts, key=len, reverse=True):
        if chunks and (len(chunks[-1]) + 1) * (len(chunks[-1][0]) - prefix) <= PREFILL_TOKENS:
            chunks[-1].append(prompt)
        else:
            chunks.append([prompt])
    return chunks


def _columns(stage: Stage, start: int, end: int, first: bool) -> Stage:
    """Columns ``start`` to ``end`` of a long stage. After the first part, each row continues its
    own row of the part before."""
    tokens = stage.tokens[:, start:end]
    parent = stage.parent if first else np.arange(len(stage.parent), dtype=np.int32)
    lengths = np.clip(stage.lengths - start, 0, tokens.shape[1])
    return Stage(tokens, lengths, parent)


def _unread(queued: _Drawn | None, at: Sequence[_Row | None]) -> bool:
    """Whether a row has left its place although its last token has not been read yet."""
    rows = [] if queued is None else queued.rows
    return any(
        q is not None and not q.finish and q is not r for q, r in zip(rows, at, strict=False)
    )


def _release(at: list[_Row | None], places: RowPlaces, place: int) -> None:
    at[place] = None
    places.release([place])
