"""How PyTorch reads prompts and draws the next tokens, for the rollout engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from azr_mlx.backends.kv_places import Places
from azr_mlx.backends.microbatch import Stage
from azr_mlx.backends.rollout import Decoder
from azr_mlx.backends.sampler import Stream, draw_on_host, settings
from azr_mlx.backends.torch import kernels
from azr_mlx.backends.torch.logprobs import reading_off
from azr_mlx.backends.torch.model import trunk_of
from azr_mlx.backends.torch.prefix_sharing import on_device, read, run
from azr_mlx.backends.torch.transfer import Arriving, on_its_way, upload

Tensor = torch.Tensor


class TorchArrays:
    """Implements ``kv_places.ArrayLibrary``. PyTorch computes at once, so nothing has to settle."""

    def __init__(self, device: torch.device):
        self.device = device

    def of(self, values: np.ndarray) -> Tensor:
        array = upload(values, self.device)
        return array if array.dtype == torch.bool else array.long()

    def zeros(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        return like.new_zeros(shape)

    def settle(self, arrays: Sequence[Tensor]) -> None:
        pass


class TorchDecoder(Decoder):
    """Implements ``rollout.Decoder``. On a GPU tokens are drawn there, and the next step is queued
    before they are read. Tests can set ``lookahead`` to change that."""

    def __init__(self, lm: Any, device: torch.device, lookahead: bool | None = None):
        self.lm, self.trunk = lm, trunk_of(lm)
        self.device_arrays = TorchArrays(device)
        self.windows = [None] * lm.config.num_hidden_layers
        self.lookahead = device.type == "cuda" if lookahead is None else lookahead

    @property
    def arrays(self) -> TorchArrays:
        return self.device_arrays

    @cached_property
    def read_off(self) -> Callable[[Tensor], Tensor]:
        """Logits [B, V] from hidden states [B, D]."""
        return reading_off(self.lm)

    def read(self, stage: Stage, before: Any) -> Any:
        return read(self.trunk, on_device(stage, self.arrays.device), before).kept()

    def step(self, tokens: Any, places: Any, streams: Sequence[Stream]) -> tuple[Any, Any]:
        mask = places.mask()
        if mask is None:
            width = places.end + 1 - places.low
            mask = tokens.new_ones((len(places), 1, 1, width), dtype=torch.bool)
        logits = self.logits(_PlacesCache(places), tokens, mask, places.offset[:, None])
        return self.draw(logits, streams)

    def draw(self, logits: Tensor, streams: Sequence[Stream]) -> tuple[Any, Any]:
        """(tokens [B], log-probabilities [B]) from ``logits`` [B, V]."""
        if not self.lookahead:
            return draw_on_host(logits.float().cpu().numpy(), streams)
        drawn, logprobs = draw_on_device(logits, streams)
        return on_its_way(drawn), on_its_way(logprobs)

    def logits(self, cache: Any, tokens: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """[B, V], after ``tokens`` [B, 1] at ``positions`` [B, 1]."""
        hidden = run(self.trunk, cache, tokens, mask, positions)
        return self.read_off(hidden[:, -1])

    def chosen(self, pending: Sequence[bool], queued: Any, known: Tensor) -> Tensor:
        drawn = queued.array if isinstance(queued, Arriving) else queued
        return torch.where(self.arrays.of(np.array(pending)), drawn.long(), known)


class _PlacesCache:
    """The layers of ``Places``, as the cache that the model expects."""

    def __init__(self, places: Places):
        self.caches = places.caches

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *unused: Any, **also: Any
    ) -> tuple[Tensor, Tensor]:
        return self.caches[layer].update_and_fetch(keys, values)


def draw_on_device(logits: Tensor, streams: Sequence[Stream]) -> tuple[Tensor, Tensor]:
    """Like ``draw_on_host``, but by Gumbel-max. Tokens differ, their distribution is the same."""
    temperature, top_p = settings(streams)
    words = np.array([s.words() for s in streams], np.uint32).view(np.int32)
    keys, heat = upload(words, logits.device), upload(temperature, logits.device)
    if (top_p < 1).any():
        logits = restricted(logits, heat, upload(top_p, logits.device))
    return kernels.sample_rows(logits, heat, keys)


def restricted(logits: Tensor, temperature: Tensor, top_p: Tensor) -> Tensor:
    """The logits, with -inf for tokens outside of each row's top-p."""
    scale = torch.where(temperature > 0, temperature, 1)[:, None]
    p = torch.softmax(logits.float() / scale, -1)
    ordered, order = torch.sort(p, stable=True, dim=-1, descending=True)
    limit = torch.where(top_p < 1, top_p, 2)[:, None]
    outside = ordered.cumsum(-1) - ordered >= limit
    return logits.masked_fill(torch.zeros_like(outside).scatter(-1, order, outside), -torch.inf)
