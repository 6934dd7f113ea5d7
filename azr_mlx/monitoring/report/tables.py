"""Tables as HTML."""

from __future__ import annotations

from collections.abc import Iterable

from azr_mlx.text import escape


def table(head: Iterable[str], rows: Iterable[str], caption: str = "", classes: str = "") -> str:
    """A table. ``rows`` are HTML already; a wide table scrolls inside its own box."""
    columns = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in head)
    above = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll" tabindex="0"><table class="{classes}">{above}<thead><tr>{columns}'
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )
