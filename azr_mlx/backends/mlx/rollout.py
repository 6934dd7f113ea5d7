"""The rollout engine: each distinct prompt is prefilled once, and all rows are decoded together.

Continuous batching: finished rows leave, waiting rows take their places. The chosen token's
log-probability is taken in the sampler, so no row of the vocabulary outlives its step. A row's
random numbers come from its own key, so its tokens depend on the batch it shares only through
floating-point rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.cache import make_prompt_cache

from azr_mlx import rng
from azr_mlx.backends.base import OnStep, Sampling
from azr_mlx.types import Completion, Prompt

Cache = list[Any]


@dataclass(slots=True)
class _Row:
    """One sequence being decoded."""

    index: int
    prompt: Prompt
    sampling: Sampling
    key: int
    uniforms: np.ndarray
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: str = ""

    @property
    def last(self) -> int:
        return self.tokens[-1] if self.tokens else self.prompt.token_ids[-1]


class RolloutEngine:
    """Decodes with one model; holds no state between calls.

    ``model_calls`` counts forward passes as (prefill, decode), for the metrics and the tests.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, max_rows: int, prefill_chunk: int = 512):
        self.model, self.tokenizer = model, tokenizer
        self.max_rows, self.prefill_chunk = max_rows, prefill_chunk
        self.eos = set(tokenizer.eos_token_ids)
        self.model_calls = [0, 0]

    def run(
        self,
        prompts: Sequence[Prompt],
        sampling: Sequence[Sampling],
        keys: Sequence[int],
        on_step: OnStep | None = None,
    ) -> list[Completion]:
        """One completion per prompt, in order; ``on_step`` as in ``Backend.generate``."""
        waiting = self._grouped(prompts, sampling, keys)
        prefixes = self._prefill_prefixes(prompts)
        active: list[_Row] = []
        cache: Cache = []
        done: dict[int, Completion] = {}
        while waiting or active:
            if waiting and len(active) <= self.max_rows // 2:
                rows, waiting = self._admit(waiting, self.max_rows - len(active))
                cache = _extended(cache, self._prefill(rows, prefixes))
                active += rows
            self._step(active, cache)
            ended = [(row.index, self._completion(row)) for row in active if row.finish]
            if on_step is not None:
                on_step(ended)
            if ended:
                done.update(ended)
                keep = [i for i, row in enumerate(active) if not row.finish]
                active = [active[i] for i in keep]
                cache = _filtered(cache, keep)
        return [done[i] for i in range(len(prompts))]

    def _grouped(
        self, prompts: Sequence[Prompt], sampling: Sequence[Sampling], keys: Sequence[int]
    ) -> list[_Row]:
        """Rows with equal prompts side by side, so that admission prefills them once."""
        first: dict[tuple[int, ...], int] = {}
        for i, p in enumerate(prompts):
            first.setdefault(p.token_ids, i)
        order = sorted(range(len(prompts)), key=lambda i: (first[prompts[i].token_ids], i))
        return [
            _Row(i, prompts[i], sampling[i], keys[i], rng.uniforms(keys[i], sampling[i].max_tokens))
            for i in order
        ]

    @staticmethod
    def _admit(waiting: list[_Row], places: int) -> tuple[list[_Row], list[_Row]]:
        return waiting[:places], waiting[places:]

    # -- prefill -----------------------------------------------------------------------------------

    def _prefill_prefixes(
        self, prompts: Sequence[Prompt]
    ) -> dict[str, tuple[tuple[int, ...], Cache]]:
        """Caches of the text that several distinct prompts declare to share, by that text."""
        sharing: dict[str, set[tuple[int, ...]]] = {}
        for p in prompts:
            if p.prefix:
                sharing.setdefault(p.text[: p.prefix], set()).add(p.token_ids)
        shared = {}
        for text, sequences in sharing.items():
            common = _common_prefix(sequences)
            if len(sequences) > 1 and len(common) > 1:
                # The last token may merge with what follows it, hence the comparison of tokens, not
                # of text.
                shared[text] = (common, self._extend_cache(make_prompt_cache(self.model), common))
        return shared

    def _prefill(
        self, rows: list[_Row], prefixes: dict[str, tuple[tuple[int, ...], Cache]]
    ) -> Cache:
        """A batched cache for the rows: every distinct prompt's, without its last token."""
        caches: dict[tuple[int, ...], Cache] = {}
        for row in rows:
            ids = row.prompt.token_ids
            if ids in caches:
                continue
            start, cache = prefixes.get(row.prompt.text[: row.prompt.prefix], ((), None))
            # The last prompt token is the first decode step's input.
            if cache is None or len(start) >= len(ids):
                start, cache = (), make_prompt_cache(self.model)
            else:
                cache = copy.deepcopy(cache)
            caches[ids] = self._extend_cache(cache, ids[len(start) : -1])
        per_row = [caches[row.prompt.token_ids] for row in rows]
        return [layers[0].merge(list(layers)) for layers in zip(*per_row, strict=True)]

    def _extend_cache(self, cache: Cache, tokens: tuple[int, ...]) -> Cache:
        for at in range(0, len(tokens), self.prefill_chunk):
            chunk = mx.array(tokens[at : at + self.prefill_chunk])[None]
            self.model_calls[0] += 1
            self.model(chunk, cache=cache)
            mx.eval([c.state for c in cache])  # the chunk's activations end here
        return cache

    # -- decode ------------------------------------------------------------------------------------

    def _step(self, rows: list[_Row], cache: Cache) -> None:
        """One token for every row."""
        self.model_calls[1] += 1
        logits = self.model(mx.array([[row.last] for row in rows]), cache=cache)[:, -1]
        tokens, logprobs = sample(
            logits,
            np.array([r.sampling.temperature for r in rows], np.float32),
            np.array([r.sampling.top_p for r in rows], np.float32),
            np.array([r.uniforms[len(r.tokens)] for r in rows], np.float32),
        )
        mx.eval(tokens, logprobs)  # one synchronisation per decoded token
        for row, token, logprob in zip(rows, tokens.tolist(), logprobs.tolist(), strict=True):
            row.tokens.append(token)
            row.logprobs.append(logprob)
            row.finish = self._finish(row)

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
        return "length" if len(row.tokens) >= row.sampling.max_tokens else ""

    def _completion(self, row: _Row) -> Completion:
        ended = row.tokens[-1] in self.eos
        text = self.tokenizer.decode(row.tokens[:-1] if ended else row.tokens)
        cuts = [at for s in row.prompt.stop if (at := text.find(s)) >= 0]
        text = text[: min(cuts)] if cuts else text
        return Completion(tuple(row.tokens), tuple(row.logprobs), row.finish, row.key, text)


