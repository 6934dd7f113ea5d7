"""Micro-batches: which rows go through one forward and backward pass together, and what they share.

Rows with the same prompt share its forward and backward pass, and prompts with the same beginning
share that. A micro-batch is therefore a tree of three stages,

    prefix [1, L]  ->  prompts [p, S]  ->  rows [b, C]

whose cost is L + p S + b C tokens. If each row had its own copy of the prompt, it would be
b (L + S + C). The rows begin with the prompt's last token, since its hidden state predicts the
first token of the completion.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from azr_mlx.backends.limits import MIN_PREFIX, ROW_MULTIPLE
from azr_mlx.types import Batch

Tokens = tuple[int, ...]
Index = NDArray[np.int64]

PADDING = 0.25  # how much padding is accepted to get fewer micro-batches
BUCKETS = (1, 2, 4)  # each of these numbers of completion-length classes is tried


@dataclass(frozen=True, slots=True)
class TrainedRow:
    """One row of a batch. ``context`` is its prompt without the last token. ``tail`` is that token,
    followed by the completion without its own last token: each state in it predicts the next
    token."""

    index: int
    context: Tokens
    tail: Tokens


@dataclass(frozen=True, slots=True)
class Stage:
    """Right-padded tokens [n, T] with their lengths [n]. ``parent`` [n] is the row of the stage
    before that each row continues."""

    tokens: NDArray[np.int32]
    lengths: NDArray[np.int32]
    parent: NDArray[np.int32]

    @property
    def full(self) -> bool:
        """Whether there is no padding in it."""
        return bool((self.lengths == self.tokens.shape[1]).all())


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows that go through the model together. Only the hidden states of the last of ``stages``
    reach the head.

    ``rows`` and ``columns`` [N] say where in the batch the trained tokens are. ``index`` [N] says,
    for each, which of the last stage's flattened hidden states predicts it.
    """

    stages: tuple[Stage, ...]
    rows: Index
    columns: Index
    index: Index

    @property
    def cost(self) -> int:
        """Tokens that go through the layers, padding included."""
        return sum(stage.tokens.size for stage in self.stages)


def split(
    batch: Batch, budget: int, share: bool = True, multiple: int = ROW_MULTIPLE
) -> list[MicroBatch]:
    """Micro-batches of at most ``budget`` tokens each, but at least one row. Rows without a trained
    token are left out. Lengths are padded to a multiple of ``multiple``."""
    rows = _rows(batch)
    if not rows:
        return []
    plans = [_plan(rows, budget, share, multiple, buckets) for buckets in BUCKETS]
    best = min(plans, key=lambda plan: sum(_cost(chosen, share, multiple) for chosen in plan))
    return [_micro(batch, chosen, share, multiple) for chosen in best]


def _rows(batch: Batch) -> list[TrainedRow]:
    out = []
    for number, (tokens, mask) in enumerate(zip(batch.tokens, batch.mask > 0, strict=True)):
        if mask.any():
            first, end = int(mask.argmax()), len(mask) - int(mask[::-1].argmax())
            ids = tokens.tolist()
            out.append(TrainedRow(number, tuple(ids[: first - 1]), tuple(ids[first - 1 : end - 1])))
    return out


def _plan(
    rows: Sequence[TrainedRow], budget: int, share: bool, multiple: int, buckets: int
) -> list[list[TrainedRow]]:
    """The rows of each micro-batch. They are ordered so that neighbours have most in common. A
    new micro-batch begins if the next row does not fit, or if it would add too much padding."""
    plan: list[list[TrainedRow]] = []
    for row in _ordered(rows, share, buckets):
        if plan:
            joined = _cost([*plan[-1], row], share, multiple)
            apart = _cost(plan[-1], share, multiple) + _cost([row], share, multiple)
            if joined <= budget and joined <= apart * (1 + PADDING):
                plan[-1].append(row)
                continue
        plan.append([row])
    return plan


