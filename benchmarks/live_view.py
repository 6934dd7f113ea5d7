"""What the live view costs: the processor time of its thread, as a share of one core.

    python benchmarks/live_view.py

Draws the view of a run of 60 steps on a pseudo-terminal of each width for ``--seconds``, as a run
does, and adds the calls that a step of 500 rollouts makes. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import pty
import sys
import threading
import time
from argparse import ArgumentParser
from contextlib import redirect_stderr

import side_by_side as sbs

from azr_mlx.monitoring.terminal import Display
from azr_mlx.selfplay.round_log import ShownProposal
from azr_mlx.types import Reward, Status, TaskKind, Verdict

STEP_S = 3.0  # of the quickstart
PROGRAM = "def f(a, n):\n" + "".join(f"    a = a[{i}:] + [n]\n" for i in range(8)) + "    return a"
VALID = Verdict(Status.OK, "", None, 0.1)
TASK = ShownProposal(
    TaskKind.DEDUCTION, "model", PROGRAM, "f([1], 2) == [2]", VALID, "", Reward(0.5, {})
)


def main() -> int:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--columns", nargs="+", type=int, default=[80, 160])
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    rows = [measured(columns, options.seconds) for columns in options.columns]
    print(json.dumps({**sbs.machine(options), "rows": rows}, indent=1))
    return 0


def measured(columns: int, seconds: float) -> dict[str, float]:
    ours, theirs = pty.openpty()
    os.environ |= {"COLUMNS": str(columns), "LINES": "40", "TERM": "xterm-256color"}
    threading.Thread(target=drain, args=(ours,), daemon=True).start()
    with os.fdopen(theirs, "w") as terminal, redirect_stderr(terminal):
        display = Display(100, name="runs/first")
        for step in range(60):
            display.view.finish(row(step), TASK)
        display.phase("solve", 61)
        before = time.process_time()
        time.sleep(seconds)
        drawing = (time.process_time() - before) / seconds
        began = time.process_time()
        for done in range(500):
            display.phase("solve", 61, done, 500)
        display.step(row(61), [TASK])
        calls = time.process_time() - began
        display.close()
    return {
        "columns": columns,
        "share_drawing": round(drawing, 5),
        "share_calls": round(calls / STEP_S, 5),
        "share": round(drawing + calls / STEP_S, 5),
    }


def row(step: int) -> dict[str, float]:
    found = {"step": step + 1, "time/step": STEP_S, "tok_s/rollout": 3500.0, "entropy": 0.4}
    for kind in TaskKind:
        found |= {
            f"solve_rate/{kind.value}": step % 7 / 7,
            f"propose/valid_rate/{kind.value}": step % 5 / 5,
            f"difficulty/{kind.value}": 0.3,
        }
    return found


def drain(descriptor: int) -> None:
    """Read what is drawn, as a terminal does."""
    while os.read(descriptor, 1 << 16):
        pass


if __name__ == "__main__":
    sys.exit(main())
