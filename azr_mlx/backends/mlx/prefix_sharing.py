"""A forward pass in stages: the common beginning of sequences is read once, with gradients.

Each stage runs mlx-lm's own model code. Instead of its cache, each layer gets an object with the
keys and values of the stage before, where one row may serve several rows of this stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import make_prompt_cache

from azr_mlx.backends.kv_places import Past, Window
from azr_mlx.backends.microbatch import Stage
from azr_mlx.backends.mlx.anatomy import Anatomy, Forward


class Span:
    """Where the tokens of one stage, and those before it, are. The same for all layers.

    Rows are padded on the right, so there are gaps between stages. ``valid`` [n, S] marks the slots
    of keys and values that hold a token; ``end`` [n] counts them. ``full`` says that there are no
    gaps up to and including this stage. ``positions`` [n, S] says which token of its row each slot
    holds.
    """

    def __init__(self, stage: dict[str, Any], before: Span | None):
        self.before = before
        self.full = bool(stage["full"]) and (before is None or before.full)
        self.rows, self.width = stage["tokens"].shape
        lengths = stage["lengths"]
        own = mx.arange(self.width)[None] < lengths[:, None]
        steps = mx.arange(self.width)[None]
        if before is None:
            self.offset: Any = 0
            self.valid, self.end, self.positions = own, lengths, steps
            return
        self.parent = stage["parent"]
        self.past, self.offset = self.spread(before.valid), self.spread(before.end)
        self.valid = mx.concatenate([self.past, own], axis=1)
        self.end = self.offset + lengths
        self.positions = mx.concatenate(
            [self.spread(before.positions), self.offset[:, None] + steps], axis=1
        )

    def spread(self, array: mx.array) -> mx.array:
        """The rows of an array of the stage before, one for each row of this stage."""
        if array.shape[0] == 1:  # cheap gradient: a sum, while that of indexing is a scatter
            return mx.broadcast_to(array, (self.rows, *array.shape[1:]))
        return array[self.parent]

    def mask(self, return_array: bool, window: Window) -> Any:
        """[n, 1, T, S + T]: all tokens before this stage, and its own tokens causally, of each the
        last ``window``. Without gaps before it, "causal" says the same, since MLX aligns it to the
        last key."""
        if window is not None and int(self.positions.shape[1]) > window:
            far = self.positions[:, -self.width :, None] - self.positions[:, None] >= window
            return self.mask(True, None) & ~far[:, None]
        if not return_array and (self.before is None or self.before.full):
            return "causal"
        own = mx.tril(mx.ones((self.width, self.width), mx.bool_))
        if self.before is None:
            return own
        past = mx.broadcast_to(self.past[:, None], (self.rows, self.width, self.past.shape[1]))
        own = mx.broadcast_to(own, (self.rows, self.width, self.width))
        return mx.concatenate([past, own], axis=-1)[:, None]


class Extended:
    """A layer's keys and values in one stage, after those of the stage before. The model uses it as
    its cache. With a ``window`` it sees only so many tokens."""

    def __init__(self, span: Span, before: Extended | Past | None, window: Window = None):
        self.span, self.before, self.offset = span, before, span.offset
        self.window = window

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        if self.before is not None:
            spread = self.span.spread
            keys = mx.concatenate([spread(self.before.keys), keys], axis=2)
            values = mx.concatenate([spread(self.before.values), values], axis=2)
        self.keys, self.values = keys, values
        return keys, values

    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        """For layers that read those of another layer."""
        return self.keys, self.values

    def make_mask(self, N: int, return_array: bool = False, window_size: int | None = None) -> Any:
        return self.span.mask(return_array, window_size or self.window)


class Reading(NamedTuple):
    """The result of one stage: ``layers`` with keys and values, and the ``output`` of the
    forward pass [n, T, ...]."""

    span: Span
    layers: list[Extended]
    output: mx.array | None

    def kept(self) -> Reading:
        """The same without ``output`` and earlier stages. If they were kept, the output of the last
        layer, which is never computed, would keep all of its inputs in memory."""
        for layer in self.layers:
            layer.before = None
        return self._replace(output=None)


def windows_of(model: nn.Module) -> list[Window]:
    """How many tokens each layer sees, according to the caches that the model makes."""
    return [getattr(cache, "max_size", None) for cache in make_prompt_cache(model)]


def on_device(stage: Stage) -> dict[str, Any]:
    """A stage as ``read`` takes it: its arrays on the device, and whether it is ``full``, which
    belongs to the shapes that a compiled update is made for."""
    arrays = {name: mx.array(getattr(stage, name)) for name in ("tokens", "lengths", "parent")}
    return {**arrays, "full": int(stage.full)}


def read(
    forward: Forward,
    windows: Sequence[Window],
    stage: dict[str, Any],
    before: Reading | None = None,
) -> Reading:
    """Read a stage that continues ``before`` with a model whose layers have these ``windows``. The
    stage has ``tokens`` [n, T], ``lengths`` [n], ``full`` and, unless it is the first, ``parent``
    [n].
    Nothing is computed before it is needed, so for keys and values alone the last layer's output is
    not computed."""
    span = Span(stage, before and before.span)
    layers = [
        Extended(span, before and before.layers[i], window) for i, window in enumerate(windows)
    ]
    return Reading(span, layers, forward(stage["tokens"], cache=layers))


def hidden_states(model: Anatomy, stages: Sequence[dict[str, Any]]) -> mx.array:
    """The final hidden states of the last stage, [b, C, D]."""
    if len(stages) == 1:
        return model.hidden(stages[0]["tokens"])
    reading, windows = None, windows_of(model.model)
    for stage in stages:
        reading = read(model.hidden, windows, stage, reading)
    return reading.output
