"""What a model can do, found by trying it on a few tokens.

Each result is compared with the model's own forward pass over the whole sequence. Only hidden
states are compared, so the product with a large vocabulary is never computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Literal

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache

from azr_mlx.backends.microbatch import Tokens, right_padded
from azr_mlx.backends.mlx.anatomy import PROBE, Anatomy
from azr_mlx.backends.mlx.decoder import MlxDecoder
from azr_mlx.backends.mlx.own_caches import CacheDecoder
from azr_mlx.backends.mlx.prefix_sharing import hidden_states, on_device
from azr_mlx.backends.trial import EXACT, FAILURES, ROUNDED, SHORT, STEPS, unable

Path = Literal["shared", "batched", "alike", "single"]

# What stands for EXACT if products are coarse: results then differ by up to 2.5e-3.
COARSE = 1e-2


def path_of(model: Anatomy) -> Path:
    """The fastest way of running the model that gives the results of its own forward pass.

    "shared": prompts are read once, by all rows that have them in common, and any number of rows is
    decoded together. "batched": rows are decoded together, with the model's own caches. "alike":
    only rows with equal prompts are. "single": rows are decoded one by one. In all but the first
    each row of an update has its own prompt.

    Raises ValueError if the model's own caches change its results.
    """
    model.model.eval()
    first = _sequence(model, 0)
    uneven = [first, _sequence(model, 3)[5:], _sequence(model, 7)[2:]]
    alike = [first, *(first[:-STEPS] + row[-STEPS:] for row in uneven[1:])]
    if shared(model, uneven):
        return "shared"
    alone, together = (CacheDecoder(model.model, merged) for merged in (False, True))
    model.needs_cache = not decodes(model, alone, [first])
    if model.needs_cache and not decodes(model, alone, [first]):
        raise ValueError("it does not give the same logits token by token as for a whole text")
    if model.needs_cache and shared(model, uneven):
        return "shared"
    if decodes(model, together, uneven):
        return "batched"
    return "alike" if decodes(model, alone, alike) else "single"


def runs(model: Anatomy) -> bool:
    """Whether the model computes anything at all."""
    try:
        mx.eval(model.hidden(PROBE))
    except FAILURES as error:
        return unable(error)
    return True


def gradients(model: Anatomy) -> dict[str, mx.array]:
    """The gradient of each trainable array for a short text, of a random function of its hidden
    states. In training, recurrent layers do without kernels that have no gradient."""
    model.model.train()
    tokens = mx.array([_tokens(model, 12, 0)])
    weights = mx.random.normal((tokens.size, model.width), key=mx.random.key(0))
    with _without_dropout(model.model):
        of_all = nn.value_and_grad(model.model, lambda: (model.hidden(tokens)[0] * weights).sum())
        _, found = of_all()
        mx.eval(found)
    return dict(tree_flatten(found))


@contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    """Two measurements that are compared must not draw."""
    layers = [(one, one._p_1) for one in model.modules() if isinstance(one, nn.Dropout)]
    for layer, _ in layers:
        layer._p_1 = 1.0
    try:
        yield
    finally:
        for layer, kept in layers:
            layer._p_1 = kept


def same_gradients(model: Anatomy, expected: dict[str, mx.array]) -> bool:
    """Whether the gradients are still these, up to rounding."""
    try:
        found = gradients(model)
    except FAILURES as error:
        return unable(error)
    gap = sum(mx.square(found[name] - array).sum().item() for name, array in expected.items())
    size = sum(mx.square(array).sum().item() for array in expected.values())
    return bool(gap <= ROUNDED**2 * size)


def shared(model: Anatomy, rows: Sequence[Tokens]) -> bool:
    """Whether the model gives the same result for these rows in stages, and decoded together in
    ``kv_places.Places``, as in one pass. Models with recurrent layers or special caches do not."""
    caches = make_prompt_cache(model.model)
    if any(type(cache) not in (KVCache, RotatingKVCache) for cache in caches):
        return False
    return shares_prompts(model, rows) and decodes(model, MlxDecoder(model.model), rows)


def shares_prompts(model: Anatomy, rows: Sequence[Tokens]) -> bool:
    """Whether texts made of these rows get the same hidden states in stages as in one pass. They
    have a beginning in common, and two of them a prompt."""
    beginning = rows[0][: -2 * STEPS]
    contexts = [row[:length] for length, row in enumerate(rows, start=1)]
    tails = [row[-STEPS - number :] for number, row in enumerate([*rows, rows[0]])]
    parents = [*range(len(rows)), 0]
    stages = [
        right_padded([beginning], [0]),
        right_padded(contexts, [0] * len(rows)),
        right_padded(tails, parents),
    ]
    try:
        parts = hidden_states(model, [on_device(stage) for stage in stages])
        for part, parent, tail in zip(parts, parents, tails, strict=True):
            whole = model.hidden(mx.array([beginning + contexts[parent] + tail]))[0]
            if not same(part[: len(tail)], whole[-len(tail) :]):
                return False
    except FAILURES as error:
        return unable(error)
    return True


def decodes(model: Anatomy, decoder: MlxDecoder, rows: Sequence[Tokens]) -> bool:
    """Whether the rows get the same hidden states token by token."""
    try:
        for row, found in zip(rows, _decoded(model, decoder, rows), strict=True):
            whole = model.hidden(mx.array([row]))[0, -STEPS:]
            if not same(found, whole[: len(found)]):
                return False
    except FAILURES as error:
        return unable(error)
    return True


def _decoded(model: Anatomy, decoder: MlxDecoder, rows: Sequence[Tokens]) -> list[mx.array]:
    """[steps, D] of each row: the hidden states of its last tokens. The rows are added one after
    the other, unless they have to be alike, and the first is dropped before the last step."""
    places = decoder.places(len(rows), max(map(len, rows)), False)
    reading = [decoder.read(right_padded([row[:-STEPS]], [0]), None) for row in rows]
    places.reserve(max(map(len, rows)) - STEPS)
    if decoder.alike:
        places.put(range(len(rows)), [(0, len(rows[0]) - STEPS)] * len(rows), reading[0])
    else:
        for place, row in enumerate(rows):
            places.put([place], [(0, len(row) - STEPS)], reading[place])
    found: list[list[mx.array]] = [[] for _ in rows]
    left = list(range(len(rows)))
    for step in range(-STEPS, 0):
        if step == -1 and len(rows) > 1:
            left = left[1:]
            places.keep(left)
        tokens = mx.array([[rows[i][step]] for i in left])
        places.open_step()
        hidden = model.read_by_head(partial(decoder.logits, tokens, places))
        places.close_step()
        for place, i in enumerate(left):
            found[i].append(hidden[place, -1])
    return [mx.stack(each) for each in found]


def _sequence(model: Anatomy, shift: int) -> Tokens:
    """Some tokens, more than fit into the model's windows if those are short."""
    sizes = [getattr(cache, "max_size", 0) for cache in make_prompt_cache(model.model)]
    return _tokens(model, 12 + max((size for size in sizes if size <= SHORT), default=0), shift)


