"""Drawing one token per row from logits, together with its log-probability.

Each row has its own 64-bit key for its random numbers, so its tokens do not depend on the rest of
the batch. On a CPU numpy draws by inverse CDF, with one uniform number per token (numpy's
exponential is 25 times as fast as MLX's there). On a GPU the backend's row kernel draws by
Gumbel-max, so that nothing waits for the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from azr_mlx import rng
from azr_mlx.backends.base import Sampling

Floats = NDArray[np.float32]
BLOCK = 256  # entries per block: first the block of the drawn token is found, then the token


@dataclass(slots=True)
class Stream:
    """The random numbers of one sequence, in order. They depend on its key only, not on how rows
    are batched."""

    key: int
    sampling: Sampling
    used: int = 0
    _uniforms: Floats | None = field(default=None, repr=False)
    _words: NDArray[np.uint32] | None = field(default=None, repr=False)

    def uniform(self) -> float:
        if self._uniforms is None:
            self._uniforms = rng.uniforms(self.key, self.sampling.max_tokens)
        self.used += 1
        return float(self._uniforms[min(self.used, len(self._uniforms)) - 1])

    def words(self) -> NDArray[np.uint32]:
        if self._words is None:
            self._words = rng.words(self.key, self.sampling.max_tokens)
        self.used += 1
        row: NDArray[np.uint32] = self._words[min(self.used, len(self._words)) - 1]
        return row


def draw_on_host(z: Floats, streams: Sequence[Stream]) -> tuple[NDArray[np.int64], Floats]:
    """(tokens [B], log-probabilities [B] under the distribution that they were drawn from). They
    are drawn by inverse CDF of softmax(``z`` [B, V] / temperature).

    Temperature 0 takes the arg max, with its log-probability at temperature 1. Top-p keeps the
    smallest set of tokens whose mass reaches p.
    """
    temperature, top_p = settings(streams)
    greedy = temperature <= 0
    scaled = z / np.where(greedy, 1, temperature)[:, None]
    scaled -= scaled.max(axis=1, keepdims=True)
    mass = np.exp(scaled)
    if (top_p < 1).any():
        mass = np.where(_nucleus(mass, top_p), mass, 0)
    if greedy.all():
        tokens, total = z.argmax(axis=1), mass.sum(axis=1, dtype=np.float64)
    else:
        u = np.array([0.0 if g else s.uniform() for g, s in zip(greedy, streams, strict=True)])
        tokens, total = _invert(mass, u)
        tokens = np.where(greedy, z.argmax(axis=1), tokens)
    chosen = scaled[np.arange(len(tokens)), tokens]
    return tokens, (chosen - np.log(total)).astype(np.float32)


def _invert(mass: Floats, u: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each row, the first entry at which the cumulated mass exceeds u x total, and the total.

    The search has two levels, blocks and entries, which avoids a cumulative sum over the
    vocabulary. An entry without mass does not change the sum, so it is never chosen.
    """
    rows, size = mass.shape
    edges = np.arange(0, size, BLOCK)
    blocks = np.add.reduceat(mass, edges, axis=1, dtype=np.float64)
    blocks_cdf = blocks.cumsum(axis=1)
    total = blocks_cdf[:, -1]
    # It must stay below the total, which rounding could make it reach.
    target = np.minimum(u * total, np.nextafter(total, 0))
    block = (blocks_cdf <= target[:, None]).sum(axis=1)
    start = edges[block]
    within = np.minimum(start[:, None] + np.arange(BLOCK), size - 1)
    entries = mass[np.arange(rows)[:, None], within].astype(np.float64)
    entries[start[:, None] + np.arange(BLOCK) >= size] = 0
    before = blocks_cdf[np.arange(rows), block] - blocks[np.arange(rows), block]
    cdf = before[:, None] + entries.cumsum(axis=1)
    offset = (cdf <= target[:, None]).sum(axis=1)
    # The two sums may round differently, so the offset must not pass the last entry with mass.
    last = BLOCK - 1 - (entries[:, ::-1] > 0).argmax(axis=1)
    return start + np.minimum(offset, last), total


def settings(streams: Sequence[Stream]) -> tuple[Floats, Floats]:
    """Each row's temperature and top-p."""
    temperature = np.array([s.sampling.temperature for s in streams], np.float32)
    return temperature, np.array([s.sampling.top_p for s in streams], np.float32)


def _nucleus(mass: Floats, top_p: Floats) -> NDArray[np.bool_]:
    """bool [B, V]: which tokens are within top-p of each row's (unnormalised) ``mass``."""
    order = np.argsort(-mass, axis=1, kind="stable")
    ordered = np.take_along_axis(mass, order, axis=1).astype(np.float64)
    before = ordered.cumsum(axis=1) - ordered
    kept = before < top_p[:, None] * ordered.sum(axis=1, keepdims=True)
    kept |= (top_p >= 1)[:, None]
    out: NDArray[np.bool_] = np.empty_like(kept)
    np.put_along_axis(out, order, kept, axis=1)
    return out
