"""The rollout engine: what prompts have in common is read once, and all rows are decoded together.

Continuous batching: a finished row's place goes to a waiting one. The chosen token's
log-probability is taken in the sampler, so no row of the vocabulary outlives its step. A row's
random numbers come from its own key, so its tokens depend on the batch it shares only through
floating-point rounding.
On a GPU the next step is queued before the last one's tokens are read, so that neither waits.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from azr_mlx.backends.base import OnStep, Sampling
from azr_mlx.backends.kv_places import ArrayLibrary, Past, Places
from azr_mlx.backends.limits import PREFILL_TOKENS, SLACK
from azr_mlx.backends.microbatch import Stage, Tokens, common_length, right_padded
from azr_mlx.backends.sampler import Stream
from azr_mlx.types import Completion, Prompt

SHRINK = 0.75  # if fewer of the places are taken and no row waits, the free ones are given up
REFILL = 0.75  # if no more of the places are taken, waiting rows are let in


class Read(Protocol):
    """What reading some tokens leaves: each layer's keys and values, also of what came before."""

    @property
    def layers(self) -> Sequence[Any]: ...


class Decoder(Protocol):
    """A model as the engine drives it. ``lookahead``: a step can be queued before the last one's
    tokens are read, so it should be."""

    depth: int
    lookahead: bool

    @property
    def arrays(self) -> ArrayLibrary: ...

    def read(self, stage: Stage, before: Any) -> Read:
        """Keys and values of a stage behind another; they are computed when it returns."""
        ...

    def step(self, tokens: Any, places: Places, streams: Sequence[Stream]) -> tuple[Any, Any]:
        """(tokens [B], log-probabilities [B]): the next of every place, after ``tokens`` [B, 1].
        With a lookahead they need not be computed yet."""
        ...

    def chosen(self, pending: Sequence[bool], queued: Any, known: Any) -> Any:
        """[B]: an entry of ``queued`` if it is pending, else of ``known``."""
        ...


@dataclass(slots=True)
class _Row:
    """One sequence being decoded."""

    index: int
    prompt: Prompt
    stream: Stream
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: str = ""
    drawn: int = 0  # tokens, including those that have not been read yet

    @property
    def limit(self) -> int:
        return self.stream.sampling.max_tokens

    @property
    def width(self) -> int:
        """Tokens whose keys and values the row may come to hold: not the last one's."""
        return len(self.prompt.token_ids) + self.limit - 1


class _Drawn(NamedTuple):
    """A step's tokens and log-probabilities [B], and the row of each place at the time."""

    rows: list[_Row | None]
    tokens: Any
    logprobs: Any

    def of(self, places: list[int], arrays: ArrayLibrary) -> _Drawn:
        index = arrays.of(np.array(places))
        return _Drawn([self.rows[i] for i in places], self.tokens[index], self.logprobs[index])


