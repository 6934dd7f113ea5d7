"""The PPO loss on MLX: token scores from a causal language model, and the loss over them.

Only completion positions reach the head: the hidden states that emit trained tokens are gathered
first, and everything after that is flat, [N] over those tokens. Every term is normalised over the
whole minibatch by the ``weights`` it is given, so a sum over micro-batches is exactly the loss of
the minibatch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from azr_mlx.backends.base import Hyper
from azr_mlx.types import Batch

# Padding that keeps the number of distinct shapes small: a compiled step is traced once per shape.
ROW_MULTIPLE = 32
TOKEN_MULTIPLE = 64
OPTIONAL = ("sampler_logp", "old_logp", "ref_logp", "values", "advantages", "returns", "weights")


class Policy(nn.Module):
    """A language model with a value head: one linear layer on the last hidden state, zero at the
    start."""

    def __init__(self, lm: nn.Module, hidden_size: int):
        super().__init__()
        self.lm = lm
        self.value_head = nn.Linear(hidden_size, 1)
        # nn.Linear draws both from the global random state, which no key names.
        self.value_head.weight = mx.zeros_like(self.value_head.weight)
        self.value_head.bias = mx.zeros_like(self.value_head.bias)

    def hidden(self, tokens: mx.array) -> mx.array:
        """[B, T, D] final hidden states, after the last norm."""
        return self.lm.model(tokens)

    def logits(self, hidden: mx.array) -> mx.array:
        """The head on any [..., D] hidden states."""
        if "lm_head" in self.lm:
            return self.lm.lm_head(hidden)
        return self.lm.model.embed_tokens.as_linear(hidden)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows trimmed to their length, and flat arrays over their trained tokens (padded with weight
    0).

    ``rows`` and ``columns`` say where each of the first ``count`` flat entries sits in the batch;
    ``arrays`` holds ``tokens`` [b, t] and, all [N]: ``index`` (into b * t hidden states),
    ``targets``, ``mask`` and whatever optional arrays the batch has.
    """

    rows: np.ndarray
    columns: np.ndarray
    count: int
    arrays: dict[str, mx.array]


def split(batch: Batch, rows_per: int) -> list[MicroBatch]:
    """Micro-batches of rows of similar length; rows without a trained token are left out."""
    lengths = np.where(batch.mask > 0, np.arange(batch.mask.shape[1])[None] + 1, 0).max(axis=1)
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    return [_micro(batch, order[i : i + rows_per], lengths) for i in range(0, len(order), rows_per)]


def _micro(batch: Batch, chosen: np.ndarray, lengths: np.ndarray) -> MicroBatch:
    width = min(_round_up(int(lengths[chosen].max()), ROW_MULTIPLE), batch.tokens.shape[1])
    tokens = batch.tokens[chosen, :width]
    local, columns = np.nonzero(batch.mask[chosen, :width])
    count, padded = len(local), _round_up(len(local), TOKEN_MULTIPLE)

    def flat(values: np.ndarray, dtype: Any) -> mx.array:
        return mx.array(np.pad(values, (0, padded - count)).astype(dtype))

    arrays = {
        "tokens": mx.array(tokens),
        # The state before column c is the one that emits it.
        "index": flat(local * width + columns - 1, np.int32),
        "targets": flat(tokens[local, columns], np.int32),
        "mask": flat(np.ones(count), np.float32),
    }
    for name in OPTIONAL:
        if (values := getattr(batch, name)) is not None:
            arrays[name] = flat(values[chosen[local], columns], np.float32)
    return MicroBatch(chosen[local], columns, count, arrays)


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def token_scores(
    policy: Policy, a: dict[str, mx.array], temperature: float, trunk_gradient: bool = False
) -> tuple[mx.array, mx.array, mx.array]:
    """(logp, entropy, values), each float32 [N]: at ``temperature``, entropy over the whole
    vocabulary.

    The value head reads a stopped gradient unless ``trunk_gradient``.
    """
    hidden = policy.hidden(a["tokens"])
    hidden = hidden.reshape(-1, hidden.shape[-1])[a["index"]]
    logits = policy.logits(hidden).astype(mx.float32) / temperature
    rows = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    logp = mx.take_along_axis(rows, a["targets"][:, None], axis=-1)[:, 0]
    entropy = -(mx.exp(rows) * rows).sum(axis=-1)
    features = hidden if trunk_gradient else mx.stop_gradient(hidden)
    values = policy.value_head(features.astype(mx.float32))[:, 0]
    return logp, entropy, values


