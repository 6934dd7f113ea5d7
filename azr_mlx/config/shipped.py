"""Finds the data that ships with the package: GPU kernel sources and configurations.

A wheel carries them as ``azr_mlx/_kernels`` and ``azr_mlx/_config``; a checkout (an editable
install too) keeps them next to the package as ``kernels/`` and ``config/``.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

# What stands before this line in a .metal or .cu file goes before the function, the rest in it.
KERNEL_BODY = "// --- kernel body ---\n"
_PACKAGE = Path(__file__).resolve().parents[1]
_TABLES = frozenset({"baselines", "shapes"})  # YAML, but no configuration of a run


def config_dir() -> Path:
    """The folder with the shipped YAML. Raises ``FileNotFoundError`` if there is none."""
    return _find("config")


def kernels_dir() -> Path:
    """The folder with the kernel sources. Raises ``FileNotFoundError`` if there is none."""
    return _find("kernels")


def kernel_source(name: str) -> tuple[str, str]:
    """(header, body) of a kernel source such as ``logprob.metal``. Raises ``FileNotFoundError``, or
    ``ValueError`` if nothing says where the body begins.
    """
    text = (kernels_dir() / name).read_text(encoding="utf-8")
    header, mark, body = text.partition(KERNEL_BODY)
    if not mark:
        raise ValueError(f"{name}: no line says {KERNEL_BODY.strip()}; install azr-mlx again")
    return header, body


def triton_kernel(name: str) -> ModuleType:
    """The module ``kernels/NAME_triton.py``, loaded from its path. Raises ``ImportError`` without
    torch or triton, ``FileNotFoundError`` for a name that is not there.
    """
    path = kernels_dir() / f"{name}_triton.py"
    spec = importlib.util.spec_from_file_location(f"azr_mlx_kernels_{name}_triton", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded; install azr-mlx again")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shipped_configs() -> dict[str, Path]:
    """The shipped training configurations by their stem, sorted."""
    found = sorted(config_dir().glob("*.yaml"))
    return {path.stem: path for path in found if path.stem not in _TABLES}


def prompt_forms() -> tuple[str, ...]:
    """The names of the shipped prompt forms, sorted."""
    return tuple(sorted(path.stem for path in (config_dir() / "prompts").glob("*.yaml")))


def model_shapes() -> dict[str, dict[str, Any]]:
    """The contents of config.json of the models in the shipped configurations, by model."""
    return dict(yaml.safe_load((config_dir() / "shapes.yaml").read_text(encoding="utf-8")))


def original_of(model_id: str) -> str:
    """The repository with the original weights of a model that ships configured in MLX's format;
    of any other model its own name."""
    return str(model_shapes().get(model_id, {}).get("original", model_id))


def _find(name: str) -> Path:
    candidates = (_PACKAGE / f"_{name}", _PACKAGE.parent / name)
    for folder in candidates:
        if folder.is_dir():
            return folder
    places = " nor ".join(map(str, candidates))
    raise FileNotFoundError(f"{name}: found neither in {places}; install azr-mlx again")