class RolloutEngine:
    """Decodes with one model.

    ``max_rows`` are decoded at once, within ``kv_tokens`` (places times tokens; 0: no bound)
    hold their keys and values. ``eos`` are the tokens that end a completion; without them, the
    tokenizer's ``eos_token_ids``. ``model_calls`` counts forward passes as [prefill, decode], for
    the metrics and the tests.
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
        self._prefixes: dict[str, tuple[Tokens, Read]] = {}

    def forget(self) -> None:
        """Drop the beginnings that were kept: they belong to weights that are about to change."""
        self._prefixes.clear()

    def run(
        self,
        prompts: Sequence[Prompt],
        sampling: Sequence[Sampling],
        keys: Sequence[int],
        on_step: OnStep | None = None,
    ) -> list[Completion]:
        """One completion per prompt, in order; ``on_step`` as in ``Backend.generate``."""
        rows = [
            _Row(i, *row)
            for i, row in enumerate(zip(prompts, map(Stream, keys, sampling), strict=True))
        ]
        waiting = _longest_first(rows)
        self._read_prefixes(prompts)
        done: dict[int, Completion] = {}
        if waiting:
            self._decode(waiting, done, on_step)
        return [done[i] for i in range(len(prompts))]

    # -- decoding ----------------------------------------------------------------------------------

    def _decode(
        self, waiting: list[_Row], done: dict[int, Completion], on_step: OnStep | None
    ) -> None:
        """Rows that end leave in the step that ends them. A queued step may hold rows that have
        ended meanwhile: it gives them one token too many, which is dropped."""
        count = self._place_count(waiting)
        longest = max(len(r.prompt.token_ids) for r in waiting) + max(r.limit for r in waiting) - 1
        decoder, refilled = self.decoder, count < len(waiting)
        places = Places(decoder.arrays, decoder.depth, count, longest, refilled)
        at: list[_Row | None] = [None] * count
        queued: _Drawn | None = None
        while True:
            taken = sum(row is not None for row in at)
            if waiting and taken <= REFILL * len(at):
                self._admit(waiting, at, places)
            elif not waiting and 0 < taken < SHRINK * len(at) and not _unread(queued, at):
                keep = [place for place, row in enumerate(at) if row is not None]
                places.keep(keep)
                at, queued = (
                    [at[place] for place in keep],
                    queued and queued.of(keep, decoder.arrays),
                )
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

    def _place_count(self, waiting: Sequence[_Row]) -> int:
        count = min(self.max_rows, len(waiting))
        if self.kv_tokens:
            longest = max(row.width for row in waiting) + SLACK
            count = min(count, self.kv_tokens // longest)
        return max(count, 1)

    def _step(self, at: list[_Row | None], places: Places, queued: _Drawn | None) -> _Drawn:
        """Decode one more token for the row in every place."""
        self.model_calls[1] += 1
        idle = Stream(0, Sampling(1, temperature=0.0))
        streams = [idle if row is None else row.stream for row in at]
        places.open_step()
        tokens, logprobs = self.decoder.step(self._inputs(at, queued), places, streams)
        places.close_step()
        drawn = _Drawn(list(at), tokens, logprobs)
        for place, row in enumerate(drawn.rows):
            if row is not None:
                row.drawn += 1
                if row.drawn == row.limit:  # its last token, whatever it is
                    _release(at, places, place)
        return drawn

    def _inputs(self, at: list[_Row | None], queued: _Drawn | None) -> Any:
        """[B, 1]: each row's last token, from the queued step if that has not been read yet."""
        known = [0 if r is None else (r.tokens or r.prompt.token_ids)[-1] for r in at]
        tokens = self.decoder.arrays.of(np.array(known, np.int32))
        if queued is not None:
            pending = [r is not None and r is q for r, q in zip(at, queued.rows, strict=True)]
            tokens = self.decoder.chosen(pending, queued.tokens, tokens)
        return tokens[:, None]

    def _collect(self, drawn: _Drawn) -> list[tuple[int, Completion]]:
        """Give the rows their tokens; what has ended comes back as a completion."""
        ended = []
        values = zip(drawn.rows, drawn.tokens.tolist(), drawn.logprobs.tolist(), strict=True)
        for row, token, logprob in values:
            if row is None or row.finish:
                continue
            row.tokens.append(token)
            row.logprobs.append(logprob)
            row.finish = self._finish(row)
            if row.finish:
                ended.append((row.index, self._completion(row)))
        return ended

    def _finish(self, row: _Row) -> str:
        if row.tokens[-1] in self.eos:
            return "stop"
        stop = row.prompt.stop
        if stop:
            # A token is at least one byte: the last tokens cover any stop string that has just
            # ended.
            width = max(len(s.encode()) for s in stop) + 4
            tail = self.tokenizer.decode(row.tokens[-width:])
            if any(s in tail for s in stop):
                return "stop"
        return "length" if len(row.tokens) >= row.limit else ""

    def _completion(self, row: _Row) -> Completion:
        ended = row.tokens[-1] in self.eos
        text = self.tokenizer.decode(row.tokens[:-1] if ended else row.tokens)
        cuts = [at for s in row.prompt.stop if (at := text.find(s)) >= 0]
        text = text[: min(cuts)] if cuts else text
        return Completion(tuple(row.tokens), tuple(row.logprobs), row.finish, row.stream.key, text)

    # -- prefill -----------------------------------------------------------------------------------

    def _admit(self, waiting: list[_Row], at: list[_Row | None], places: Places) -> None:
        """Waiting rows into the free places, their distinct prompts read once each."""
        free = [place for place, row in enumerate(at) if row is None]
        rows = [waiting.pop(0) for _ in free[: len(waiting)]]
        number = dict(zip(free, rows, strict=False))
        places.reserve(max(len(row.prompt.token_ids) - 1 for row in rows))
        for prefix, prompts in self._by_prefix(rows):
            of = {p: [i for i, r in number.items() if r.prompt.token_ids == p] for p in prompts}
            for chunk in _chunks(prompts, 0 if prefix is None else len(prefix[0])):
                reading = self._read(chunk, prefix)
                past = [Past(layer.keys, layer.values) for layer in reading.layers]
                targets = [(i, (j, len(p) - 1)) for j, p in enumerate(chunk) for i in of[p]]
                places.put([i for i, _ in targets], [source for _, source in targets], past)
        for place, row in number.items():
            at[place] = row

    def _by_prefix(
        self, rows: Sequence[_Row]
    ) -> list[tuple[tuple[Tokens, Read] | None, list[Tokens]]]:
        """(the beginning that has been read, distinct prompts that continue it)."""
        groups: dict[str, dict[Tokens, None]] = {}
        for row in rows:
            text, ids = row.prompt.text[: row.prompt.prefix], row.prompt.token_ids
            known = self._prefixes.get(text)
            # The prompt's last token is the first decode step's input.
            fits = (
                known is not None and len(known[0]) < len(ids) and ids[: len(known[0])] == known[0]
            )
            groups.setdefault(text if fits else "", {})[ids] = None
        return [(self._prefixes.get(text), list(prompts)) for text, prompts in groups.items()]

    def _read_prefixes(self, prompts: Sequence[Prompt]) -> None:
        """Read the text that several distinct prompts declare to share, unless it is known."""
        sharing: dict[str, set[Tokens]] = {}
        for p in prompts:
            if p.prefix:
                sharing.setdefault(p.text[: p.prefix], set()).add(p.token_ids)
        for text, sequences in sharing.items():
            # The last token may merge with what follows it, hence the comparison of tokens, not of
            # text.
            common = common_length(min(sequences), max(sequences))
            tokens = min(sequences)[:common]
            known = self._prefixes.get(text, ((), None))[0]
            fits = known and common_length(known, tokens) == len(known)
            if len(sequences) > 1 and common > 1 and not fits:
                self._prefixes[text] = (tokens, self._read([(*tokens, 0)], None))

    def _read(self, prompts: Sequence[Tokens], prefix: tuple[Tokens, Read] | None) -> Read:
        """Keys and values of prompts (without their last tokens), behind their common beginning."""
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
    """Rows with equal prompts side by side, long prompts first: a later row then fits behind none
    that is longer, and prompts that are read together are of similar length."""
    first: dict[Tokens, int] = {}
    for row in rows:
        first.setdefault(row.prompt.token_ids, row.index)
    return sorted(
        rows, key=lambda r: (-len(r.prompt.token_ids), first[r.prompt.token_ids], r.index)
    )


