"""Decode steps that need nothing from the host, so that CUDA graphs can repeat them.

Everything that a step reads stays on the device, at addresses that do not change: keys and values,
tokens, positions, temperatures, random words. The host writes there when a place gets another row.
A step of one kind (places, width, top-p) runs as it is the first time, which compiles and loads its
kernels; the second time it is captured, and from then on the whole step is one launch.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from azr_mlx import rng
from azr_mlx.backends.kv_places import Layer, Past, Places, Reading, Window
from azr_mlx.backends.limits import SLACK
from azr_mlx.backends.rollout import IDLE
from azr_mlx.backends.sampler import Stream, settings
from azr_mlx.backends.torch import kernels
from azr_mlx.backends.torch.decoder import TorchDecoder, restricted
from azr_mlx.backends.torch.transfer import on_its_way, upload
from azr_mlx.errors import UsageError

Tensor = torch.Tensor
Outputs = tuple[Tensor, Tensor]

SWITCH = "AZR_MLX_CUDA_GRAPHS"
GRAIN = 64  # buffers have a multiple of this many positions, so that the next rollout can use them
WIDTH = 256  # steps read a multiple of this many positions, so that few kinds of steps occur
SHRINK = 0.5  # if a smaller share of places is taken, free places are dropped


def are_allowed() -> bool:
    """Whether the environment allows CUDA graphs. Raises UsageError for an unknown value."""
    value = os.environ.get(SWITCH, "").strip().lower()
    if value not in ("", "on", "off"):
        raise UsageError(f"{SWITCH}={value}: set it to off (every step is launched anew) or on")
    return value != "off"


def decoder_for(lm: Any, device: torch.device) -> TorchDecoder:
    """The decoder that is fastest on this device."""
    fixed = device.type == "cuda" and are_allowed() and not _reads_values(lm)
    return FixedDecoder(lm, device) if fixed else TorchDecoder(lm, device)


def _reads_values(lm: Any) -> bool:
    """Whether the host reads values within a step, as in int8 by bitsandbytes, so that no step can
    be captured. To try it would leave PyTorch's allocator in the state of a capture, in which it
    does not free what it holds when memory runs out."""
    return bool(getattr(lm, "is_loaded_in_8bit", False))


class Board:
    """The fixed arrays of ``rows`` places of ``size`` positions. A rollout may use fewer rows: the
    first ones."""

    def __init__(self, rows: int, size: int, device: torch.device):
        self.rows, self.size, self.device = rows, size, device
        self.slots = torch.arange(size, device=device)
        self.end = torch.zeros_like(self.slots[:1])
        self.start = torch.zeros(rows, dtype=torch.int64, device=device)  # as in ``Places``
        self.tokens = torch.zeros_like(self.start)  # the last token of each row
        self.drawn = torch.zeros_like(self.start)  # tokens that each row has drawn
        self.temperature = torch.zeros(rows, device=device)
        self.top_p = torch.ones(rows, device=device)
        self.words = torch.zeros((rows, size + 1, 2), dtype=torch.int32, device=device)
        self.layers: dict[int, Past] = {}

    def layer(self, number: int, like: Past) -> Past:
        """The keys and values [rows, H, size, D] of one layer."""
        if number not in self.layers:
            shapes = [(self.rows, a.shape[1], self.size, a.shape[3]) for a in like]
            made = (a.new_zeros(shape) for a, shape in zip(like, shapes, strict=True))
            self.layers[number] = Past(*made)
        return self.layers[number]

    def admit(
        self, places: Sequence[int], tokens: Sequence[int], streams: Sequence[Stream]
    ) -> None:
        """Write what belongs to new rows: the last token of each one's prompt, and how it draws."""
        index = upload(np.array(places), self.device)
        temperature, top_p = settings(streams)
        most = max(s.sampling.max_tokens for s in streams)
        words = np.zeros((len(streams), most, 2), np.uint32)
        for row, s in zip(words, streams, strict=True):
            row[: s.sampling.max_tokens] = rng.words(s.key, s.sampling.max_tokens)
        self.tokens[index] = upload(np.array(tokens, np.int64), self.device)
        self.temperature[index] = upload(temperature, self.device)
        self.top_p[index] = upload(top_p, self.device)
        self.words[index, :most] = upload(words.view(np.int32), self.device)
        self.drawn.index_fill_(0, index, 0)

    def keep(self, index: Tensor) -> None:
        """Move these rows to the front."""
        for array in (
            self.tokens,
            self.start,
            self.drawn,
            self.temperature,
            self.top_p,
            self.words,
        ):
            array[: len(index)] = array[index]
        for past in self.layers.values():
            for array in past:
                array[: len(index)] = array[index]


