"""How PyTorch reads prompts and draws the next tokens, for the rollout engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from azr_mlx.backends.kv_places import Places
from azr_mlx.backends.microbatch import Stage
from azr_mlx.backends.sampler import Floats, Stream, draw_on_host, settings
from azr_mlx.backends.torch import kernels
from azr_mlx.backends.torch.prefix_sharing import Reading, on_device, read, run

Tensor = torch.Tensor


class TorchArrays:
    """Implements ``kv_places.ArrayLibrary``. PyTorch computes at once, so nothing has to settle."""

    def __init__(self, device: torch.device):
        self.device = device

    def of(self, values: np.ndarray) -> Tensor:
        array = torch.from_numpy(np.ascontiguousarray(values)).to(self.device)
        return array if array.dtype == torch.bool else array.long()

    def zeros(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        return like.new_zeros(shape)

    def settle(self, arrays: Sequence[Tensor]) -> None:
        pass


class TorchDecoder:
    """Implements ``rollout.Decoder``. On a GPU tokens are drawn there, and the next step is queued
    before they are read."""

    def __init__(self, lm: Any, device: torch.device):
        self.lm, self.trunk = lm, lm.get_decoder()
        self.arrays, self.alike = TorchArrays(device), False
        self.depth = lm.config.num_hidden_layers
        self.lookahead = device.type == "cuda"

    def places(self, count: int, longest: int, refilled: bool) -> Places:
        return Places(self.arrays, self.depth, count, longest, refilled)

    def read(self, stage: Stage, before: Reading | None) -> Reading:
        return read(self.trunk, on_device(stage, self.arrays.device), before).kept()

    def step(self, tokens: Tensor, places: Places, streams: Sequence[Stream]) -> tuple[Any, Any]:
        mask = places.mask
        if mask is None:
            width = places.end + 1 - places.low
            mask = tokens.new_ones((len(places), 1, 1, width), dtype=torch.bool)
        hidden = run(self.trunk, _PlacesCache(places), tokens, mask, places.offset[:, None])
        logits = self.lm.get_output_embeddings()(hidden[:, -1])
        if not self.lookahead:
            return draw_on_host(logits.float().cpu().numpy(), streams)
        return draw_on_device(logits, streams)

    def chosen(self, pending: Sequence[bool], queued: Tensor, known: Tensor) -> Tensor:
        return torch.where(torch.tensor(pending, device=known.device), queued.long(), known)


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
    if (top_p < 1).any():
        logits = _restricted(logits, temperature, top_p)
    device = logits.device
    keys, heat = (torch.from_numpy(a).to(device) for a in (words, temperature))
    return kernels.sample_rows(logits, heat, keys)


def _restricted(logits: Tensor, temperature: Floats, top_p: Floats) -> Tensor:
    """The logits, with -inf for tokens outside of top-p."""
    device = logits.device
    scale = torch.from_numpy(np.where(temperature > 0, temperature, 1)).to(device)[:, None]
    p = torch.softmax(logits.float() / scale, -1)
    ordered, order = torch.sort(p, stable=True, dim=-1, descending=True)
    limit = torch.from_numpy(np.where(top_p < 1, top_p, 2)).to(device)[:, None]
    outside = ordered.cumsum(-1) - ordered >= limit
    return logits.masked_fill(torch.zeros_like(outside).scatter(-1, order, outside), -torch.inf)
