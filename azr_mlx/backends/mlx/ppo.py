"""The PPO loss on MLX: token scores from a causal language model, and the loss over them.

Only completion positions reach the head: the hidden states that predict trained tokens are gathered
first, and everything after that is flat, [N] over those tokens. The ``weights`` normalise every
term over the whole minibatch, so the sum over micro-batches is exactly the loss of the minibatch.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from azr_mlx.backends.base import Hyper
from azr_mlx.backends.limits import TOKEN_MULTIPLE
from azr_mlx.backends.microbatch import MicroBatch
from azr_mlx.backends.mlx import prefix_sharing
from azr_mlx.backends.mlx.anatomy import Anatomy
from azr_mlx.backends.mlx.logprobs import head_of, selected_logprob
from azr_mlx.types import Batch

OPTIONAL = ("sampler_logp", "old_logp", "ref_logp", "values", "advantages", "returns", "weights")
Arrays = dict[str, Any]


class PolicyModel(nn.Module):
    """A language model with a value head: one linear layer on the last hidden state, zero at the
    start."""

    def __init__(self, model: Anatomy, chunk_rows: int):
        super().__init__()
        self.lm = model.model
        self.value_head = nn.Linear(model.width, 1)
        # nn.Linear draws both from the global random state instead of from a named key.
        self.value_head.weight = mx.zeros_like(self.value_head.weight)
        self.value_head.bias = mx.zeros_like(self.value_head.bias)
        # Names with an underscore are not parameters of this module.
        self._anatomy, self._head, self._chunk_rows = model, head_of(model), chunk_rows

    def scores(
        self, a: Arrays, temperature: float, *, gradient: bool, entropy_gradient: bool
    ) -> tuple[mx.array, mx.array, mx.array]:
        """(logp, entropy, values), each float32 [N], at ``temperature``. The entropy is over the
        whole vocabulary.

        No gradient flows from the value head into the language model.
        """
        hidden = prefix_sharing.hidden_states(self._anatomy, a["stages"])
        hidden = hidden.reshape(-1, hidden.shape[-1])[a["index"]]
        logp, entropy = selected_logprob(
            self._head,
            hidden,
            a["targets"],
            temperature,
            rows=self._chunk_rows,
            gradient=gradient,
            entropy_gradient=entropy_gradient,
        )
        features = mx.stop_gradient(hidden).astype(mx.float32)
        return logp, entropy, self.value_head(features)[:, 0]


def arrays_of(batch: Batch, micro: MicroBatch) -> Arrays:
    """The micro-batch on the device: ``stages``, and flat arrays [N] over its trained tokens,
    padded with mask 0: ``index`` (into the last stage's states), ``targets``, ``mask``, and those
    optional arrays that the batch has."""
    padding = -len(micro.index) % TOKEN_MULTIPLE

    def flat(values: np.ndarray, dtype: Any) -> mx.array:
        return mx.array(np.pad(values, (0, padding)).astype(dtype))

    where = micro.rows, micro.columns
    arrays: Arrays = {
        "stages": [prefix_sharing.on_device(stage) for stage in micro.stages],
        "index": flat(micro.index, np.int32),
        "targets": flat(batch.tokens[where], np.int32),
        "mask": flat(np.ones(len(micro.index)), np.float32),
    }
    for name in OPTIONAL:
        if (values := getattr(batch, name)) is not None:
            arrays[name] = flat(values[where], np.float32)
    return arrays


def ppo_loss(
    policy: PolicyModel, a: Arrays, scalars: dict[str, mx.array], hyper: Hyper
) -> tuple[mx.array, dict[str, mx.array]]:
    """One micro-batch's share of the minibatch loss, and sums of its statistics.

    Clipped surrogate (Schulman et al., arXiv 1707.06347, Eq. 7), dual clip (arXiv 1912.09729, Eq.
    5), clipped value loss, entropy bonus, k3 penalty towards the reference (Schulman 2020,
    "Approximating KL divergence"), and truncated importance weights between sampler and trainer.
    ``scalars`` hold the minibatch's ``total`` of tokens, ``kl_coef`` and ``entropy_coef``, which
    may change from step to step without a new compilation.
    """
    logp, entropy, values = policy.scores(
        a, hyper.temperature, gradient=True, entropy_gradient=hyper.entropy_coef != 0
    )
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
        policy_loss
        + hyper.value_coef * value_loss
        - scalars["entropy_coef"] * (weights * entropy).sum()
    )
    if hyper.kl_coef > 0 and "ref_logp" in a:
        # On padding exp could overflow, and 0 * inf is NaN.
        gap = mx.where(mask > 0, a["ref_logp"] - logp, 0.0)
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


def _value_loss(values: mx.array, a: Arrays, hyper: Hyper) -> mx.array:
    errors = mx.square(values - a["returns"])
    if hyper.value_clip > 0 and "values" in a:
        moved = mx.clip(values - a["values"], -hyper.value_clip, hyper.value_clip)
        errors = mx.maximum(errors, mx.square(a["values"] + moved - a["returns"]))
    return 0.5 * (a["mask"] * errors).sum()


def supervised_loss(policy: PolicyModel, a: Arrays, scalars: dict[str, mx.array]) -> mx.array:
    """A micro-batch's share of the mean negative log-likelihood at temperature 1."""
    logp, _, _ = policy.scores(a, 1.0, gradient=True, entropy_gradient=False)
    return -(a["mask"] * logp).sum() / scalars["total"]