class FixedPlaces(Places):
    """``Places`` in the arrays of a board, where they are also moved. ``moved`` says that rows
    begin or end elsewhere than the board says."""

    def __init__(self, arrays: Any, windows: Sequence[Window], count: int, board: Board):
        super().__init__(arrays, windows, count, board.size, refilled=False)
        self.board, self.moved = board, True
        self.streams = [IDLE] * count  # those that the board knows
        self.caches = [FixedLayer(self, number) for number in range(len(windows))]

    def put(
        self, places: Sequence[int], sources: Sequence[tuple[int, int]], reading: Reading
    ) -> None:
        super().put(places, sources, reading)
        self.moved = True

    def keep(self, places: Sequence[int]) -> None:
        self.start, self.free = self.start[list(places)], self.free[list(places)]
        self.streams = [self.streams[place] for place in places]
        self.board.keep(self.arrays.of(np.array(places)))
        self.moved = True

    def _move(self, end: int) -> None:
        super()._move(end)
        self.moved = True

    def _describe(self) -> None:
        """A step computes positions and mask by itself."""

    def write(self, tokens: Sequence[int], streams: Sequence[Stream]) -> None:
        """Bring the board up to date before a step. Of ``tokens`` those of new rows are read."""
        board, count = self.board, len(self)
        new = [
            place
            for place, (own, known) in enumerate(zip(streams, self.streams, strict=True))
            if own is not known and own is not IDLE
        ]
        if new:
            board.admit(new, [tokens[i] for i in new], [streams[i] for i in new])
            for place in new:
                self.streams[place] = streams[place]
        if self.moved:
            board.start[:count] = upload(self.start, board.device)
            board.end.fill_(self.end)
            self.moved = False


class FixedLayer(Layer):
    """One layer's keys and values on the board."""

    def __init__(self, places: FixedPlaces, number: int):
        super().__init__(places)
        self.number = number

    def put(self, runs: Sequence[tuple[int, int, int, int]], past: Past) -> None:
        if self.keys is None:
            self.keys, self.values = self.places.board.layer(self.number, past)
        super().put(runs, past)

    def move(self, low: int, end: int, shift: int) -> None:
        rows = len(self.places)
        for array in (self.keys[:rows], self.values[:rows]):
            array[:, :, low + shift : end + shift] = array[:, :, low:end].clone()


class _Window:
    """The first ``width`` positions of a board's first ``count`` rows, as the cache that the model
    expects. New keys and values are written at the board's ``end``."""

    def __init__(self, board: Board, count: int, width: int):
        self.board, self.count, self.width = board, count, width

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *unused: Any, **also: Any
    ) -> tuple[Tensor, Tensor]:
        kept, end = self.board.layers[layer], self.board.end
        found = []
        for buffer, own in zip(kept, (keys, values), strict=True):
            buffer[: self.count].index_copy_(2, end, own)
            found.append(buffer[: self.count, :, : self.width])
        return found[0], found[1]


class Captured(NamedTuple):
    """A CUDA graph, and the arrays that it writes each time."""

    graph: Any
    outputs: Outputs

    def replay(self) -> Outputs:
        self.graph.replay()
        return self.outputs