def ppo_loss(
    policy: Policy, a: dict[str, mx.array], scalars: dict[str, mx.array], hyper: Hyper
) -> tuple[mx.array, dict[str, mx.array]]:
    """One micro-batch's share of the minibatch loss, and sums of its statistics.

    Clipped surrogate (Schulman et al., arXiv 1707.06347, Eq. 7), dual clip (arXiv 1912.09729, Eq.
    5), clipped value loss, entropy bonus, k3 penalty towards the reference (Schulman 2020,
    "Approximating KL divergence"), and truncated importance weights between sampler and trainer.
    ``scalars`` hold the minibatch's ``total`` of tokens and ``kl_coef``, which may change from step
    to step without a new compilation.
    """
    logp, entropy, values = token_scores(policy, a, hyper.temperature)
    mask, weights = a["mask"], a["weights"]
    old = a["old_logp"] if "old_logp" in a else mx.stop_gradient(logp)
    log_ratio = logp - old
    ratio = mx.exp(log_ratio)
    surrogate = _surrogate(ratio, a["advantages"], hyper)
    if hyper.tis_cap > 0 and "sampler_logp" in a:
        truncated = mx.minimum(mx.exp(old - a["sampler_logp"]), hyper.tis_cap)
        surrogate = surrogate * mx.stop_gradient(truncated)
    policy_loss = -(weights * surrogate).sum()
    value_loss = (
        _value_loss(values, a, hyper) / scalars["total"] if "returns" in a else mx.array(0.0)
    )
    loss = (
        policy_loss + hyper.value_coef * value_loss - hyper.entropy_coef * (weights * entropy).sum()
    )
    if hyper.kl_coef > 0 and "ref_logp" in a:
        gap = mx.where(mask > 0, a["ref_logp"] - logp, 0.0)  # exp overflows on padding, and 0 * inf
        loss = loss + scalars["kl_coef"] * (weights * (mx.exp(gap) - gap - 1)).sum()
    outside = (ratio < 1 - hyper.clip_low) | (ratio > 1 + hyper.clip_high)
    gap = mx.abs(old - a["sampler_logp"]) * mask if "sampler_logp" in a else mx.zeros_like(mask)
    sums = {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": (mask * entropy).sum(),
        "approx_kl": (mask * (ratio - 1 - log_ratio)).sum(),
        "clip_frac": (mask * outside).sum(),
        "ratio_max": (mask * ratio).max(),
        "kl_ref": (mask * (logp - a["ref_logp"])).sum() if "ref_logp" in a else mx.array(0.0),
        "mismatch_mean": gap.sum(),
        "mismatch_max": gap.max(),
    }
    return loss, {k: mx.stop_gradient(v) for k, v in sums.items()}


def _surrogate(ratio: mx.array, advantages: mx.array, hyper: Hyper) -> mx.array:
    clipped = mx.clip(ratio, 1 - hyper.clip_low, 1 + hyper.clip_high)
    surrogate = mx.minimum(ratio * advantages, clipped * advantages)
    if hyper.dual_clip > 0:
        bounded = mx.maximum(surrogate, hyper.dual_clip * advantages)
        surrogate = mx.where(advantages < 0, bounded, surrogate)
    return surrogate


def _value_loss(values: mx.array, a: dict[str, mx.array], hyper: Hyper) -> mx.array:
    errors = mx.square(values - a["returns"])
    if hyper.value_clip > 0 and "values" in a:
        moved = mx.clip(values - a["values"], -hyper.value_clip, hyper.value_clip)
        errors = mx.maximum(errors, mx.square(a["values"] + moved - a["returns"]))
    return 0.5 * (a["mask"] * errors).sum()


def supervised_loss(
    policy: Policy, a: dict[str, mx.array], scalars: dict[str, mx.array]
) -> mx.array:
    """A micro-batch's share of the mean negative log-likelihood at temperature 1."""
    logp, _, _ = token_scores(policy, a, 1.0)
    return -(a["mask"] * logp).sum() / scalars["total"]
