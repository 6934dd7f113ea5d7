"""Sizes that the backends use and that the memory plan also needs. Nothing here imports MLX or
torch."""

from __future__ import annotations

CHUNK_BYTES = {"cpu": 6 << 20, "gpu": 64 << 20}  # bytes of the float32 logits of one chunk
MIN_CHUNK = 32  # rows; with fewer, most of the time goes into reading the head's weights
PREFILL_TOKENS = 2048  # the most prompt tokens that are read in one forward pass
# Positions beyond the longest row, if places are used again. Keys and values then have to move only
# once in so many steps.
SLACK = 64
# The lengths in a micro-batch are padded to a multiple of this, so that fewer different shapes have
# to be compiled or cached. A CPU that compiles nothing needs no padding; the memory plan, which
# counts it, is then an upper bound.
ROW_MULTIPLE = 8
# On MLX, flat arrays of trained tokens are padded to a multiple of this, so that fewer different
# shapes occur.
TOKEN_MULTIPLE = 16
MIN_PREFIX = 16  # tokens; a stage for a shorter common beginning costs more than it saves


def chunk_rows(vocabulary: int, device: str) -> int:
    """How many rows of logits the head computes at a time; ``device`` is "cpu" or "gpu"."""
    return max(MIN_CHUNK, CHUNK_BYTES[device] // (4 * vocabulary))
