"""Writes what is generated: in docs/ each command's --help and the page of metrics, and the schema
of the configuration in config/.

python docs/refresh.py     # after a change to a command, a metric or a setting; a test checks it
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from azr_mlx.config import json_schema, shipped
from azr_mlx.monitoring.metrics import metrics_page

DOCS = Path(__file__).parent
HELP = re.compile(r"(```text\n\$ azr-mlx ([a-z]+) --help\n)(.*?)(```)", re.DOTALL)


def pages() -> dict[Path, str]:
    """What each generated file should hold."""
    found = {page: fresh(page.read_text("utf-8")) for page in sorted(DOCS.glob("commands/*.md"))}
    schema = shipped.config_dir() / json_schema.FILE
    return found | {DOCS / "metrics.md": metrics_page(), schema: json_schema.to_text()}


def fresh(text: str) -> str:
    """A page with the help texts that the commands print now."""
    return HELP.sub(lambda m: f"{m[1]}{help_of(m[2])}{m[4]}", text)


def help_of(command: str) -> str:
    """What ``azr-mlx COMMAND --help`` prints on 80 columns."""
    environment = {**os.environ, "COLUMNS": "80", "TERM": "dumb"}
    given = [sys.executable, "-m", "azr_mlx.cli", command, "--help"]
    done = subprocess.run(given, capture_output=True, text=True, env=environment, check=True)
    return "".join(f"{line.rstrip()}\n" for line in done.stdout.strip().splitlines())


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text, "utf-8")
