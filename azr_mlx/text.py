"""Text that anyone may have written. It is made safe to show: markup in it has no effect, and no
character hides or reorders another. Python source is parsed, and never run."""

from __future__ import annotations

import ast
import html
import math
import unicodedata
import warnings
from typing import Any

_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})

# What parsing raises if the text is not Python, or is nested very deeply.
NOT_PYTHON = (SyntaxError, ValueError, RecursionError, MemoryError, SystemError)


def plain(value: Any) -> str:
    """The text with invisible characters made visible: control characters, format characters
    (including bidirectional ones), unassigned characters and lone surrogates."""
    text = str(value)
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if _is_visible(c) else _named(c) for c in text.replace("\r\n", "\n"))


def one_line(value: Any) -> str:
    """The text in a single line, with invisible characters made visible."""
    return " ".join(filter(None, map(str.strip, plain(value).split("\n"))))


def is_text(value: str) -> bool:
    """Whether the text has no lone surrogates, which stand for bytes that are not text."""
    return not any("\ud800" <= c <= "\udfff" for c in value)


def escape(value: Any) -> str:
    """Text made safe for the content, or a quoted attribute, of HTML."""
    return html.escape(plain(value))


def clip(text: str, most: int, *, keep_end: bool = False) -> str:
    """At most ``most`` characters of the text, and a note that says how many are left out."""
    if len(text) <= most:
        return text
    left_out = f"[{len(text) - most} more characters]"
    return f"{left_out} {text[-most:]}" if keep_end else f"{text[:most]} {left_out}"


def middle_out(text: str, most: int) -> str:
    """The text without its middle, if it has more than ``most`` characters."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]} [{len(text) - 2 * half} more characters] {text[-half:]}"


def number(value: float, unit: str = "", spacing: float | None = None) -> str:
    """A number as text: with three digits, or, for the ticks of an axis, with as many as
    distinguish ticks that are ``spacing`` from each other."""
    if unit == "%":
        shown = 100 * value
        digits = 1 if spacing is None and 0 < abs(shown) < 99.95 else _digits(100 * (spacing or 1))
        return f"{shown:.{digits}f} %"
    size = abs(value)
    if size < 1e-12:  # a rounding error
        return "0"
    if size >= 1e15 or size < (1e-3 if spacing is None else 1e-4):
        return f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-").replace("e+", "e")
    if size >= 1e4:
        return _thousands(value, spacing)
    if spacing is not None:
        return f"{value:.{_digits(spacing)}f}"
    return f"{value:.0f}" if size >= 100 else f"{value:.3g}"


def storage(size: float) -> str:
    """Bytes as text, in kB, MB or GB (powers of ten)."""
    if size >= 1e9:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def duration(seconds: float) -> str:
    """Seconds as text, in the two largest units."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    if minutes:
        return f"{minutes} min {whole % 60} s"
    return f"{seconds:.1f} s" if seconds < 9.95 else f"{whole} s"


def counted(count: int, unit: str) -> str:
    """A number of something, such as "1 step" and "2 steps"."""
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"


def _thousands(value: float, spacing: float | None) -> str:
    factor, letter = next(
        pair for pair in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")) if abs(value) >= pair[0]
    )
    shown = value / factor
    return f"{shown:.{_digits(spacing / factor)}f}{letter}" if spacing else f"{shown:.3g}{letter}"


def _digits(spacing: float) -> int:
    """How many decimals distinguish multiples of ``spacing``, which has one significant digit."""
    return max(0, -math.floor(math.log10(spacing) + 1e-9))


def _is_visible(c: str) -> bool:
    return c in "\n\t" or unicodedata.category(c) not in _INVISIBLE


def _named(c: str) -> str:
    return chr(0x2400 + ord(c)) if ord(c) < 0x20 else f"[U+{ord(c):04X}]"


def parsed(source: str) -> ast.Module | None:
    """The tree of a program; None if it is not Python, or nested too deeply to be parsed."""
    tree: ast.Module | None = _tree(source, "exec")
    return tree


def parsed_expression(source: str) -> ast.expr | None:
    """The tree of a single expression; None if it is not one."""
    tree = _tree(source, "eval")
    return None if tree is None else tree.body


def fault(source: str) -> SyntaxError | None:
    """What is wrong with a text that is not Python; None if it is, or if Python does not say."""
    try:
        _parse(source, "exec")
    except SyntaxError as error:
        return error
    except NOT_PYTHON:
        return None
    return None


def _tree(source: str, mode: str) -> Any:
    try:
        return _parse(source, mode)
    except NOT_PYTHON:
        return None


def _parse(source: str, mode: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # for example, of invalid escapes in the source
        return ast.parse(source, mode=mode)
