"""Errors that users see. Each is one line that says what is wrong, why, and how to fix it."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import sys
from pathlib import Path

# The name by which the user started the program. Commands that messages suggest start with it.
PROGRAM = os.environ.get("AZR_MLX_PROGRAM", "azr-mlx")


# What code raises that reads a file whose values are not those that it should have.
WRONG_VALUES = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


class AzrError(Exception):
    """A failure that the command line reports in one line; it then exits with ``exit_code``."""

    exit_code = 1


class UsageError(AzrError):
    """Wrong usage or configuration."""

    exit_code = 2


class ModelError(AzrError, ValueError):
    """A model cannot be found, read or converted. ``fix`` says what to do about it."""

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(f"{what}; {fix}" if fix else what)
        self.fix = fix


class ModelUsageError(ModelError):
    """The name that was given is not a model, or the model cannot do what was asked."""

    exit_code = UsageError.exit_code


class DeviceError(AzrError):
    """The GPU has given up, or memory has run out: nothing more can be computed in this process."""


# How MLX and torch begin what they say then. They raise RuntimeErrors, as for every other failure.
_MEMORY = (
    "[metal::malloc]",
    "[malloc]",
    "CUDA out of memory",
    "HIP out of memory",
    "MPS backend out of memory",
    "[enforce fail at alloc_cpu.cpp",
)
_METAL = "[METAL]"
_CUDA = ("CUDA error: ", "Triton Error [CUDA]: ", "HIP error: ", "Triton Error [HIP]: ")
# These are about one operation, and not about the device.
_OPERATION = ("CUBLAS_STATUS_NOT_SUPPORTED", "CUBLAS_STATUS_INVALID_VALUE")
# What Metal and CUDA say if memory is too small.
_TOO_LITTLE = ("Insufficient Memory", "OutOfMemory", "out of memory", "_ALLOC_FAILED")
_NO_CODE = ("no kernel image", "invalid device function")
_ROOM = "close other programs, or take a smaller model"
_TIME = (
    "macOS does that to long kernels while the display is on: let it sleep meanwhile, or set "
    "AGX_RELAX_CDM_CTXSTORE_TIMEOUT=1, which helped others (ml-explore/mlx#3267)"
)
_BUILD = (
    "this torch was not built for this GPU: install one that was "
    "(https://pytorch.org/get-started/locally), or hide the GPU with CUDA_VISIBLE_DEVICES=-1"
)
_AGAIN = (
    "start again; if that does not help, dmesg says whether the GPU or its driver failed, and "
    "CUDA_LAUNCH_BLOCKING=1 with --debug shows which operation did"
)


def device_failed(error: BaseException) -> bool:
    """Whether MLX or torch raises this because the GPU has given up or memory has run out, whatever
    it was that it computed."""
    text = str(error)
    return (
        isinstance(error, RuntimeError)
        and text.startswith((_METAL, *_CUDA, *_MEMORY))
        and not any(words in text for words in _OPERATION)
    )


def pass_on(error: BaseException) -> None:
    """Raise the error again if the device has failed: that says nothing about the model or the file
    with which it happened."""
    if device_failed(error):
        raise error


def no_room(error: BaseException) -> bool:
    """Whether a file could not be written because the disk is full. MLX says it in a RuntimeError,
    and does not say why it could not write."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return isinstance(error, RuntimeError) and "[write]" in str(error)


def device_error(error: BaseException, room: str = _ROOM, again: str = "") -> DeviceError:
    """What users read if ``device_failed``. ``room`` says what takes less memory, and ``again`` how
    to go on."""
    # Torch goes on with what its allocator holds, and with settings of it.
    what = first_line(error).partition(" Of the allocated memory")[0].rstrip(".")
    if what.startswith(_MEMORY) or any(words in what for words in _TOO_LITTLE):
        told = f"memory ran out: {what}; {room}"
    elif any(words in what for words in _NO_CODE):
        told = f"the GPU cannot be used: {what}; {_BUILD}"
    else:
        told = f"the GPU stopped: {what}; {_TIME if what.startswith(_METAL) else _AGAIN}"
    return DeviceError("; ".join(filter(None, (told, again))))


def first_line(error: BaseException) -> str:
    """The first line of an error's message that is not empty; its type if there is none. Of an
    operating system's error, the message without its number and the file's name."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)


def install(*packages: str) -> str:
    """The command that installs packages where this program runs, which need not be where the pip
    on the path installs them. pip's options may stand among the packages."""
    own, found = Path(sys.executable).with_name("pip"), shutil.which("pip")
    if not own.is_file():  # environments that uv makes have none
        command = ["uv", "pip", "install", "--python", sys.executable]
    elif found is not None and os.path.samefile(found, own):
        command = ["pip", "install"]
    else:
        command = [str(own), "install"]
    return shlex.join([*command, *packages])


class Interrupted(AzrError):
    """Ctrl-C was pressed, and finished work has been kept. The message says where."""

    exit_code = 130
