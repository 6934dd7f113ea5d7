"""What a check found, and how to fix it. An exception in a check becomes a finding, too."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import Any

from azr_mlx.errors import AzrError, device_error, device_failed

OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """``status`` is ok, warn or fail. ``facts`` are only shown with ``--json``."""

    status: str
    what: str
    fix: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Line:
    """A finding, the name of its check, and the seconds that the check took."""

    name: str
    finding: Finding
    seconds: float

    def __str__(self) -> str:
        fix = f"; {self.finding.fix}" if self.finding.fix else ""
        return " ".join(f"{self.finding.what}{fix}".split())

    def to_json(self) -> dict[str, Any]:
        found = self.finding
        row = {"name": self.name, "status": found.status, "what": found.what, "fix": found.fix}
        return {**row, "facts": found.facts, "seconds": round(self.seconds, 3)}


def examine(name: str, check: Callable[[], Finding], *, debug: bool = False) -> Line:
    """Run a check. An exception becomes a ``fail``; what the check prints goes to stderr."""
    start = time.perf_counter()
    try:
        with redirect_stdout(sys.stderr):
            found = check()
    except AzrError as error:
        found = Finding(FAIL, str(error))
    except Exception as error:  # whatever is broken, the other checks still run
        if debug:
            traceback.print_exc()
        found = _broken(error)
    return Line(name, found, time.perf_counter() - start)


def _broken(error: Exception) -> Finding:
    if device_failed(error):
        return Finding(FAIL, str(device_error(error)))
    first = next(filter(None, map(str.strip, str(error).splitlines())), "")
    fix = "install azr-mlx again, or find the place with azr-mlx doctor --debug"
    return Finding(FAIL, f"{type(error).__name__}: {first}".rstrip(": "), fix)
