"""``azr-mlx report``: one HTML file that shows a run, next to other runs if asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from azr_mlx.errors import UsageError
from azr_mlx.monitoring import report
from azr_mlx.monitoring.metrics import MetricsFile
from azr_mlx.run_folder import CONFIG_FILE, METRICS_FILE, RUN_FILE


def write_report(run: str, compare: Sequence[str] = (), out: Path | None = None) -> dict[str, Any]:
    """Write the report. Returns its ``path`` and the figures of the ``runs``, as shown by
    ``--json``.

    ``run`` and ``compare`` are run folders, or ``latest``.

    Raises:
        UsageError: there is no such run, it has no metrics, or too many are compared.
        AzrError: the file cannot be written.
    """
    shown, *beside = (report.read(path) for path in _located(run, compare))
    return _written(report.write(shown, *beside, out=out), [shown, *beside])


def follow(
    run: str, compare: Sequence[str], out: Path | None, every: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Write the report every so many seconds, as the run goes on, until it has ended; then once
    more, and return the same as ``write_report``. Until then a browser that shows the page loads it
    again by itself. ``say`` hears where it is.

    Raises the same as ``write_report``, but waits for a run that has no metrics yet, if it is one.
    Ctrl-C ends the following and not the run, and leaves a page that does not renew itself.
    """
    path, *others = _located(run, compare)
    beside = [report.read(other) for other in others]
    _wait_for_a_step(path, every, say)
    told = False
    try:
        while not (shown := report.read(path)).ended:
            page = report.write(shown, *beside, out=out, every=every)
            if not told:
                say(f"{page} is renewed every {every} s until the run ends: open it in a browser")
            told = True
            time.sleep(every)
    finally:
        shown = report.read(path)
        page = report.write(shown, *beside, out=out)
    return _written(page, [shown, *beside])


def _located(run: str, compare: Sequence[str]) -> list[Path]:
    if len(compare) > report.MOST_COMPARED:
        raise UsageError(
            f"--compare {compare[report.MOST_COMPARED]}: a chart shows {report.MOST_COMPARED} runs "
            "beside the first; leave some out"
        )
    return [report.locate(one) for one in (run, *compare)]


def _wait_for_a_step(path: Path, every: int, say: Callable[[str], None]) -> None:
    if not any((path / name).exists() for name in (CONFIG_FILE, RUN_FILE, METRICS_FILE)):
        raise UsageError(f"report {path}: is not the folder of a run; give runs/NAME or latest")
    told = False
    while not any(True for _ in MetricsFile(path / METRICS_FILE).rows()):
        if not told:
            say(f"{path}: waiting for its first step")
        told = True
        time.sleep(every)


def _written(page: Path, runs: Sequence[report.ShownRun]) -> dict[str, Any]:
    return {"path": str(page), "runs": [report.to_json(one) for one in runs]}
