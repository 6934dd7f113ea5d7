"""What a run does for its owner, seen from outside: a bell at the end, and step times that are
remembered."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import threading

import pytest

pytest.importorskip("mlx.core", reason="mlx is not installed")

pytestmark = pytest.mark.e2e

RUN = [
    *("train", "-c", "quickstart", "max_steps=2", "held_out.tasks=0", "batch_size=6"),
    *("proposer.templates_per_step=3", "rollout.group_size=4"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory, request):
    """A folder with a cache of its own, and what a run in it says on a terminal that cannot draw.
    (folder, environment, text)."""
    folder = tmp_path_factory.mktemp("long")
    own = {"AZR_MLX_CACHE": str(folder / "cache"), "TERM": "dumb"}
    environment = {**os.environ, "PYTHONPATH": str(request.config.rootpath), **own}
    master, terminal = pty.openpty()
    said: list[bytes] = []

    def listen() -> None:
        while chunk := _read(master):
            said.append(chunk)

    listener = threading.Thread(target=listen)
    listener.start()
    done = subprocess.run(
        [sys.executable, "-m", "azr_mlx.cli", *RUN],
        cwd=folder,
        env=environment,
        stderr=terminal,
        stdout=subprocess.PIPE,
        timeout=300,
        check=False,
    )
    os.close(terminal)
    listener.join()
    os.close(master)
    text = b"".join(said).decode()
    assert done.returncode == 0, text
    return folder, environment, text


def _read(master: int) -> bytes:
    try:
        return os.read(master, 4096)
    except OSError:  # Linux's way to say that the other end is closed
        return b""


def test_it_says_after_the_first_step_when_the_last_will_end(place):
    *_, text = place
    first, second = text.index("step 1/2 |"), text.index("step 2/2 |")
    assert text.count("the last step ends in") == 1
    assert first < text.index("the last step ends in") < second


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac shows a notification")
def test_the_terminal_rings_at_the_end(place):
    *_, text = place
    assert text.count("\a") == 1 and text.index("\a") > text.index("done: 2 steps")


def test_a_dry_run_knows_what_a_step_took(place):
    folder, environment, _ = place
    said = subprocess.run(
        [sys.executable, "-m", "azr_mlx.cli", *RUN, "max_steps=100", "--dry-run"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    assert re.search(r"^# time: +\S.* per step \(median of 1 measured\); 100 steps: ", said, re.M)
