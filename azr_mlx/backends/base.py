"""The interface between the algorithm and the model: a backend works with tokens, and knows
nothing of tasks or rewards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from azr_mlx.types import Batch, Completion, Prompt, Scores, UpdateStats

Policy = Literal["current", "reference"]

# Files that ``Backend.save`` writes next to the adapters. They are the same on every backend.
VALUE_FILE = "value_head.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"


class Tokenizer(Protocol):
    """What the package needs of a tokenizer; Hugging Face's and mlx-lm's wrappers both have it."""

    chat_template: Any

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]: ...
    def decode(self, token_ids: Sequence[int]) -> str: ...
    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn. Temperature 0 is greedy; with ``top_p`` 1 no token is left
    out."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0


@dataclass(frozen=True, slots=True)
class Hyper:
    """The hyper-parameters of one optimizer step (names as in PPO, arXiv 1707.06347)."""

    lr: float
    temperature: float = 1.0
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = 0.0  # 0: off; otherwise the bound c > 1 of arXiv 1912.09729
    value_coef: float = 0.5
    value_clip: float = 0.2  # 0: off
    value_lr: float = 1e-3
    entropy_coef: float = 0.0
    kl_coef: float = 0.0  # weight of the k3 term in the loss
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    tis_cap: float = 0.0  # 0: off; otherwise the bound of truncated importance sampling
    distill_coef: float = 0.0
    max_kl: float = 0.0  # no step is made if KL(pi_old || pi) has passed this; 0: off
    micro_batch_tokens: int = 2048


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes that arrays use now, and the most that they have used since the last reset."""

    active: int
    peak: int


OnStep = Callable[[Sequence[tuple[int, Completion]]], None]


class Backend(Protocol):
    """A model that generates, scores and is updated. Arrays go in and come out as numpy arrays."""

    name: str
    tokenizer: Tokenizer

    @property
    def eos(self) -> set[int]:
        """The tokens that end a completion."""
        ...

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sequence[Sampling],
        keys: Sequence[int],
        on_step: OnStep | None = None,
        policy: Policy = "current",
    ) -> list[Completion]:
        """One completion per prompt, in order. Equal prompts are prefilled once.

        ``on_step`` is called after every decode step with the completions that ended in it, each
        with its prompt's index. Most steps end none. The "reference" policy is the same weights
        with the adapters off.
        """
        ...

    def score(self, batch: Batch, policy: Policy, temperature: float) -> Scores:
        """Log-probabilities (at ``temperature``), entropies and values of the masked tokens."""
        ...

    def update(self, batch: Batch, hyper: Hyper, distill: Batch | None = None) -> UpdateStats:
        """One optimizer step on the batch; ``distill`` adds a supervised term on its masked
        tokens.

        Raises:
            AzrError: the batch has no token to learn from, or a gradient is not finite. In both
                cases no weight has been changed.
        """
        ...

    def forget(self) -> None:
        """Drop what generation keeps between calls, so that the next call is like the first one."""
        ...

    def save(self, path: Path) -> None:
        """Write adapters, value head and optimizer state into an existing folder."""
        ...

    def load(self, path: Path) -> None:
        """Restore what ``save`` wrote. Training then continues bit for bit as without the break.

        Raises:
            ValueError: the files do not fit this model and LoRA configuration.
        """
        ...

    def memory(self) -> MemoryUse: ...

    def reset_peak_memory(self) -> None: ...
