"""The PPO loss on PyTorch: the same terms, in the same order, as in ``azr_mlx.backends.mlx.ppo``,
where the sources are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from azr_mlx.backends.base import Hyper
from azr_mlx.backends.microbatch import MicroBatch
from azr_mlx.backends.torch import prefix_sharing
from azr_mlx.backends.torch.logprobs import chunk_rows, head_of, selected_logprob
from azr_mlx.backends.torch.model import trunk_of
from azr_mlx.backends.torch.precision import autocast
from azr_mlx.backends.torch.transfer import upload
from azr_mlx.types import Batch

OPTIONAL = ("sampler_logp", "old_logp", "ref_logp", "values", "advantages", "returns", "weights")
Arrays = dict[str, Any]
Tensor = torch.Tensor


class PolicyModel(torch.nn.Module):
    """A language model with a value head: one linear layer on the last hidden state, zero at the
    start."""

    def __init__(self, lm: Any):
        super().__init__()
        self.lm, self.trunk = lm, trunk_of(lm)
        self.head, self.head_map = lm.get_output_embeddings().weight, head_of(lm)
        device = self.head.device
        self.rows = chunk_rows(self.head.shape[0], device)
        self.value_head = torch.nn.Linear(self.head.shape[1], 1).to(device, torch.float32)
        torch.nn.init.zeros_(self.value_head.weight)
        torch.nn.init.zeros_(self.value_head.bias)

    def scores(
        self, a: Arrays, temperature: float, *, gradient: bool, entropy_gradient: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(logp, entropy, values), each float32 [N]. No gradient flows from the value head into the
        language model."""
        with autocast(self.head):
            hidden = prefix_sharing.hidden_states(self.trunk, a["stages"])
        hidden = hidden.reshape(-1, hidden.shape[-1])[a["index"]]
        logp, entropy = selected_logprob(
            self.head_map,
            hidden,
            a["targets"],
            temperature,
            rows=self.rows,
            gradient=gradient,
            entropy_gradient=entropy_gradient,
        )
        return logp, entropy, self.value_head(hidden.detach().float())[:, 0]


def arrays_of(batch: Batch, micro: MicroBatch, device: torch.device) -> Arrays:
    """The micro-batch on the device: ``stages``, and flat arrays [N] over its trained tokens."""

    def flat(values: np.ndarray, dtype: type) -> Tensor:
        return upload(values.astype(dtype, copy=False), device)

    where = micro.rows, micro.columns
    arrays: Arrays = {
        "stages": [prefix_sharing.on_device(stage, device) for stage in micro.stages],
        "index": flat(micro.index, np.int64),
        "targets": flat(batch.tokens[where], np.int64),
    }
    for name in OPTIONAL:
        if (values := getattr(batch, name)) is not None:
            arrays[name] = flat(values[where], np.float32)
    return arrays


def ppo_loss(
    policy: PolicyModel, a: Arrays, total: float, hyper: Hyper
) -> tuple[Tensor, dict[str, Tensor]]:
    """One micro-batch's share of the minibatch loss, and sums of its statistics. ``total`` is the
    number of trained tokens in the minibatch."""
    logp, entropy, values = policy.scores(
        a, hyper.temperature, gradient=True, entropy_gradient=hyper.entropy_coef != 0
    )
    zero, weights = logp.new_zeros(()), a["weights"]
    old = a.get("old_logp", logp.detach())
    log_ratio = logp - old
    ratio = log_ratio.exp()
    surrogate = _surrogate(ratio, a["advantages"], hyper)
    if hyper.tis_cap > 0 and "sampler_logp" in a:
        surrogate = surrogate * (old - a["sampler_logp"]).exp().clamp(max=hyper.tis_cap).detach()
    policy_loss = -(weights * surrogate).sum()
    value_loss = _value_loss(values, a, hyper) / total if "returns" in a else zero
    loss = policy_loss + hyper.value_coef * value_loss
    loss = loss - hyper.entropy_coef * (weights * entropy).sum()
    if hyper.kl_coef > 0 and "ref_logp" in a:
        gap = a["ref_logp"] - logp
        loss = loss + hyper.kl_coef * (weights * (gap.exp() - gap - 1)).sum()
    outside = (ratio < 1 - hyper.clip_low) | (ratio > 1 + hyper.clip_high)
    apart = (old - a["sampler_logp"]).abs() if "sampler_logp" in a else torch.zeros_like(logp)
    sums = {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy.sum(),
        "approx_kl": (ratio - 1 - log_ratio).sum(),
        "clip_frac": outside.float().sum(),
        "ratio_max": ratio.max(),
        "kl_ref": (logp - a["ref_logp"]).sum() if "ref_logp" in a else zero,
        "mismatch_mean": apart.sum(),
        "mismatch_max": apart.max(),
    }
    return loss, sums


def _surrogate(ratio: Tensor, advantages: Tensor, hyper: Hyper) -> Tensor:
    clipped = ratio.clamp(1 - hyper.clip_low, 1 + hyper.clip_high)
    surrogate = torch.minimum(ratio * advantages, clipped * advantages)
    if hyper.dual_clip > 0:
        bounded = torch.maximum(surrogate, hyper.dual_clip * advantages)
        surrogate = torch.where(advantages < 0, bounded, surrogate)
    return surrogate


def _value_loss(values: Tensor, a: Arrays, hyper: Hyper) -> Tensor:
    errors = (values - a["returns"]).square()
    if hyper.value_clip > 0 and "values" in a:
        moved = (values - a["values"]).clamp(-hyper.value_clip, hyper.value_clip)
        errors = torch.maximum(errors, (a["values"] + moved - a["returns"]).square())
    loss: Tensor = 0.5 * errors.sum()
    return loss


def supervised_loss(policy: PolicyModel, a: Arrays, total: float) -> Tensor:
    """A micro-batch's share of the mean negative log-likelihood at temperature 1."""
    logp, _, _ = policy.scores(a, 1.0, gradient=True, entropy_gradient=False)
    return -logp.sum() / total
