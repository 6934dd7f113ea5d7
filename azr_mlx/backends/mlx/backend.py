"""``MlxBackend``: the part of a backend that uses MLX, with one mlx-lm model.

On a machine without a GPU the base is dequantised to float32 when it is loaded, because MLX does
not use BLAS for 4-bit and bfloat16 products.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_map, tree_unflatten
from mlx_lm.utils import load as load_mlx

from azr_mlx.backends.base import Hyper, MemoryUse, Tokenizer
from azr_mlx.backends.limits import ROW_MULTIPLE
from azr_mlx.backends.microbatch import MicroBatch
from azr_mlx.backends.mlx import adapters, cpu, gated_delta, ppo, recompute, trials
from azr_mlx.backends.mlx.anatomy import Anatomy
from azr_mlx.backends.mlx.decoder import MlxDecoder
from azr_mlx.backends.mlx.logprobs import chunk_rows
from azr_mlx.backends.mlx.own_caches import CacheDecoder
from azr_mlx.backends.model_backend import ModelBackend, unsupported
from azr_mlx.backends.rollout import RolloutEngine
from azr_mlx.backends.trial import FAILURES
from azr_mlx.config import Lora
from azr_mlx.errors import UsageError, first_line, pass_on
from azr_mlx.models.folder import NO_CODE, check_for_mlx, loading
from azr_mlx.models.mlx_model import read_arrays, to_float32
from azr_mlx.types import Batch

LossAndGrads = Callable[..., tuple[Any, Any]]


@dataclass
class _Term:
    """One term of an update's loss: its weight, and the sum of its gradients so far."""

    weight: float
    gradients: Any = None

    def add(self, new: Any) -> None:
        self.gradients = new if self.gradients is None else _add(self.gradients, new)


