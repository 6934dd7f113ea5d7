"""What an evaluation says of itself where there is no terminal."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from azr_mlx.evaluation import progress
from azr_mlx.evaluation.progress import Bar, Lines, Silent, reporter

pytestmark = pytest.mark.pure


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(progress, "time", found)
    return found


def test_a_line_a_chunk_with_the_time_left(clock: Clock, capsys) -> None:
    lines = Lines()
    lines.start("humaneval", 40, 10)
    for _ in range(20):
        clock.now += 1.0
        lines.advance()
    lines.chunk()
    for _ in range(10):
        clock.now += 1.0
        lines.advance()
    lines.chunk()
    assert capsys.readouterr().err.splitlines() == [
        "humaneval: 10 of 40, already there",
        "humaneval: 30 of 40, about 10 s left",
        "humaneval: 40 of 40, in 30 s",
    ]


def test_a_long_chunk_is_not_silent(clock: Clock, capsys) -> None:
    lines = Lines()
    lines.start("mbpp", 10, 0)
    for _ in range(9):
        clock.now += 20.0
        lines.advance()
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "mbpp: 2 of 10, about 2 min 40 s left" and len(said) == 4


def test_a_bar_says_the_time_left_as_lines_do() -> None:
    screen = StringIO()
    bar = Bar(Console(file=screen, force_terminal=True, width=80))
    bar.start("humaneval", 40, 0)
    for now in (0.0, 1.0, 2.0):
        bar._progress.get_time = lambda now=now: now
        bar.advance(2)
    bar.close()
    assert "6/40" in screen.getvalue() and "17 s left" in screen.getvalue()


def test_quiet_is_quiet() -> None:
    assert isinstance(reporter(quiet=True), Silent)
    assert isinstance(reporter(), Lines), "under pytest stderr is no terminal"
