"""``TorchBackend``: one transformers model that generates, scores and learns.

The reference policy is the same weights with the adapters off. What it does, and in which order, is
what ``azr_mlx.backends.mlx.MlxBackend`` does; so are the files that it writes.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from azr_mlx import rng
from azr_mlx.backends.base import (
    OPTIMIZER_FILE,
    VALUE_FILE,
    Hyper,
    Memory,
    OnStep,
    Policy,
    Sampling,
    Tokenizer,
)
from azr_mlx.backends.microbatch import MicroBatch, reduced, split
from azr_mlx.backends.ranks import (
    Alone,
    World,
    gather,
    own_part,
    run_shared,
)
from azr_mlx.backends.rollout import RolloutEngine
from azr_mlx.backends.torch import adapters, ppo
from azr_mlx.backends.torch import model as models
from azr_mlx.backends.torch.decoder import TorchDecoder
from azr_mlx.config import Lora, Quantization
from azr_mlx.errors import AzrError
from azr_mlx.models.folder import loading
from azr_mlx.run_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from azr_mlx.types import (
    Batch,
    Completion,
    Prompt,
    Scores,
    UpdateStats,
)

BETAS, EPS = (0.9, 0.999), 1e-8  # of Adam, as MLX has them


class TorchBackend:
    """The Backend protocol on PyTorch."""

    name = "torch"
    numbers = "float32"  # of the base weights

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
        """Wrap a loaded model; ``base`` is what adapter_config.json names as the model the adapters
        belong to, ``eos`` the tokens that end a completion (None: ``tokenizer.eos_token_ids``)."""
        self.tokenizer = tokenizer
        self.micro_batch_tokens = micro_batch_tokens
        # Layers that are computed again cannot hand on the keys and values of a stage.
        self.share_prompts = share_prompts and not grad_checkpoint
        self.lora, self.seed, self.device = lora or Lora(), seed, model.device
        self.peft, self.adapter_config = adapters.add_lora(model, self.lora, seed)
        if base:
            self.adapter_config["model"] = base
        self.policy = ppo.Policy(model)
        if grad_checkpoint:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self.policy.train()  # LoRA dropout, if any, is on in updates only
        self.parameters = adapters.named_parameters(model)
        head = self.policy.value_head
        self.head_parameters = {"weight": head.weight, "bias": head.bias}
        for parameter in self.parameters.values():
            parameter.data = parameter.data.float()
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=0.0, betas=BETAS, eps=EPS, weight_decay=0.0
        )
        self.value_optimizer = torch.optim.Adam(
            self.head_parameters.values(), lr=0.0, betas=BETAS, eps=EPS
        )
        self.updates = 0
        self.world: World = Alone()
        decoder = TorchDecoder(model, self.device)
        self.engine = RolloutEngine(decoder, tokenizer, max_rows, kv_tokens, eos)
        self._sampled: Policy = "current"  # whose beginnings of prompts the engine keeps

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

    # -- rollouts and scores -----------------------------------------------------------------------

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sequence[Sampling],
        keys: Sequence[int],
        on_step: OnStep | None = None,
        policy: Policy = "current",
    ) -> list[Completion]:
        if policy != self._sampled:
            self.engine.forget()
            self._sampled = policy
        weights = adapters.merged(self.policy.lm) if policy == "current" else self._as(policy)
        with self._inference(), weights:
            return run_shared(self.world, self.engine.run, prompts, sampling, keys, on_step)

    @contextmanager
    def _inference(self) -> Iterator[None]:
        """LoRA dropout off, and no graph."""
        self.policy.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.policy.train()

    def _as(self, policy: Policy) -> Any:
        return self.peft.disable_adapter() if policy == "reference" else nullcontext()

    def score(self, batch: Batch, policy: Policy, temperature: float) -> Scores:
        self.engine.forget()
        out = [np.zeros(batch.tokens.shape, np.float32) for _ in range(3)]
        with self._inference(), self._as(policy):
            for micro in self._micro_batches(batch, self.micro_batch_tokens):
                arrays = ppo.arrays_of(batch, micro, self.device)
                scores = self.policy.scores(
                    arrays, temperature, gradient=False, entropy_gradient=False
                )
                for array, values in zip(out, scores, strict=True):
                    array[micro.rows, micro.columns] = values.float().cpu().numpy()
        if self.world.size > 1:
            total = self.world.sum([torch.from_numpy(one) for one in out])
            out = [array.numpy() for array in total]
        return Scores(out[0], out[1], None if policy == "reference" else out[2])

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
        self._clear_gradients()
        loss, stats = self._accumulate(batch, hyper)
        distill_loss = 0.0
        if distill is not None and hyper.distill_coef > 0:
            distill_loss = self._accumulate_supervised(distill, hyper.distill_coef)
            loss += hyper.distill_coef * distill_loss
        norm = self._step(hyper)
        return UpdateStats(
            loss=loss, distill_loss=distill_loss, grad_norm=norm, lr=hyper.lr, **stats
        )

    def _accumulate(self, batch: Batch, hyper: Hyper) -> tuple[float, dict[str, Any]]:
        """Loss and statistics of the minibatch; its gradients are left in the parameters."""
        tokens = int(batch.mask.sum())
        sums = list[dict[str, float]]()
        for number, micro in enumerate(self._micro_batches(batch, hyper.micro_batch_tokens)):
            self._key_dropout("dropout", number)
            arrays = ppo.arrays_of(batch, micro, self.device)
            loss, stats = ppo.ppo_loss(self.policy, arrays, float(tokens), hyper)
            torch.autograd.backward(loss)
            sums.append({"loss": float(loss.detach())} | stats)
        if not tokens:
            raise AzrError("nothing to learn from: no completion token in the batch")
        every = [one for part in gather(self.world, sums) for one in part]
        total = float(np.sum([one.pop("loss") for one in every]))
        return total, {**reduced(every, tokens), "tokens": tokens}

    def _accumulate_supervised(self, batch: Batch, weight: float) -> float:
        """The mean negative log-likelihood; ``weight`` times its gradient is added."""
        total, losses = float(batch.mask.sum()), []
        for number, micro in enumerate(self._micro_batches(batch, self.micro_batch_tokens)):
            self._key_dropout("lesson dropout", number)
            arrays = ppo.arrays_of(batch, micro, self.device)
            loss = ppo.supervised_loss(self.policy, arrays, total)
            torch.autograd.backward(weight * loss)
            losses.append(float(loss.detach()))
        every = [one for part in gather(self.world, losses) for one in part]
        return float(np.sum(every))

    def _key_dropout(self, stream: str, micro: int) -> None:
        """Dropout layers draw from torch's global random state: name its key like every other's."""
        if self.lora.dropout > 0:
            number = [micro, self.world.rank] if self.world.rank else [micro]
            torch.manual_seed(rng.key(self.seed, stream, self.updates, *number) >> 1)

    def _sum_gradients(self) -> None:
        """Over all ranks; a parameter that no loss of this rank reached has none of its own."""
        if self.world.size == 1:
            return
        own = [*self.parameters.values(), *self.head_parameters.values()]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in own]
        for parameter, grad in zip(own, self.world.sum(grads), strict=True):
            parameter.grad = grad

    def _clear_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.value_optimizer.zero_grad(set_to_none=True)

    def _step(self, hyper: Hyper) -> float:
        """Clip and apply. The value head is clipped apart: its gradient must not scale the policy's
        down."""
        self._sum_gradients()
        clip = torch.nn.utils.clip_grad_norm_
        norm = float(clip(self.parameters.values(), hyper.max_grad_norm))
        value_norm = float(clip(self.head_parameters.values(), hyper.max_grad_norm))
        if not np.isfinite(norm + value_norm):
            self._clear_gradients()
            raise AzrError(
                f"gradient norm is {norm} (value head {value_norm}): "
                "the update was not applied; lower learning_rate or ppo.max_grad_norm"
            )
        _apply(self.optimizer, self.parameters, hyper.lr, hyper.weight_decay)
        _apply(self.value_optimizer, self.head_parameters, hyper.value_lr, 0.0)
        self.updates += 1
        self._clear_gradients()
        return norm

    # -- state -------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        weights = {k: adapters.transposed(p) for k, p in self.parameters.items()}
        _write(path / ADAPTER_WEIGHTS, weights)
        (path / ADAPTER_CONFIG).write_text(json.dumps(self.adapter_config, indent=2) + "\n")
        head = {k: p.detach().cpu().contiguous() for k, p in self.head_parameters.items()}
        _write(path / VALUE_FILE, head)
        _write(
            path / OPTIMIZER_FILE,
            {
                **self._moments("adapters", self.optimizer, "lm."),
                **self._moments("value_head", self.value_optimizer, ""),
            },
        )

    def _moments(self, name: str, optimizer: Any, prefix: str) -> dict[str, torch.Tensor]:
        """An optimizer's state under the names that MLX gives it."""
        own = self.parameters if optimizer is self.optimizer else self.head_parameters
        turned = adapters.transposed if optimizer is self.optimizer else _copied
        out = {
            f"{name}.step": torch.tensor(self.updates, dtype=torch.uint64),
            f"{name}.learning_rate": torch.tensor(optimizer.param_groups[0]["lr"]),
        }
        for key, parameter in own.items():
            state = optimizer.state.get(parameter) or {}
            for ours, theirs in (("m", "exp_avg"), ("v", "exp_avg_sq")):
                moment = state.get(theirs, torch.zeros_like(parameter))
                out[f"{name}.{prefix}{key}.{ours}"] = turned(moment)
        return out

    def load(self, path: Path) -> None:
        """Raises ValueError where the files do not fit this model and LoRA configuration."""
        self.load_adapters(path)
        head = load_file(path / VALUE_FILE)
        with torch.no_grad():
            for name, parameter in self.head_parameters.items():
                parameter.copy_(head[name])
        arrays = load_file(path / OPTIMIZER_FILE)
        self.updates = int(arrays["adapters.step"])
        self._restore("adapters", self.optimizer, "lm.", arrays)
        self._restore("value_head", self.value_optimizer, "", arrays)

    def _restore(
        self, name: str, optimizer: Any, prefix: str, arrays: dict[str, torch.Tensor]
    ) -> None:
        own = self.parameters if optimizer is self.optimizer else self.head_parameters
        optimizer.state.clear()
        if not self.updates:
            return
        for key, parameter in own.items():
            m, v = (arrays[f"{name}.{prefix}{key}.{kind}"] for kind in ("m", "v"))
            if optimizer is self.optimizer:
                m, v = m.T, v.T
            optimizer.state[parameter] = {
                "step": torch.tensor(float(self.updates)),
                "exp_avg": m.contiguous().to(parameter.device),
                "exp_avg_sq": v.contiguous().to(parameter.device),
            }

    def load_adapters(self, path: Path) -> None:
        """Weights only, from a folder with ``adapters.safetensors`` or from such a file."""
        self.engine.forget()
        adapters.load_weights(self.policy.lm, path / ADAPTER_WEIGHTS if path.is_dir() else path)

    def memory(self) -> Memory:
        """On a CPU those of the process: its peak is never reset."""
        if self.device.type == "cuda":
            return Memory(torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated())
        if self.device.type == "mps":
            now = torch.mps.current_allocated_memory()
            return Memory(now, torch.mps.driver_allocated_memory())
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return Memory(active=peak, peak=peak)

    def reset_peak_memory(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()


def _apply(optimizer: Any, parameters: dict[str, Any], lr: float, weight_decay: float) -> None:
    for group in optimizer.param_groups:
        group["lr"], group["weight_decay"] = lr, weight_decay
    for parameter in parameters.values():  # one that no loss reached has moments, too
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()


def _copied(array: torch.Tensor) -> torch.Tensor:
    return array.detach().cpu().contiguous()


def _write(file: Path, arrays: dict[str, torch.Tensor]) -> None:
    try:
        save_file(arrays, file, metadata={"format": "mlx"})
    except SafetensorError as e:  # a full disk, say: to the caller an OSError like any other
        raise OSError(str(e)) from e