class MlxBackend(ModelBackend):
    """The Backend protocol on MLX. Make all calls from the main thread."""

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
        """Wrap a loaded model.

        Raises:
            AzrError: the model's hidden states or its cache are of an unknown kind.
        """
        lora = lora or Lora()
        with _refusing(model):
            gated_delta.install(model)
            anatomy = Anatomy(model)
            adapter_config = adapters.add_lora(model, lora, seed)
            if mx.default_device() == mx.cpu:
                cpu.install(model)
            _remove_failing(anatomy, adapter_config)
            _require_adapters(model, lora)
            self.path = trials.path_of(anatomy)
            if self.path != "shared":
                _remove_idle(anatomy, adapter_config)
        self.left_out = [] if lora.keys else adapters.left_out(model)
        self._vocabulary = anatomy.vocabulary
        policy = ppo.PolicyModel(anatomy, chunk_rows(anatomy.vocabulary))
        model.train()  # LoRA dropout, if any, is on in updates only
        if grad_checkpoint:
            _recompute(anatomy)
        super().__init__(
            policy,
            _engine(model, self.path, tokenizer, max_rows, kv_tokens),
            adapter_config,
            lora,
            base=base,
            seed=seed,
            micro_batch_tokens=micro_batch_tokens,
            share_prompts=share_prompts and self.path == "shared",
            row_multiple=1 if mx.default_device() == mx.cpu and not compile else ROW_MULTIPLE,
        )
        self.optimizer = optim.AdamW(learning_rate=0.0, weight_decay=0.0, bias_correction=True)
        self.value_optimizer = optim.Adam(learning_rate=0.0, bias_correction=True)
        self.optimizer.init(self._adapter_parameters())
        self.value_optimizer.init(self.policy.value_head.parameters())
        self.compile = compile
        self._grad_functions: dict[Any, LossAndGrads] = {}
        self._terms: list[_Term] = []
        self._clipped: tuple[Any, Any] | None = None  # gradients of adapters and of the value head

    @classmethod
    def from_folder(cls, path: Path | str, lora: Lora | None = None, **options: Any) -> MlxBackend:
        """Load an MLX model folder. Without a GPU it is dequantised to float32."""
        check_for_mlx(path)
        with loading(path):
            model, tokenizer = load_mlx(str(path), NO_CODE)
        return cls(on_device(model), tokenizer, lora, **options)

    # -- the model ---------------------------------------------------------------------------------

    @property
    def vocabulary(self) -> int:
        return self._vocabulary

    @contextmanager
    def _inference(self) -> Iterator[None]:
        """At the end cached buffers are freed, since their shapes may not be needed again."""
        self.policy.eval()
        try:
            yield
        finally:
            self.policy.train()
            mx.clear_cache()

    def _bypassed(self) -> AbstractContextManager[None]:
        return adapters.bypassed(self.policy.lm)

    def _merged(self) -> AbstractContextManager[None]:
        return adapters.merged(self.policy.lm)

    def _scores(self, batch: Batch, micro: MicroBatch, temperature: float) -> list[np.ndarray]:
        arrays = ppo.arrays_of(batch, micro)
        scores = self.policy.scores(arrays, temperature, gradient=False, entropy_gradient=False)
        mx.eval(scores)  # one micro-batch's activations at a time
        return [np.array(values)[: len(micro.index)] for values in scores]

    def _array(self, values: np.ndarray) -> mx.array:
        return mx.array(values)

    # -- gradients ---------------------------------------------------------------------------------

    def _clear_gradients(self) -> None:
        self._terms, self._clipped = [], None

    def _open_term(self, weight: float) -> None:
        self._terms.append(_Term(weight))

    def _ppo_pass(
        self, batch: Batch, micro: MicroBatch, tokens: int, hyper: Hyper
    ) -> dict[str, float]:
        scalars = {
            "total": mx.array(float(tokens)),
            "kl_coef": mx.array(hyper.kl_coef),
            "entropy_coef": mx.array(hyper.entropy_coef),
            "scale": mx.array(loss_scale(tokens)),
        }
        arrays, term = ppo.arrays_of(batch, micro), self._terms[-1]
        step = self._grad_function(ppo.ppo_loss, arrays, hyper)
        (_, (loss, stats)), new = step(arrays, scalars)
        term.add(_scaled(new, 1 / loss_scale(tokens)))
        mx.eval(term.gradients, loss, stats)  # one micro-batch's activations at a time
        return {"loss": loss.item()} | {k: v.item() for k, v in stats.items()}

    def _supervised_pass(self, lesson: Batch, micro: MicroBatch, total: float) -> float:
        arrays, term = ppo.arrays_of(lesson, micro), self._terms[-1]
        step = self._grad_function(ppo.supervised_loss, arrays, None)
        scale = loss_scale(total)
        (_, loss), new = step(arrays, {"total": mx.array(total), "scale": mx.array(scale)})
        term.add(_scaled(new, 1 / scale))
        mx.eval(term.gradients, loss)  # one micro-batch's activations at a time
        return float(loss.item())

    def _grad_function(
        self, loss: Callable[..., Any], a: dict[str, mx.array], hyper: Any
    ) -> LossAndGrads:
        """A function that returns (scaled loss, what ``loss`` returns) and the gradients of the
        scaled loss, compiled once for each combination of hyper-parameters and names of arrays.

        The loss does not depend on the learning rates, so changing them does not compile it again.
        """
        fixed = None if hyper is None else _static(hyper)
        key = (loss.__name__, fixed, tuple(sorted(a)))
        if key not in self._grad_functions:
            extra = () if fixed is None else (fixed,)
            plain = nn.value_and_grad(
                self.policy, lambda a, s: _times(s["scale"], loss(self.policy, a, s, *extra))
            )
            # The weights must be inputs, since captured arrays would become constants of the
            # compiled step. They must be outputs too, since value_and_grad leaves its tracers in
            # the model.
            state = [self.policy.state, mx.random.state]
            compiled = mx.compile(plain, inputs=state, outputs=state) if self.compile else plain
            self._grad_functions[key] = compiled
        return self._grad_functions[key]

    def _gradients(self) -> Any:
        """The weighted sum of all terms' gradients, over all ranks."""
        first, *others = self._terms
        total = self._summed(first.gradients)
        for term in others:
            total = _add(total, _scaled(self._summed(term.gradients), term.weight))
        return total

    def _summed(self, grads: Any) -> Any:
        """The sum of ``grads`` over all ranks; ``grads`` is None on a rank without rows."""
        if self.world.size == 1:
            return grads
        if grads is None:
            grads = tree_map(mx.zeros_like, self.policy.trainable_parameters())
        names, arrays = zip(*tree_flatten(grads), strict=True)
        return tree_unflatten(list(zip(names, self.world.sum(arrays), strict=True)))

    def _clip_gradients(self, max_norm: float) -> tuple[float, float]:
        grads = self._gradients()
        value_grads = grads.pop("value_head")
        grads, norm = optim.clip_grad_norm(grads, max_norm)
        value_grads, value_norm = optim.clip_grad_norm(value_grads, max_norm)
        self._clipped = grads, value_grads
        return float(norm.item()), float(value_norm.item())

    def _apply_gradients(self, hyper: Hyper) -> None:
        assert self._clipped is not None
        grads, value_grads = self._clipped
        self.optimizer.learning_rate = hyper.lr
        self.optimizer.weight_decay = hyper.weight_decay
        self.value_optimizer.learning_rate = hyper.value_lr
        self.optimizer.update(self.policy, grads)
        self.value_optimizer.update(self.policy.value_head, value_grads)
        mx.eval(
            self.policy.trainable_parameters(), self.optimizer.state, self.value_optimizer.state
        )
        mx.clear_cache()

    @property
    def updates(self) -> int:
        return int(self.optimizer.state["step"].item())

    def _seed_dropout(self, key: int) -> None:
        mx.random.seed(key)

    # -- state and memory --------------------------------------------------------------------------

    def _adapter_parameters(self) -> Any:
        parameters = self.policy.trainable_parameters()
        parameters.pop("value_head")
        return parameters

    def _adapter_arrays(self) -> Mapping[str, mx.array]:
        return adapters.adapter_weights(self.policy.lm)

    def _value_arrays(self) -> Mapping[str, mx.array]:
        return dict(tree_flatten(self.policy.value_head.parameters()))

    def _optimizer_arrays(self) -> Mapping[str, mx.array]:
        states = {"adapters": self.optimizer.state, "value_head": self.value_optimizer.state}
        return dict(tree_flatten(states))

    def _load_adapters(self, file: Path) -> None:
        adapters.load_adapter_weights(self.policy.lm, file)

    def _load_value_head(self, file: Path) -> None:
        self.policy.value_head.load_weights(list(read_arrays(file).items()))

    def _load_optimizer(self, file: Path) -> None:
        states = tree_unflatten(list(read_arrays(file).items()))
        self.optimizer.state = states["adapters"]
        self.value_optimizer.state = states["value_head"]

    def memory(self) -> MemoryUse:
        return MemoryUse(active=mx.get_active_memory(), peak=mx.get_peak_memory())

    def reset_peak_memory(self) -> None:
        mx.reset_peak_memory()


