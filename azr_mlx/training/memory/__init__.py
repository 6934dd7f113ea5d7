"""What a configuration will cost, before anything is loaded: tokens per step, disk space per
checkpoint, and memory.

Everything is computed from the model's config.json and the training configuration. ``estimate``
says how reliable the figures for memory are.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from azr_mlx.backends.select import choose
from azr_mlx.config import Config, load, to_yaml
from azr_mlx.config.shipped import model_shapes, shipped_configs
from azr_mlx.errors import ModelError, ModelUsageError, UsageError
from azr_mlx.models import cache
from azr_mlx.models.folder import read_config
from azr_mlx.models.hub import hub_snapshot
from azr_mlx.models.locate import check_hub_name, locate
from azr_mlx.text import storage
from azr_mlx.training import step_times
from azr_mlx.training.memory.estimate import Planner, kv_bytes, kv_tokens, round_rollouts
from azr_mlx.training.memory.limit import (
    device,
    fits,
    limit_of,
    machine_memory,
    refuse_what_does_not_fit,
    resolve_checkpointing,
    what_fits,
)
from azr_mlx.training.memory.on_torch import TorchPlanner, free_memory, torch_device
from azr_mlx.training.memory.prompts import planned_prompts
from azr_mlx.training.memory.shape import Shape, UnknownModel

KV_SHARE = 4  # an evaluation gives this part of the memory to keys and values


def describe(config: Config, asking: str = "") -> str:
    """The resolved configuration and, as comments, what it will cost, with the verdict at the end:
    so they are what a terminal shows last. ``asking`` is a line about the prompt form. Raises
    ModelUsageError if ``model_id`` cannot name a model."""
    lines = ["what this run will need", *([asking] if asking else []), *rollout_lines(config)]
    config, memory, verdict = _described(config)
    decided = resolve_checkpointing(config, None, 0)  # as a run on a model of unknown sizes
    lines.append(f"time:            {step_times.line(decided, available(config))}")
    lines += [*memory, f"cache of models: {cache.describe()}", *verdict]
    return "\n".join([to_yaml(config), *(f"# {line}" for line in lines)]) + "\n"


def _described(config: Config) -> tuple[Config, list[str], list[str]]:
    """The configuration with ``ppo.grad_checkpoint`` decided, if the model's sizes are known; lines
    about its sizes and the memory that it needs, and whether it fits. Raises ModelUsageError."""
    backend = "torch" if "torch" in (available(config), config.backend) else "mlx"
    try:
        planner = planner_of(config, backend=backend)
    except ModelUsageError:
        raise
    except (ModelError, UnknownModel) as e:
        return config, [], [f"memory: unknown: {e}"]
    limit = _limit(config, planner)
    decided = resolve_checkpointing(config, planner, limit)
    lines = [*size_lines(config, planner), *memory_lines(decided, planner)]
    if backend == "torch":
        lines.append("torch:           by the formulas of MLX, which were not measured here")
    return decided, lines, verdict_lines(decided, planner, limit)


def available(config: Config) -> str:
    """The backend that a run would use; empty if it is not installed."""
    try:
        return choose(config.backend)[0]
    except UsageError:
        return ""


def fitting(config: Config, backend: str = "mlx") -> Config:
    """The configuration with ``ppo.grad_checkpoint`` decided, if it fits this machine.

    A model of unknown sizes is accepted, and so is every model on torch, for which the figures have
    not been measured. A model that does not exist is reported later, when it is resolved.

    Raises:
        UsageError: it needs more memory than there is; the message names a similar configuration
            that fits.
    """
    try:
        planner = planner_of(config, backend=backend)
    except (ModelError, UnknownModel):
        return resolve_checkpointing(config, None, 0)
    limit = _limit(config, planner)
    config = resolve_checkpointing(config, planner, limit)
    if limit and backend != "torch":
        refuse_what_does_not_fit(config, planner, limit, largest_shipped)
    return config


def _limit(config: Config, planner: Planner) -> int:
    """The memory limit in bytes; 0 if unknown."""
    if isinstance(planner, TorchPlanner) and planner.device == "gpu" and not config.memory_limit_gb:
        return free_memory()
    return limit_of(config, planner.device)


def planner_of(config: Config, on: str | None = None, backend: str = "mlx") -> Planner:
    """The planner for a configuration. Raises ModelError, UnknownModel."""
    shape = Shape.from_config(model_config(config.model_id))
    if backend == "torch":
        return TorchPlanner(shape, on or torch_device(), *planned_prompts(config))
    return Planner(shape, on or device(), *planned_prompts(config))


def kv_tokens_of(config: Config, backend: str = "mlx") -> int:
    """``rollout.kv_budget_mb`` as the limit of the engine on places x tokens; 0 means no limit.

    Raises UsageError if there is a budget and the model's sizes are not known.
    """
    if not config.rollout.kv_budget_mb:
        return 0
    try:
        planner = planner_of(config, backend=backend)
    except (ModelError, UnknownModel) as error:
        raise UsageError(
            f"rollout.kv_budget_mb: {config.rollout.kv_budget_mb}: what a token of "
            f"{config.model_id} takes is not known ({error}); give 0, and a smaller "
            "rollout.max_batch if memory is short"
        ) from error
    return kv_tokens(config, planner.shape, planner.device)


def kv_room(folder: Path, backend: str) -> int:
    """The number of tokens of the model in ``folder`` whose keys and values take a quarter of the
    memory here; 0 if that is not known."""
    on = torch_device() if backend == "torch" else device()
    try:
        shape = Shape.from_config(read_config(folder))
    except (ModelError, UnknownModel):
        return 0
    memory = free_memory() if (backend, on) == ("torch", "gpu") else machine_memory(on)
    return memory // KV_SHARE // kv_bytes(shape, on)


def needs(config: Config, on: str, limit: int) -> int:
    """Bytes that the largest phase needs; layers are recomputed if that makes it fit. Raises
    ModelError, UnknownModel."""
    planner = planner_of(config, on)
    peaks = planner.peaks(resolve_checkpointing(config, planner, limit))
    return max(peak.total for _, peak in peaks.items())


def shipped_needs(on: str, limit: int) -> dict[str, int]:
    """Bytes that each shipped configuration needs, by its name."""
    return {name: needs(load(name), on, limit) for name in shipped_configs()}


def largest_shipped(on: str, limit: int) -> str:
    """The name of the shipped configuration that needs the most memory and fits; "" if none
    fits."""
    fitting = {name: n for name, n in shipped_needs(on, limit).items() if n <= limit}
    return max(fitting, key=lambda name: fitting[name], default="")


def model_config(model_id: str) -> dict[str, Any]:
    """The model's config.json, or one made from the header of a GGUF file; no weights are read.
    Raises ModelError."""
    if known := model_shapes().get(model_id):
        return known
    path = model_path(model_id, ("config.json",))
    if path.is_file():
        from azr_mlx.models.gguf.architecture import build_config
        from azr_mlx.models.gguf.reader import read

        return build_config(read(path))
    return read_config(path)


def model_path(model_id: str, patterns: tuple[str, ...]) -> Path:
    """The folder or GGUF file of a model. Of a hub repository only the files that match are
    downloaded: a dry run fetches no weights. Raises ModelError."""
    local = model_id.startswith("package:") or os.path.exists(os.path.expanduser(model_id))
    if not local:
        check_hub_name(model_id)
    return locate(model_id).path if local else hub_snapshot(model_id, patterns=patterns)


def rollout_lines(c: Config) -> list[str]:
    """Lines about the largest number of rollouts and tokens that a step can have."""
    proposed, solved = round_rollouts(c)
    tokens = proposed * c.rollout.max_propose_tokens + solved * c.rollout.max_solve_tokens
    rounds = c.gradient_accumulation_steps
    return [
        f"rollouts per step: at most {rounds * (proposed + solved)} "
        f"({rounds * proposed} proposals, {rounds * solved} solutions)",
        f"tokens per step:   at most {rounds * tokens}, in "
        f"{c.ppo.epochs * c.ppo.minibatches} update(s)",
    ]


def size_lines(c: Config, planner: Planner) -> list[str]:
    """Lines about the model, and about the disk space that a checkpoint takes."""
    shape, dtype = planner.shape, ""
    if planner.device == "cpu":
        dtype = " (float32: a CPU is far slower with fewer bits)"
    lora = shape.lora_parameters(c.lora)
    parameters = shape.matrices() + shape.vectors()
    return [
        f"model:           {parameters / 1e6:.1f} M parameters, "
        f"{storage(planner.weights(c))}{dtype}",
        f"adapters:        {lora / 1e6:.2f} M parameters; a checkpoint takes "
        f"{storage(planner.adapters(c))}",
    ]


def memory_lines(c: Config, planner: Planner) -> list[str]:
    """Lines about the peak of each phase and its parts."""
    lines, peaks = [], planner.peaks(c)
    for phase, peak in peaks.items():
        parts = sorted(peak.parts.items(), key=lambda part: -part[1])
        made = ", ".join(f"{name} {storage(n)}" for name, n in parts if n >= 0.01 * peak.total)
        lines.append(f"{f'memory, {phase}:':<16} {storage(peak.total)} ({made})")
    again = c.ppo.grad_checkpoint
    proposed = f"{planner.prompts(c)[0]} tokens for a proposal, " if c.batch_size else ""
    lines.append(
        f"prompts:         planned with {proposed}{planner.prompt_tokens} tokens for a solution"
    )
    lines.append(f"recomputing:     ppo.grad_checkpoint is {again}")
    return lines


def verdict_lines(c: Config, planner: Planner, limit: int) -> list[str]:
    """Whether the largest peak fits the memory of the machine, and if not, what does."""
    peaks = planner.peaks(c)
    need = f"memory: needs {storage(max(peak.total for _, peak in peaks.items()))}"
    if not limit:
        return [f"{need}; how much this machine has is unknown"]
    if fits(peaks, limit):
        return [f"{need} of {storage(limit)}: fits"]
    instead = f"instead: {what_fits(c, planner, limit, largest_shipped)}"
    return [f"{need} of {storage(limit)}: DOES NOT FIT", instead]
