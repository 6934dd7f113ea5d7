"""unsloth-zoo's MLXGRPOTrainer: its whole loop, as its users run it.

It is written for Apple silicon. Its imports check the platform, and UNSLOTH_ZOO_DISABLE_GPU_INIT
passes that check; its Metal kernels have counterparts in plain MLX, which it takes on a CPU.

    unsloth-zoo              log-probabilities in chunks of the vocabulary, compiled: its defaults
    unsloth-zoo:logits       use_cce=False: from whole logits, compiled
    unsloth-zoo:checkpoint   its defaults with checkpointing of layers, which is on by default too

token_mean is its "dapo" with the clip range of the others and no mask for cut completions: bnpo is
the same for one micro-batch, and another thing for several.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import side_by_side as sbs
from peer import CLIP, Adapter, Completions, Losses, end_of_loop
from side_by_side import BenchmarkError, Clock

LOSSES = {"token_mean": "dapo", "sequence_mean": "grpo", "constant": "dr_grpo"}
Generate = Callable[..., list[Any]]


class Stopping:
    """A tokenizer that names one token that ends a completion, for the trainer wants one: of
    ``ends`` or, if nothing may end a completion, one that the model does not have."""

    pad_token_id = 0

    def __init__(self, tokenizer: Any, ends: Sequence[int], vocabulary: int):
        self._tokenizer = tokenizer
        self.eos_token_id = min(ends, default=vocabulary)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def decode(self, token_ids: Sequence[int], **options: Any) -> str:
        known = [token for token in token_ids if token != self.eos_token_id]
        return str(self._tokenizer.decode(known))

    def save_pretrained(self, folder: str) -> None:
        """The trainer saves when it ends, after what is timed."""


class Unsloth(Adapter):
    def prepare(self) -> None:
        os.environ["UNSLOTH_ZOO_DISABLE_GPU_INIT"] = "1"
        self.lora()
        vocabulary = self.model.args.vocab_size
        self.stopping = Stopping(self.tokenizer, self.work.ends, vocabulary)

    def version(self) -> str:
        from unsloth_zoo import __version__

        return str(__version__)

    def _generate(self, plain: Generate, *arguments: Any, defaults: Any) -> list[Any]:
        """``generate_batch`` with all rows at once and every token that ends a completion."""
        every = replace(
            defaults,
            prefill_batch_size=self.work.rows,
            completion_batch_size=self.work.rows,
            stop_token_ids=tuple(self.work.ends) or (self.stopping.eos_token_id,),
        )
        return plain(*arguments, defaults=every)

    @staticmethod
    def _tokens(results: Sequence[Any]) -> Completions:
        """With the token that ended each, which is not told: -1."""
        return [list(one.token_ids) + [-1] * (one.finish_reason == "stop") for one in results]

    def rollout(self, seed: int, temperature: float = 1.0) -> Completions:
        from unsloth_zoo.mlx.generate import (
            GenerationDefaults,
            GenerationRequest,
            SamplingParams,
            generate_batch,
        )

        rows = [ids for ids in self.ids for _ in range(self.work.group)]
        requests = [
            GenerationRequest(
                prompt_token_ids=ids,
                max_tokens=self.work.max_tokens,
                sampling=SamplingParams(temperature=temperature, seed=seed * len(rows) + i),
            )
            for i, ids in enumerate(rows)
        ]
        arguments = (generate_batch, self.model, self.stopping, requests)
        return self._tokens(self._generate(*arguments, defaults=GenerationDefaults()))

    def _arguments(self, folder: str, steps: int, how: str, beta: float) -> Any:
        from unsloth_zoo.mlx.trainer import MLXGRPOConfig

        rows = self.work.micro_batch or self.work.rows
        passes, left = divmod(self.work.rows, rows)
        if left:
            raise BenchmarkError(f"--micro-batch {rows} does not divide {self.work.rows} rows")
        never = 10**9
        return MLXGRPOConfig(
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=passes,
            num_generations=self.work.group,
            max_completion_length=self.work.max_tokens,
            max_seq_length=2 * (self.work.prompt_tokens + self.work.max_tokens),
            max_steps=steps,
            warmup_steps=0,
            learning_rate=self.work.lr,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_leaf_norm=0.0,
            loss_type=LOSSES[how],
            beta=beta,
            epsilon=CLIP,
            epsilon_high=CLIP,
            mask_truncated_completions=False,
            scale_rewards="group",
            shuffle_dataset=False,
            use_cce=self.variant != "logits",
            gradient_checkpointing=self.variant == "checkpoint",
            logging_steps=never,
            output_dir=folder,
            seed=self.work.seed,
        )

    def _run(self, reward: Callable[..., list[float]], **changes: Any) -> Any:
        """Its training with these arguments: what ``train`` returns."""
        from unsloth_zoo.mlx.trainer import MLXGRPOTrainer

        with tempfile.TemporaryDirectory() as folder:
            arguments = self._arguments(folder, changes["steps"], changes["how"], changes["beta"])
            arguments.compile = changes["compile"]
            trainer = MLXGRPOTrainer(
                self.model,
                self.stopping,
                [{"prompt": text} for text in self.texts],
                args=arguments,
                reward_funcs=[reward],
            )
            return trainer.train()

    @contextmanager
    def _rollouts_by(self, generate: Generate) -> Iterator[None]:
        """Completions from this function, which is given the trainer's own one first."""
        from unsloth_zoo.mlx import generate as module

        plain = module.generate_batch
        module.generate_batch = lambda *given, **options: generate(plain, *given, **options)
        try:
            yield
        finally:
            module.generate_batch = plain

    def train(self, clock: Clock) -> None:
        """A step begins where the loop asks for completions; what is neither rollout nor reward
        counts as update (its scoring of the reference is inside)."""
        produced: list[Completions] = []

        def generate(plain: Generate, *given: Any, defaults: Any) -> list[Any]:
            if produced:
                end_of_loop(clock, produced[-1])
            clock.begin()
            self._check_prompts(given[-1])
            with clock.phase("rollout"):
                results = self._generate(plain, *given, defaults=defaults)
            produced.append(self._tokens(results))
            return results

        def share(completions: Sequence[str], **options: Any) -> list[float]:
            with clock.phase("reward"):
                return [sbs.reward(text) for text in completions]

        with self._rollouts_by(generate):
            self._run(share, steps=clock.total, how="token_mean", beta=self.work.beta, compile=True)
        end_of_loop(clock, produced[-1])

    def _check_prompts(self, requests: Sequence[Any]) -> None:
        given = [tuple(one.prompt_token_ids) for one in requests]
        if given != [ids for ids in self.ids for _ in range(self.work.group)]:
            raise BenchmarkError("unsloth-zoo does not read the prompts that the others read")

    def losses(self, frozen: Completions, advantages: Sequence[float]) -> Losses:
        """One step of its trainer, whose completions and advantages are these. Not compiled, so
        that the optimizer is given arrays with values."""
        import numpy as np
        from unsloth_zoo.mlx import grpo
        from unsloth_zoo.mlx.generate import GenerationResult

        def generate(*_: Any, **__: Any) -> list[Any]:
            return [GenerationResult(list(one), "", [0.0] * len(one), "length") for one in frozen]

        def given(*_: Any) -> tuple[Any, dict[str, float]]:
            return np.asarray(advantages, np.float32), {}

        def loss(how: str, beta: float) -> float:
            plain, grpo.group_advantages = grpo.group_advantages, given
            try:
                with self._rollouts_by(generate):
                    done = self._run(
                        lambda completions, **_: [0.0] * len(completions),
                        steps=1, how=how, beta=beta, compile=False,
                    )  # fmt: skip
            finally:
                grpo.group_advantages = plain
            return float(done.training_loss)

        return loss
