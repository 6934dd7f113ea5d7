"""Several processes that train one policy: data parallelism on what ``mlx.launch`` and ``torchrun``
start.

Every rank holds the whole state (weights, buffers, curriculum) and takes the same decisions; what
is shared out is the work: the rows that are generated, judged, scored and differentiated. Each
rank's part is exchanged, so that N ranks make the step that one rank would make with the same
batch, up to the order of sums.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np

from azr_mlx.backends.base import OnStep, Sampling
from azr_mlx.errors import AzrError
from azr_mlx.types import Batch, Completion, Prompt

Generate = Callable[
    [Sequence[Prompt], Sequence[Sampling], Sequence[int], OnStep | None], list[Completion]
]


class World(Protocol):
    """The processes of a run. Every rank makes the same calls in the same order."""

    rank: int
    size: int

    def gather_bytes(self, data: bytes) -> list[bytes]:
        """The data of every rank, by rank."""
        ...

    def sum(self, arrays: Sequence[Any]) -> list[Any]:
        """The sums over the ranks of float arrays, the backend's own; shapes agree."""
        ...


class Alone:
    """A run of one process."""

    rank, size = 0, 1

    def gather_bytes(self, data: bytes) -> list[bytes]:
        return [data]

    def sum(self, arrays: Sequence[Any]) -> list[Any]:
        return list(arrays)


class RankError(AzrError):
    """Another rank has ended, or cannot be reached."""

    def __init__(self, rank: int, why: object):
        super().__init__(
            f"rank {rank}: another rank has ended or cannot be reached ({why}); the run goes on "
            "from its last checkpoint: start all ranks again with --resume"
        )


def gather(world: World, value: Any) -> list[Any]:
    """A JSON value of every rank, by rank. Floats come back as they were."""
    if world.size == 1:
        return [value]
    return [json.loads(data) for data in world.gather_bytes(json.dumps(value).encode())]


def share(world: World, costs: Sequence[float]) -> slice:
    """This rank's rows: neighbours, of about the same cost on every rank."""
    if world.size == 1:
        return slice(0, len(costs))
    ends = np.cumsum(costs)
    middles = ends - np.asarray(costs) / 2
    edges = [ends[-1] * i / world.size if len(ends) else 0 for i in (world.rank, world.rank + 1)]
    first, last = (int(np.searchsorted(middles, edge)) for edge in edges)
    return slice(first, len(costs) if world.rank == world.size - 1 else last)


def own_part(world: World, batch: Batch) -> Batch:
    """The batch with a mask that has only this rank's rows; all rows if there is one rank."""
    if world.size == 1:
        return batch
    mask = np.zeros_like(batch.mask)
    own = share(world, _costs(batch))
    mask[own] = batch.mask[own]
    return batch.with_(mask=mask)


def _costs(batch: Batch) -> list[float]:
    """Tokens that go through the layers for a row; a prompt is read once for all that have it."""
    trained = batch.mask > 0
    first = trained.argmax(axis=1)
    end = (batch.tokens.shape[1] - trained[:, ::-1].argmax(axis=1)) * trained.any(axis=1)
    prompts = [row[:n].tobytes() for row, n in zip(batch.tokens, first, strict=True)]
    alike = Counter(prompts)
    return [
        float(e - f + f / alike[p]) if e else 0.0
        for f, e, p in zip(first, end, prompts, strict=True)
    ]


def run_shared(
    world: World,
    generate: Generate,
    prompts: Sequence[Prompt],
    sampling: Sequence[Sampling],
    keys: Sequence[int],
    on_step: OnStep | None,
) -> list[Completion]:
    """Completions of all prompts; each rank makes its own share. With several ranks ``on_step`` is
    called once, at the end, with all of them, so that all ranks judge in the same order."""
    if world.size == 1:
        return generate(prompts, sampling, keys, on_step)
    own = share(world, [float(s.max_tokens) for s in sampling])
    made = generate(prompts[own], sampling[own], keys[own], None)
    rows = [row for part in gather(world, [asdict(one) for one in made]) for row in part]
    done = [
        Completion(
            tuple(row["token_ids"]), tuple(row["logprobs"]), row["finish"], row["key"], row["text"]
        )
        for row in rows
    ]
    if on_step is not None:
        on_step(list(enumerate(done)))
    return done
