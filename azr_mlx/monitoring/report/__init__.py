"""The report of a run: one HTML file, with everything in it.

``data`` reads a run's files, ``figures`` decides from the registry of metrics which charts there
are, ``charts`` draws them as SVG, ``solved`` shows the held-out tasks, ``tasks`` those of the
buffers, ``page`` puts the page together, and ``summary`` gives the most important figures, also as
JSON.
"""

from __future__ import annotations

from pathlib import Path

from azr_mlx.errors import AzrError
from azr_mlx.files import write_whole
from azr_mlx.monitoring import samples
from azr_mlx.monitoring.report import charts, page
from azr_mlx.monitoring.report.data import ShownRun, locate, read
from azr_mlx.monitoring.report.summary import to_json
from azr_mlx.run_folder import COMPARED_FILE, REPORT_FILE

__all__ = ["MOST_COMPARED", "ShownRun", "locate", "read", "to_json", "write"]

MOST_COMPARED = len(charts.SHAPES) - 1  # runs beside the first: each has a mark of its own


def write(run: ShownRun, *compared: ShownRun, out: Path | None = None, every: int = 0) -> Path:
    """Write the report, completely or not at all. Returns its path: ``out``; if that is None,
    RUN/report.html, or RUN/compared.html if it shows others, too. ``every`` is as in
    ``page.compose``.

    Raises:
        AzrError: it cannot be written there.
    """
    text = page.compose([run, *compared], samples.of_run(run.path), every)
    path = out or run.path / (COMPARED_FILE if compared else REPORT_FILE)
    try:
        write_whole(path, text)
    except OSError as e:
        raise AzrError(f"--out {path}: {e.strerror or e}; choose a file that can be written") from e
    return path
