"""The report of a run: one HTML file, with everything in it.

``data`` reads a run's files, ``figures`` decides from the registry of metrics which charts there
are, ``charts`` draws them as SVG, ``solved`` shows the held-out tasks, ``page`` puts the page
together, and ``summary`` gives the most important figures, also as JSON.
"""

from __future__ import annotations

from pathlib import Path

from azr_mlx.errors import AzrError
from azr_mlx.files import write_whole
from azr_mlx.monitoring import samples
from azr_mlx.monitoring.report import page
from azr_mlx.monitoring.report.data import ShownRun, locate, read
from azr_mlx.monitoring.report.summary import to_json
from azr_mlx.run_folder import REPORT_FILE

__all__ = ["ShownRun", "locate", "read", "to_json", "write"]


def write(run: ShownRun, compared: ShownRun | None = None, out: Path | None = None) -> Path:
    """Write the report, completely or not at all. Returns its path: ``out``, or RUN/report.html if
    that is None.

    Raises:
        AzrError: it cannot be written there.
    """
    runs = [run] if compared is None else [run, compared]
    text = page.compose(runs, samples.of_run(run.path))
    path = run.path / REPORT_FILE if out is None else out
    try:
        write_whole(path, text)
    except OSError as e:
        raise AzrError(f"--out {path}: {e.strerror or e}; choose a file that can be written") from e
    return path
