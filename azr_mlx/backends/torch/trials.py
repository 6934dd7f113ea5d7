"""What a model can do, found by trying it on a few tokens. See ``azr_mlx.backends.mlx.trials``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from azr_mlx.backends.microbatch import Tokens, right_padded
from azr_mlx.backends.torch.model import trunk_of
from azr_mlx.backends.torch.own_caches import OwnCacheDecoder
from azr_mlx.backends.torch.prefix_sharing import hidden_states, on_device
from azr_mlx.backends.trial import EXACT, FAILURES, ROUNDED, SHORT, STEPS, unable

Tensor = torch.Tensor

Path = Literal["shared", "alike"]


@torch.no_grad()
def path_of(lm: Any) -> Path:
    """ "shared" if prompts can be read once by all rows, and any rows be decoded together; "alike"
    if only rows with equal prompts are decoded together, with the model's own cache, and each row
    of an update has its own prompt.

    Raises ValueError if the model's own cache changes its results.
    """
    lm.eval()
    trunk = trunk_of(lm)
    config = trunk.config
    rows = [_tokens(config, shift) for shift in (0, 3, 7)]
    if not _special(config) and _shares_prompts(trunk, rows):
        return "shared"
    if not _decodes(lm, rows[0]):
        raise ValueError("it does not give the same logits token by token as for a whole text")
    return "alike"


def _special(config: Any) -> bool:
    """Whether layers see less than all tokens, according to the configuration. A mask that is given
    to such a model replaces its own, which a short trial would not show."""
    window = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return bool(window) or kinds != {"full_attention"}


def _shares_prompts(trunk: Any, rows: Sequence[Tokens]) -> bool:
    """Whether texts made of these rows get the same hidden states in stages as in one pass."""
    tails = [row[-STEPS - number :] for number, row in enumerate(rows)]
    contexts = [row[:length] for length, row in enumerate(rows[:2], start=4)]
    parents = [0, 1, 0]
    stages = [right_padded(contexts, [0, 0]), right_padded(tails, parents)]
    device = trunk.get_input_embeddings().weight.device
    try:
        parts = hidden_states(trunk, [on_device(stage, device) for stage in stages])
        for part, parent, tail in zip(parts, parents, tails, strict=True):
            whole = _whole(trunk, contexts[parent] + tail)
            if not _same(part[: len(tail)], whole[-len(tail) :]):
                return False
    except FAILURES as error:
        return unable(error)
    return True


def _decodes(lm: Any, row: Tokens) -> bool:
    """Whether two rows with one prompt get the same hidden states token by token."""
    decoder = OwnCacheDecoder(lm, lm.device)
    found = []
    try:
        places = decoder.places(2, len(row), False)
        reading = decoder.read(right_padded([row[:-STEPS]], [0]), None)
        places.put([0, 1], [(0, len(row) - STEPS)] * 2, reading)
        for token in row[-STEPS:]:
            found.append(decoder.hidden(torch.tensor([[token]] * 2, device=lm.device), places))
        whole = _whole(decoder.trunk, row)[-STEPS:]
    except FAILURES as error:
        return unable(error)
    return all(_same(torch.stack([step[i] for step in found]), whole) for i in range(2))


def _whole(trunk: Any, tokens: Tokens) -> Tensor:
    device = trunk.get_input_embeddings().weight.device
    states: Tensor = trunk(input_ids=torch.tensor([tokens], device=device), use_cache=False)[0]
    return states[0]


def _tokens(config: Any, shift: int) -> Tokens:
    """Some tokens, more than fit into a window if it is short."""
    window = getattr(config, "sliding_window", None) or 0
    chunk = getattr(config, "attention_chunk_size", None) or 0
    length = 12 + max(size for size in (window, chunk, 0) if size <= SHORT)
    several = min(61, config.vocab_size - 1)
    return tuple(1 + (i * i + 3 * i + shift) % several for i in range(length))


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether arrays [n, D] are equal up to rounding, at least half of their vectors [D]. Rounding
    can change the choice of experts for single tokens."""
    limit = EXACT if a.dtype == b.dtype == torch.float32 else ROUNDED
    x, y = a.float(), b.float()
    errors = (x - y).norm(dim=-1) / y.norm(dim=-1)
    return bool(errors.median() < limit)