def on_device(model: nn.Module) -> nn.Module:
    """The model in the form that is fastest here: unchanged on a GPU, dequantised to float32 on a
    CPU."""
    return to_float32(model) if mx.default_device() == mx.cpu else model


@contextmanager
def _refusing(model: nn.Module) -> Iterator[None]:
    """Turn what the model's own code raises within the block into an AzrError."""
    try:
        yield
    except FAILURES as e:
        pass_on(e)
        raise unsupported(_kind(model), f"cannot be used: {first_line(e)}") from e


def _kind(model: nn.Module) -> str:
    return getattr(model, "model_type", type(model).__name__)


def _recompute(model: Anatomy) -> None:
    """Raises UsageError if gradients are lost, since layers use what other layers computed."""
    expected = trials.gradients(model)
    recompute.checkpoint_layers(model.model)
    if not trials.same_gradients(model, expected):
        raise UsageError(
            f"grad_checkpoint: layers of model type {_kind(model.model)!r} depend on each other, "
            "so they cannot be recomputed one by one; set ppo.grad_checkpoint=false"
        )


def _remove_failing(model: Anatomy, adapter_config: dict[str, Any]) -> None:
    """Take out the adapters that the model cannot compute with."""
    if not trials.runs(model):
        failing = adapters.failing(model.model, lambda: trials.runs(model))
        adapters.remove(model.model, failing, adapter_config)


def _require_adapters(model: nn.Module, lora: Lora) -> None:
    adapted, others = adapters.by_key(model), adapters.left_out(model)
    # Outside of the blocks, as the head is, adapters would get no gradient.
    unknown = [key for key in lora.keys if not adapted or key not in (*adapted, *others)]
    if adapted and not unknown:
        return
    if not lora.keys:
        raise ValueError("none of its layers can have adapters")
    names = sorted({*adapted, *others})
    raise UsageError(
        f"lora.keys: {', '.join(unknown)}: no layer of model type {_kind(model)!r} that can have "
        f"adapters has such a name; choose from {', '.join(names)}"
    )


def _remove_idle(model: Anatomy, adapter_config: dict[str, Any]) -> None:
    """Take out the adapters that never get a gradient."""
    if idle := adapters.idle(model.model, trials.gradients(model)):
        adapters.remove(model.model, idle, adapter_config)


def _engine(
    model: nn.Module, path: trials.Path, tokenizer: Tokenizer, max_rows: int, kv_tokens: int
) -> RolloutEngine:
    if path == "shared":
        return RolloutEngine(MlxDecoder(model), tokenizer, max_rows, kv_tokens)
    decoder = CacheDecoder(model, merged=path == "batched")
    return RolloutEngine(decoder, tokenizer, 1 if path == "single" else max_rows, kv_tokens)


def _static(hyper: Hyper) -> Hyper:
    """The hyper-parameters on which the compiled loss depends. The rates are applied outside of it.
    Two of the coefficients are inputs, so it only matters whether they are 0."""
    there = {name: float(getattr(hyper, name) > 0) for name in ("kl_coef", "entropy_coef")}
    return replace(hyper, lr=0.0, value_lr=0.0, weight_decay=0.0, **there)


def loss_scale(tokens: float) -> float:
    """The factor by which a loss is multiplied before the backward pass, and its gradients are
    divided after it: about the number of tokens that the loss is a mean over.

    Without it the gradients of activations in float16 underflow: each token's share of the loss is
    1 / ``tokens``. A power of two changes no digit of a number that does not underflow.
    """
    return float(2 ** math.floor(math.log2(max(tokens, 1))))


def _times(scale: mx.array, out: Any) -> tuple[mx.array, Any]:
    """(the loss times ``scale``, ``out``); ``out`` is a loss, or a tuple that begins with one."""
    loss = out[0] if isinstance(out, tuple) else out
    return scale * loss, out


def _add(a: Any, b: Any) -> Any:
    return tree_map(lambda x, y: x + y, a, b)


def _scaled(grads: Any, weight: float) -> Any:
    return tree_map(lambda g: g * weight, grads)
