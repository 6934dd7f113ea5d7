"""How long steps took on this machine. They are kept in the user's cache, and ``train --dry-run``
says from them what a step will take."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from azr_mlx.config import Config, schema
from azr_mlx.files import write_json
from azr_mlx.models import cache
from azr_mlx.monitoring.samples import ShownRollout
from azr_mlx.monitoring.trackers import Say
from azr_mlx.text import counted, duration

KEPT = 20  # the last steps of a shape
SHAPES = 100  # the shapes that were last measured
# The settings that decide what a step costs. On the same device, steps of the same shape are alike.
DECISIVE = (
    "model_id",
    "quantization.bits",
    "quantization.group_size",
    "quantization.mode",
    "task_types",
    "batch_size",
    "gradient_accumulation_steps",
    "kl_penalty",
    "lora.rank",
    "lora.num_layers",
    "lora.keys",
    "rollout.form",
    "rollout.thinking",
    "rollout.group_size",
    "rollout.reuse_rollouts",
    "rollout.max_prompt_tokens",
    "rollout.max_propose_tokens",
    "rollout.max_solve_tokens",
    "rollout.max_batch",
    "rollout.kv_budget_mb",
    "rollout.resample",
    "ppo.advantage",
    "ppo.epochs",
    "ppo.minibatches",
    "ppo.micro_batch_tokens",
    "ppo.grad_checkpoint",
    "ppo.compile",
    "ppo.kl_coef",
    "proposer.references",
    "proposer.induction_inputs",
    "proposer.templates_per_step",
    "proposer.template_set",
    "proposer.train",
    "solver.strategies",
    "solver.buffer_tasks_per_step",
    "distill.coef",
    "distill.batch_size",
    "sandbox.workers",
)

Shape = dict[str, Any]


def shape_of(config: Config, backend: str) -> Shape:
    """What the cost of a step depends on: the settings, the backend and the device."""
    values = {k: list(v) if isinstance(v, tuple) else v for k, v in schema.flat(config)}  # as JSON
    return {"backend": backend, "device": _device(backend), **{k: values[k] for k in DECISIVE}}


def line(config: Config, backend: str) -> str:
    """What the steps of a run will take, as text for people. Without a backend nothing is known."""
    seconds = measured(shape_of(config, backend)) if backend else []
    if not seconds:
        return "unknown: no step with these sizes has been measured on this machine"
    one, n = median(seconds), len(seconds)
    steps, whole = counted(config.max_steps, "step"), duration(one * config.max_steps)
    return f"{duration(one)} per step (median of {n} measured); {steps}: {whole}"


def measured(shape: Shape) -> list[float]:
    """Seconds of the last steps of this shape; empty if there was none."""
    return next((seconds for known, seconds in _entries() if known == shape), [])


class StepTimes:
    """A tracker that keeps the step times of a run. ``warn`` is called once if that fails."""

    def __init__(self, config: Config, backend: str, warn: Say):
        self.shape, self.warn = shape_of(config, backend), warn
        self.before = measured(self.shape)
        self.own: list[float] = []
        self.failed = False

    def log(self, row: Mapping[str, float], step: int) -> None:
        self.own.append(row["time/step"] - row.get("time/evaluate", 0.0))
        # A process compiles kernels in its first step, which counts only until there is another.
        times = [*self.before, *self.own[1:]] or self.own
        others = [entry for entry in _entries() if entry[0] != self.shape]
        try:
            if not self.failed:
                _write([*others, (self.shape, times[-KEPT:])])
        except OSError as error:
            self.failed = True
            self.warn(f"step times are not kept: {error}; {cache.VARIABLE} names another folder")

    def table(self, rows: Sequence[ShownRollout], step: int) -> None:
        """Rollouts are not kept here."""

    def close(self) -> None:
        """There is nothing to close."""


def _entries() -> list[tuple[Shape, list[float]]]:
    """The entries of the file. It is only a cache: what is damaged counts as not measured."""
    try:
        rows = json.loads(cache.step_times().read_text(encoding="utf-8"))
        return [(dict(shape), [_seconds(one) for one in times]) for shape, times in rows]
    except (OSError, ValueError, TypeError, RecursionError):
        return []


def _seconds(value: Any) -> float:
    """Raises TypeError, ValueError."""
    seconds = float(value)
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError("not a time")
    return seconds


def _write(entries: Sequence[tuple[Shape, list[float]]]) -> None:
    file = cache.step_times()
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, entries[-SHAPES:])


def _device(backend: str) -> str:
    """The name of what the backend computes on."""
    if backend == "torch":
        import torch

        if torch.cuda.is_available():
            return torch.cuda.get_device_name(0)
        return f"{platform.machine()} CPU, {os.cpu_count()} cores"
    import mlx.core as mx

    info: dict[str, Any] = mx.device_info()
    name = info.get("device_name") or info.get("architecture") or platform.machine()
    kind = "CPU" if mx.default_device() == mx.cpu else "GPU"
    return f"{name} {kind}, {os.cpu_count()} cores"
