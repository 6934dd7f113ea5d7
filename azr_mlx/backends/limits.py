"""Sizes that the backends work by and the memory plan counts with. Nothing here needs MLX or
torch."""

from __future__ import annotations

CHUNK_BYTES = {"cpu": 6 << 20, "gpu": 64 << 20}  # bytes of the float32 logits of one chunk
MIN_CHUNK = 32  # rows of a chunk; with fewer, a product is bound by reading the head
PREFILL_TOKENS = 2048  # tokens of prompts that are read in one forward pass
SLACK = 64  # positions beyond the longest row if places are refilled: steps between two moves
ROW_MULTIPLE = 8  # a micro-batch's lengths are padded to it
TOKEN_MULTIPLE = 16  # MLX pads flat arrays of trained tokens to it: fewer shapes
MIN_PREFIX = 16  # tokens; a shorter common beginning costs more as a stage than it saves


def chunk_rows(vocabulary: int, device: str) -> int:
    """Rows of logits that are live at once in the head; ``device`` is "cpu" or "gpu"."""
    return max(MIN_CHUNK, CHUNK_BYTES[device] // (4 * vocabulary))
