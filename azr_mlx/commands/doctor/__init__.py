"""``azr-mlx doctor``: checks this machine, one line per check, and says how to fix what fails.

A check looks at one thing and returns a ``Finding``. No check can stop the others: if a check
raises an exception, that becomes its finding.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from azr_mlx.commands.doctor import machine, software, trials
from azr_mlx.commands.doctor.finding import FAIL, WARN, Finding, Line, examine
from azr_mlx.text import plain

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


def doctor(*, as_json: bool = False, report: bool = False, debug: bool = False) -> bool:
    """Print a line as soon as each check is done, or one JSON object at the end, or a ``report`` in
    Markdown to paste, which has also trained for two steps. Returns whether no check failed."""
    start = time.perf_counter()
    lines = []
    for line in diagnose({**CHECKS, "step": trials.step} if report else CHECKS, debug=debug):
        lines.append(line)
        if report:
            sys.stderr.write(f"{line.name}: {line.finding.status}\n")
        elif not as_json:
            _print(line)
    count = {status: sum(one.finding.status == status for one in lines) for status in (WARN, FAIL)}
    good = not count[FAIL]
    if report:
        sys.stdout.write(_markdown(lines))
    elif as_json:
        row = {"ok": good, "checks": [line.to_json() for line in lines]}
        sys.stdout.write(json.dumps(row) + "\n")
    else:
        seconds = time.perf_counter() - start
        warnings = "1 warning" if count[WARN] == 1 else f"{count[WARN]} warnings"
        counted = f"{len(lines)} checks, {warnings}, {count[FAIL]} failed"
        sys.stderr.write(f"{counted}, {seconds:.1f} s\n")
    return good


def diagnose(
    checks: Mapping[str, Callable[[], Finding]] = CHECKS, *, debug: bool = False
) -> Iterator[Line]:
    """The finding of each check, in their order."""
    from azr_mlx.backends import blas

    blas.enable()  # before any check imports MLX
    for name, check in checks.items():
        yield examine(name, check, debug=debug)


def _markdown(lines: Sequence[Line]) -> str:
    """All findings as a table, and their facts as JSON, for an issue or a message."""
    rows = [f"| {one.name} | {one.finding.status} | {_cell(str(one))} |" for one in lines]
    facts = json.dumps({one.name: one.finding.facts for one in lines}, indent=1)
    head = f"### azr-mlx doctor --report, {time.strftime('%Y-%m-%d')}\n"
    table = "\n".join(["| check | | |", "|---|---|---|", *rows])
    body = f"<details><summary>facts</summary>\n\n```json\n{facts}\n```\n\n</details>"
    return f"{head}\n{table}\n\n{body}\n"


def _cell(text: str) -> str:
    return plain(text).replace("|", "\\|")


def _print(line: Line) -> None:
    from rich.console import Console
    from rich.text import Text

    status = line.finding.status
    text = Text.assemble((f"{status:<5}", STYLES[status]), f"{line.name:<9} ", plain(line))
    Console(soft_wrap=True, highlight=False).print(text)
