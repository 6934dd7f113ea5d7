"""Adapters for other programs: PEFT's layout, which transformers, TRL and vLLM load."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from azr_mlx.backends.base import CONFIG_FILE, WEIGHTS_FILE
from azr_mlx.errors import AzrError, UsageError
from azr_mlx.models import adapter_folder, whole_folder

PEFT_WEIGHTS = "adapter_model.safetensors"
_NAMES = {"lora_a": "lora_A", "lora_b": "lora_B"}


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: the folder, its model, its matrices, their rank and PEFT's alpha."""

    path: Path
    model: str
    tensors: int
    rank: int
    alpha: float


def to_peft(adapters: Path, out: Path) -> Exported:
    """A run's adapters (or a folder that mlx-lm wrote) as a PEFT adapter in the folder ``out``.

    mlx-lm adds ``scale`` x A B, with A [in, r] and B [r, out]; PEFT alpha / r x B A, each
    transposed.

    Raises:
        UsageError: there are no such adapters, ``out`` exists, or they are not LoRA's.
        AzrError: the folder cannot be written.
    """
    source = adapter_folder(adapters)
    if out.exists():
        raise UsageError(f"--out {out}: exists; name another folder or remove it")
    try:
        config = json.loads((source / CONFIG_FILE).read_text(encoding="utf-8"))
        arrays = load_file(source / WEIGHTS_FILE)
        kind, lora = config.get("fine_tune_type", "lora"), config["lora_parameters"]
        rank, scale, dropout = int(lora["rank"]), float(lora["scale"]), float(lora["dropout"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as e:
        why = "no such file" if isinstance(e, FileNotFoundError) else e
        raise UsageError(
            f"--adapter-path {adapters}: no LoRA adapters there ({CONFIG_FILE}, {WEIGHTS_FILE}: "
            f"{why}); give a run, for example runs/NAME"
        ) from e
    odd = [k for k, a in arrays.items() if k.rpartition(".")[2] not in _NAMES or a.ndim != 2]
    if kind != "lora" or odd:
        raise UsageError(f"--adapter-path {adapters}: {odd[0] if odd else kind}: not LoRA's")
    made = {_peft_name(k): np.ascontiguousarray(a.T) for k, a in arrays.items()}
    alpha, model = rank * scale, str(config.get("model", ""))
    described = _peft_config(model, rank, alpha, dropout, list(arrays))
    try:
        with whole_folder(out) as work:
            work.mkdir()
            save_file(made, work / PEFT_WEIGHTS, metadata={"format": "pt"})
            (work / CONFIG_FILE).write_text(json.dumps(described, indent=2) + "\n", "utf-8")
    except (OSError, SafetensorError) as e:
        raise AzrError(f"--out {out}: {e}; choose a folder that can be written") from e
    return Exported(out, model, len(made), rank, alpha)


def _peft_name(name: str) -> str:
    module, _, kind = name.rpartition(".")
    return f"base_model.model.{module}.{_NAMES[kind]}.weight"


def _peft_config(
    model: str, rank: int, alpha: float, dropout: float, names: list[str]
) -> dict[str, Any]:
    modules = sorted({name.rpartition(".")[0] for name in names})
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "target_modules": modules,
        "bias": "none",
        "inference_mode": True,
    }
