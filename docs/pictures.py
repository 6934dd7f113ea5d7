"""Draws the pictures of the README from a run of the quickstart: the live view as rich exports it,
and the first screen of the run's report.

    python docs/pictures.py runs/NAME     # writes docs/pictures/; needs Chromium for the report
    python docs/pictures.py report.html   # the beginning of any report, as curves.png beside it
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from azr_mlx import run_folder
from azr_mlx.config.earlier import load_run
from azr_mlx.monitoring import report
from azr_mlx.monitoring.live import View
from azr_mlx.monitoring.metrics import MetricsFile
from azr_mlx.selfplay.round_log import ShownProposal
from azr_mlx.tasks.prompts import arguments
from azr_mlx.types import Experience, Role, Task

PICTURES = Path(__file__).parent / "pictures"
AT = 90  # the step at which the live view is shown: its tasks are still in the last checkpoint
COLUMNS, LINES = 84, 24
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SCREEN = 1280, 1240
CURVES = 1200, 1525  # as far as the curves of rewards and of answers that are right
# The font that rich names would be fetched from a server.
FETCHED = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def main() -> int:
    run = Path(sys.argv[1])
    if run.suffix == ".html":
        screenshot(run, run.with_name("curves.png"), CURVES)
        return 0
    PICTURES.mkdir(exist_ok=True)
    (PICTURES / "live-view.svg").write_text(live_view(run), encoding="utf-8")
    screenshot(report.write(report.read(run)), PICTURES / "report.png", SCREEN)
    return 0


def live_view(run: Path) -> str:
    """What a terminal showed while the run solved the tasks of a step."""
    config, _ = load_run(run / run_folder.CONFIG_FILE)
    tasks = [Task.from_json(row["task"]) for row in run_folder.read_buffer(run / run_folder.NEWEST)]
    view = View(config.max_steps, name="runs/quickstart")
    for row in MetricsFile(run / run_folder.METRICS_FILE).rows():
        step = int(row["step"])
        if step <= AT:
            lines = run_folder.rollouts_of(run, step).read_text("utf-8").splitlines()
            experiences = [Experience.from_json(json.loads(line)) for line in lines]
            view.finish(row, shown(experiences, {task.id: task for task in tasks}))
    view.enter("solve", AT + 1, 112, 312)
    console = Console(
        record=True, width=COLUMNS, height=LINES, file=io.StringIO(), force_terminal=True
    )
    console.print(view)
    return FETCHED.sub("", console.export_svg(title="azr-mlx train -c quickstart"))


def shown(experiences: Sequence[Experience], tasks: dict[str, Task]) -> ShownProposal | None:
    """The proposal of a step that earned most, of those that are still tasks of the run."""
    proposed = [e for e in experiences if e.role is Role.PROPOSE and e.task_id in tasks]
    if not proposed:
        return None
    best = max(proposed, key=lambda e: e.reward.total)
    task = tasks[best.task_id]
    solved = [e for e in experiences if e.role is Role.SOLVE and e.task_id == task.id]
    return ShownProposal(
        task.kind,
        task.source,
        task.program,
        f"f({arguments(task.inputs[0])}) == {task.outputs[0]}",
        best.verdict,
        "",
        best.reward,
        sum(e.verdict.passed for e in solved) / len(solved),
    )


def screenshot(page: Path, out: Path, size: tuple[int, int]) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit(f"none of {', '.join(BROWSERS)} is on the PATH; install one")
    command = [browser, "--headless=new", "--no-sandbox", "--hide-scrollbars", "--disable-gpu"]
    command += [f"--screenshot={out.resolve()}", f"--window-size={size[0]},{size[1]}"]
    command += [page.resolve().as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


if __name__ == "__main__":
    sys.exit(main())