def _ordered(rows: Sequence[TrainedRow], share: bool, buckets: int) -> list[TrainedRow]:
    """The rows, sorted by class of completion length, shared beginning, prompt length, prompt and
    completion length."""
    if not share:
        return sorted(rows, key=lambda r: (len(r.context) + len(r.tail), r.index))
    by_length = sorted(rows, key=lambda r: len(r.tail))
    bucket = {r.index: i * buckets // len(rows) for i, r in enumerate(by_length)}
    family = _families({r.context for r in rows})
    return sorted(
        rows,
        key=lambda r: (
            bucket[r.index], family[r.context], len(r.context), r.context, len(r.tail), r.index
        ),
    )  # fmt: skip


def _families(contexts: Iterable[Tokens]) -> dict[Tokens, int]:
    """A number for each context. Contexts with the same number have the same beginning, for half
    their length or more."""
    family: dict[Tokens, int] = {}
    number, before = -1, None
    for context in sorted(contexts):
        alike = 0 if before is None else common_length(before, context)
        if before is None or alike < max(MIN_PREFIX, len(context) // 2):
            number += 1
        family[context], before = number, context
    return family


def _cost(rows: Sequence[TrainedRow], share: bool, multiple: int) -> int:
    if not share:
        return len(rows) * _up(max(len(r.context) + len(r.tail) for r in rows), multiple)
    contexts = {r.context for r in rows}
    prefix = _prefix(contexts)
    width = _up(max(map(len, contexts)) - prefix, _prompt_multiple(contexts, multiple))
    tails = len(rows) * _up(max(len(r.tail) for r in rows), multiple)
    return prefix + len(contexts) * width + tails


def _prompt_multiple(contexts: Collection[Tokens], multiple: int) -> int:
    """Prompts of one length are not padded, since attention from the rows to them then needs no
    array as its mask. On Metal such an array takes gigabytes."""
    return multiple if len(set(map(len, contexts))) > 1 else 1


def _prefix(contexts: set[Tokens]) -> int:
    """Length of the common beginning that becomes a stage of its own; 0 if it is too short."""
    if len(contexts) < 2:
        return 0
    length = common_length(min(contexts), max(contexts))
    return length if length >= MIN_PREFIX else 0


def common_length(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many entries two sequences have in common at their beginning."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))


def _micro(batch: Batch, rows: Sequence[TrainedRow], share: bool, multiple: int) -> MicroBatch:
    contexts = sorted({r.context for r in rows}, key=lambda c: (len(c), c))
    prefix = _prefix(set(contexts))
    if not share or not max(map(len, contexts)) or (len(contexts) == len(rows) and not prefix):
        before = [len(r.context) for r in rows]
        stages = [right_padded([r.context + r.tail for r in rows], [0] * len(rows), multiple)]
    else:
        before = [0] * len(rows)
        number = {context: i for i, context in enumerate(contexts)}
        stages = [right_padded([contexts[0][:prefix]], [0], 1)] if prefix else []
        own = [c[prefix:] for c in contexts]
        stages.append(right_padded(own, [0] * len(own), _prompt_multiple(contexts, multiple)))
        stages.append(
            right_padded([r.tail for r in rows], [number[r.context] for r in rows], multiple)
        )
    chosen = np.array([r.index for r in rows])
    local, columns = np.nonzero(batch.mask[chosen])
    # The token in column c is predicted by the state before it. The last stage begins with the
    # prompt's last token.
    starts = np.array([b - len(r.context) for b, r in zip(before, rows, strict=True)])
    width = stages[-1].tokens.shape[1]
    index = local * width + columns - 1 + starts[local]
    return MicroBatch(tuple(stages), chosen[local], columns, index)


def right_padded(rows: Sequence[Tokens], parent: Sequence[int], multiple: int = 1) -> Stage:
    """A stage of these rows, padded with 0 to a width that is a multiple of ``multiple``."""
    width = _up(max(1, *map(len, rows)), multiple)
    tokens = np.zeros((len(rows), width), np.int32)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = row
    lengths = np.array([len(row) for row in rows], np.int32)
    return Stage(tokens, lengths, np.array(parent, np.int32))


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def reduced(sums: list[dict[str, float]], tokens: int) -> dict[str, float]:
    """The minibatch's statistics, from the sums of its micro-batches: the highest if the name ends
    in ``_max``, the sum if it ends in ``_loss``, otherwise the mean over ``tokens``."""
    out = {}
    for name in sums[0]:
        values = [s[name] for s in sums]
        if name.endswith("_max"):
            out[name] = max(values)
        elif name.endswith("_loss"):
            out[name] = float(np.sum(values))
        else:
            out[name] = float(np.sum(values)) / tokens
    return out
