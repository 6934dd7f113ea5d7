"""``azr-mlx report``: one HTML file that shows a run, next to a second run if asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from azr_mlx.monitoring import report


def write_report(run: str, compare: str | None = None, out: Path | None = None) -> dict[str, Any]:
    """Write the report. Returns its ``path`` and the figures of the ``runs``, as shown by
    ``--json``.

    ``run`` and ``compare`` are run folders, or ``latest``.

    Raises:
        UsageError: there is no such run, or it has no metrics.
        AzrError: the file cannot be written.
    """
    shown = report.read(report.locate(run))
    beside = None if compare is None else report.read(report.locate(compare))
    path = report.write(shown, beside, out)
    runs = [report.to_json(one) for one in (shown, beside) if one is not None]
    return {"path": str(path), "runs": runs}
