"""Makes optimizer steps from judged rollouts: the second half of a training step. It is the same
for every advantage estimator.

    scores (pi_old, pi_ref, values) -> token rewards -> advantages -> epochs x minibatches of PPO

Nothing is computed for nothing: pi_old is scored only if more than one update follows, or if the
critic or the KL penalty needs the same pass; the reference is scored only while the penalty's
coefficient matters; rows whose advantage is 0 are left out of an update that would not move them.
A minibatch that has no gradient at all makes no optimizer step: AdamW's momentum of earlier steps
and its weight decay would move the weights by themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from azr_mlx.backends.base import Backend, Hyper
from azr_mlx.backends.collate import collate_supervised
from azr_mlx.config import Config
from azr_mlx.selfplay.rewards import zero_variance_fraction
from azr_mlx.selfplay.round import Round
from azr_mlx.tasks.buffer import SolutionBuffer
from azr_mlx.training.advantage import (
    UNSCALED,
    EmaBaselines,
    estimate,
    explained_variance,
    whiten,
)
from azr_mlx.training.batch import (
    collate,
    minibatches,
    token_rewards,
    token_weights,
    with_share,
)
from azr_mlx.training.controllers import AdaptiveKL, EntropyFloor
from azr_mlx.types import Batch, Experience, FloatArray, Role, Scores, UpdateStats


def rate_factor(step: int, warmup: int, last: int, how: str) -> float:
    """The factor of the learning rates in ``step`` (1 to ``last``): it rises linearly during the
    warm-up. Then it is constant, or falls to 0 linearly or as half a cosine; it would reach 0 one
    step after ``last``."""
    if step <= warmup:
        return step / warmup
    if how == "constant":
        return 1.0
    left = max(last + 1 - step, 0) / max(last - warmup, 1)
    return left if how == "linear" else (1 - math.cos(math.pi * left)) / 2


def _moved(batch: Batch, hyper: Hyper) -> np.ndarray:
    """Indices of the rows that the loss has a gradient for: those with an advantage, or all if a
    bonus, a penalty or the critic acts on every row. The weights of tokens were computed before, so
    that a row's share does not depend on which others are left out."""
    everywhere = batch.values is not None or hyper.entropy_coef or hyper.kl_coef
    if everywhere or batch.advantages is None:
        return np.arange(len(batch))
    return np.flatnonzero((batch.advantages * batch.mask).any(axis=1))


