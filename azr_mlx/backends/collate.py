"""Rows of tokens as padded arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from azr_mlx.types import Batch


def collate_supervised(
    rows: Sequence[tuple[Sequence[int], Sequence[int]]],
    max_length: int | None = None,
    pad_multiple: int = 32,
) -> Batch:
    """A batch with ``tokens`` and ``mask`` of (prompt ids, completion ids) pairs.

    A row is prompt + completion, right-padded with 0. T is the longest row rounded up to
    ``pad_multiple`` (fewer shapes mean fewer compilations), but at most ``max_length``; a longer
    row loses its last tokens.

    Raises ValueError if there are no rows, a prompt is empty, or a length is not positive.
    """
    if not rows:
        raise ValueError("collate: no rows; a batch has at least one")
    if pad_multiple < 1 or (max_length is not None and max_length < 1):
        raise ValueError(
            f"collate: pad_multiple {pad_multiple}, max_length {max_length}: not positive"
        )
    width = -(-max(len(p) + len(c) for p, c in rows) // pad_multiple) * pad_multiple
    width = width if max_length is None else min(width, max_length)
    tokens = np.zeros((len(rows), width), np.int32)
    mask = np.zeros((len(rows), width), np.float32)
    for number, (prompt, completion) in enumerate(rows):
        if not prompt:
            raise ValueError(
                f"row {number}: empty prompt; its first token would be predicted from nothing"
            )
        ids = [*prompt, *completion][:width]
        tokens[number, : len(ids)] = ids
        mask[number, len(prompt) : len(ids)] = 1.0
    return Batch(tokens=tokens, mask=mask)
