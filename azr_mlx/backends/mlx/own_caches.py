"""Decoding with the caches that a model makes itself, for models whose caches hold more than plain
keys and values: recurrent states, sliding windows, compressed keys.

mlx-lm can merge most such caches of rows of different lengths into one for a batch. If it cannot,
only rows with equal prompts are decoded together.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map
from mlx_lm.models.cache import make_prompt_cache

from azr_mlx.backends.microbatch import Stage
from azr_mlx.backends.mlx.decoder import MlxDecoder

Caches = list[Any]  # one per layer


class CachePlaces:
    """Implements ``rollout.RowPlaces`` with one cache per layer for all rows, which are in the
    order in which they came; ``order`` has the place of each."""

    def __init__(self, merged: bool) -> None:
        self.merged = merged
        self.caches: Caches = []
        self.order: list[int] = []

    def put(
        self, places: Sequence[int], sources: Sequence[tuple[int, int]], reading: list[Caches]
    ) -> None:
        if not self.merged:
            self.caches = [copy.deepcopy(cache) for cache in reading[sources[0][0]]]
            self.order = list(places)
            if len(places) > 1:
                self._keep([0] * len(places))
            return
        rows = [reading[row] for row, _ in sources]
        new = [cache[0].merge(list(cache)) for cache in zip(*rows, strict=True)]
        stay = [i for i, place in enumerate(self.order) if place not in places]
        if stay:
            self._keep(stay)
            for cache, more in zip(self.caches, new, strict=True):
                cache.extend(more)
        else:
            self.caches = new
        self.order = [self.order[i] for i in stay] + list(places)

    def keep(self, places: Sequence[int]) -> None:
        self._keep([self.order.index(place) for place in places])
        self.order = list(range(len(places)))

    def _keep(self, rows: list[int]) -> None:
        index = mx.array(rows)
        for cache in self.caches:
            if self.merged:
                cache.filter(index)
            elif not cache.empty():
                cache.state = tree_map(lambda value: _rows(value, index), cache.state)

    def reserve(self, tokens: int) -> None: ...
    def release(self, places: Sequence[int]) -> None: ...
    def open_step(self) -> None: ...
    def close_step(self) -> None: ...


class CacheDecoder(MlxDecoder):
    """Implements ``rollout.Decoder`` with the model's own caches. Rows must be alike unless their
    caches can be ``merged``."""

    def __init__(self, model: Any, merged: bool, lookahead: bool | None = None):
        super().__init__(model, lookahead)
        self.merged, self.alike = merged, not merged

    def places(self, count: int, longest: int, refilled: bool) -> CachePlaces:
        return CachePlaces(self.merged)

    def read(self, stage: Stage, before: list[Caches] | None) -> list[Caches]:
        """The caches of each row. Rows are read one after the other, since recurrent states must
        not see padding."""
        past = [make_prompt_cache(self.model)] if before is None else before
        parents = [0] * len(stage.tokens) if before is None else stage.parent
        return [
            self._read_row(row[:length], past[parent])
            for row, length, parent in zip(stage.tokens, stage.lengths, parents, strict=True)
        ]

    def _read_row(self, tokens: np.ndarray, past: Caches) -> Caches:
        caches = copy.deepcopy(past)
        if len(tokens):
            self.model(mx.array(tokens[None]), cache=caches)
            mx.eval([cache.state for cache in caches])
        return caches

    def logits(self, tokens: mx.array, places: CachePlaces) -> mx.array:
        order = np.array(places.order)
        logits: mx.array = self.model(tokens[mx.array(order)], cache=places.caches)[:, -1]
        return logits[mx.array(np.argsort(order))]


def _rows(value: Any, index: mx.array) -> Any:
    """These rows of an array in a cache. What is not an array, for example a number of tokens, is
    the same for all rows."""
    return value[index] if isinstance(value, mx.array) and value.ndim > 1 else value
