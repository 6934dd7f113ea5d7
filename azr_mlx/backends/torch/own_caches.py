"""Decoding with the cache that a model makes itself, for models that keep more than plain keys and
values of all tokens: sliding windows, chunks, recurrent states. Only rows with equal prompts are
decoded together."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from azr_mlx.backends.microbatch import Stage
from azr_mlx.backends.sampler import Stream
from azr_mlx.backends.torch.decoder import TorchDecoder
from azr_mlx.backends.torch.prefix_sharing import cache_argument

Tensor = torch.Tensor


class OwnPlaces:
    """Implements ``rollout.RowPlaces`` with the model's cache of all rows. It is None as long as
    nothing has been read."""

    def __init__(self) -> None:
        self.cache: Any = None

    def put(
        self, places: Sequence[int], sources: Sequence[tuple[int, int]], reading: list[Any]
    ) -> None:
        self.cache = copy.deepcopy(reading[sources[0][0]])
        self.keep([0] * len(places))

    def keep(self, places: Sequence[int]) -> None:
        if self.cache is not None:
            self.cache.reorder_cache(torch.tensor(list(places)))

    def reserve(self, tokens: int) -> None: ...
    def release(self, places: Sequence[int]) -> None: ...
    def open_step(self) -> None: ...
    def close_step(self) -> None: ...


class OwnCacheDecoder(TorchDecoder):
    """Implements ``rollout.Decoder`` with the model's own cache."""

    alike = True

    def places(self, count: int, longest: int, refilled: bool) -> OwnPlaces:
        return OwnPlaces()

    def read(self, stage: Stage, before: Any) -> Any:
        """The cache of each row. Rows are read one after the other, since recurrent states must
        not see padding."""
        caches = []
        for row, length, parent in zip(stage.tokens, stage.lengths, stage.parent, strict=True):
            cache = None if before is None else copy.deepcopy(before[parent])
            tokens = self.arrays.of(row[None, :length])
            caches.append(self._pass(tokens, cache)[1] if length else cache)
        return caches

    def step(self, tokens: Any, places: Any, streams: Sequence[Stream]) -> tuple[Any, Any]:
        return self.draw(self.read_off(self.hidden(tokens, places)), streams)

    def hidden(self, tokens: Tensor, places: OwnPlaces) -> Tensor:
        """[B, D], after ``tokens`` [B, 1]."""
        states, places.cache = self._pass(tokens, places.cache)
        return states[:, -1]

    def _pass(self, tokens: Tensor, cache: Any) -> tuple[Tensor, Any]:
        kind: Any = type(self.trunk)
        name = cache_argument(kind)
        out = self.trunk(input_ids=tokens, use_cache=True, **{name: cache})
        return out.last_hidden_state, getattr(out, name)
