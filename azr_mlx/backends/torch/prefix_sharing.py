"""A forward pass in stages: the common beginning of sequences is read once, with gradients.

Each stage runs transformers' own model code. Instead of its cache, each layer gets an object with
the keys and values of the stage before, where one row may serve several rows of this stage. Same
method as in ``azr_mlx.backends.mlx.prefix_sharing``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from azr_mlx.backends.kv_places import Past
from azr_mlx.backends.microbatch import Stage
from azr_mlx.backends.torch.attention import added
from azr_mlx.backends.torch.transfer import upload

Tensor = torch.Tensor


class Span:
    """Where the tokens of one stage, and those before it, are. The same for all layers.

    ``valid`` [n, S] marks the slots of keys and values that hold a token; ``end`` [n] counts them.
    ``positions`` [n, T] are those of this stage's own tokens.
    """

    def __init__(self, stage: dict[str, Tensor], before: Span | None):
        self.rows, self.width = stage["tokens"].shape
        lengths, device = stage["lengths"], stage["tokens"].device
        steps = torch.arange(self.width, device=device)
        own = steps[None] < lengths[:, None]
        if before is None:
            self.past, self.valid, self.end = None, own, lengths
            self.positions = steps[None].expand(self.rows, -1)
            return
        self.parent = stage["parent"]
        self.past, offset = self.spread(before.valid), self.spread(before.end)
        self.valid = torch.cat([self.past, own], dim=1)
        self.end = offset + lengths
        self.positions = offset[:, None] + steps[None]

    def spread(self, array: Tensor) -> Tensor:
        """The rows of an array of the stage before, one for each row of this stage."""
        if array.shape[0] == 1:
            return array.expand(self.rows, *array.shape[1:])
        return array[self.parent]

    def mask(self) -> Tensor:
        """[n, 1, T, S + T]: all tokens before this stage, and its own tokens causally."""
        device = self.positions.device
        own = torch.ones(self.width, self.width, dtype=torch.bool, device=device).tril()
        own = own.expand(self.rows, -1, -1)
        if self.past is None:
            return own[:, None]
        past = self.past[:, None].expand(-1, self.width, -1)
        return torch.cat([past, own], dim=-1)[:, None]


class Extended:
    """The layers' keys and values in one stage, after those of the stage before. The model uses it
    as its cache. ``last`` says that no stage follows, so that nothing has to be kept."""

    def __init__(self, span: Span, before: Reading | _Only | None, last: bool = False):
        self.span, self.before, self.last = span, before, last
        self.layers: dict[int, Past] = {}

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *unused: Any, **also: Any
    ) -> tuple[Tensor, Tensor]:
        if (past := self.past(layer)) is not None:
            spread = self.span.spread
            keys = torch.cat([spread(past.keys), keys], dim=2)
            values = torch.cat([spread(past.values), values], dim=2)
        self.keep(layer, Past(keys, values))
        return keys, values

    def keep(self, layer: int, own: Past) -> None:
        if not self.last:
            self.layers[layer] = own

    def past(self, layer: int) -> Past | None:
        """The layer's keys and values of the stage before."""
        return None if self.before is None else self.before.layers[layer]


class Reading(NamedTuple):
    """The result of one stage: ``layers`` with keys and values, and ``hidden`` [n, T, D]."""

    span: Span
    layers: list[Past]
    hidden: Tensor | None

    def kept(self) -> Reading:
        """The same without ``hidden``, which no later stage needs."""
        return self._replace(hidden=None)


def on_device(stage: Stage, device: torch.device) -> dict[str, Tensor]:
    """A stage's arrays on the device, as ``read`` takes them."""
    return {
        name: upload(getattr(stage, name).astype(np.int64), device)
        for name in ("tokens", "lengths", "parent")
    }


def read(
    trunk: Any, stage: dict[str, Tensor], before: Reading | None = None, last: bool = False
) -> Reading:
    """Read a stage that continues ``before``. It has ``tokens`` [n, T], ``lengths`` [n] and
    ``parent`` [n]. Of the ``last`` one only the hidden states are returned."""
    span = Span(stage, before and before.span)
    cache = Extended(span, before, last)
    hidden = run(trunk, cache, stage["tokens"], span.mask(), span.positions)
    return Reading(span, [cache.layers[i] for i in range(len(cache.layers))], hidden)


def run(trunk: Any, cache: Any, tokens: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
    """The trunk's final hidden states, with ``cache`` instead of its own cache."""
    kind: Any = type(trunk)
    dtype = trunk.get_input_embeddings().weight.dtype
    hidden: Tensor = trunk(
        input_ids=tokens,
        attention_mask=added(mask, trunk.config, dtype),
        position_ids=positions,
        use_cache=True,
        **{cache_argument(kind): cache},
    ).last_hidden_state
    return hidden


@lru_cache
def cache_argument(kind: type[Any]) -> str:
    """The name of the cache argument, which transformers 5.24 changed."""
    names = inspect.signature(kind.forward).parameters
    return "cache" if "cache" in names else "past_key_values"


def hidden_states(trunk: Any, stages: Sequence[dict[str, Tensor]]) -> Tensor:
    """The final hidden states of the last stage, [b, C, D]."""
    if len(stages) == 1:  # no mask: padding is on the right, which causal attention does not see
        hidden: Tensor = trunk(input_ids=stages[0]["tokens"], use_cache=False).last_hidden_state
        return hidden
    reading = None
    for number, stage in enumerate(stages, 1):
        reading = read(trunk, stage, reading, last=number == len(stages))
    assert reading is not None and reading.hidden is not None
    return reading.hidden


# -- recomputing -----------------------------------------------------------------------------------


def recompute_layers(trunk: Any, random: bool) -> None:
    """Make each layer recompute its activations in the backward pass. Keys and values of a stage
    are inputs and outputs of the recomputed function, so that their gradients are not lost.
    ``random`` says that layers draw random numbers (dropout), which must be the same again.

    transformers' own checkpointing drops the cache, and with it the stages.
    """
    kind: Any = type(trunk)
    name = cache_argument(kind)
    for number, layer in enumerate(trunk.layers):
        layer.forward = _recomputed(layer, number, name, random)


def _recomputed(layer: Any, number: int, name: str, random: bool) -> Callable[..., Tensor]:
    plain = layer.forward

    def forward(hidden: Tensor, *more: Any, **given: Any) -> Tensor:
        if not (layer.training and torch.is_grad_enabled()):
            out: Tensor = plain(hidden, *more, **given)
            return out
        cache: Extended | None = given.pop(name, None)

        def inner(hidden: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
            if cache is None:
                return (plain(hidden, *more, **given),)
            replayed = Extended(cache.span, _Only(number, Past(*past)) if past else None)
            out = plain(hidden, *more, **{name: replayed}, **given)
            return (out, *replayed.layers[number])

        past = None if cache is None else cache.past(number)
        found, *kept = checkpoint(
            inner, hidden, *(past or ()), use_reentrant=False, preserve_rng_state=random
        )
        if cache is not None:
            cache.keep(number, Past(*kept))
        result: Tensor = found
        return result

    return forward


class _Only:
    """Keys and values of one layer, in the place of a ``Reading``."""

    def __init__(self, number: int, past: Past):
        self.layers = {number: past}