def _chunks(prompts: Sequence[Tokens], prefix: int) -> list[list[Tokens]]:
    """Prompts that are read together: as many as PREFILL_TOKENS allow."""
    chunks: list[list[Tokens]] = []
    for prompt in sorted(prompts, key=len, reverse=True):
        if chunks and (len(chunks[-1]) + 1) * (len(chunks[-1][0]) - prefix) <= PREFILL_TOKENS:
            chunks[-1].append(prompt)
        else:
            chunks.append([prompt])
    return chunks


def _columns(stage: Stage, start: int, end: int, first: bool) -> Stage:
    """A part of a long stage; parts after the first continue their own rows."""
    tokens = stage.tokens[:, start:end]
    parent = stage.parent if first else np.arange(len(stage.parent), dtype=np.int32)
    lengths = np.clip(stage.lengths - start, 0, tokens.shape[1])
    return Stage(tokens, lengths, parent)


def _unread(queued: _Drawn | None, at: Sequence[_Row | None]) -> bool:
    """Whether a row that has left its place still waits for its last token."""
    rows = [] if queued is None else queued.rows
    return any(
        q is not None and not q.finish and q is not r for q, r in zip(rows, at, strict=False)
    )


def _release(at: list[_Row | None], places: Places, place: int) -> None:
    at[place] = None
    places.release([place])
