"""Python literals as text: parsed without being evaluated, written canonically, and compared by
value and type.

The policy of ``equal``:

- types are exact: ``True`` is not ``1``, ``1`` is not ``1.0``, a list is not a tuple, at any depth;
- ``0.0`` equals ``-0.0``; NaN and infinities equal nothing, not even themselves;
- order matters in lists and tuples, but not among the items of a dict or the members of a set;
- dict keys and set members are compared by the same rule: ``{1}`` is not ``{True}``;
- anything but a plain literal (see ``codec``) equals nothing.

``parse_literal`` and ``literal`` accept plain literals only: both refuse NaN, infinities
(``1e999``), lone surrogates and frozensets.
"""

from __future__ import annotations

import ast
import cmath
import re
import warnings
from collections.abc import Hashable
from typing import Any

from azr_mlx.sandbox.jail.codec import CodecError, encode

MAX_CHARS = 1 << 18
_ADDRESS = re.compile(r": <ast\.(\w+) object at 0x[0-9a-f]+>")


def equal(a: object, b: object) -> bool:
    """Whether two plain literals have the same value and exact types (see the module's policy)."""
    return _frozen(a) == _frozen(b)


def _frozen(value: Any) -> Hashable:
    """A hashable form of the value. Two forms are equal exactly if the values are."""
    kind = type(value)
    if kind in (bool, int, str, bytes, type(None)):
        return kind, value
    if kind is float or kind is complex:
        return kind, value if cmath.isfinite(value) else object()
    if kind is list or kind is tuple:
        return kind, tuple(_frozen(item) for item in value)
    if kind is set:
        return kind, frozenset(_frozen(item) for item in value)
    if kind is dict:
        return kind, frozenset((_frozen(key), _frozen(item)) for key, item in value.items())
    return object()


def parse_literal(text: str, max_chars: int = MAX_CHARS) -> Any:
    """The plain literal that ``text`` spells. Nothing is evaluated.

    Raises only ValueError, with one line that says why.
    """
    if type(text) is not str:
        raise ValueError(f"a literal is given as str, not {type(text).__name__}")
    if len(text) > max_chars:
        raise ValueError(f"literal of {len(text)} characters (at most {max_chars})")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = ast.literal_eval(text.strip())
    except (SyntaxError, ValueError, TypeError, ArithmeticError) as error:
        raise ValueError(f"not a Python literal: {_one_line(error)}") from None
    except (MemoryError, RecursionError, SystemError):
        # CPython 3.11's parser raises SystemError on very deep input.
        raise ValueError("not a Python literal: nested too deeply") from None
    encode(value)
    return value


def _one_line(error: Exception) -> str:
    first = str(error).partition("\n")[0]
    first = _ADDRESS.sub(r" (\1)", first)  # an address would differ from run to run
    return first[:200] or type(error).__name__


def literal(value: object) -> str:
    """Canonical source text of a plain literal. ``parse_literal`` gives an equal value back.

    Members of sets are sorted by their text, so that the text does not depend on the hash seed;
    dicts keep their order, which programs can see. Raises ValueError for anything that is not a
    plain literal.
    """
    encode(value)
    text = _text(value)
    if len(text) > MAX_CHARS:
        raise CodecError(f"literal of {len(text)} characters (at most {MAX_CHARS})")
    return text


def _text(value: Any) -> str:
    kind = type(value)
    if kind is list:
        return "[" + ", ".join(map(_text, value)) + "]"
    if kind is tuple:
        return "(" + ", ".join(map(_text, value)) + ("," if len(value) == 1 else "") + ")"
    if kind is dict:
        return "{" + ", ".join(f"{_text(key)}: {_text(item)}" for key, item in value.items()) + "}"
    if kind is set:
        return "{" + ", ".join(sorted(map(_text, value))) + "}" if value else "set()"
    return repr(value)
