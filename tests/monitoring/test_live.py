"""A training run on a real terminal: what its screen shows while it runs, and when it has ended."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

pytest.importorskip("mlx.core", reason="mlx is not installed")
pyte = pytest.importorskip("pyte", reason="pyte is not installed")

from azr_mlx.monitoring.live import LABELS, STOPPING  # noqa: E402

pytestmark = pytest.mark.e2e


def run_on_terminal(
    arguments: list[str], columns: int, lines: int, stop_at: tuple[str, ...] = ()
) -> tuple[int, list[list[str]]]:
    """(exit code, the screen after each piece of output) of azr-mlx on a terminal of that size; the
    last one with what has moved out above. Ctrl-C is pressed there once it shows all of
    ``stop_at``."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "azr_mlx.cli", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**environment, "TERM": "xterm-256color"},
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    screen = pyte.HistoryScreen(columns, lines, history=1000)
    stream, screens = pyte.ByteStream(screen), []
    while True:
        try:
            data = os.read(ours, 1 << 16)
        except OSError:  # on Linux, the end of a terminal
            break
        if not data:
            break
        stream.feed(data)
        screens.append([line.rstrip() for line in screen.display])
        if stop_at and all(part in "\n".join(screens[-1]) for part in stop_at):
            os.write(ours, b"\x03")
            stop_at = ()
    os.close(ours)
    above = ["".join(line[x].data for x in range(columns)) for line in screen.history.top]
    screens[-1][:0] = [line.rstrip() for line in above]
    return process.wait(60), screens


@pytest.mark.timeout(300)
def test_the_screen_shows_the_run_in_place(tmp_path):
    given = [
        *("train", "-c", "quickstart", "max_steps=3", "held_out.tasks=0", "run_name=first"),
        *("batch_size=6", "proposer.templates_per_step=3", "rollout.group_size=4"),
        f"output_dir={tmp_path}",
    ]
    code, screens = run_on_terminal(given, 80, 24)
    assert code == 0, screens[-1]
    texts = ["\n".join(screen) for screen in screens]
    assert any("step 1/3" in text and any(t in text for t in LABELS.values()) for text in texts)
    assert any(" s left" in text for text in texts)
    last = texts[-1]
    for part in (
        "step 3/3",
        "solved",
        "difficulty",
        "tokens/s",
        "report: ",
        "done: 3 steps",
        "try it: ",
    ):
        assert part in last, part
    assert last.count("step 3/3") == 1, "drawn below itself"
    assert (tmp_path / "first" / "report.html").exists()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("columns", [80, 130])
def test_ctrl_c_is_noticed_at_once_and_leaves_one_view(tmp_path, columns):
    given = [
        *("train", "-c", "quickstart", "max_steps=9", "held_out.tasks=0", "run_name=cut"),
        *("batch_size=6", "rollout.group_size=4", "ppo.epochs=9", f"output_dir={tmp_path}"),
    ]
    code, screens = run_on_terminal(given, columns, 24, stop_at=("step 2/9", "training the model"))
    assert code == 130, screens[-1]
    stopping = ["\n".join(screen) for screen in screens if STOPPING[:40] in "\n".join(screen)]
    assert stopping and "interrupted: saved" not in stopping[0]
    last = "\n".join(screens[-1])
    assert last.count("step 2/9") == 1, last
    told = "".join(screens[-1]).replace(" ", "")  # wherever its lines are broken
    assert "interrupted:saved" in told and "tocontinue:" in told
