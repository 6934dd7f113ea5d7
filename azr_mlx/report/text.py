"""Text that anyone may have written, made fit to be shown: nothing in it is markup, and no
character hides or turns round another."""

from __future__ import annotations

import html
import math
import unicodedata
from typing import Any

_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def plain(value: Any) -> str:
    """Control, format (bidirectional ones among them), unassigned characters and lone surrogates by
    their code points."""
    text = str(value)
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if _is_visible(c) else _named(c) for c in text.replace("\r\n", "\n"))


def escape(value: Any) -> str:
    """As content or quoted attribute of HTML."""
    return html.escape(plain(value))


def clip(text: str, most: int, *, keep_end: bool = False) -> str:
    """At most ``most`` characters of it, with a word on how many are left out."""
    if len(text) <= most:
        return text
    left_out = f"[{len(text) - most} more characters]"
    return f"{left_out} {text[-most:]}" if keep_end else f"{text[:most]} {left_out}"


def number(value: float, unit: str = "", spacing: float | None = None) -> str:
    """As short as it can be read; ``spacing`` is that of an axis's ticks, which must differ."""
    if unit == "%":
        value, spacing = 100 * value, None if spacing is None else 100 * spacing
    size = abs(value)
    if value == 0:
        text = "0"
    elif size >= 1e15 or size < (1e-3 if spacing is None else 1e-4):
        text = f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-").replace("e+0", "e")
    elif size >= 1e4:
        text = _thousands(value, spacing)
    else:
        digits = _digits(spacing if spacing else size / (10 if size >= 100 else 100))
        text = f"{value:.{digits}f}"
    return f"{text} %" if unit == "%" else text


def duration(seconds: float) -> str:
    """In its two largest units."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{seconds:.1f} s"


def _thousands(value: float, spacing: float | None) -> str:
    for factor, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            digits = _digits((spacing or abs(value) / 100) / factor)
            return f"{value / factor:.{digits}f}{letter}"
    raise AssertionError(value)


def _digits(spacing: float) -> int:
    """Decimals that tell multiples of ``spacing`` apart."""
    for digits in range(6):
        if math.isclose(round(spacing, digits), spacing, rel_tol=0.05) and round(spacing, digits):
            return digits
    return min(6, max(0, -math.floor(math.log10(spacing))))


def _is_visible(c: str) -> bool:
    return c in "\n\t" or unicodedata.category(c) not in _INVISIBLE


def _named(c: str) -> str:
    return chr(0x2400 + ord(c)) if ord(c) < 0x20 else f"[U+{ord(c):04X}]"
