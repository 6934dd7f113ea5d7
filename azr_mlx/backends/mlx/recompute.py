"""Layers that recompute their activations in the backward pass, to save memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from azr_mlx.backends.kv_places import Past
from azr_mlx.backends.mlx.prefix_sharing import Extended


def checkpoint_layers(model: nn.Module) -> None:
    """Make each layer recompute its activations in the backward pass. All arrays that a layer gets
    or gives, also the keys and values of a stage, are inputs and outputs of the recomputed
    function, so that their gradients are not lost."""
    for layer in model.layers:
        if not issubclass(type(layer), _Recomputed):
            layer.__class__ = _recomputed(type(layer))
            for one in layer.modules():
                if type(one) is nn.Dropout:
                    one.__class__ = _Keyed


class _Recomputed:
    """Marks a layer class that recomputes its activations."""


@functools.cache
def _recomputed(kind: type) -> type:
    def call(self: Any, *given: Any, **named: Any) -> Any:
        if not self.training:  # rollouts and scores: there is no backward pass
            return kind.__call__(self, *given, **named)
        caches = [one for one in (*given, *named.values()) if isinstance(one, Extended)]
        past = [None if c.before is None else [c.before.keys, c.before.values] for c in caches]
        inputs, unpack = _packed((given, named, past), _has_gradient)
        unpack_result = []
        draw = _drawing(self)

        def inner(parameters: Any, *arrays: mx.array) -> list[mx.array]:
            self.update(parameters)
            given, named, past = unpack(arrays)
            replayed = [
                Extended(cache.span, None if before is None else Past(*before), cache.window)
                for cache, before in zip(caches, past, strict=True)
            ]
            given, named = tree_map(_replacing(caches, replayed), (given, named))
            with draw():
                result = kind.__call__(self, *given, **named)
            kept = [[cache.keys, cache.values] for cache in replayed]
            outputs, unpack_outputs = _packed((result, kept), _is_array)
            unpack_result.append(unpack_outputs)
            return outputs

        outputs = mx.checkpoint(inner)(self.trainable_parameters(), *inputs)
        result, kept = unpack_result[0](outputs)
        for cache, (keys, values) in zip(caches, kept, strict=True):
            cache.keys, cache.values = keys, values
        return result

    return type(kind.__name__, (_Recomputed, kind), {"__call__": call})


class _Keyed(nn.Dropout):
    """Dropout that draws by a key of its own while it has one."""

    def __call__(self, x: mx.array) -> mx.array:
        key = self.get("_key")
        if key is None or self._p_1 == 1 or not self.training:
            return super().__call__(x)
        mask = mx.random.bernoulli(self._p_1, x.shape, key=key)
        return (mask * x) * (1 / self._p_1)


def _drawing(layer: nn.Module) -> Callable[[], AbstractContextManager[None]]:
    """A block in which a layer's dropout draws the same each time that the layer is computed."""
    drawing = [one for one in layer.modules() if isinstance(one, _Keyed) and one._p_1 < 1]
    if not drawing:
        return nullcontext
    own = mx.random.randint(0, 1 << 30, (2,), dtype=mx.uint32)
    keys = mx.random.split(own, len(drawing))

    @contextmanager
    def draw() -> Iterator[None]:
        for one, key in zip(drawing, keys, strict=True):
            one._key = key
        try:
            yield
        finally:
            for one in drawing:
                one._key = None

    return draw


@dataclass(frozen=True)
class _Slot:
    number: int


def _packed(
    tree: Any, chosen: Callable[[Any], bool]
) -> tuple[list[mx.array], Callable[[Sequence[mx.array]], Any]]:
    """(the chosen leaves of a tree, a function that makes the tree from others in their place). A
    leaf that occurs twice is one array: of two equal outputs MLX would use one's gradient only."""
    arrays: list[mx.array] = []
    slots: dict[int, _Slot] = {}

    def take(leaf: Any) -> Any:
        if not chosen(leaf):
            return leaf
        if id(leaf) not in slots:
            slots[id(leaf)] = _Slot(len(arrays))
            arrays.append(leaf)
        return slots[id(leaf)]

    template = tree_map(take, tree)

    def unpack(new: Sequence[mx.array]) -> Any:
        return tree_map(lambda x: new[x.number] if isinstance(x, _Slot) else x, template)

    return arrays, unpack


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, mx.array)


def _has_gradient(leaf: Any) -> bool:
    return _is_array(leaf) and mx.issubdtype(leaf.dtype, mx.floating)


def _replacing(old: list[Any], new: list[Any]) -> Callable[[Any], Any]:
    by_identity = {id(before): after for before, after in zip(old, new, strict=True)}
    return lambda leaf: by_identity.get(id(leaf), leaf)
