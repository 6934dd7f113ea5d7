"""``azr-mlx doctor``: checks this machine, one line per check, and says how to fix what fails.

A check looks at one thing and returns a ``Finding``. No check can stop the others: if a check
raises an exception, that becomes its finding.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator

from azr_mlx.commands.doctor import machine, software, trials
from azr_mlx.commands.doctor.finding import FAIL, WARN, Finding, Line, examine

CHECKS: dict[str, Callable[[], Finding]] = {
    "versions": software.versions,
    "chip": machine.chip,
    "memory": machine.memory,
    "gpu": machine.gpu,
    "kernels": trials.kernels,
    "blas": machine.blas,
    "torch": software.torch,
    "sandbox": trials.sandbox,
    "hub": software.hub,
    "disk": machine.disk,
    "power": machine.power,
    "cache": machine.models_cache,
    "model": trials.model,
    "plan": trials.plan,
}
STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(*, as_json: bool = False, debug: bool = False) -> bool:
    """Print a line as soon as each check is done, or one JSON object at the end. Returns whether no
    check failed."""
    start = time.perf_counter()
    lines = []
    for line in diagnose(debug=debug):
        lines.append(line)
        if not as_json:
            _print(line)
    count = {status: sum(one.finding.status == status for one in lines) for status in (WARN, FAIL)}
    good = not count[FAIL]
    if as_json:
        row = {"ok": good, "checks": [line.to_json() for line in lines]}
        sys.stdout.write(json.dumps(row) + "\n")
    else:
        seconds = time.perf_counter() - start
        counted = f"{len(lines)} checks, {count[WARN]} warnings, {count[FAIL]} failed"
        sys.stderr.write(f"{counted}, {seconds:.1f} s\n")
    return good


def diagnose(*, debug: bool = False) -> Iterator[Line]:
    """The finding of each check, in the order of ``CHECKS``."""
    from azr_mlx.backends import blas

    blas.enable()  # before any check imports MLX
    for name, check in CHECKS.items():
        yield examine(name, check, debug=debug)


def _print(line: Line) -> None:
    from rich.console import Console
    from rich.text import Text

    status = line.finding.status
    text = Text.assemble((f"{status:<5}", STYLES[status]), f"{line.name:<9} ", str(line))
    Console(soft_wrap=True, highlight=False).print(text)
