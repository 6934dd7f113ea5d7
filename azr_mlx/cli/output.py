"""What commands write: results to stdout, all else to stderr."""

from __future__ import annotations

import json
import sys
from typing import Any, TextIO

from azr_mlx.text import plain

# What a reader would not guess; the keys themselves are the same in JSON.
MEANINGS = {
    "logp_change_mean": "how far a token's log-probability moved by rounding, in nats",
    "logp_change_max": "the largest of these",
}


class Answer:
    """Writes a model's text while it comes: as it is into a file or a pipe, and on a terminal with
    control characters made visible."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._raw = stream, not stream.isatty()
        self._held = ""  # a CR at the end of a piece, which may be half of a line's end
        self._begun = False

    def add(self, text: str) -> None:
        if not self._raw:
            text = self._held + text
            self._held = "\r" if text.endswith("\r") else ""
            text = plain(text.removesuffix("\r"))
        self._begun = self._begun or bool(text)
        self._stream.write(text)
        self._stream.flush()

    def end(self) -> None:
        self._stream.write(plain(self._held) + "\n")
        self._begun, self._held = False, ""

    def end_line(self) -> None:
        """End the text, if there is any that has not been ended."""
        if self._begun:
            self.end()


def ignore(text: str) -> None:
    """Do not stream: the text is part of the result."""


def show_result(row: dict[str, Any], as_json: bool) -> None:
    if as_json:
        write(json.dumps(row))
        return
    for key, value in row.items():
        if value is not None:
            meaning = f"  ({MEANINGS[key]})" if key in MEANINGS else ""
            write(f"{key}: {f'{value:.4g}' if isinstance(value, float) else value}{meaning}")


def write(*lines: str) -> None:
    """Write lines to stdout, with control characters made visible."""
    sys.stdout.write("".join(f"{plain(line)}\n" for line in lines))


def say(*lines: str) -> None:
    """Write lines to stderr, with control characters made visible."""
    sys.stderr.write("".join(f"{plain(line)}\n" for line in lines))
    sys.stderr.flush()
