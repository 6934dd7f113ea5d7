"""Errors that users see: one line each, which says what is wrong, why, and how to fix it."""

from __future__ import annotations

import os

# What the user typed to get here: messages that suggest a command start with it.
PROGRAM = os.environ.get("AZR_MLX_PROGRAM", "azr-mlx")


class AzrError(Exception):
    """A failure that the command line reports in one line; ``exit_code`` is what it exits with."""

    exit_code = 1


class UsageError(AzrError):
    """Wrong usage or configuration."""

    exit_code = 2


class ModelError(AzrError, ValueError):
    """A model cannot be found, read or converted: one line; ``fix`` says what to do."""

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(f"{what}; {fix}" if fix else what)
        self.fix = fix


class ModelUsageError(ModelError):
    """What was typed names no model, or asks of one what cannot be."""

    exit_code = UsageError.exit_code


def first_line(error: BaseException) -> str:
    """The first line of an error's message that is not empty; its type if there is none."""
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)


class Interrupted(AzrError):
    """Ctrl-C, after what was complete has been kept; the message says where."""

    exit_code = 130
