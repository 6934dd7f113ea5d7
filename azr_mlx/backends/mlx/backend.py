"""``MlxBackend``: one mlx-lm model that generates, scores and learns.

The reference policy is the same weights with the adapters taken out. On a machine without a GPU the
base is dequantised to float32 at load: 4-bit and bfloat16 products do not reach a BLAS there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_map, tree_unflatten
from mlx_lm.utils import load as load_mlx

from azr_mlx import rng
from azr_mlx.backends import base
from azr_mlx.backends.base import (
    OPTIMIZER_FILE,
    VALUE_FILE,
    Hyper,
    Memory,
    Sampling,
    Tokenizer,
)
from azr_mlx.backends.microbatch import MicroBatch, reduced, split
from azr_mlx.backends.mlx import (
    adapters,
    cpu,
    ppo,
    prefix_sharing,
)
from azr_mlx.backends.mlx.decoder import MlxDecoder
from azr_mlx.backends.mlx.logprobs import Head, chunk_rows, head_of
from azr_mlx.backends.ranks import (
    Alone,
    World,
    gather,
    own_part,
    run_shared,
)
from azr_mlx.backends.rollout import RolloutEngine
from azr_mlx.config import Lora
from azr_mlx.errors import AzrError
from azr_mlx.models.folder import loading
from azr_mlx.models.mlx_model import to_float32
from azr_mlx.run_folder import ADAPTER_WEIGHTS
from azr_mlx.types import (
    Batch,
    Completion,
    Prompt,
    Scores,
    UpdateStats,
)

LossAndGrads = Callable[..., tuple[Any, Any]]


class MlxBackend:
    """The Backend protocol on MLX. All calls belong on one thread, the main one."""

    name = "mlx"

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        lora: Lora | None = None,
        *,
        seed: int = 0,
        max_rows: int = 32,
        kv_tokens: int = 0,
        micro_batch_tokens: int = 2048,
        grad_checkpoint: bool = False,
        compile: bool = False,
        share_prompts: bool = True,
        base: str = "",
    ):
        """Wrap a loaded model; ``base`` is what adapter_config.json names as the model the adapters
        belong to.

        Raises:
            AzrError: the architecture's head cannot be told from its trunk.
        """
        self.tokenizer = tokenizer
        self.micro_batch_tokens = micro_batch_tokens
        self.share_prompts = share_prompts
        self.lora, self.seed = lora or Lora(), seed
        width, head = _trunk_width(model), head_of(model)
        if head is None:
            raise _unsupported(model, "has a head that is neither linear nor an embedding")
        self.adapter_config = adapters.add_lora(model, self.lora, seed)
        if mx.default_device() == mx.cpu:
            cpu.install(model)
        if base:
            self.adapter_config["model"] = base
        self.policy = ppo.Policy(model, width, head, chunk_rows(_vocabulary(model, head, width)))
        self._check_head(head)
        if not prefix_sharing.is_supported(model.model, len(model.layers)):
            raise _unsupported(model, "keeps more than plain keys and values of what it has read")
        model.train()  # LoRA dropout, if any, is on in updates only
        if grad_checkpoint:
            prefix_sharing.checkpoint_layers(model)
        self.optimizer = optim.AdamW(learning_rate=0.0, weight_decay=0.0, bias_correction=True)
        self.value_optimizer = optim.Adam(learning_rate=0.0, bias_correction=True)
        self.optimizer.init(self._adapter_parameters())
        self.value_optimizer.init(self.policy.value_head.parameters())
        self.engine = RolloutEngine(MlxDecoder(model), tokenizer, max_rows, kv_tokens)
        self._sampled: base.Policy = "current"  # whose beginnings of prompts the engine keeps
        self.compile = compile
        self._grad_functions: dict[Any, LossAndGrads] = {}
        self.world: World = Alone()

    @classmethod
    def from_folder(cls, path: Path | str, lora: Lora | None = None, **options: Any) -> MlxBackend:
        """Load an MLX model folder; on a machine without a GPU, dequantised to float32."""
        with loading(path):
            model, tokenizer = load_mlx(str(path))
        return cls(on_device(model), tokenizer, lora, **options)

    # -- rollouts and scores -----------------------------------------------------------------------

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sequence[Sampling],
        keys: Sequence[int],
        on_step: base.OnStep | None = None,
        policy: base.Policy = "current",
    ) -> list[Completion]:
        if policy != self._sampled:
            self.engine.forget()
            self._sampled = policy
        weights = adapters.merged if policy == "current" else adapters.bypassed
        with self._inference(), weights(self.policy.lm):
            return run_shared(self.world, self.engine.run, prompts, sampling, keys, on_step)

    @contextmanager
    def _inference(self) -> Iterator[None]:
        """LoRA dropout off; afterwards the buffers of shapes that may not come again are freed."""
        self.policy.eval()
        try:
            yield
        finally:
            self.policy.train()
            mx.clear_cache()

    def _as(self, policy: base.Policy) -> AbstractContextManager[None]:
        return adapters.bypassed(self.policy.lm) if policy == "reference" else nullcontext()

    def score(self, batch: Batch, policy: base.Policy, temperature: float) -> Scores:
        self.engine.forget()
        out = [np.zeros(batch.tokens.shape, np.float32) for _ in range(3)]
        reference = policy == "reference"
        with self._inference(), self._as(policy):
            for micro in self._micro_batches(batch, self.micro_batch_tokens):
                arrays = ppo.arrays_of(batch, micro)
                scores = self.policy.scores(
                    arrays, temperature, gradient=False, entropy_gradient=False
                )
                mx.eval(scores)  # one micro-batch's activations at a time
                for array, values in zip(out, scores, strict=True):
                    array[micro.rows, micro.columns] = np.array(values)[: len(micro.index)]
        if self.world.size > 1:
            out = [np.array(array) for array in self.world.sum([mx.array(one) for one in out])]
        return Scores(out[0], out[1], None if reference else out[2])

    def _micro_batches(self, batch: Batch, tokens: int) -> list[MicroBatch]:
        """This rank's."""
        return split(own_part(self.world, batch), tokens, self.share_prompts)

    def forget(self) -> None:
        self.engine.forget()

    # -- update ------------------------------------------------------------------------------------

    def update(self, batch: Batch, hyper: Hyper, distill: Batch | None = None) -> UpdateStats:
        """One optimizer step.

        Raises:
            AzrError: the gradient is not finite; nothing has been changed then.
        """
        self.engine.forget()
        loss, stats, grads = self._accumulate(batch, hyper)
        distill_loss = 0.0
        if distill is not None and hyper.distill_coef > 0:
            distill_loss, extra = self._accumulate_supervised(distill)
            grads = _add(grads, tree_map(lambda g: g * hyper.distill_coef, extra))
            loss += hyper.distill_coef * distill_loss
        norm = self._step(grads, hyper)
        return UpdateStats(
            loss=loss, distill_loss=distill_loss, grad_norm=norm, lr=hyper.lr, **stats
        )

    def _accumulate(self, batch: Batch, hyper: Hyper) -> tuple[float, dict[str, Any], Any]:
        """Loss, statistics and gradients of the minibatch, summed over micro-batches."""
        tokens = int(batch.mask.sum())
        scalars = {
            "total": mx.array(float(tokens)),
            "kl_coef": mx.array(hyper.kl_coef),
            "entropy_coef": mx.array(hyper.entropy_coef),
        }
        grads, sums = None, []
        for number, micro in enumerate(self._micro_batches(batch, hyper.micro_batch_tokens)):
            self._key_dropout("dropout", number)
            arrays = ppo.arrays_of(batch, micro)
            step = self._grad_function(ppo.ppo_loss, arrays, hyper)
            (loss, stats), new = step(arrays, scalars)
            grads = new if grads is None else _add(grads, new)
            mx.eval(grads, loss, stats)  # one micro-batch's activations at a time
            sums.append({"loss": loss.item()} | {k: v.item() for k, v in stats.items()})
        if not tokens:
            raise AzrError("nothing to learn from: no completion token in the batch")
        every = [one for part in gather(self.world, sums) for one in part]
        loss = float(np.sum([one.pop("loss") for one in every]))
        return loss, {**reduced(every, tokens), "tokens": tokens}, self._summed(grads)

    def _accumulate_supervised(self, batch: Batch) -> tuple[float, Any]:
        scalars = {"total": mx.array(float(batch.mask.sum()))}
        grads, losses = None, []
        for number, micro in enumerate(self._micro_batches(batch, self.micro_batch_tokens)):
            self._key_dropout("lesson dropout", number)
            arrays = ppo.arrays_of(batch, micro)
            step = self._grad_function(ppo.supervised_loss, arrays, None)
            loss, new = step(arrays, scalars)
            grads = new if grads is None else _add(grads, new)
            mx.eval(grads, loss)
            losses.append(loss.item())
        every = [one for part in gather(self.world, losses) for one in part]
        return float(np.sum(every)), self._summed(grads)

    def _summed(self, grads: Any) -> Any:
        """Gradients over all ranks; a rank without rows has none of its own."""
        if self.world.size == 1:
            return grads
        if grads is None:
            grads = tree_map(mx.zeros_like, self.policy.trainable_parameters())
        names, arrays = zip(*tree_flatten(grads), strict=True)
        return tree_unflatten(list(zip(names, self.world.sum(arrays), strict=True)))

    def _key_dropout(self, stream: str, micro: int) -> None:
        """Dropout layers draw from MLX's global random state: name its key like every other's."""
        if self.lora.dropout > 0:
            updates = int(self.optimizer.state["step"].item())
            mx.random.seed(rng.key(self.seed, stream, updates, micro, *self._of_rank()))

    def _of_rank(self) -> list[int]:
        return [self.world.rank] if self.world.rank else []

    def _grad_function(
        self, loss: Callable[..., Any], a: dict[str, mx.array], hyper: Any
    ) -> LossAndGrads:
        """``value_and_grad`` of a loss, compiled once per hyper-parameters and arrays present.

        The learning rates are no part of the loss, so a schedule does not compile anew.
        """
        fixed = None if hyper is None else _static(hyper)
        key = (loss.__name__, fixed, tuple(sorted(a)))
        if key not in self._grad_functions:
            extra = () if fixed is None else (fixed,)
            plain = nn.value_and_grad(self.policy, lambda a, s: loss(self.policy, a, s, *extra))
            # The weights must be inputs: captured arrays would be frozen into the compiled step.
            # They are outputs too, since value_and_grad leaves its tracers in the model.
            state = [self.policy.state, mx.random.state]
            compiled = mx.compile(plain, inputs=state, outputs=state) if self.compile else plain
            self._grad_functions[key] = compiled
        return self._grad_functions[key]

    def _step(self, grads: Any, hyper: Hyper) -> float:
        """Clip and apply. The value head is clipped apart: its gradient must not scale the policy's
        down."""
        value_grads = grads.pop("value_head")
        grads, norm = optim.clip_grad_norm(grads, hyper.max_grad_norm)
        value_grads, value_norm = optim.clip_grad_norm(value_grads, hyper.max_grad_norm)
        if not np.isfinite(norm.item() + value_norm.item()):
            raise AzrError(
                f"gradient norm is {norm.item()} (value head {value_norm.item()}): "
                "the update was not applied; lower learning_rate or ppo.max_grad_norm"
            )
        self.optimizer.learning_rate = hyper.lr
        self.optimizer.weight_decay = hyper.weight_decay
        self.value_optimizer.learning_rate = hyper.value_lr
        self.optimizer.update(self.policy, grads)
        self.value_optimizer.update(self.policy.value_head, value_grads)
        mx.eval(
            self.policy.trainable_parameters(), self.optimizer.state, self.value_optimizer.state
        )
        mx.clear_cache()
        return float(norm.item())

    # -- state -------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        adapters.save_adapters(self.policy.lm, self.adapter_config, path)
        head = dict(tree_flatten(self.policy.value_head.parameters()))
        adapters.save_arrays(path / VALUE_FILE, head)
        states = {"adapters": self.optimizer.state, "value_head": self.value_optimizer.state}
        adapters.save_arrays(path / OPTIMIZER_FILE, dict(tree_flatten(states)))

    def load(self, path: Path) -> None:
        """Raises ValueError where the files do not fit this model and LoRA configuration."""
        self.load_adapters(path)
        self.policy.value_head.load_weights(str(path / VALUE_FILE))
        states = tree_unflatten(list(mx.load(str(path / OPTIMIZER_FILE)).items()))
        self.optimizer.state = states["adapters"]
        self.value_optimizer.state = states["value_head"]

    def load_adapters(self, path: Path) -> None:
        """Weights only, from a folder with ``adapters.safetensors`` or from such a file."""
        self.engine.forget()
        file = path / ADAPTER_WEIGHTS if path.is_dir() else path
        adapters.load_adapter_weights(self.policy.lm, file)

    def memory(self) -> Memory:
        return Memory(active=mx.get_active_memory(), peak=mx.get_peak_memory())

    def reset_peak_memory(self) -> None:
        mx.reset_peak_memory()

    # -- checks ------------------------------------------------------------------------------------

    def _adapter_parameters(self) -> Any:
        parameters = self.policy.trainable_parameters()
        parameters.pop("value_head")
        return parameters

    def _check_head(self, head: Head) -> None:
        """Head of trunk must be the model: some architectures scale or cap their logits on the
        way."""
        probe = mx.array([[1, 2, 3]])
        whole = self.policy.lm(probe)
        parts = head.logits(self.policy.lm.model(probe))
        if not mx.allclose(whole, parts, rtol=1e-3, atol=1e-3).item():
            raise _unsupported(self.policy.lm, "changes its logits after the head")


