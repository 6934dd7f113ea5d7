"""Python source that anyone may have written, parsed and never run."""

from __future__ import annotations

import ast
import warnings
from typing import Any

# SystemError: CPython 3.11's parser raises it on very deep nesting.
_ERRORS = (SyntaxError, ValueError, RecursionError, MemoryError, SystemError)


def parsed(source: str) -> ast.Module | None:
    """The tree of a program; None if it is not Python, or nested too deeply to be parsed."""
    tree: ast.Module | None = _tree(source, "exec")
    return tree


def parsed_expression(source: str) -> ast.expr | None:
    """The tree of a single expression; None if it is not one."""
    tree = _tree(source, "eval")
    return None if tree is None else tree.body


def _tree(source: str, mode: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ignore warnings about escapes in it
            return ast.parse(source, mode=mode)
    except _ERRORS:
        return None
