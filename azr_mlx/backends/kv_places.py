"""Keys and values of the rows that are being decoded. A finished row leaves its place to another.

All rows write at one position, ``end``, so a row that is shorter begins later: row b's tokens lie
from ``start[b]`` to ``end``. A new row is laid before ``end`` in a place that is free; no other row
is moved for it. What lies before all living rows is not read; when the buffer is full, the part
that is read moves to its front.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from azr_mlx.backends.limits import SLACK


class Past(NamedTuple):
    """A layer's keys and values [n, H, S, D] of what has been read."""

    keys: Any
    values: Any


class ArrayLibrary(Protocol):
    """What places need of an array library; indexing and assignment to slices are the same in
    all."""

    def of(self, values: np.ndarray) -> Any:
        """An array with these values, on the device."""
        ...

    def zeros(self, shape: tuple[int, ...], like: Any) -> Any:
        """Zeros of the type and on the device of ``like``."""
        ...

    def settle(self, arrays: Sequence[Any]) -> None:
        """Compute them now, if the library would do that later."""
        ...


class Places:
    """``caches`` go to the model, one for each layer; ``start`` [B]: where each place's row begins.

    A place that is free reads only what it has written itself.
    """

    def __init__(self, arrays: ArrayLibrary, depth: int, places: int, longest: int, refilled: bool):
        """``longest``: the most tokens that a row will ever hold here; ``refilled``: whether more
        rows will come than there are places."""
        self.arrays = arrays
        self.size, self.end = longest + SLACK * refilled, 0
        self.start = np.zeros(places, np.int64)
        self.free = np.ones(places, bool)
        self.caches = [Layer(self) for _ in range(depth)]

    def __len__(self) -> int:
        return len(self.start)

    def reserve(self, tokens: int) -> None:
        """Make room for rows of this many tokens before ``end``."""
        if tokens > self.end:
            self._move(tokens)

    def put(
        self, places: Sequence[int], sources: Sequence[tuple[int, int]], past: Sequence[Past]
    ) -> None:
        """New rows into free ``places``; the i-th is what is in the first n slots of row r of
        ``past``, (r, n) = ``sources[i]``."""
        for place, (_, n) in zip(places, sources, strict=True):
            self.start[place], self.free[place] = self.end - n, False
        for cache, kept in zip(self.caches, past, strict=True):
            cache.put(_runs(places, sources), kept)
        self.arrays.settle([array for c in self.caches for array in (c.keys, c.values)])

    def release(self, places: Sequence[int]) -> None:
        self.free[list(places)] = True

    def keep(self, places: Sequence[int]) -> None:
        """Keep only these places, in this order."""
        index = self.arrays.of(np.array(places))
        self.start, self.free = self.start[list(places)], self.free[list(places)]
        for cache in self.caches:
            cache.keys, cache.values = cache.keys[index], cache.values[index]

    def open_step(self) -> None:
        """Positions and mask of the next token; to be called before the model is."""
        self.start[self.free] = self.end
        if self.end >= self.size:
            self._move(self.end - int(self.start.min()))
        self.low = int(self.start.min())
        self.offset = self.arrays.of((self.end - self.start).astype(np.int32))
        starts = self.start - self.low
        width = self.end + 1 - self.low
        self.mask = (
            self.arrays.of(np.arange(width) >= starts[:, None])[:, None, None]
            if starts.any()
            else None
        )

    def close_step(self) -> None:
        self.end += 1

    def _move(self, end: int) -> None:
        """Move what has been read so that it ends at ``end``."""
        shift = end - self.end
        if not self.free.all():
            low = int(self.start[~self.free].min())
            for cache in self.caches:
                cache.move(low, self.end, shift)
        self.start = np.maximum(self.start + shift, 0)
        self.end = end


class Layer:
    """mlx-lm's cache protocol over one layer's places."""

    def __init__(self, places: Places):
        # A cycle would keep the buffers until Python collects it: the next rollout's beside
        # this one's.
        self.places: Any = weakref.proxy(places)
        self.keys: Any = None
        self.values: Any = None

    @property
    def offset(self) -> Any:
        return self.places.offset

    def make_mask(self, N: int, return_array: bool = False, window_size: int | None = None) -> Any:
        return self.places.mask

    def update_and_fetch(self, keys: Any, values: Any) -> tuple[Any, Any]:
        low, end = self.places.low, self.places.end
        self.keys[:, :, end : end + 1] = keys
        self.values[:, :, end : end + 1] = values
        return self.keys[:, :, low : end + 1], self.values[:, :, low : end + 1]

    def put(self, runs: Sequence[tuple[int, int, int, int]], past: Past) -> None:
        if self.keys is None:
            self.keys, self.values = (self._buffer(a) for a in past)
        end = self.places.end
        for first, last, row, n in runs:
            if n:
                self.keys[first:last, :, end - n : end] = past.keys[row : row + 1, :, :n]
                self.values[first:last, :, end - n : end] = past.values[row : row + 1, :, :n]

    def move(self, low: int, end: int, shift: int) -> None:
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = self._buffer(old)
            new[:, :, low + shift : end + shift] = old[:, :, low:end]
            setattr(self, name, new)

    def _buffer(self, like: Any) -> Any:
        places = self.places
        shape = (len(places), like.shape[1], places.size, like.shape[3])
        return places.arrays.zeros(shape, like)


def _runs(
    places: Sequence[int], sources: Sequence[tuple[int, int]]
) -> list[tuple[int, int, int, int]]:
    """(first place, last + 1, row, n): neighbouring places that get the same, taken together."""
    runs: list[tuple[int, int, int, int]] = []
    for place, (row, n) in sorted(zip(places, sources, strict=True)):
        if runs and runs[-1][1] == place and runs[-1][2:] == (row, n):
            runs[-1] = (runs[-1][0], place + 1, row, n)
        else:
            runs.append((place, place + 1, row, n))
    return runs
