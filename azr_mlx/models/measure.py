"""Measuring how converting, quantising or fusing changes a model's log-probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from azr_mlx.errors import ModelUsageError
from azr_mlx.models.mlx_model import open_model

MEASURED_TEXT = """\
def count_vowels(text: str) -> int:
    return sum(1 for letter in text.lower() if letter in "aeiou")

assert count_vowels("Reasoning about code") == 9
The train leaves at 14:35 and takes 1 hour 40 minutes, so it arrives at 16:15.
The café's naïve rule failed twice: “never” is not “rarely”.
"""


Text = tuple[Sequence[int], Sequence[int]]


def logprobs(
    folder: Path, texts: Sequence[Text] | None = None, adapters: Path | None = None
) -> np.ndarray:
    """Log-probabilities of tokens given all tokens before them, float64 [tokens]. Each of ``texts``
    is (token ids that are given, token ids to measure); None means a fixed text.

    Raises ModelUsageError if a log-probability is not finite, and the same as ``open_model``.
    """
    model, tokenizer, _ = open_model(folder, adapters)
    if texts is None:
        ids = tokenizer.encode(MEASURED_TEXT)
        texts = [(ids[:1], ids[1:])]
    values = np.concatenate([_following(model, *text) for text in texts])
    if not all(map(math.isfinite, values)):
        raise ModelUsageError(
            f"{folder.name}: the model's log-probabilities are not finite", "try --dtype float32"
        )
    return values


def _following(model: Any, given: Sequence[int], following: Sequence[int]) -> np.ndarray:
    import mlx.core as mx

    ids = mx.array([*given, *following])
    logits = model(ids[None, :-1])[0, len(given) - 1 :].astype(mx.float32)
    chosen = mx.take_along_axis(logits, ids[len(given) :, None], axis=-1)[:, 0]
    return np.asarray(chosen - mx.logsumexp(logits, axis=-1), dtype=np.float64)


def bits_per_weight(model: Any) -> float:
    """The bits of all arrays, divided by the number of weights before quantisation."""
    from mlx_lm import utils

    compute: Any = utils.compute_bits_per_weight
    return float(compute(model))


def float_dtype(model: Any) -> str:
    """The most common type of the floating-point arrays, which are scales and weights that are not
    quantised."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    sizes: dict[str, int] = {}
    arrays: Any = tree_flatten(model.parameters())
    for _, array in arrays:
        if mx.issubdtype(array.dtype, mx.floating):
            name = str(array.dtype).removeprefix("mlx.core.")
            sizes[name] = sizes.get(name, 0) + array.size
    return max(sizes, key=lambda name: sizes[name])
