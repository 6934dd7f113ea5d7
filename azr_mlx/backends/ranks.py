"""Data parallelism: several processes, started by ``mlx.launch`` or ``torchrun``, train one policy.

Every rank holds the whole state (weights, buffers, curriculum) and takes the same decisions. Only
the work is divided: the rows that are generated, judged, scored and differentiated. The ranks then
exchange their parts, so that N ranks make the same step as one rank would make with the same batch,
up to the order of sums.
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
        """The data of every rank, in the order of ranks."""
        ...

    def sum(self, arrays: Sequence[Any]) -> list[Any]:
        """The sums over the ranks of the backend's float arrays, which have the same shapes on all
        ranks."""
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
            f"rank {rank}: another rank has ended or cannot be reached ({why}); to "
            "continue from the last checkpoint, start all ranks again with --resume"
        )


def gather(world: World, value: Any) -> list[Any]:
    """The JSON values of all ranks, in the order of ranks. Floats are not rounded."""
    if world.size == 1:
        return [value]
    return [json.loads(data) for data in world.gather_bytes(json.dumps(value).encode())]


def share(world: World, costs: Sequence[float]) -> slice:
    """This rank's rows: consecutive ones, with about the same total cost on every rank."""
    if world.size == 1:
        return slice(0, len(costs))
    ends = np.cumsum(costs)
    middles = ends - np.asarray(costs) / 2
    edges = [ends[-1] * i / world.size if len(ends) else 0 for i in (world.rank, world.rank + 1)]
    first, last = (int(np.searchsorted(middles, edge)) for edge in edges)
    return slice(first, len(costs) if world.rank == world.size - 1 else last)


def own_part(world: World, batch: Batch) -> Batch:
    """The batch, masked to this rank's rows; unchanged if there is only one rank."""
    if world.size == 1:
        return batch
    mask = np.zeros_like(batch.mask)
    own = share(world, _costs(batch))
    mask[own] = batch.mask[own]
    return batch.with_(mask=mask)


def _costs(batch: Batch) -> list[float]:
    """For each row, how many tokens go through the layers for it. Rows with the same prompt share
    its cost, since it is read once."""
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
    """Completions of all prompts; each rank makes its share. With several ranks ``on_step`` is
    called only once, at the end, with all completions, so that all ranks judge in the same
    order."""
    if world.size == 1:
        return generate(prompts, sampling, keys, on_step)
    own = share(world, [float(s.max_tokens) for s in sampling])
    made = generate(prompts[own], sampling[own], keys[own], None)
    rows = [row for part in gather(world, [asdict(one) for one in made]) for row in part]
    done = [
        Completion(
            **{**row, "token_ids": tuple(row["token_ids"]), "logprobs": tuple(row["logprobs"])}
        )
        for row in rows
    ]
    if on_step is not None:
        on_step(list(enumerate(done)))
    return done
