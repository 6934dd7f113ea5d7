"""The libraries that are measured against each other, each driven through its own functions.

    azr-mlx       MlxBackend.generate, score, update
    mlxrl         generate_prefix_cached_group_rollouts (all groups in one batch),
                  batch_from_rollouts, optimizer_step
    mlx-lm-lora   generate_grpo, train_grpo
    mlx-lm        batch_generate (rollouts only)
    areno         rollout_batch, train with its GRPO loss: ``peer_areno``
    unsloth-zoo   MLXGRPOTrainer: ``peer_unsloth``

Name:variant is another setting of the same library; the comparison takes the faster one of each.

    azr-mlx:compiled      MlxBackend(compile=True)
    mlxrl:compiled        its compiled decode step
    mlx-lm-lora:prompts   batch_size = number of prompts, as its command line has it: that is its
                          decode concurrency and its rows per backward pass too. Without it
                          batch_size is the number of rows, and the loss is taken in one pass.

The same for all: temperature 1, top-p 1, no top-k; LoRA on all linear layers; AdamW with bias
correction and no weight decay; clip 0.2; token-mean loss; one update per rollout. No peer can be
imported without its own package, so each import is inside its adapter.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import side_by_side as sbs
from peer import CLIP, Adapter, Completions, Losses, end_of_loop
from peer_areno import Areno
from peer_unsloth import Unsloth
from side_by_side import RANK, SCALE, Clock, Work

NEEDED = {
    "mlxrl": "mlxrl",
    "mlx-lm-lora": "mlx_lm_lora",
    "areno": "areno",
    "unsloth-zoo": "unsloth_zoo",
}
ROLLOUTS = (
    *("azr-mlx", "mlxrl", "mlxrl:compiled", "mlx-lm-lora", "mlx-lm-lora:prompts"),
    *("areno", "unsloth-zoo", "mlx-lm"),
)
STEPS = (
    *("azr-mlx", "azr-mlx:compiled", "mlxrl", "mlxrl:compiled"),
    *("mlx-lm-lora", "mlx-lm-lora:prompts", "areno", "areno:compiled", "areno:checkpoint"),
    *("unsloth-zoo", "unsloth-zoo:logits", "unsloth-zoo:checkpoint"),
)
WITHOUT_REFERENCE = ("areno",)  # whose GRPO has no penalty towards a reference
NO_CLIP = 1e9  # of the gradient's norm: the peers do not clip it


class Azr(Adapter):
    def prepare(self) -> None:
        from azr_mlx.backends.mlx.backend import MlxBackend
        from azr_mlx.config import Lora

        self.backend = MlxBackend(
            self.model,
            self.tokenizer,
            Lora(rank=RANK, scale=SCALE, dropout=0.0),
            max_rows=self.work.rows,
            micro_batch_tokens=self.tokens_at_once,
            compile=self.variant == "compiled",
        )

    @property
    def tokens_at_once(self) -> int:
        """As many rows in a micro-batch as the others have, at their longest."""
        rows = self.work.micro_batch or self.work.rows
        return rows * (self.work.prompt_tokens + self.work.max_tokens)

    def version(self) -> str:
        from azr_mlx import __version__

        return __version__

    def _generate(self, seed: int, temperature: float = 1.0) -> list[Any]:
        from azr_mlx.backends.base import Sampling
        from azr_mlx.types import Prompt

        rows = [
            Prompt(text, ids)
            for text, ids in zip(self.texts, self.ids, strict=True)
            for _ in range(self.work.group)
        ]
        sampling = [Sampling(self.work.max_tokens, temperature)] * len(rows)
        keys = [seed * len(rows) + i for i in range(len(rows))]
        return self.backend.generate(rows, sampling, keys)

    def rollout(self, seed: int, temperature: float = 1.0) -> Completions:
        return [list(one.token_ids) for one in self._generate(seed, temperature)]

    def train(self, clock: Clock) -> None:
        from azr_mlx.training.advantage import grpo

        groups = [i // self.work.group for i in range(self.work.rows)]
        for _ in range(clock.total):
            seed = self.work.seed + clock.begin()
            with clock.phase("rollout"):
                done = self._generate(seed)
            with clock.phase("reward"):
                advantages = grpo([sbs.reward(one.text) for one in done], groups)
            tokens = [list(one.token_ids) for one in done]
            with clock.phase("score"):
                batch = self._batch(tokens, advantages, "token_mean", self.work.beta)
            with clock.phase("update"):
                self.backend.update(batch, self._hyper(self.work.beta))
            clock.end(tokens)

    def _batch(self, done: Completions, advantages: Any, how: str, beta: float) -> Any:
        import numpy as np

        from azr_mlx.training.batch import collate_supervised, token_weights

        pairs = [(self.ids[i // self.work.group], one) for i, one in enumerate(done)]
        batch = collate_supervised(pairs)
        batch = batch.with_(
            advantages=np.asarray(advantages, np.float32)[:, None] * batch.mask,
            weights=token_weights(batch.mask, how, self.work.max_tokens),
        )
        if beta:
            batch = batch.with_(ref_logp=self.backend.score(batch, "reference", 1.0).logp)
        return batch

    def _hyper(self, beta: float) -> Any:
        from azr_mlx.backends.base import Hyper

        return Hyper(
            lr=self.work.lr,
            clip_low=CLIP,
            clip_high=CLIP,
            value_coef=0.0,
            kl_coef=beta,
            max_grad_norm=NO_CLIP,
            micro_batch_tokens=self.tokens_at_once,
        )

    def losses(self, frozen: Completions, advantages: Sequence[float]) -> Losses:
        def loss(how: str, beta: float) -> float:
            batch = self._batch(frozen, advantages, how, beta)
            return self.backend.update(batch, self._hyper(beta)).loss

        return loss


class Mlxrl(Adapter):
    def prepare(self) -> None:
        from mlxrl.policy.model import LoRAConfig, inject_lora_adapters

        inject_lora_adapters(self.model, LoRAConfig(rank=RANK, scale=SCALE, dropout=0.0))
        self.model.eval()
        self.optimizer = self.adamw()

    def version(self) -> str:
        from mlxrl import __version__

        return str(__version__)

    def _generate(self, seed: int, temperature: float = 1.0) -> Any:
        from mlxrl.rollout.naive import SamplingConfig
        from mlxrl.rollout.optimized import generate_prefix_cached_group_rollouts

        return generate_prefix_cached_group_rollouts(
            model=self.model,
            tokenizer=self.tokenizer,
            prompts=self.texts,
            group_size=self.work.group,
            config=SamplingConfig(
                max_tokens=self.work.max_tokens, temperature=temperature, top_p=1.0
            ),
            seed=seed,
            use_chat_template=False,
            compile_decode_step=self.variant == "compiled",
            batch_groups=True,
        )

    def rollout(self, seed: int, temperature: float = 1.0) -> Completions:
        return [list(one.completion_tokens) for one in self._generate(seed, temperature)]

    def _algorithm(self, how: str) -> Any:
        """Its algorithm with this normalisation, clipped as ours where it can be. KeyError."""
        from mlxrl.algo.grpo import DAPOAlgorithm, DrGRPOAlgorithm

        return {
            "token_mean": DAPOAlgorithm(clip_low=CLIP, clip_high=CLIP, dynamic_sampling=False),
            "constant": DrGRPOAlgorithm(max_tokens=self.work.max_tokens),
        }[how]

    def _update(self, batch: Any, how: str, beta: float) -> float:
        from mlxrl.train.grpo import optimizer_step

        metrics = optimizer_step(
            self.model,
            self.optimizer,
            batch,
            beta=beta,
            pad_token_id=0,
            algorithm=self._algorithm(how),
            micro_batch_size=self.work.micro_batch,
        )
        return metrics.loss

    def _batch(self, done: Any, rewards: Sequence[float], how: str, beta: float) -> Any:
        from mlxrl.train.grpo import batch_from_rollouts

        return batch_from_rollouts(
            self.model,
            done,
            rewards,
            group_size=self.work.group,
            pad_token_id=0,
            algorithm=self._algorithm(how),
            compute_reference=beta != 0,
        )

    def train(self, clock: Clock) -> None:
        for _ in range(clock.total):
            seed = self.work.seed + clock.begin()
            with clock.phase("rollout"):
                done = self._generate(seed)
            with clock.phase("reward"):
                rewards = [sbs.reward(one.text) for one in done]
            with clock.phase("score"):
                batch = self._batch(done, rewards, "token_mean", self.work.beta)
            with clock.phase("update"):
                self._update(batch, "token_mean", self.work.beta)
            clock.end([list(one.completion_tokens) for one in done])

    def losses(self, frozen: Completions, advantages: Sequence[float]) -> Losses:
        import mlx.core as mx
        from mlxrl.rollout.naive import Completion

        done = [
            Completion(
                prompt_index=i // self.work.group,
                group_index=i % self.work.group,
                prompt_tokens=self.ids[i // self.work.group],
                completion_tokens=tuple(one),
                old_policy_logprobs=(),
                text="",
            )
            for i, one in enumerate(frozen)
        ]

        def loss(how: str, beta: float) -> float:
            if how != "token_mean" and self.work.micro_batch:
                raise KeyError(how)  # it has micro-batches for the token mean only
            batch = self._batch(done, [0.0] * len(done), how, beta)
            return self._update(replace(batch, advantages=mx.array(advantages)), how, beta)

        return loss


class MlxLmLora(Adapter):
    def prepare(self) -> None:
        self.lora()
        self.reference = None
        if self.work.beta:
            # Its reference is a second model in memory; without adapters, as its loader gives it.
            self.reference, _ = sbs.build_model(self.work)
            self.reference.freeze()

    @property
    def batch_size(self) -> int:
        return self.work.prompts if self.variant == "prompts" else self.work.rows

    def version(self) -> str:
        from mlx_lm_lora._version import __version__

        return str(__version__)

    def rollout(self, seed: int, temperature: float = 1.0) -> Completions:
        import mlx.core as mx
        from mlx_lm_lora.trainer.grpo_trainer import generate_grpo

        mx.random.seed(seed)
        done, _, _ = generate_grpo(
            model=self.model,
            tokenizer=self.tokenizer,
            prompt_tokens=[list(ids) for ids in self.ids],
            max_tokens=self.work.max_tokens,
            group_size=self.work.group,
            batch_size=self.batch_size,
            end_token="",
            temperature=temperature,
            top_p=1.0,
            top_k=0,
            min_p=0.0,
        )
        return [one.tolist() for one in done]

    def train(self, clock: Clock) -> None:
        """Its whole loop. A step begins where the loop asks for the next batch; what is neither
        rollout nor reward counts as update (its scoring of the reference is inside)."""
        import mlx.core as mx
        from mlx_lm_lora.trainer import grpo_trainer

        produced: list[Completions] = []

        def batches(**options: Any) -> Any:
            prompts = [list(ids) for ids in self.ids]
            empty = [""] * len(prompts)
            while True:
                if produced:
                    end_of_loop(clock, produced[-1])
                clock.begin()
                yield prompts, [[]] * len(prompts), self.texts, empty, None

        def share(completions: Sequence[str], **options: Any) -> list[float]:
            with clock.phase("reward"):
                return [sbs.reward(text) for text in completions]

        mx.random.seed(self.work.seed)  # its loop seeds nothing
        plain = grpo_trainer.generate_grpo

        def generate(**options: Any) -> Any:
            with clock.phase("rollout"):
                done = plain(**options)
            produced.append([one.tolist() for one in done[0]])
            return done

        grpo_trainer.generate_grpo = generate
        with tempfile.TemporaryDirectory() as folder:
            grpo_trainer.train_grpo(
                self.model,
                self.reference,
                self.tokenizer,
                self.adamw(),
                train_dataset=[None],
                reward_funcs=[share],
                args=self._arguments(clock, folder),
                loss_fn=self._loss(),
                iterate_batches=batches,
                end_answer_token="",
            )
        end_of_loop(clock, produced[-1])

    def _arguments(self, clock: Clock, folder: str) -> Any:
        from mlx_lm_lora.trainer.grpo_trainer import GRPOTrainingArgs

        never = 10**9
        return GRPOTrainingArgs(
            batch_size=self.batch_size,
            iters=clock.total,
            steps_per_report=never,
            steps_per_save=never,
            group_size=self.work.group,
            beta=self.work.beta,
            epsilon=CLIP,
            max_completion_length=self.work.max_tokens,
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            grpo_loss_type="bnpo",
            adapter_file=str(Path(folder, "adapters.safetensors")),
        )

    def _loss(self) -> Callable[..., Any]:
        """Its own loss. It cuts that one, and only that one, into passes of as many rows as there
        are prompts; under another name it is taken in one pass."""
        from mlx_lm_lora.trainer.grpo_trainer import grpo_loss

        if self.variant == "prompts":
            return grpo_loss
        return lambda model, **arguments: grpo_loss(model, **arguments)

    def losses(self, frozen: Completions, advantages: Sequence[float]) -> Losses:
        import mlx.core as mx
        import mlx.nn as nn
        from mlx_lm_lora.trainer.grpo_trainer import grpo_loss

        names = {"token_mean": "bnpo", "sequence_mean": "grpo", "constant": "dr_grpo"}
        step, optimizer = nn.value_and_grad(self.model, grpo_loss), self.adamw()

        def loss(how: str, beta: float) -> float:
            (value, _, _), grads = step(
                self.model,
                self.reference,
                batch=([list(ids) for ids in self.ids],),
                completions=[mx.array(one) for one in frozen],
                batch_indices=[i // self.work.group for i in range(len(frozen))],
                advantages=mx.array(advantages),
                beta=beta,
                epsilon=CLIP,
                max_tokens=self.work.max_tokens,
                grpo_loss_type=names[how],
            )
            optimizer.update(self.model, grads)
            return float(value.item())

        return loss


class MlxLm(Adapter):
    def prepare(self) -> None:
        self.lora()
        self.model.eval()

    def version(self) -> str:
        from mlx_lm import __version__

        return str(__version__)

    def rollout(self, seed: int, temperature: float = 1.0) -> Completions:
        """The token that ends a completion is dropped by ``batch_generate``; it was produced all
        the same, and comes back as -1."""
        import mlx.core as mx
        from mlx_lm.generate import batch_generate
        from mlx_lm.sample_utils import make_sampler

        mx.random.seed(seed)
        done = batch_generate(
            self.model,
            self.tokenizer,
            [list(ids) for ids in self.ids for _ in range(self.work.group)],
            max_tokens=self.work.max_tokens,
            return_token_ids=True,
            sampler=make_sampler(temperature),
            completion_batch_size=self.work.rows,
            prefill_batch_size=self.work.rows,
        )
        longest = self.work.max_tokens
        return [list(ids) if len(ids) == longest else [*ids, -1] for ids in done.token_ids]


ADAPTERS: dict[str, type[Adapter]] = {
    "azr-mlx": Azr,
    "mlxrl": Mlxrl,
    "mlx-lm-lora": MlxLmLora,
    "mlx-lm": MlxLm,
    "areno": Areno,
    "unsloth-zoo": Unsloth,
}


def adapter(work: Work) -> Adapter:
    return ADAPTERS[work.library.partition(":")[0]](work)