class Learner:
    """PPO on a backend. Its own state is the KL coefficient, the weight of the entropy bonus, and
    the running baselines."""

    def __init__(self, config: Config, backend: Backend):
        self.config, self.backend = config, backend
        beta = config.ppo.kl_coef if config.kl_penalty != "none" else 0.0
        self.kl = AdaptiveKL(coef=beta, target=config.target_kl)
        self.entropy = EntropyFloor(config.ppo.entropy_coef, config.ppo.entropy_floor)
        self.baselines = EmaBaselines(config.ppo.ema_decay)

    def learn(
        self,
        r: Round,
        experiences: Sequence[Experience],
        solutions: SolutionBuffer | None = None,
    ) -> dict[str, float]:
        """Update the backend's policy on the rollouts of one step; returns the step's metrics.

        ``solutions`` are the model's own verified solutions. Every optimizer step also learns from
        some of them (``distill``).
        """
        c = self.config
        r.announce("update", r.step)
        if not experiences:  # The proposer is frozen, and all its proposals failed.
            return self._summary([], False)
        batch = collate(experiences, mask_truncated=c.rollout.overlong_mask)
        with r.clock.phase("score"):
            current, reference = self._scores(batch)
        batch, metrics = self._advantages(batch, experiences, current, reference)
        proposals = np.array([e.role is Role.PROPOSE for e in experiences])
        with r.clock.phase("update"):
            stats, stopped = self._updates(r, batch, proposals, solutions)
        metrics |= self._summary(stats, stopped)
        if reference is None:  # The KL was not measured, which is not the same as 0.
            metrics.pop("kl_ref", None)
        elif stats and c.ppo.adaptive_kl:
            self.kl.update(metrics["kl_ref"])
        if not stats and c.ppo.entropy_floor and batch.mask.any():
            metrics |= self._entropy_without_update(r, batch, current)
        if "entropy" in metrics:
            self.entropy.update(metrics["entropy"])
        return metrics

    def _entropy_without_update(
        self, r: Round, batch: Batch, current: Scores | None
    ) -> dict[str, float]:
        """The metrics of the entropy in a step whose rewards teach nothing. A floor needs it above
        all then: answers that are all alike earn the same."""
        with r.clock.phase("score"):
            scores = current or self.backend.score(
                batch, "current", self.config.rollout.temperature
            )
        entropy = float(scores.entropy[batch.mask > 0].mean(dtype=np.float64))
        return {"entropy": entropy, "entropy_coef": self.entropy.coef}

    # -- scores and advantages ---------------------------------------------------------------------

    def _scores(self, batch: Batch) -> tuple[Scores | None, Scores | None]:
        """The scores (current, reference); each is None if nothing needs it."""
        c, t = self.config, self.config.rollout.temperature
        several = c.ppo.epochs * c.ppo.minibatches > 1
        in_reward = c.kl_penalty == "kl" and self.kl.in_force > 0
        wanted = several or in_reward or c.ppo.advantage == "gae"
        current = self.backend.score(batch, "current", t) if wanted else None
        reference = self.backend.score(batch, "reference", t) if self.kl.in_force > 0 else None
        return current, reference

    def _advantages(
        self,
        batch: Batch,
        experiences: Sequence[Experience],
        current: Scores | None,
        reference: Scores | None,
    ) -> tuple[Batch, dict[str, float]]:
        """The batch with everything that the loss needs except the weights of tokens, and the
        metrics of this stage."""
        p = self.config.ppo
        scores = np.array([e.reward.total for e in experiences])
        groups = np.array([e.group for e in experiences])
        cells = [f"{e.role.value}/{e.kind.value}" for e in experiences]
        ref_logp = None if reference is None else reference.logp
        logp = np.zeros_like(batch.mask) if current is None else current.logp
        beta = self.kl.in_force if self.config.kl_penalty == "kl" else 0.0
        rewards = token_rewards(batch, scores, logp, ref_logp, beta)
        values = None if current is None or p.advantage != "gae" else current.values
        result = estimate(
            p.advantage,
            rewards=rewards,
            scores=scores,
            groups=groups,
            cells=cells,
            mask=batch.mask,
            values=values,
            gamma=p.gamma,
            lam=p.gae_lambda,
            ema=self.baselines,
        )
        advantages = result.advantages
        if p.advantage == "gae" and p.whiten:
            advantages = whiten(advantages, batch.mask, cells)
        proposals = np.array([e.role is Role.PROPOSE for e in experiences])
        running = proposals & (self.config.proposer.advantage == "ema" != p.advantage)
        if running.any():
            rows = np.flatnonzero(running)
            advantages[rows] = self._running(rewards, scores, cells, batch.mask, rows)
        compared = (groups if p.by_group else np.array(cells))[~running]
        metrics = {"frac_reward_zero_std": zero_variance_fraction(scores[~running], compared)}
        if values is not None and result.returns is not None:
            metrics["ppo/explained_variance"] = explained_variance(
                values, result.returns, batch.mask
            )
        several = p.epochs * p.minibatches > 1
        return batch.with_(
            old_logp=current.logp if several and current is not None else None,
            ref_logp=ref_logp,
            values=values,
            advantages=advantages,
            returns=result.returns,
        ), metrics

    def _running(
        self,
        rewards: FloatArray,
        scores: np.ndarray,
        cells: Sequence[str],
        mask: FloatArray,
        rows: np.ndarray,
    ) -> FloatArray:
        """The advantages of ``rows`` against the running means of their cells. They are divided by
        deviations only if the solvers' are: otherwise they would weigh more than these.
        """
        return estimate(
            "ema",
            rewards=rewards[rows],
            scores=scores[rows],
            groups=rows,
            cells=[cells[i] for i in rows],
            mask=mask[rows],
            ema=self.baselines,
            scaled=self.config.ppo.advantage not in UNSCALED,
        ).advantages

    # -- updates -----------------------------------------------------------------------------------

    def _updates(
        self, r: Round, batch: Batch, proposals: np.ndarray, solutions: SolutionBuffer | None
    ) -> tuple[list[UpdateStats], bool]:
        """Epochs x minibatches. Returns their statistics, and whether the epochs were ended early
        because KL(pi_old || pi) was too large: then the last of them was not applied."""
        p, hyper = self.config.ppo, self._hyper(r.step)
        stats: list[UpdateStats] = []
        for epoch in range(p.epochs):
            for index in minibatches(batch, p.minibatches, r.draw_of_step("minibatches", epoch)):
                part = batch.rows(index)
                if not part.mask.any():
                    continue
                part = part.with_(weights=self._weights(part.mask, proposals[index]))
                lesson = self._lesson(r, len(stats), solutions)
                moved = _moved(part, hyper)
                if not len(moved) and lesson is None:
                    continue
                if len(moved) and not p.entropy_floor:  # it needs the entropy of all rows
                    part = part.rows(moved)
                stats.append(self.backend.update(part, hyper, lesson))
                if not stats[-1].applied:
                    return stats, True
        return stats, False

    def _weights(self, mask: FloatArray, proposals: np.ndarray) -> FloatArray:
        """The weights of a minibatch's tokens; ``proposals`` [B] says which rows are proposals."""
        c, share = self.config, self.config.proposer.loss_share
        constant = max(c.rollout.max_propose_tokens, c.rollout.max_solve_tokens)
        weights = token_weights(mask, c.ppo.loss_aggregation, constant)
        return with_share(weights, proposals, share) if share else weights

    def _lesson(self, r: Round, update: int, solutions: SolutionBuffer | None) -> Batch | None:
        """A supervised batch of the model's own verified solutions, for one optimizer step; None if
        there are none."""
        d = self.config.distill
        if d.coef <= 0 or solutions is None:
            return None
        chosen = solutions.sample(d.batch_size, r.draw_of_step("distill", update))
        rows = [(s.prompt_ids, s.completion_ids) for s in chosen]
        return collate_supervised(rows) if rows else None

    def _hyper(self, step: int) -> Hyper:
        c, p = self.config, self.config.ppo
        factor = rate_factor(step, c.warmup_steps, c.max_steps, c.lr_scheduler_type)
        return Hyper(
            lr=c.learning_rate * factor,
            temperature=c.rollout.temperature,
            clip_low=p.clip_low,
            clip_high=p.clip_high,
            dual_clip=p.dual_clip,
            value_coef=p.value_coef,
            value_clip=p.value_clip,
            value_lr=p.value_learning_rate * factor,
            entropy_coef=self.entropy.coef,
            kl_coef=self.kl.in_force if c.kl_penalty == "k3" else 0.0,
            max_grad_norm=p.max_grad_norm,
            weight_decay=c.weight_decay,
            tis_cap=p.tis_cap,
            distill_coef=c.distill.coef,
            max_kl=1.5 * p.kl_stop if c.early_stopping else 0.0,
            micro_batch_tokens=p.micro_batch_tokens,
        )

    def _summary(self, stats: list[UpdateStats], stopped: bool) -> dict[str, float]:
        """The metrics of the step: means over its updates, except the KL (that of the last one,
        applied or not), the maxima and the counts."""
        if not stats:
            return {"ppo/updates": 0, "kl_coef": self.kl.coef}
        approx_kl, stats = stats[-1].approx_kl, [s for s in stats if s.applied] or stats
        mean = {
            f.name: float(np.mean([getattr(s, f.name) for s in stats])) for f in fields(UpdateStats)
        }
        out = {f"ppo/{k}": mean[k] for k in ("loss", "policy_loss", "value_loss", "clip_frac")}
        out |= {k: mean[k] for k in ("entropy", "kl_ref", "grad_norm", "lr")}
        if self.config.distill.coef > 0:
            out["distill_loss"] = mean["distill_loss"]
        return out | {
            "ppo/approx_kl": approx_kl,
            "ppo/ratio_max": max(s.ratio_max for s in stats),
            "ppo/updates": sum(s.applied for s in stats),
            "ppo/early_stop": float(stopped),
            "kl_coef": self.kl.coef,
            "entropy_coef": self.entropy.coef,
            "mismatch/mean": mean["mismatch_mean"],
            "mismatch/max": max(s.mismatch_max for s in stats),
            "tokens/trained": sum(s.tokens for s in stats),
        }

    # -- state -------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        return {
            "kl": self.kl.to_json(),
            "entropy": self.entropy.to_json(),
            "baselines": self.baselines.to_json(),
        }

    def restore(self, row: dict[str, Any]) -> None:
        """Restore only the state. Targets, decay and a missing penalty are set by the
        configuration."""
        # A coefficient that nothing adapts, or that was 0 until now, is the configuration's.
        if self.config.kl_penalty != "none" and self.config.ppo.adaptive_kl and row["kl"]["coef"]:
            self.kl.restore(row["kl"])
        if "entropy" in row:  # checkpoints of version 0.1 do not have it
            self.entropy.restore(row["entropy"])
        self.baselines.state = EmaBaselines.from_json(row["baselines"]).state
