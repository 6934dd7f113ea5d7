"""Errors that users see. Each is one line that says what is wrong, why, and how to fix it."""

from __future__ import annotations

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
