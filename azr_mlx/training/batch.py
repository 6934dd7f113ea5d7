"""From experiences to padded arrays: collation, loss weights, minibatches, token rewards.

All arrays are [B, T]. Position t belongs to the token that was emitted there (see ``types.Batch``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from azr_mlx.backends.collate import collate_supervised
from azr_mlx.backends.microbatch import Index
from azr_mlx.types import Batch, Experience, FloatArray

AGGREGATIONS = ("token_mean", "sequence_mean", "constant")


def collate(
    experiences: Sequence[Experience],
    max_length: int | None = None,
    mask_truncated: bool = False,
    pad_multiple: int = 32,
) -> Batch:
    """A batch with ``tokens``, ``mask`` and ``sampler_logp`` of the given rollouts, shaped as
    ``collate_supervised`` says.

    With ``mask_truncated``, the mask is 0 on the whole of a completion
    that was cut by the token limit (finish "length") or by ``max_length``.

    Raises ValueError if a prompt is empty (the first token after it would have no probability), or
    if a completion does not have one log-probability per token.
    """
    for number, one in enumerate(experiences):
        tokens, logprobs = len(one.completion.token_ids), len(one.completion.logprobs)
        if tokens != logprobs:
            raise ValueError(f"experience {number}: {tokens} tokens, but {logprobs} logprobs")
    rows = [(one.prompt.token_ids, one.completion.token_ids) for one in experiences]
    batch = collate_supervised(rows, max_length, pad_multiple)
    mask, sampler_logp = batch.mask.copy(), np.zeros_like(batch.mask)
    for number, one in enumerate(experiences):
        done, where = one.completion, np.flatnonzero(batch.mask[number])
        if mask_truncated and (done.finish == "length" or len(where) < len(done.token_ids)):
            mask[number] = 0.0
        else:
            sampler_logp[number, where] = done.logprobs[: len(where)]
    return batch.with_(mask=mask, sampler_logp=sampler_logp)


def token_weights(mask: ArrayLike, how: str, constant: float | None = None) -> FloatArray:
    """float32 [B, T]: each token's share in the policy loss, ``sum(weights * per_token)``.

    They are normalised over the given rows, so compute them once for a whole minibatch: then the
    losses and gradients of its micro-batches add up exactly to those of the minibatch.

    - ``token_mean``: all tokens have equal weight, 1 / (number of tokens) (DAPO, arXiv 2503.14476,
      Eq. 12).
    - ``sequence_mean``: all rows with a token have equal weight, and so have the tokens of a row
      (GRPO, arXiv 2402.03300).
    - ``constant``: 1 / (rows * ``constant``), which does not depend on any length (Dr. GRPO, arXiv
      2503.20783). The constant is in tokens, usually the generation limit. Rows without a token
      are counted.

    Raises ValueError if the name is unknown, or for ``constant`` without a positive constant.
    """
    kept = np.asarray(mask, np.float64)
    lengths = kept.sum(axis=1, keepdims=True)
    if how == "token_mean":
        weights = kept / max(float(lengths.sum()), 1.0)
    elif how == "sequence_mean":
        weights = kept / np.maximum(lengths, 1.0) / max(int((lengths > 0).sum()), 1)
    elif how == "constant":
        if constant is None or constant <= 0:
            raise ValueError(
                f"token_weights: constant {constant}; give a positive number of tokens"
            )
        weights = kept / (constant * len(kept))
    else:
        raise ValueError(f"loss_aggregation {how!r}: unknown; use one of {', '.join(AGGREGATIONS)}")
    return weights.astype(np.float32)


def with_share(weights: ArrayLike, chosen: ArrayLike, share: float) -> FloatArray:
    """float32 [B, T]: the weights, scaled so that the rows ``chosen`` (bool, [B]) have ``share`` of
    their sum, and the other rows the rest. Within either set the proportions stay.

    If one of the sets has no weight, nothing is scaled: the other one has all of it.
    """
    w, own = np.asarray(weights, np.float64), np.asarray(chosen, bool)
    total, part = float(w.sum()), float(w[own].sum())
    if part <= 0.0 or part >= total:
        return w.astype(np.float32)
    scale = np.where(own, share * total / part, (1.0 - share) * total / (total - part))
    return (w * scale[:, None]).astype(np.float32)


def minibatches(batch: Batch, count: int, rng: np.random.Generator) -> list[Index]:
    """Row indices of ``count`` random minibatches; every row is in exactly one.

    Sizes differ by at most one row. If there are fewer rows than ``count``, there are fewer
    minibatches. Rows are not grouped by length, since then gradients would depend on lengths.
    Within a minibatch, rows may be ordered by length to make micro-batches.
    """
    if count < 1:
        raise ValueError(f"ppo.minibatches {count}: must be at least 1")
    return list(np.array_split(rng.permutation(len(batch)), min(count, len(batch))))


def token_rewards(
    batch: Batch, scores: ArrayLike, logp: ArrayLike, ref_logp: ArrayLike | None, beta: float
) -> FloatArray:
    """float32 [B, T]: ``-beta * (logp - ref_logp)`` on every token, plus the score on the last.

    ``scores`` [B] are the task rewards. The first term is the k1 estimate of KL(pi || pi_ref), used
    as a reward (arXiv 1909.08593, Eq. 2; arXiv 2203.02155); without ``ref_logp``, or if beta is 0,
    it is left out. A row without a masked token gets no reward, as no token could carry it.
    """
    kept = np.asarray(batch.mask) > 0
    rewards = np.zeros(kept.shape, np.float64)
    if ref_logp is not None and beta != 0.0:
        drift = np.asarray(logp, np.float64) - np.asarray(ref_logp, np.float64)
        rewards = np.where(kept, -beta * drift, 0.0)
    rows = np.flatnonzero(kept.any(axis=1))
    last = kept.shape[1] - 1 - np.argmax(kept[rows, ::-1], axis=1)
    rewards[rows, last] += np.asarray(scores, np.float64)[rows]
    return rewards.astype(np.float32)