def sample(
    logits: mx.array, temperature: np.ndarray, top_p: np.ndarray, uniforms: np.ndarray
) -> tuple[mx.array, mx.array]:
    """Tokens [B] and their log-probabilities [B] under the distribution they were drawn from.

    Inverse-CDF sampling from ``logits`` [B, V], one uniform number a row. Temperature 0 takes the
    arg max, with its log-probability at temperature 1. Top-p keeps the smallest set of tokens whose
    mass reaches p.
    """
    greedy = temperature <= 0
    scaled = logits.astype(mx.float32) / mx.array(np.where(greedy, 1.0, temperature)[:, None])
    logp = scaled - mx.logsumexp(scaled, axis=-1, keepdims=True)
    if (top_p < 1).any():
        logp = _nucleus(logp, mx.array(top_p[:, None]))
    if greedy.all():
        tokens = mx.argmax(logp, axis=-1)
    else:
        cdf = mx.cumsum(mx.exp(logp), axis=-1)
        total = cdf[:, -1:]
        drawn = (cdf <= mx.array(uniforms[:, None]) * total).sum(axis=-1)
        # Rounding may carry u * total to total itself: never past the last token with mass.
        drawn = mx.minimum(drawn, (cdf < total).sum(axis=-1))
        tokens = mx.where(mx.array(greedy), mx.argmax(logp, axis=-1), drawn)
    return tokens, mx.take_along_axis(logp, tokens[:, None], axis=-1)[:, 0]


def _nucleus(logp: mx.array, top_p: mx.array) -> mx.array:
    order = mx.argsort(-logp, axis=-1)
    probs = mx.exp(mx.take_along_axis(logp, order, axis=-1))
    before = mx.cumsum(probs, axis=-1) - probs
    kept = mx.where(before < top_p, 0.0, -mx.inf)
    mask = mx.put_along_axis(mx.zeros_like(logp), order, kept, axis=-1)
    masked = logp + mask
    return masked - mx.logsumexp(masked, axis=-1, keepdims=True)


def _common_prefix(sequences: set[tuple[int, ...]]) -> tuple[int, ...]:
    low, high = min(sequences), max(sequences)
    for i, (a, b) in enumerate(zip(low, high, strict=False)):
        if a != b:
            return low[:i]
    return low[: min(len(low), len(high))]


def _extended(cache: Cache, new: Cache) -> Cache:
    if not cache:
        return new
    for ours, theirs in zip(cache, new, strict=True):
        ours.extend(theirs)
    return cache


def _filtered(cache: Cache, keep: list[int]) -> Cache:
    if not keep:
        return []
    for layer in cache:
        layer.filter(mx.array(keep))
    return cache
