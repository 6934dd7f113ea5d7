"""How one model generates, scores and learns, with any array library.

``ModelBackend`` holds the flow. ``MlxBackend`` and ``TorchBackend`` supply what differs: arrays,
gradients, the optimizer, the contents of the files, and memory.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from azr_mlx import rng
from azr_mlx.backends.adapter_files import write_arrays
from azr_mlx.backends.base import (
    OPTIMIZER_FILE,
    VALUE_FILE,
    Hyper,
    MemoryUse,
    OnStep,
    Policy,
    Sampling,
)
from azr_mlx.backends.microbatch import MicroBatch, reduced, split
from azr_mlx.backends.ranks import Alone, World, gather, own_part, run_shared
from azr_mlx.backends.rollout import RolloutEngine
from azr_mlx.config import Lora
from azr_mlx.errors import AzrError
from azr_mlx.models.mlx_model import check_tokens
from azr_mlx.run_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from azr_mlx.types import Batch, Completion, Prompt, Scores, UpdateStats


class ModelBackend(ABC):
    """The Backend protocol on one model with LoRA adapters and a value head.

    The reference policy is the same weights with the adapters off. A run of several ranks sets
    ``world``. ``path`` says how prompts and completions are read (``mlx.trials.path_of``), and
    ``left_out`` names the linear layers that cannot have adapters.
    """

    name: str
    path: str = "shared"
    left_out: Sequence[str] = ()
    numbers = ""  # type of the base weights; empty if it is the one that the model's folder says

    def __init__(
        self,
        policy: Any,
        engine: RolloutEngine,
        adapter_config: dict[str, Any],
        lora: Lora,
        *,
        base: str,
        seed: int,
        micro_batch_tokens: int,
        share_prompts: bool,
        row_multiple: int,
    ):
        """``policy`` is the library's ``PolicyModel``; ``base`` is the name of the model that
        adapter_config.json records ("": none); lengths in micro-batches are padded to a multiple
        of ``row_multiple``."""
        self.policy, self.engine, self.tokenizer = policy, engine, engine.tokenizer
        self.adapter_config = {**adapter_config, **({"model": base} if base else {})}
        self.lora, self.seed = lora, seed
        self.micro_batch_tokens, self.share_prompts = micro_batch_tokens, share_prompts
        self.row_multiple = row_multiple
        self.world: World = Alone()
        self._sampled: Policy = "current"  # the policy whose prompt prefixes the engine keeps

    @property
    def eos(self) -> set[int]:
        return self.engine.eos

    # -- rollouts and scores -----------------------------------------------------------------------

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sequence[Sampling],
        keys: Sequence[int],
        on_step: OnStep | None = None,
        policy: Policy = "current",
    ) -> list[Completion]:
        check_tokens(self.tokenizer, self.vocabulary, *(prompt.token_ids for prompt in prompts))
        if policy != self._sampled:
            self.engine.forget()
            self._sampled = policy
        weights = self._merged() if policy == "current" else self._bypassed()
        with self._inference(), weights:
            return run_shared(self.world, self.engine.run, prompts, sampling, keys, on_step)

    def score(self, batch: Batch, policy: Policy, temperature: float) -> Scores:
        self.engine.forget()
        out = [np.zeros(batch.tokens.shape, np.float32) for _ in range(3)]
        weights = self._bypassed() if policy == "reference" else nullcontext()
        with self._inference(), weights:
            for micro in self._micro_batches(batch, self.micro_batch_tokens):
                scores = self._scores(batch, micro, temperature)
                for array, values in zip(out, scores, strict=True):
                    array[micro.rows, micro.columns] = values
        if self.world.size > 1:
            total = self.world.sum([self._array(one) for one in out])
            out = [np.array(array) for array in total]
        return Scores(out[0], out[1], None if policy == "reference" else out[2])

    def forget(self) -> None:
        self.engine.forget()

    def _micro_batches(self, batch: Batch, tokens: int) -> list[MicroBatch]:
        """The micro-batches of this rank."""
        part = own_part(self.world, batch)
        return split(part, tokens, self.share_prompts, self.row_multiple)

    # -- update ------------------------------------------------------------------------------------

    def update(self, batch: Batch, hyper: Hyper, distill: Batch | None = None) -> UpdateStats:
        self.engine.forget()
        self._clear_gradients()
        loss, stats = self._accumulate(batch, hyper)
        if 0 < hyper.max_kl < stats["approx_kl"]:
            self._clear_gradients()
            return UpdateStats(
                loss=loss, distill_loss=0.0, grad_norm=0.0, lr=hyper.lr, applied=False, **stats
            )
        distill_loss = 0.0
        if distill is not None and hyper.distill_coef > 0:
            distill_loss = self._accumulate_supervised(distill, hyper.distill_coef)
            loss += hyper.distill_coef * distill_loss
        norm = self._step(hyper)
        return UpdateStats(
            loss=loss, distill_loss=distill_loss, grad_norm=norm, lr=hyper.lr, **stats
        )

    def _accumulate(self, batch: Batch, hyper: Hyper) -> tuple[float, dict[str, Any]]:
        """The PPO loss of the minibatch and its statistics. The gradients are kept for the step."""
        tokens, sums = int(batch.mask.sum()), list[dict[str, float]]()
        self._open_term(1.0)
        for number, micro in enumerate(self._micro_batches(batch, hyper.micro_batch_tokens)):
            self._key_dropout("dropout", number)
            sums.append(self._ppo_pass(batch, micro, tokens, hyper))
        if not tokens:
            raise AzrError("nothing to learn from: no completion token in the batch")
        every = self._of_all_ranks(sums)
        loss = float(np.sum([one.pop("loss") for one in every]))
        return loss, {**reduced(every, tokens), "tokens": tokens}

    def _accumulate_supervised(self, lesson: Batch, weight: float) -> float:
        """The lesson's mean negative log-likelihood; ``weight`` times its gradient is added."""
        total, losses = float(lesson.mask.sum()), list[float]()
        self._open_term(weight)
        for number, micro in enumerate(self._micro_batches(lesson, self.micro_batch_tokens)):
            self._key_dropout("lesson dropout", number)
            losses.append(self._supervised_pass(lesson, micro, total))
        return float(np.sum(self._of_all_ranks(losses)))

    def _key_dropout(self, stream: str, micro: int) -> None:
        """Seed the library's global random state, from which dropout layers draw, for this pass."""
        if self.lora.dropout > 0:
            rank = [self.world.rank] if self.world.rank else []
            self._seed_dropout(rng.key(self.seed, stream, self.updates, micro, *rank))

    def _of_all_ranks(self, values: list[Any]) -> list[Any]:
        return [one for part in gather(self.world, values) for one in part]

    def _step(self, hyper: Hyper) -> float:
        """One step of the optimizer; returns the norm of the adapters' gradient.

        Raises:
            AzrError: a gradient is not finite. No weight has been changed.
        """
        norm, value_norm = self._clip_gradients(hyper.max_grad_norm)
        if not np.isfinite(norm + value_norm):
            self._clear_gradients()
            raise AzrError(
                f"gradient norm is {norm} (value head {value_norm}): "
                "the update was not applied; lower learning_rate or ppo.max_grad_norm"
            )
        self._apply_gradients(hyper)
        self._clear_gradients()
        return norm

    # -- state -------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        write_arrays(path / ADAPTER_WEIGHTS, self._adapter_arrays())
        (path / ADAPTER_CONFIG).write_text(json.dumps(self.adapter_config, indent=2) + "\n")
        write_arrays(path / VALUE_FILE, self._value_arrays())
        write_arrays(path / OPTIMIZER_FILE, self._optimizer_arrays())

    def load(self, path: Path) -> None:
        self.load_adapters(path)
        self._load_value_head(path / VALUE_FILE)
        self._load_optimizer(path / OPTIMIZER_FILE)

    def load_adapters(self, path: Path) -> None:
        """Load weights only, from a folder with ``adapters.safetensors`` or from such a file."""
        self.engine.forget()
        self._load_adapters(path / ADAPTER_WEIGHTS if path.is_dir() else path)

    # -- what a subclass supplies: the model -------------------------------------------------------

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """How many tokens the model knows."""

    @abstractmethod
    def _inference(self) -> AbstractContextManager[None]:
        """Switch dropout off within the block, and keep nothing for gradients."""

    @abstractmethod
    def _bypassed(self) -> AbstractContextManager[None]:
        """Switch the adapters off within the block."""

    @abstractmethod
    def _merged(self) -> AbstractContextManager[None]:
        """Add the adapters to the weights within the block, if that makes decoding faster."""

    @abstractmethod
    def _scores(self, batch: Batch, micro: MicroBatch, temperature: float) -> Sequence[np.ndarray]:
        """(log-probabilities, entropies, values), each [N], of the micro-batch's trained tokens."""

    @abstractmethod
    def _array(self, values: np.ndarray) -> Any:
        """These numbers as an array of the library, to be summed over ranks."""

    # -- what a subclass supplies: gradients -------------------------------------------------------

    @abstractmethod
    def _clear_gradients(self) -> None: ...

    @abstractmethod
    def _open_term(self, weight: float) -> None:
        """Begin a term of the loss. Gradients of the next passes are multiplied by ``weight``."""

    @abstractmethod
    def _ppo_pass(
        self, batch: Batch, micro: MicroBatch, tokens: int, hyper: Hyper
    ) -> dict[str, float]:
        """Add one micro-batch's gradients. Returns its share of the ``loss`` and sums of its
        statistics. ``tokens`` is the number of trained tokens in the whole batch."""

    @abstractmethod
    def _supervised_pass(self, lesson: Batch, micro: MicroBatch, total: float) -> float:
        """Add one micro-batch's gradients. Returns its share of the loss, which is a mean over
        ``total`` tokens."""

    @abstractmethod
    def _clip_gradients(self, max_norm: float) -> tuple[float, float]:
        """Sum the gradients over the ranks, and clip them. Returns the norms before clipping, of
        the adapters and of the value head. The value head is clipped separately, so that a large
        gradient there does not scale down the gradient of the policy."""

    @abstractmethod
    def _apply_gradients(self, hyper: Hyper) -> None:
        """Step both optimizers with the clipped gradients."""

    @property
    @abstractmethod
    def updates(self) -> int:
        """Optimizer steps so far."""

    @abstractmethod
    def _seed_dropout(self, key: int) -> None:
        """Set the state that dropout layers draw from; ``key`` has 64 bits."""

    # -- what a subclass supplies: state and memory ------------------------------------------------

    @abstractmethod
    def _adapter_arrays(self) -> Mapping[str, Any]: ...

    @abstractmethod
    def _value_arrays(self) -> Mapping[str, Any]: ...

    @abstractmethod
    def _optimizer_arrays(self) -> Mapping[str, Any]:
        """The state of both optimizers, under the names that MLX uses."""

    @abstractmethod
    def _load_adapters(self, file: Path) -> None: ...

    @abstractmethod
    def _load_value_head(self, file: Path) -> None: ...

    @abstractmethod
    def _load_optimizer(self, file: Path) -> None: ...

    @abstractmethod
    def memory(self) -> MemoryUse: ...

    @abstractmethod
    def reset_peak_memory(self) -> None: ...


def unsupported(model_type: str, why: str) -> AzrError:
    """The error for a model that cannot be trained."""
    return AzrError(
        f"model type {model_type!r} {why}; it cannot be trained: choose another "
        "architecture (docs/models.md), for example llama or qwen3"
    )
