"""Choosing a command's backend (``--backend auto|mlx|torch``), and opening a model on it."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from azr_mlx.backends.without_torch import leave_torch_out
from azr_mlx.config import Lora, Quantization
from azr_mlx.config.shipped import original_of
from azr_mlx.errors import UsageError, first_line, install, pass_on
from azr_mlx.models.adapters import place_of_base
from azr_mlx.models.locate import ResolvedModel, resolve

if TYPE_CHECKING:
    from azr_mlx.backends.model_backend import ModelBackend

# Environment variables: mlx.launch sets at least one of them, depending on how ranks communicate.
_MLX_LAUNCH = ("MLX_HOSTFILE", "MLX_IBV_DEVICES", "MLX_JACCL_COORDINATOR", "NCCL_HOST_IP")
NVIDIA = Path("/proc/driver/nvidia/version")  # WSL does not have it
_CPU_BUILD = "it is built for the CPU"
_one_command: list[bool] = []
_said: list[str] = []  # a command may choose several times, but says only once that a GPU is unused


def own_process() -> None:
    """Say that this process runs one command and nothing after it, so that torch can be left out
    of it if the command runs on MLX."""
    _one_command.append(True)


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


def nvidia() -> bool:
    """Whether this machine has an NVIDIA driver, and its GPUs are not hidden from CUDA."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    return NVIDIA.exists() or _nvidia_smi()


def _nvidia_smi() -> bool:
    program = shutil.which("nvidia-smi")
    if program is None:
        return False
    try:
        subprocess.run([program], capture_output=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def _say(text: str) -> None:
    if not _said:
        sys.stderr.write(f"azr-mlx: warning: {text}\n")
        _said.append(text)


def choose(asked: str, warn: Callable[[str], None] = _say) -> tuple[str, str]:
    """(name, reason) of the backend to use. ``warn`` is called with one line if an NVIDIA GPU
    stays unused.

    Raises UsageError if the one asked for is not available. After MLX, torch cannot be chosen any
    more if this is the command's own process.
    """
    if asked not in ("auto", "mlx", "torch"):
        raise UsageError(f"backend: {asked}: unknown; use auto, mlx or torch")
    name, why = _chosen(asked, warn)
    if missing := _missing(name):
        extra = "[torch]" if name == "torch" else "" if sys.platform == "darwin" else "[cpu]"
        raise UsageError(f"backend: {asked}: {missing}; {install(f'azr-mlx{extra}')}")
    if name == "mlx" and _one_command:
        leave_torch_out()
    if asked == "torch" and (lacking := _no_cuda()) and nvidia():
        warn(_unused(lacking))
    return name, why


def _chosen(asked: str, warn: Callable[[str], None]) -> tuple[str, str]:
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
    return _automatic(warn)


def _automatic(warn: Callable[[str], None]) -> tuple[str, str]:
    no_mlx, no_torch = _missing("mlx"), ""
    if (no_mlx or _mlx_is_on_the_cpu()) and nvidia():
        without, no_torch = no_mlx or "MLX computes on the CPU", _missing("torch")
        if not (lacking := no_torch or _no_cuda()):
            return "torch", f"auto: torch computes on an NVIDIA GPU, and {without}"
        if not (no_mlx and no_torch):  # with neither, nothing will compute
            warn(_unused(f"{without}, and {lacking}", torch=not no_torch))
    if no_mlx and not (no_torch or _missing("torch")):
        return "torch", f"auto: {no_mlx}"
    return "mlx", "auto: MLX imports"


def _mlx_is_on_the_cpu() -> bool:
    import mlx.core as mx

    return bool(mx.default_device() == mx.cpu)


def _unused(why: str, torch: bool = True) -> str:
    """The warning that an NVIDIA GPU stays unused. ``torch`` says whether torch is installed."""
    fix = install("azr-mlx[torch]")
    if torch:  # pip would leave it as it is
        again = install("--force-reinstall", "torch")
        fix = f"{again}, or the one that https://pytorch.org/get-started/locally names"
    driver = "" if why.endswith(f"({_CPU_BUILD})") else "update the driver, or "
    return f"this machine has an NVIDIA driver, but its CPU computes: {why}; {driver}{fix}"


def _no_cuda() -> str:
    """Why torch cannot compute on an NVIDIA GPU; empty if it can."""
    import torch

    with warnings.catch_warnings():  # torch warns of a driver that is too old, in several lines
        warnings.simplefilter("ignore")
        if torch.cuda.is_available():
            return ""
    return f"torch {torch.__version__} sees no CUDA device ({_refusal(torch)})"


def _refusal(torch: Any) -> str:
    """What torch says if it is made to use a GPU that it does not see."""
    if torch.version.cuda is None and torch.version.hip is None:
        return _CPU_BUILD
    try:
        torch.cuda.init()
    except Exception as e:  # whatever it is, it is only shown
        return first_line(e).partition(". ")[0]
    return "it does not say why"


def _missing(name: str) -> str:
    """Why a backend's packages cannot be imported; empty if they can."""
    for module in ("mlx.core",) if name == "mlx" else ("torch", "peft"):
        try:
            importlib.import_module(module)
        except Exception as e:  # a package may raise anything if its libraries do not fit
            called = "MLX" if name == "mlx" else module
            return f"{called} does not import ({str(e).splitlines()[0] if str(e) else e!r})"
    return ""


def resolve_model(
    name: str, model_id: str, quantization: Quantization, adapters: Path | None = None
) -> ResolvedModel:
    """The folder that this backend loads: of ``adapters``, or of a run, the very model that they
    were trained on. Torch needs the model's original weights, and quantises them while loading."""
    wanted, commit = place_of_base(adapters, weights_of(name, model_id))
    if name == "mlx":
        return resolve(wanted, quantization=quantization, revision=commit)
    try:
        return resolve(wanted, quantization=Quantization(bits=0), revision=commit)
    except ImportError as e:
        raise UsageError(
            f"model_id: {model_id}: only MLX can read a GGUF file, and it does not import ({e}); "
            "name the model that the file was made from"
        ) from e


def weights_of(name: str, model_id: str) -> str:
    """The model whose weights this backend trains on, which its adapters name as their base: torch
    takes the original of a model that ships configured in MLX's format."""
    return model_id if name == "mlx" else original_of(model_id)


def load_adapters(backend: Any, path: Path, option: str, advice: str = "") -> None:
    """Load the weights of an adapter folder or file into a backend.

    Raises UsageError if they cannot be read or do not fit; the message names ``option``, which
    asked for them.
    """
    try:
        backend.load_adapters(path)
    except (ValueError, OSError, RuntimeError) as e:
        pass_on(e)
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