class Graphs:
    """CUDA graphs of the steps of one board."""

    def __init__(self) -> None:
        self.made: dict[Any, Captured | None] = {}
        self.pool: Any = None

    def clear(self) -> None:
        self.made, self.pool = {}, None

    def of(self, kind: Any, step: Callable[[], Outputs]) -> Captured | None:
        """The graph of ``step``, which does the same whenever ``kind`` is the same. The first time
        there is none: ``step`` has to run as it is.

        Raises:
            RuntimeError: it cannot be captured. Nothing has been computed.
        """
        if kind not in self.made:
            self.made[kind] = None
            return None
        found = self.made[kind] or self._capture(step)
        self.made[kind] = found
        return found

    def _capture(self, step: Callable[[], Outputs]) -> Captured:
        graph: Any = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            outputs = step()
        self.pool = graph.pool()
        return Captured(graph, outputs)


class FixedDecoder(TorchDecoder):
    """A ``TorchDecoder`` whose steps run on a board, with CUDA graphs on CUDA. Tests run it on a
    CPU, where each step runs as it is."""

    def __init__(self, lm: Any, device: torch.device):
        super().__init__(lm, device, lookahead=True)
        self.board: Board | None = None
        self.graphs: Graphs | None = Graphs() if device.type == "cuda" else None

    def places(self, count: int, longest: int, refilled: bool) -> Places:
        size = -(-(longest + SLACK * refilled) // GRAIN) * GRAIN
        board = self.board
        if board is None or count > board.rows or size > board.size:
            self.forget()
            board = self.board = Board(count, size, self.arrays.device)
        return FixedPlaces(self.arrays, self.windows, count, board)

    def fewer(self, taken: int, count: int) -> int:
        """A power of two, so that few kinds of steps occur."""
        return 1 << (taken - 1).bit_length() if taken < SHRINK * count else count

    def forget(self) -> None:
        self.board = None
        if self.graphs is not None:
            self.graphs.clear()

    def inputs(self, known: Sequence[int], pending: Sequence[bool], queued: Any) -> Any:
        return known

    def step(self, tokens: Any, places: Any, streams: Sequence[Stream]) -> tuple[Any, Any]:
        places.write(tokens, streams)
        width = min(places.size, -(-(places.end + 1) // WIDTH) * WIDTH)
        kind = len(places), width, any(s.sampling.top_p < 1 for s in streams)
        drawn, logprobs = self._run(kind, lambda: self._draw(places.board, *kind))
        return on_its_way(drawn), on_its_way(logprobs)

    def _run(self, kind: Any, step: Callable[[], Outputs]) -> Outputs:
        graph = self._graph(kind, step)
        return step() if graph is None else graph.replay()

    def _graph(self, kind: Any, step: Callable[[], Outputs]) -> Captured | None:
        if self.graphs is None:
            return None
        try:
            return self.graphs.of(kind, step)
        except RuntimeError as e:
            self.graphs = None
            why = str(e).splitlines()[0]
            warnings.warn(f"decoding without CUDA graphs: {why}", RuntimeWarning, stacklevel=2)
            return None

    def _draw(self, board: Board, count: int, width: int, nucleus: bool) -> Outputs:
        """The next token of the first ``count`` rows, and its log-probability. The board is then
        ready for the next step."""
        start, end = board.start[:count, None], board.end
        slots, temperature = board.slots[:width], board.temperature[:count]
        mask = (slots >= start) & (slots <= end)
        tokens, cache = board.tokens[:count, None], _Window(board, count, width)
        logits = self.logits(cache, tokens, mask[:, None, None], end - start)
        if nucleus:
            logits = restricted(logits, temperature, board.top_p[:count])
        index = board.drawn[:count].clamp(max=board.size)[:, None, None].expand(-1, 1, 2)
        keys = board.words[:count].gather(1, index)[:, 0]
        drawn, logprobs = kernels.sample_rows(logits, temperature, keys)
        board.tokens[:count] = drawn
        board.drawn[:count] += 1
        board.end += 1
        return drawn, logprobs
