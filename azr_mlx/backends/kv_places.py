"""Keys and values of the rows that are being decoded. When a row ends, another takes its place.

All rows write at the same position, ``end``, so a shorter row begins later: the tokens of row b lie
from ``start[b]`` to ``end``. A new row is put before ``end`` in a free place, and no other row has
to move. Positions before the start of every unfinished row are not read. When the buffer is full,
the part that is still read moves to its front. Since all rows end at the same position, a layer
with a sliding window reads the same last positions of every row.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from azr_mlx.backends.limits import SLACK

Window = int | None  # how many tokens a layer sees, the last one included; None: all of them


class Past(NamedTuple):
    """The keys and values [n, H, S, D] that one layer computed from tokens it has read."""

    keys: Any
    values: Any


class Reading(Protocol):
    """The keys and values of each layer after some tokens were read. They include those of all
    earlier tokens."""

    @property
    def layers(self) -> Sequence[Any]: ...


class ArrayLibrary(Protocol):
    """What ``Places`` needs from an array library in addition to indexing and assignment to
    slices, which are the same in all of them."""

    def of(self, values: np.ndarray) -> Any:
        """An array with these values, on the device."""
        ...

    def zeros(self, shape: tuple[int, ...], like: Any) -> Any:
        """Zeros with the type and the device of ``like``."""
        ...

    def settle(self, arrays: Sequence[Any]) -> None:
        """Compute the arrays now, if the library would otherwise do so later."""
        ...


class Places:
    """Places for B rows. ``caches`` are given to the model, one per layer; ``start`` [B] is the
    position at which the row in each place begins. Each layer's entry of ``windows`` is how many
    tokens it sees; None: all.

    A free place reads only what it has written itself.
    """

    def __init__(
        self,
        arrays: ArrayLibrary,
        windows: Sequence[Window],
        places: int,
        longest: int,
        refilled: bool,
    ):
        """``longest`` is the most tokens that any row will hold; ``refilled`` says whether there
        are more rows than places, so that places are used again."""
        self.arrays = arrays
        self.size, self.end = longest + SLACK * refilled, 0
        self.start = np.zeros(places, np.int64)
        self.free = np.ones(places, bool)
        self.caches = [Layer(self, window) for window in windows]

    def __len__(self) -> int:
        return len(self.start)

    def reserve(self, tokens: int) -> None:
        """Make room for rows of this many tokens before ``end``."""
        if tokens > self.end:
            self._move(tokens)

    def put(
        self, places: Sequence[int], sources: Sequence[tuple[int, int]], reading: Reading
    ) -> None:
        """Put new rows into free ``places``. With (r, n) = ``sources[i]``, the i-th new row is the
        first n slots of row r of ``reading``."""
        for place, (_, n) in zip(places, sources, strict=True):
            self.start[place], self.free[place] = self.end - n, False
        for cache, kept in zip(self.caches, reading.layers, strict=True):
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
        """Compute the positions of the next token. Call this before the model."""
        self.start[self.free] = self.end
        if self.end >= self.size:
            self._move(self.end - int(self.start.min()))
        self.low = int(self.start.min())
        self._describe()

    def _describe(self) -> None:
        """Positions of the next token, on the device. Masks are made when they are asked for."""
        self.offset = self.arrays.of((self.end - self.start).astype(np.int32))
        self.masks: dict[tuple[int, int], Any] = {}

    def first(self, window: Window) -> int:
        """The first position that the next tokens of a layer with this window may read."""
        return self.low if window is None else max(self.low, self.end + 1 - window)

    def mask(self, window: Window = None, seen: Window = None) -> Any:
        """[B, 1, 1, S]: which of the positions from ``first(window)`` each row's next token sees,
        at most ``seen``. None if it sees all of them."""
        key = first, low = self.first(window), self.first(seen)
        if key not in self.masks:
            starts = np.maximum(self.start, low) - first
            visible = np.arange(self.end + 1 - first) >= starts[:, None]
            self.masks[key] = self.arrays.of(visible)[:, None, None] if (starts > 0).any() else None
        return self.masks[key]

    def close_step(self) -> None:
        self.end += 1

    def _move(self, end: int) -> None:
        """Move the keys and values so that they end at ``end``."""
        shift = end - self.end
        if not self.free.all():
            low = int(self.start[~self.free].min())
            for cache in self.caches:
                cache.move(low, self.end, shift)
        self.start = np.maximum(self.start + shift, 0)
        self.end = end


class Layer:
    """mlx-lm's cache protocol over one layer's places."""

    def __init__(self, places: Places, window: Window = None):
        # With a reference cycle Python would free the buffers late: those of the next rollout
        # would be in memory together with these.
        self.places: Any = weakref.proxy(places)
        self.window = window
        self.keys: Any = None
        self.values: Any = None

    @property
    def offset(self) -> Any:
        return self.places.offset

    def make_mask(self, N: int, return_array: bool = False, window_size: int | None = None) -> Any:
        if self.window is not None and (window_size or 0) > self.window:
            raise NotImplementedError("the model's cache is shorter than its window")
        return self.places.mask(self.window, window_size or self.window)

    def update_and_fetch(self, keys: Any, values: Any) -> tuple[Any, Any]:
        end = self.places.end
        self.keys[:, :, end : end + 1] = keys
        self.values[:, :, end : end + 1] = values
        return self.keys_and_values()

    def keys_and_values(self) -> tuple[Any, Any]:
        """Those that the next token may read, its own included."""
        low, end = self.places.first(self.window), self.places.end + 1
        return self.keys[:, :, low:end], self.values[:, :, low:end]

    def put(self, runs: Sequence[tuple[int, int, int, int]], past: Past) -> None:
        if self.keys is None:
            self.keys, self.values = (self._buffer(a) for a in (past.keys, past.values))
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
    """(first place, last place + 1, row, n) of each run of neighbouring places with one source."""
    runs: list[tuple[int, int, int, int]] = []
    for place, (row, n) in sorted(zip(places, sources, strict=True)):
        if runs and runs[-1][1] == place and runs[-1][2:] == (row, n):
            runs[-1] = (runs[-1][0], place + 1, row, n)
        else:
            runs.append((place, place + 1, row, n))
    return runs