def on_device(model: nn.Module) -> nn.Module:
    """The model as this machine computes it best: as it is on a GPU, dequantised to float32 on a
    CPU."""
    return to_float32(model) if mx.default_device() == mx.cpu else model


def _trunk_width(model: nn.Module) -> int:
    """The width of the hidden states that the head reads."""
    try:
        return int(model.model(mx.array([[1, 2, 3]])).shape[-1])
    except (AttributeError, TypeError) as e:
        raise _unsupported(model, "has no trunk that can be told from its head") from e


def _vocabulary(model: nn.Module, head: Head, width: int) -> int:
    """How many logits the head gives; nothing is computed."""
    dtype = model.model.embed_tokens(mx.array([0])).dtype
    return int(head.logits(mx.zeros((1, width), dtype)).shape[-1])


def _unsupported(model: nn.Module, why: str) -> AzrError:
    kind = getattr(model, "model_type", type(model).__name__)
    return AzrError(
        f"model type {kind!r} {why}; training it is not supported: choose a llama, qwen2, qwen3 "
        "or similar model"
    )


def _static(hyper: Hyper) -> Hyper:
    """What the compiled loss depends on: the rates are applied outside it, and of two weights,
    which are inputs, only whether they are there."""
    there = {name: float(getattr(hyper, name) > 0) for name in ("kl_coef", "entropy_coef")}
    return replace(hyper, lr=0.0, value_lr=0.0, weight_decay=0.0, **there)


def _add(a: Any, b: Any) -> Any:
    return tree_map(lambda x, y: x + y, a, b)
