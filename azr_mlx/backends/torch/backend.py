"""``TorchBackend``: the part of a backend that uses PyTorch, with one transformers model. Its files
have the same format as those of ``azr_mlx.backends.mlx.MlxBackend``."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from azr_mlx.backends.base import Hyper, MemoryUse, Tokenizer
from azr_mlx.backends.limits import ROW_MULTIPLE
from azr_mlx.backends.microbatch import MicroBatch
from azr_mlx.backends.model_backend import ModelBackend, unsupported
from azr_mlx.backends.process_memory import peak_bytes
from azr_mlx.backends.rollout import RolloutEngine
from azr_mlx.backends.torch import adapters, attention, ppo, precision, prefix_sharing, trials
from azr_mlx.backends.torch import model as models
from azr_mlx.backends.torch.fixed_decoder import decoder_for
from azr_mlx.backends.torch.own_caches import OwnCacheDecoder
from azr_mlx.backends.trial import FAILURES
from azr_mlx.config import Lora, Quantization
from azr_mlx.errors import first_line, pass_on
from azr_mlx.models.folder import loading
from azr_mlx.types import Batch

BETAS, EPS = (0.9, 0.999), 1e-8  # for Adam; the same as MLX's defaults


class TorchBackend(ModelBackend):
    """The Backend protocol on PyTorch. Gradients are kept in the parameters' ``grad``."""

    name = "torch"
    numbers = "float32"

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        lora: Lora | None = None,
        *,
        seed: int = 0,
        max_rows: int = 32,
        kv_tokens: int = 0,
        micro_batch_tokens: int = 2048,
        grad_checkpoint: bool = False,
        share_prompts: bool = True,
        base: str = "",
        eos: Collection[int] | None = None,
    ):
        """Wrap a loaded model. ``eos`` are the tokens that end a completion (None: the
        tokenizer's ``eos_token_ids``).

        Raises:
            AzrError: the model cannot be run here, or only with other results.
        """
        lora, self.device = lora or Lora(), model.device
        precision.allow_tf32(self.device)
        with _refusing(model):
            self.path = trials.path_of(model)
            policy = ppo.PolicyModel(model)
        shared = self.path == "shared"
        if self.device.type == "cuda" and shared:
            attention.use_grouped(model)
        self.left_out = adapters.left_out(model)
        self.peft, adapter_config = adapters.add_lora(model, lora, seed)
        if grad_checkpoint:
            prefix_sharing.recompute_layers(policy.trunk, random=lora.dropout > 0)
        policy.train()  # LoRA dropout, if any, is on in updates only
        decoder = (decoder_for if shared else OwnCacheDecoder)(model, self.device)
        super().__init__(
            policy,
            RolloutEngine(decoder, tokenizer, max_rows, kv_tokens, eos),
            adapter_config,
            lora,
            base=base,
            seed=seed,
            micro_batch_tokens=micro_batch_tokens,
            share_prompts=share_prompts and shared,
            row_multiple=1 if self.device.type == "cpu" else ROW_MULTIPLE,
        )
        self.parameters = adapters.named_parameters(model)
        head = policy.value_head
        self.head_parameters = {"weight": head.weight, "bias": head.bias}
        for parameter in self.parameters.values():
            parameter.data = parameter.data.float()
        self._rounded = precision.Rounded(self.parameters.values(), policy.head.dtype)
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=0.0, betas=BETAS, eps=EPS, weight_decay=0.0
        )
        self.value_optimizer = torch.optim.Adam(
            self.head_parameters.values(), lr=0.0, betas=BETAS, eps=EPS
        )
        self._updates = 0
        self._weight = 1.0  # weight of the current term of the loss

    @classmethod
    def from_folder(
        cls,
        path: Path | str,
        lora: Lora | None = None,
        quantization: Quantization | None = None,
        **options: Any,
    ) -> TorchBackend:
        """Load a Hugging Face folder; see ``model.load``."""
        device = models.choose_device()
        kind = quantization or Quantization(bits=0)
        with loading(path):
            model, tokenizer, eos = models.load(Path(path), kind, device)
        backend = cls(model, tokenizer, lora, eos=eos, **options)
        backend.numbers = models.numbers(kind, device)
        return backend

    # -- the model ---------------------------------------------------------------------------------

    @property
    def vocabulary(self) -> int:
        return int(self.policy.head.shape[0])

    @contextmanager
    def _inference(self) -> Iterator[None]:
        self.policy.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.policy.train()

    def _bypassed(self) -> AbstractContextManager[None]:
        off: AbstractContextManager[None] = self.peft.disable_adapter()
        return off

    def _merged(self) -> AbstractContextManager[None]:
        if self.policy.head.dtype in precision.HALVES:
            return self._rounded.in_place()
        return self._merged_anew()

    @contextmanager
    def _merged_anew(self) -> Iterator[None]:
        """The merged weights are elsewhere each time, so that no graph may outlive them."""
        try:
            with adapters.merged(self.policy.lm):
                yield
        finally:
            self.engine.decoder.forget()

    def _scores(self, batch: Batch, micro: MicroBatch, temperature: float) -> list[np.ndarray]:
        arrays = ppo.arrays_of(batch, micro, self.device)
        scores = self.policy.scores(arrays, temperature, gradient=False, entropy_gradient=False)
        return [values.float().cpu().numpy() for values in scores]

    def _array(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values)

    # -- gradients ---------------------------------------------------------------------------------

    def _clear_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.value_optimizer.zero_grad(set_to_none=True)

    def _open_term(self, weight: float) -> None:
        self._weight = weight

    def _ppo_pass(
        self, batch: Batch, micro: MicroBatch, tokens: int, hyper: Hyper
    ) -> dict[str, float]:
        arrays = ppo.arrays_of(batch, micro, self.device)
        loss, sums = ppo.ppo_loss(self.policy, arrays, float(tokens), hyper)
        self._backward(loss)
        every = {"loss": loss, **sums}
        numbers = torch.stack([one.detach() for one in every.values()]).tolist()  # one transfer
        return dict(zip(every, numbers, strict=True))

    def _supervised_pass(self, lesson: Batch, micro: MicroBatch, total: float) -> float:
        arrays = ppo.arrays_of(lesson, micro, self.device)
        loss = ppo.supervised_loss(self.policy, arrays, total)
        self._backward(loss)
        return float(loss.detach())

    def _backward(self, loss: torch.Tensor) -> None:
        torch.autograd.backward(self._weight * loss)

    def _sum_gradients(self) -> None:
        """Sum over all ranks. A parameter may have no gradient on this rank, which counts as 0."""
        if self.world.size == 1:
            return
        own = [*self.parameters.values(), *self.head_parameters.values()]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in own]
        for parameter, grad in zip(own, self.world.sum(grads), strict=True):
            parameter.grad = grad

    def _clip_gradients(self, max_norm: float) -> tuple[float, float]:
        self._sum_gradients()
        clip = torch.nn.utils.clip_grad_norm_
        norm = float(clip(self.parameters.values(), max_norm))
        return norm, float(clip(self.head_parameters.values(), max_norm))

    def _apply_gradients(self, hyper: Hyper) -> None:
        _apply(self.optimizer, self.parameters, hyper.lr, hyper.weight_decay)
        _apply(self.value_optimizer, self.head_parameters, hyper.value_lr, 0.0)
        self._updates += 1

    @property
    def updates(self) -> int:
        return self._updates

    def _seed_dropout(self, key: int) -> None:
        torch.manual_seed(key >> 1)

    # -- state and memory --------------------------------------------------------------------------

    def _adapter_arrays(self) -> Mapping[str, np.ndarray]:
        return {k: adapters.transposed(p).numpy() for k, p in self.parameters.items()}

    def _value_arrays(self) -> Mapping[str, np.ndarray]:
        return {k: _copied(p).numpy() for k, p in self.head_parameters.items()}

    def _optimizer_arrays(self) -> Mapping[str, Any]:
        return {
            **self._moments("adapters", self.optimizer, "lm."),
            **self._moments("value_head", self.value_optimizer, ""),
        }

    def _moments(self, name: str, optimizer: Any, prefix: str) -> dict[str, Any]:
        own = self.parameters if optimizer is self.optimizer else self.head_parameters
        turned = adapters.transposed if optimizer is self.optimizer else _copied
        out: dict[str, Any] = {
            f"{name}.step": np.uint64(self._updates),
            f"{name}.learning_rate": np.float32(optimizer.param_groups[0]["lr"]),
        }
        for key, parameter in own.items():
            state = optimizer.state.get(parameter) or {}
            for ours, theirs in (("m", "exp_avg"), ("v", "exp_avg_sq")):
                moment = state.get(theirs, torch.zeros_like(parameter))
                out[f"{name}.{prefix}{key}.{ours}"] = turned(moment).numpy()
        return out

    def _load_adapters(self, file: Path) -> None:
        adapters.load_weights(self.policy.lm, file)

    def _load_value_head(self, file: Path) -> None:
        head = adapters.read_arrays(file)
        with torch.no_grad():
            for name, parameter in self.head_parameters.items():
                parameter.copy_(head[name])

    def _load_optimizer(self, file: Path) -> None:
        arrays = adapters.read_arrays(file)
        self._updates = int(arrays["adapters.step"])
        self._restore("adapters", self.optimizer, "lm.", arrays)
        self._restore("value_head", self.value_optimizer, "", arrays)

    def _restore(
        self, name: str, optimizer: Any, prefix: str, arrays: dict[str, torch.Tensor]
    ) -> None:
        own = self.parameters if optimizer is self.optimizer else self.head_parameters
        optimizer.state.clear()
        if not self._updates:
            return
        for key, parameter in own.items():
            m, v = (arrays[f"{name}.{prefix}{key}.{kind}"] for kind in ("m", "v"))
            if optimizer is self.optimizer:
                m, v = m.T, v.T
            optimizer.state[parameter] = {
                "step": torch.tensor(float(self._updates)),
                "exp_avg": m.contiguous().to(parameter.device),
                "exp_avg_sq": v.contiguous().to(parameter.device),
            }

    def memory(self) -> MemoryUse:
        """On a CPU this is the peak memory of the whole process, which is never reset."""
        if self.device.type == "cuda":
            return MemoryUse(torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated())
        if self.device.type == "mps":
            now = torch.mps.current_allocated_memory()
            return MemoryUse(now, torch.mps.driver_allocated_memory())
        peak = peak_bytes()
        return MemoryUse(active=peak, peak=peak)

    def reset_peak_memory(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()


@contextmanager
def _refusing(model: Any) -> Iterator[None]:
    """Turn what the model's own code raises within the block into an AzrError."""
    try:
        yield
    except FAILURES as e:
        pass_on(e)
        why = f"cannot be used: {first_line(e)}"
        raise unsupported(model.config.model_type, why) from e


def _apply(optimizer: Any, parameters: dict[str, Any], lr: float, weight_decay: float) -> None:
    for group in optimizer.param_groups:
        group["lr"], group["weight_decay"] = lr, weight_decay
    for parameter in parameters.values():  # the optimizer skips parameters without a gradient
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()


def _copied(array: torch.Tensor) -> torch.Tensor:
    return array.detach().cpu().contiguous()