def _tokens(model: Anatomy, length: int, shift: int) -> Tokens:
    several = min(61, model.vocabulary - 1)
    return tuple(1 + (i * i + 3 * i + shift) % several for i in range(length))


def same(a: mx.array, b: mx.array) -> bool:
    """Whether arrays [..., D] are equal up to rounding, at least half of their vectors [D].
    Rounding can change the choice of experts for single tokens."""
    exact = COARSE if coarse_products() else EXACT
    limit = exact if a.dtype == b.dtype == mx.float32 else ROUNDED
    x, y = (np.array(array.astype(mx.float32)) for array in (a, b))
    errors = np.linalg.norm(x - y, axis=-1) / np.linalg.norm(y, axis=-1)
    return bool(np.median(errors) < limit)


@cache
def coarse_products() -> bool:
    """Whether the device multiplies float32 matrices with fewer bits: an M5 does, in TF32, unless
    MLX_ENABLE_TF32 is 0. Rounding alone is off by 1e-7, TF32 by 3e-4."""
    a = mx.random.normal((256, 256), key=mx.random.key(0))
    exact = np.array(a, np.float64) @ np.array(a, np.float64)
    error = np.linalg.norm(np.array(mx.matmul(a, a)) - exact) / np.linalg.norm(exact)
    return bool(error > 1e-5)
