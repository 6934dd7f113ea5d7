"""AReno's MLX backend: rollout_batch in a rollout session, then train with its GRPO loss.

It chooses its backend by platform, so the MLX one is made here by name; its provider is given the
model that all libraries share instead of a folder to load. Its prompts are read once per sample,
and the token that ends a completion is dropped: it was produced all the same, and counts.

    areno              neither compiled nor with checkpointing of layers, as the others
    areno:checkpoint   with checkpointing, its default: less memory, a second forward pass
    areno:compiled     compiled, its default. With its statistics that fails on mlx 0.32.4 and a CPU
                       (IndexError: _Map_base::at), so the loss is the one that is left of them

Its GRPO has no reference, and no normalisation but the token mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import side_by_side as sbs
from peer import Adapter, Completions, Losses
from side_by_side import RANK, SCALE, Clock

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Areno(Adapter):
    def prepare(self) -> None:
        from areno.api.backend.mlx import backend, losses
        from areno.api.backend.mlx.provider import MlxLmProvider
        from areno.api.context import Context

        provider = MlxLmProvider(self.model, self.tokenizer, None, {})
        backend.load_provider = lambda *_, **__: provider
        self.context = Context(1, "", self.tokenizer, self._config())
        self.backend = backend.MlxBackend()
        self.backend.initialize(self.context)
        if self.variant == "compiled":
            losses._policy_stats = lambda batch, logprobs, ratio, loss: {"policy_loss": loss}

    def _config(self) -> Any:
        from areno.adapters.config import LoraConfig
        from areno.api.config import MlxConfig

        rows = self.work.rows
        return MlxConfig(
            optimizer={"lr": self.work.lr, "weight_decay": 0.0, "grad_clip_norm": None},
            max_running_prompts=rows,
            completion_batch_size=rows,
            prefill_batch_size=rows,
            decode_progress_interval_s=0.0,
            compile_train_step=self.variant == "compiled",
            gradient_checkpointing=self.variant == "checkpoint",
            lora=LoraConfig(rank=RANK, alpha=RANK * SCALE, target_modules=TARGETS),
        )

    def version(self) -> str:
        return version("areno")

    def _generate(self, seed: int, temperature: float = 1.0) -> list[Any]:
        """Its sequences, prompt by prompt."""
        import mlx.core as mx
        from areno.api.models import SamplingParams

        mx.random.seed(seed)
        sampling = SamplingParams(
            greedy=temperature == 0.0,
            temperature=temperature or 1.0,
            max_new_tokens=self.work.max_tokens,
        )
        prompts = [list(ids) for ids in self.ids]
        self.backend.begin_rollout_session(self.context)
        try:
            found = self.backend.rollout_batch(self.context, prompts, self.work.group, sampling)
        finally:
            self.backend.end_rollout_session(self.context)
        return [one for result in found for one in result.sequences]

    def _produced(self, sequences: Sequence[Any]) -> Completions:
        """Tokens with the one that ended them, which is not known: -1."""
        return [[*one.resp_tokens, -1][: self.work.max_tokens] for one in sequences]

    def rollout(self, seed: int, temperature: float = 1.0) -> Completions:
        return self._produced(self._generate(seed, temperature))

    def _rows(self, completions: Completions, advantages: Sequence[float]) -> list[Any]:
        from areno.api.models import TrainSequence

        prompts = [list(self.ids[i // self.work.group]) for i in range(len(completions))]
        return [
            TrainSequence(tokens=ids + one, prompt_len=len(ids), scalar_advantage=float(advantage))
            for ids, one, advantage in zip(prompts, completions, advantages, strict=True)
        ]

    def _update(self, completions: Completions, advantages: Sequence[float]) -> float:
        from areno.api.algorithms import grpo_loss_fn

        self.context.step()
        rows = self._rows(completions, advantages)
        at_once = self.work.micro_batch or len(rows)
        return float(self.backend.train(self.context, rows, grpo_loss_fn, at_once)["loss"])

    def train(self, clock: Clock) -> None:
        from azr_mlx.training.advantage import grpo

        groups = [i // self.work.group for i in range(self.work.rows)]
        for _ in range(clock.total):
            seed = self.work.seed + clock.begin()
            with clock.phase("rollout"):
                done = self._generate(seed)
            tokens = [list(one.resp_tokens) for one in done]
            with clock.phase("reward"):
                texts = [self.tokenizer.decode(one) for one in tokens]
                advantages = grpo([sbs.reward(text) for text in texts], groups)
            with clock.phase("update"):
                self._update(tokens, advantages)
            clock.end(self._produced(done))

    def losses(self, frozen: Completions, advantages: Sequence[float]) -> Losses:
        def loss(how: str, beta: float) -> float:
            if (how, beta) != ("token_mean", 0.0):
                raise KeyError(how)
            return self._update(frozen, advantages)

        return loss
