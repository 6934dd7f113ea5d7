"""A backend with scripted completions: self-play and the trainer run without MLX, and every word is
known."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from azr_mlx.backends.base import Hyper, MemoryUse, OnStep, Policy, Sampling
from azr_mlx.types import Batch, Completion, Prompt, Scores, UpdateStats

Script = Callable[[Prompt, int], str]


class CharTokenizer:
    chat_template = None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [ord(c) for c in text]

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(map(chr, token_ids))


class FakeBackend:
    """``script(prompt, n)`` writes the n-th completion of its life; updates only count
    themselves."""

    name = "fake"

    def __init__(self, script: Script):
        self.script, self.tokenizer = script, CharTokenizer()
        self.eos: set[int] = set()
        self.prompts: list[Prompt] = []
        self.scored: list[str] = []
        self.updates: list[tuple[Batch, Hyper, Batch | None]] = []
        self.weights = 0
        self.forgotten = 0

    def forget(self) -> None:
        self.forgotten += 1

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sequence[Sampling],
        keys: Sequence[int],
        on_step: OnStep | None = None,
        policy: Policy = "current",
    ):
        done = []
        for prompt, how, key in zip(prompts, sampling, keys, strict=False):
            text = self.script(prompt, len(self.prompts))
            self.prompts.append(prompt)
            ids = tuple(self.tokenizer.encode(text))[: how.max_tokens] or (0,)
            finish = "length" if len(text) > how.max_tokens else "stop"
            done.append(Completion(ids, (-1.0,) * len(ids), finish, key, text[: how.max_tokens]))
        if on_step is not None:  # the last prompt's completion ends first
            for index, completion in reversed(list(enumerate(done))):
                on_step([])
                on_step([(index, completion)])
        return done

    def score(self, batch: Batch, policy: str, temperature: float) -> Scores:
        self.scored.append(policy)
        values = None if policy == "reference" else np.zeros_like(batch.mask)
        return Scores(-batch.mask, batch.mask, values)

    def update(self, batch: Batch, hyper: Hyper, distill: Batch | None = None) -> UpdateStats:
        self.updates.append((batch, hyper, distill))
        self.weights += 1
        zero = dict.fromkeys(
            (
                "loss",
                "policy_loss",
                "value_loss",
                "entropy",
                "approx_kl",
                "clip_frac",
                "kl_ref",
                "distill_loss",
                "mismatch_mean",
                "mismatch_max",
            ),
            0.0,
        )
        return UpdateStats(
            **zero, ratio_max=1.0, grad_norm=1.0, lr=hyper.lr, tokens=int(batch.mask.sum())
        )

    def save(self, path: Path) -> None:
        (path / "weights.json").write_text(json.dumps(self.weights))

    def load(self, path: Path) -> None:
        self.weights = json.loads((path / "weights.json").read_text())

    def memory(self) -> MemoryUse:
        return MemoryUse(0, 0)

    def reset_peak_memory(self) -> None:
        """Nothing is measured."""
