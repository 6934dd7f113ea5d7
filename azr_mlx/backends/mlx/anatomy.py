"""Where a language model's trunk ends and its head begins, found by watching a forward pass.

The head is the last linear layer that the model calls, or the embedding that it uses as one. Its
input are the hidden states. It is found by its place and not by its name, so the model may be of
any architecture, and inside of a wrapper.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import make_prompt_cache

PROBE = mx.array([[1, 2, 3]])
LOUD = 100.0  # more than the logits of any model

Forward = Callable[..., mx.array]


class Anatomy:
    """A model whose hidden states and logits can be computed separately.

    ``width`` is the size D of a hidden state, ``vocabulary`` the number V of logits. ``head`` is
    the layer that reads the hidden states, and ``kind`` the class that it was loaded with.
    ``plain`` says whether its output are the logits; some models scale or cap them. With
    ``needs_cache`` the forward pass gets new caches: in some models layers find the keys and values
    of other layers only there.

    All methods run the whole model. MLX is lazy, so what is not used of it is never computed: the
    logits if only hidden states are asked for, the trunk if they are given.
    """

    def __init__(self, model: nn.Module):
        """Raises ValueError if the model has no such layer."""
        self.model, self.needs_cache = model, False
        self.head = _last_linear(model)
        self.kind = type(self.head)
        self._tap = _Tap()
        _put_tap(self.head, self._tap)
        hidden, logits = self.hidden(PROBE), model(PROBE)
        self.width, self.vocabulary = int(hidden.shape[-1]), int(logits.shape[-1])
        if hidden.shape[:-1] != PROBE.shape or not _close(self.logits(hidden[0]), logits[0]):
            raise ValueError("the last linear layer that it calls is not its head")
        self.plain = self._is_plain(hidden[0, -1:], mx.abs(logits[0, -1, 0]).item())

    def __call__(self, tokens: mx.array, cache: Any = None) -> mx.array:
        """The model's logits [n, T, V] for ``tokens`` [n, T]."""
        if cache is None and self.needs_cache:
            cache = make_prompt_cache(self.model)
        logits: mx.array = self.model(tokens, **({} if cache is None else {"cache": cache}))
        return logits

    def hidden(self, tokens: mx.array, cache: Any = None) -> mx.array:
        """The hidden states [n, T, D] that the head reads for ``tokens`` [n, T]."""
        return self.read_by_head(lambda: self(tokens, cache))

    def read_by_head(self, run: Callable[[], mx.array]) -> mx.array:
        """The hidden states that the head reads when the model runs in ``run``."""
        self._tap.seen = []
        try:
            run()
            return self._tap.seen[-1]
        finally:
            self._tap.seen = None

    def logits(self, hidden: mx.array) -> mx.array:
        """The model's logits [n, V] for ``hidden`` [n, D], after all that it does to them."""
        self._tap.given = hidden[None]
        try:
            logits: mx.array = self.model(PROBE[:, :1])
            return logits[0]
        finally:
            self._tap.given = None

    def _is_plain(self, hidden: mx.array, size: float) -> bool:
        """Tried with large logits, since capping hardly changes small ones. ``size`` is that of a
        logit for ``hidden`` [1, D]."""
        loud = (hidden * (LOUD / max(size, 1e-3))).astype(hidden.dtype)
        return _close(self.logits(loud), _method(self.kind)(self.head, loud))


class _Tap:
    """Stands before a layer. Its input is appended to ``seen`` and replaced by ``given``, if these
    are not None."""

    def __init__(self) -> None:
        self.seen: list[mx.array] | None = None
        self.given: mx.array | None = None

    def __call__(self, layer: nn.Module, forward: Forward, x: mx.array) -> mx.array:
        if self.seen is not None:
            self.seen.append(x)
        return forward(layer, x if self.given is None else self.given)


def _last_linear(model: nn.Module) -> nn.Module:
    called: list[nn.Module] = []

    def note(layer: nn.Module, forward: Forward, x: mx.array) -> mx.array:
        called.append(layer)
        return forward(layer, x)

    layers = [m for m in model.modules() if getattr(m.get("weight"), "ndim", 0) == 2]
    kinds = [type(layer) for layer in layers]
    for layer in layers:
        _put_tap(layer, note)
    try:
        model(PROBE)
    finally:
        for layer, kind in zip(layers, kinds, strict=True):
            layer.__class__ = kind
            del layer._tap
    if not called:
        raise ValueError("no linear layer of it is called")
    return called[-1]


def _put_tap(layer: nn.Module, tap: Forward) -> None:
    """From now on the layer's result is ``tap(layer, forward, x)``. Its class is a subclass of what
    it was, and its parameters keep their names."""
    layer._tap = tap
    layer.__class__ = _tapped(type(layer))


@functools.cache
def _tapped(kind: type) -> type:
    forward = _method(kind)

    def call(self: Any, x: mx.array) -> mx.array:
        result: mx.array = self._tap(self, forward, x)
        return result

    return type(kind.__name__, (kind,), {forward.__name__: call})


def _method(kind: type) -> Forward:
    """How a layer of this class is used as a linear map."""
    method: Forward = getattr(kind, "as_linear", None) or kind.__call__
    return method


def _close(a: mx.array, b: mx.array) -> bool:
    return a.shape == b.shape and bool(mx.allclose(a, b, rtol=1e-3, atol=1e-3).item())
