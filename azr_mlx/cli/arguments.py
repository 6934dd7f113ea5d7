"""What the user gives, as commands take it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from azr_mlx.errors import UsageError
from azr_mlx.text import is_text

if TYPE_CHECKING:
    from azr_mlx.config import Config


def config_of(name: str | None, resume: str | None, overrides: list[str]) -> tuple[Config, str]:
    """The named configuration; without a name that of the resumed run, or else the default. And a
    line, if it is that of a run of an earlier version. A rank that does not see the run it resumes
    is given a copy of its file by name."""
    from azr_mlx import run_folder
    from azr_mlx.config import is_of_run, load, load_run

    if resume is not None and name is not None and os.path.isfile(name) and is_of_run(name):
        return load_run(name, overrides)
    if name is not None or resume is None:
        return load(name or "azr_config", overrides), ""
    output_dir = load(None, [o for o in overrides if o.startswith("output_dir=")]).output_dir
    run_dir, _ = run_folder.find(resume, Path(output_dir))
    return load_run(run_dir / run_folder.CONFIG_FILE, overrides)


def given_text(option: str, given: str, stdin: bool = False) -> str:
    """Text that a user gives, in Unicode, with lines that end in LF. With ``stdin``, ``-`` stands
    for what is read there. Raises UsageError if it is not text."""
    from azr_mlx.files import Unreadable, lines_of, text_of

    if stdin and given == "-":
        if sys.stdin is None:
            raise UsageError(f"{option} -: stdin is closed; give some text")
        try:
            return "".join(lines_of(sys.stdin.buffer))
        except Unreadable as error:
            raise UsageError(f"{option} -: stdin is {error}") from error
    if is_text(given):
        return given.replace("\r\n", "\n").replace("\r", "\n")
    try:  # UTF-8 in a locale that has another encoding
        return text_of(os.fsencode(given))
    except ValueError as error:
        raise UsageError(f"{option}: not UTF-8 text; write it in UTF-8") from error


def names_in(text: str) -> list[str]:
    """The names in a list with commas."""
    return [name.strip() for name in text.split(",") if name.strip()]
