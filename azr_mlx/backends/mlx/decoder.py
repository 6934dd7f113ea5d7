"""How MLX reads prompts and draws the next tokens, for the rollout engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from azr_mlx.backends.microbatch import Stage
from azr_mlx.backends.mlx import kernels
from azr_mlx.backends.mlx.prefix_sharing import on_device, read, windows_of
from azr_mlx.backends.rollout import Decoder
from azr_mlx.backends.sampler import Floats, Stream, draw_on_host, settings


class MlxArrays:
    """Implements ``kv_places.ArrayLibrary`` with MLX."""

    def of(self, values: np.ndarray) -> mx.array:
        return mx.array(values)

    def zeros(self, shape: tuple[int, ...], like: mx.array) -> mx.array:
        return mx.zeros(shape, like.dtype)

    def settle(self, arrays: Sequence[mx.array]) -> None:
        mx.eval(arrays)


class MlxDecoder(Decoder):
    """Implements ``rollout.Decoder``. On a GPU tokens are drawn in the graph, and the next step is
    queued before they are read. Tests can set ``lookahead`` to change that."""

    arrays = MlxArrays()

    def __init__(self, model: nn.Module, lookahead: bool | None = None):
        self.model, self.windows = model, windows_of(model)
        self.lookahead = mx.default_device() != mx.cpu if lookahead is None else lookahead

    def read(self, stage: Stage, before: Any) -> Any:
        reading = read(self.model, self.windows, on_device(stage), before)
        mx.eval([(layer.keys, layer.values) for layer in reading.layers])
        return reading.kept()

    def logits(self, tokens: mx.array, places: Any) -> mx.array:
        """[B, V]: the logits of each place's next token, after ``tokens`` [B, 1]."""
        logits: mx.array = self.model(tokens, cache=places.caches)[:, -1]
        return logits

    def step(self, tokens: mx.array, places: Any, streams: Sequence[Stream]) -> tuple[Any, Any]:
        logits = self.logits(tokens, places)
        if not self.lookahead:
            return draw_on_host(np.array(logits.astype(mx.float32), copy=False), streams)
        drawn = draw_on_device(logits, streams)
        mx.async_eval(drawn)
        return drawn

    def chosen(self, pending: Sequence[bool], queued: mx.array, known: mx.array) -> mx.array:
        return mx.where(mx.array(pending), queued, known)


def draw_on_device(logits: mx.array, streams: Sequence[Stream]) -> tuple[mx.array, mx.array]:
    """Like ``draw_on_host``, but lazily and by Gumbel-max. The tokens differ; their distribution is
    the same."""
    temperature, top_p = settings(streams)
    keys = mx.array(np.array([s.words() for s in streams], np.uint32))
    if (top_p < 1).any():
        logits = _restricted(logits, temperature, top_p)
    return kernels.sample_rows(logits, mx.array(temperature), keys)


def _restricted(logits: mx.array, temperature: Floats, top_p: Floats) -> mx.array:
    """The logits, with -inf for tokens outside of top-p."""
    scale = mx.array(np.where(temperature > 0, temperature, 1))[:, None]
    p = mx.softmax(logits.astype(mx.float32) / scale, axis=-1, precise=True)
    order = mx.argsort(-p, axis=-1)
    ordered = mx.take_along_axis(p, order, axis=-1)
    limit = mx.array(np.where(top_p < 1, top_p, 2))[:, None]
    kept = mx.where(mx.cumsum(ordered, axis=-1) - ordered < limit, 0.0, -mx.inf)
    mask = mx.put_along_axis(mx.zeros_like(p), order, kept, axis=-1)
    return logits + mask.astype(logits.dtype)
