"""Choosing a command's backend (``--backend auto|mlx|torch``), and opening a model on it."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from azr_mlx.config import Lora, Quantization
from azr_mlx.errors import UsageError
from azr_mlx.models.locate import ResolvedModel, resolve

if TYPE_CHECKING:
    from azr_mlx.backends.model_backend import ModelBackend

# Environment variables: mlx.launch sets at least one of them, depending on how ranks communicate.
_MLX_LAUNCH = ("MLX_HOSTFILE", "MLX_IBV_DEVICES", "MLX_JACCL_COORDINATOR", "NCCL_HOST_IP")
_one_command: list[bool] = []


def own_process() -> None:
    """Say that this process runs one command and nothing after it, so that torch can be left out
    of it if the command runs on MLX."""
    _one_command.append(True)


def _leave_torch_out() -> None:
    """``transformers`` imports torch if it is installed, though nothing on MLX uses it: more than
    half of the time that a command takes to start. Python takes None for a missing package."""
    if _one_command and "torch" not in sys.modules:
        sys.modules["torch"] = None  # type: ignore[assignment]


def launcher() -> tuple[str, str]:
    """(backend, program) of the launcher that started this process as one of several ranks; both
    are empty if this is the only one."""
    if any(os.environ.get(name) for name in _MLX_LAUNCH):
        return "mlx", "mlx.launch"
    if _number("OMPI_COMM_WORLD_SIZE") > 1 or _number("PMI_SIZE") > 1:
        return "mlx", "mpirun"
    return ("torch", "torchrun") if _number("WORLD_SIZE") > 1 else ("", "")


def _number(name: str) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdigit() else 1


def choose(asked: str) -> tuple[str, str]:
    """(name, reason) of the backend to use. Raises UsageError if the one asked for is not
    available. After MLX, torch cannot be chosen any more if this is the command's own process."""
    if asked not in ("auto", "mlx", "torch"):
        raise UsageError(f"backend: {asked}: unknown; use auto, mlx or torch")
    name, why = _chosen(asked)
    if missing := _missing(name):
        extra = "[torch]" if name == "torch" else "" if sys.platform == "darwin" else "[cpu]"
        raise UsageError(f"backend: {asked}: {missing}; pip install 'azr-mlx{extra}'")
    if name == "mlx":
        _leave_torch_out()
    return name, why


def _chosen(asked: str) -> tuple[str, str]:
    ranks_of, program = launcher()
    if asked != "auto":
        if ranks_of not in ("", asked):
            raise UsageError(
                f"backend: {asked}: {program} has started this process as a rank of {ranks_of}; "
                f"give --backend {ranks_of}, or use the launcher of {asked}"
            )
        return asked, "asked for"
    if ranks_of:
        return ranks_of, f"auto: started by {program}"
    missing = _missing("mlx")
    if missing and not _missing("torch"):
        return "torch", f"auto: {missing}"
    return "mlx", "auto: MLX imports"


def _missing(name: str) -> str:
    """Why a backend's packages cannot be imported; empty if they can."""
    for module in ("mlx.core",) if name == "mlx" else ("torch", "peft"):
        try:
            importlib.import_module(module)
        except Exception as e:  # a package may raise anything if its libraries do not fit
            called = "MLX" if name == "mlx" else module
            return f"{called} does not import ({str(e).splitlines()[0] if str(e) else e!r})"
    return ""


def resolve_model(name: str, model_id: str, quantization: Quantization) -> ResolvedModel:
    """The folder that this backend loads. Torch needs the model's original weights, and quantises
    them while loading."""
    if name == "mlx":
        return resolve(model_id, quantization=quantization)
    try:
        return resolve(model_id, quantization=Quantization(bits=0))
    except ImportError as e:
        raise UsageError(
            f"model_id: {model_id}: only MLX can read a GGUF file, and it does not import ({e}); "
            "name the model that the file was made from"
        ) from e


def load_adapters(backend: Any, path: Path, option: str, advice: str = "") -> None:
    """Load the weights of an adapter folder or file into a backend.

    Raises UsageError if they cannot be read or do not fit; the message names ``option``, which
    asked for them.
    """
    try:
        backend.load_adapters(path)
    except (ValueError, OSError, RuntimeError) as e:
        why = str(e).removeprefix(f"{path}: ")
        raise UsageError("; ".join(filter(None, (f"{option} {path}: {why}", advice)))) from e


def open_backend(
    name: str,
    folder: Path,
    lora: Lora,
    quantization: Quantization,
    *,
    memory_limit: int = 0,
    **options: Any,
) -> ModelBackend:
    """The backend with fresh adapters; ``options`` go to its constructor. On a GPU, MLX holds at
    most ``memory_limit`` bytes (0: its default working set)."""
    if name == "mlx":
        from azr_mlx.backends.mlx import MlxBackend
        from azr_mlx.backends.mlx.device_memory import bound

        bound(memory_limit)
        return MlxBackend.from_folder(folder, lora, **options)
    from azr_mlx.backends.torch import TorchBackend

    options.pop("compile", None)  # an option of MLX only
    return TorchBackend.from_folder(folder, lora, quantization, **options)
