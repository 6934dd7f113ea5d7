"""What both engines count with when they try a model on a few tokens."""

from __future__ import annotations

from typing import Literal

from azr_mlx.errors import pass_on

# What code raises that was written for another use than this one.
FAILURES = (
    ArithmeticError, AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip
# Relative errors that pass in float32 and in half precision. A mask or a position that is wrong by
# one token is off by 0.02 and more, and most mistakes by 0.1 to 1.
EXACT, ROUNDED = 1e-3, 0.1
SHORT = 256  # a window of more tokens is not filled by a trial
STEPS = 3


def unable(error: Exception) -> Literal[False]:
    """What a trial returns for one of the ``FAILURES``: the model cannot do this. If it was the
    device that failed, the error is raised again."""
    pass_on(error)
    return False
