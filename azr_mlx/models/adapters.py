"""Reading the configuration in a folder of adapters, which has mlx-lm's format."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from azr_mlx.config import Lora, Quantization, load_keys
from azr_mlx.errors import WRONG_VALUES, ModelUsageError, UsageError, first_line
from azr_mlx.files import read_json
from azr_mlx.run_folder import ADAPTER_CONFIG, CONFIG_FILE, adapter_folder, run_of, starts


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """The contents of ``adapter_config.json``. A property raises KeyError, TypeError or ValueError
    if its entry is missing or wrong. Adapters of other types than LoRA do not have all entries."""

    row: Mapping[str, Any]

    @property
    def fine_tune_type(self) -> str:
        """ "lora", "dora" or "full"."""
        return str(self.row.get("fine_tune_type", "lora"))

    @property
    def model(self) -> str | None:
        """The model that the adapters belong to; None if the file does not say."""
        name = self.row.get("model")
        return name if isinstance(name, str) else None

    @property
    def num_layers(self) -> int:
        """How many layers have adapters, counted from the last one; -1: all."""
        return int(self.row["num_layers"])

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters, as ``mlx_lm.tuner.utils.linear_to_lora_layers`` expects them."""
        row = dict(self.row["lora_parameters"])
        numbers = {"scale": _finite(row["scale"]), "dropout": _finite(row.get("dropout", 0.0))}
        return {**row, "rank": int(row["rank"]), **numbers}

    @property
    def rank(self) -> int:
        return int(self.parameters["rank"])

    @property
    def scale(self) -> float:
        return float(self.parameters["scale"])

    @property
    def dropout(self) -> float:
        return float(self.parameters["dropout"])

    @property
    def keys(self) -> tuple[str, ...]:
        """Names, within a layer, of the modules with adapters; empty: every linear layer."""
        return tuple(self.parameters.get("keys") or ())

    @property
    def lora(self) -> Lora:
        return Lora(self.rank, self.scale, self.dropout, self.num_layers, self.keys)


def _finite(value: Any) -> float:
    number = float(value)
    if not isfinite(number):
        raise ValueError(f"{value} is not a finite number")
    return number


def read(folder: Path) -> AdapterConfig:
    """The configuration in a folder of adapters. Raises OSError or ValueError if it cannot be
    read, UsageError if the adapters are those of another library."""
    row = read_json(folder / ADAPTER_CONFIG)
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    if "peft_type" in row:
        raise UsageError(
            f"{folder}: holds PEFT's adapters, and only mlx-lm's can be loaded; merge them into "
            "their model with PEFT (merge_and_unload, then save_pretrained), and name that model"
        )
    return AdapterConfig(row)


def read_lora(folder: Path) -> Lora:
    """The LoRA configuration in an adapter folder. Raises UsageError if there is none, or if the
    adapters are of another type."""
    file = folder / ADAPTER_CONFIG
    try:
        config = read(folder)
        lora = config.lora
    except OSError as e:
        raise UsageError(
            f"--adapter-path {folder}: has no {ADAPTER_CONFIG}; give for example runs/NAME/adapters"
        ) from e
    except WRONG_VALUES as e:
        raise UsageError(
            f"{file}: not a LoRA adapter's configuration ({type(e).__name__}: {e})"
        ) from e
    kind = config.fine_tune_type
    if kind != "lora":
        raise UsageError(f"{file}: fine_tune_type is {kind!r}; only 'lora' adapters can be loaded")
    return lora


def place_of_base(path: Path | None, name: str) -> tuple[str, str | None]:
    """(model, commit on the hub or None) from which to load the model ``name`` for adapters, whose
    folder or run ``path`` is. If their run was on that model, it is the very one that it was on
    last, even if the repository has changed since, or if ``name`` is a path that is relative to
    another folder.

    Raises ModelUsageError if the adapters' configuration cannot be read.
    """
    run = None if path is None else run_of(adapter_folder(path))
    made = starts(run) if run is not None else []
    model = made[-1].get("model") if made else None
    if path is None or not isinstance(model, dict) or name != base_of(path):
        return name, None
    kind, _, there = str(model.get("source")).partition(":")
    if kind == "hub":
        commit = model.get("revision")
        return name, commit if there == name and isinstance(commit, str) else None
    local = kind in ("folder", "gguf") and not os.path.exists(os.path.expanduser(name))
    return (there if local else name), None


def base_of(path: Path) -> str | None:
    """The model that adapters belong to; None if their folder does not say. ``path`` is that folder
    or a run's. Raises ModelUsageError if the configuration cannot be read."""
    folder = adapter_folder(path)
    file = folder / ADAPTER_CONFIG
    if not os.path.isfile(file):
        return None
    try:
        return read(folder).model
    except (OSError, ValueError) as error:
        raise ModelUsageError(
            f"--adapter-path: {file} cannot be read: {first_line(error)}",
            "use the adapters of another checkpoint, or save them again",
        ) from error


def as_it_is(model: str) -> Quantization:
    """How to load a model of which nobody says that it was quantised: as it is, or, from a GGUF
    file, in 8 bits."""
    return (
        Quantization(bits=8, group_size=32)
        if model.lower().endswith(".gguf")
        else Quantization(bits=0)
    )


def quantization_of(adapters: Path, engine: str = "mlx") -> Quantization | None:
    """How the backend should quantise the base of these adapters: as the run did that made them;
    None if they do not belong to a run. On MLX, after training on torch, it is not quantised: torch
    quantises differently, and the original weights come closest."""
    run = run_of(adapters)
    if run is None:
        return None
    made = starts(run)
    on_torch = bool(made) and str(made[-1].get("backend", "")).startswith("torch")
    if on_torch and engine == "mlx":
        return Quantization(bits=0)
    return load_keys(run / CONFIG_FILE, "quantization").quantization
