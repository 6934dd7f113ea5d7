"""What a run says: the live view on terminals of any size, lines elsewhere, nothing hostile."""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from datetime import datetime

import pytest
from rich.console import Console

from azr_mlx.monitoring import live, terminal
from azr_mlx.monitoring.live import LiveView, View, program_lines, sparkline
from azr_mlx.monitoring.terminal import Display, step_line
from azr_mlx.selfplay.round_log import ShownProposal
from azr_mlx.text import plain
from azr_mlx.types import Reward, Status, TaskKind, Verdict

pytestmark = pytest.mark.pure

ROW = {
    "step": 3,
    "reward": -0.12,
    "solve_rate/deduction": 0.25,
    "solve_rate/abduction": 0.5,
    "propose/valid_rate/deduction": 0.75,
    "difficulty/deduction": 0.31,
    "ppo/approx_kl": 0.0042,
    "ppo/updates": 2,
    "entropy": 0.61,
    "grad_norm": 0.18,
    "tok_s/rollout": 3593.4,
    "mem/peak_gb": 0.2,
    "time/step": 4.0,
    "health/valid": 0.0,
    "health/flat_groups": 1.0,
}
PROGRAM = "def f(a):\n    t = a[::-1]\n    return [x for x in t if x > 6]"


def proposed(
    program: str = PROGRAM, example: str = "f([7, 8]) == [8, 7]", **other
) -> ShownProposal:
    given = {"reason": "", "reward": Reward(0.88, {}), "solve_rate": 0.12, **other}
    verdict = Verdict(Status.OK, "", None, 0.1)
    return ShownProposal(TaskKind.DEDUCTION, "model", program, example, verdict, **given)


def view(one: ShownProposal | None = None) -> View:
    made = View(max_steps=10, name="runs/first")
    for step in (1, 2, 3):
        made.enter("solve", step, 0, 0)
        made.finish({**ROW, "step": step}, proposed() if one is None else one)
    made.enter("solve", 4, 30, 96)
    return made


def drawn(what: View, width: int, height: int, **options) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, height=height, force_terminal=True, **options)
    with console.capture() as captured:
        console.print(what)
    return captured.get()


def plain_lines(what: View, width: int, height: int) -> list[str]:
    return drawn(what, width, height, color_system=None).splitlines()


@pytest.mark.parametrize("width", [40, 60, 80, 119, 120, 160, 250])
@pytest.mark.parametrize("height", [8, 16, 24, 50])
def test_the_view_fits_its_terminal(width, height):
    lines = plain_lines(view(), width, height)
    assert max(map(len, lines)) <= width
    assert len(lines) < height or len(lines) <= 13  # what must be said; the rest is cut off
    assert "step 4/10" in lines[0] and "28.0 s left" not in lines[0] and "s left" in lines[0]


def test_the_view_says_where_the_run_is_and_how_it_does():
    text = drawn(view(), 80, 40, color_system=None)
    for part in (
        *("solving them, 30 of 96", "runs/first", "deduction  0.25", "0.75", "0.31"),
        *("KL 0.0042", "entropy 0.61", "3,593 tokens/s", "0.2 GB", "4.0 s per step"),
        *("collapse? flat_groups", "new deduction: solved in 12% of tries, reward"),
        *("return [x for x in t if x > 6]", "f([7, 8]) == [8, 7]"),
    ):
        assert part in text, part
    assert "valid: see" not in text  # a sign that has not tripped


@pytest.mark.parametrize("width", [80, 100, 119, *range(120, 126), 160])
def test_no_width_costs_the_curves_or_the_reward(width):
    """At 120 columns the two halves had room for neither."""
    text = "\n".join(plain_lines(view(), width, 30))
    assert "solved in 12% of tries, reward +0.88" in text
    row = next(line for line in text.splitlines() if line.startswith("deduction"))
    assert row.count("0.75") == 1 and any(bar in row for bar in live.BARS)


def test_a_divergence_that_was_not_measured_is_not_shown():
    assert live.kl_parts(ROW) == ["KL 0.0042"]
    assert live.kl_parts({**ROW, "kl_ref": 0.01}) == ["KL 0.0042", "KL to base 0.0100"]
    assert live.kl_parts({**ROW, "ppo/updates": 1}) == []


def test_a_run_that_goes_on_has_its_curves_behind_it():
    shown = Display(10)
    shown.recall([{**ROW, "step": step} for step in range(1, 200)])
    assert len(shown.view.rows) == live.KEPT
    shown.view.enter("solve", 200, 0, 0)
    text = drawn(shown.view, 100, 40, color_system=None)
    assert "reward -0.12 ▁▁▁▁▁" in text


def test_before_the_first_step_only_the_phase_is_known():
    made = View(max_steps=10)
    made.enter("propose", 1, 0, 0)
    lines = plain_lines(made, 80, 24)
    assert [line.split("  ")[0].strip() for line in lines] == ["step 1/10", "proposing tasks"]


def test_the_time_left_is_told_from_the_last_steps(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    made = View(max_steps=10)
    assert made.time_left() is None
    made.enter("solve", 1, 0, 0)
    for step, seconds in ((1, 400.0), (2, 4.0), (3, 6.0)):
        made.finish({"step": step, "time/step": seconds}, None)
    assert made.time_left() == 7 * 6.0  # the median: one slow step says nothing
    made.enter("solve", 4, 0, 0)
    now[0] += 2.0
    assert made.time_left() == 7 * 6.0 - 2.0
    now[0] += 1000.0
    assert made.time_left() == 6 * 6.0  # a step that takes long does not eat the others' time


HOSTILE = 'def f(a):\n    return "\x1b[2J\x1b]0;owned\x07\u202e\x00\r\x9b31m [red]b[/red]"'


@pytest.mark.parametrize("width", [80, 160])
def test_what_a_model_wrote_moves_no_cursor(width):
    text = drawn(view(proposed(HOSTILE)), width, 40, color_system=None)
    assert not set(text) & {"\x1b", "\x07", "\u202e", "\x00", "\r", "\x9b"}
    assert "␛[2J" in text and "[red]b[/red]" in text
    said = terminal.describe(proposed(HOSTILE))
    assert not set(said) & {"\x1b", "\x07", "\u202e", "\x00", "\r", "\x9b"}


def test_a_long_program_is_cut_to_the_room_and_keeps_its_example():
    one = proposed("\n".join(f"line_{i} = 1" for i in range(100)))
    assert program_lines(one, 4) == ["line_0 = 1", "line_1 = 1", "...", "f([7, 8]) == [8, 7]"]
    assert program_lines(one, 0) == []
    assert len(plain_lines(view(one), 80, 24)) < 24
    assert max(map(len, terminal.describe(proposed("x" * 9999)).splitlines())) < 220


def test_no_color_draws_without_colour(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    colours = ("\x1b[3", "\x1b[9", ";3", ";9")
    assert not any(code in drawn(view(), 80, 40, color_system="standard") for code in colours)
    monkeypatch.delenv("NO_COLOR")
    assert "\x1b[3" in drawn(view(), 80, 40, color_system="standard")


def test_a_sparkline_is_of_the_last_values_between_its_bounds():
    assert sparkline([0.0, 0.5, 1.0], 8, 0.0, 1.0) == "▁▅█"
    assert sparkline([9, 1, 2, 3], 3) == "▁▅█"
    assert sparkline([2, 2], 5) == "▁▁"
    assert sparkline([-5, 7], 5, 0.0, 1.0) == "▁█"
    assert sparkline([], 5) == sparkline([1], 0) == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def err(monkeypatch, request) -> io.StringIO:
    """Standard error: a terminal of 80 columns, or a file."""
    made = Terminal() if request.param == "terminal" else io.StringIO()
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    return made


def steps(err: io.StringIO, **options) -> None:
    with redirect_stderr(err):
        shown = Display(2, **options)
    for step in (1, 2):
        shown.phase("propose", step)
        shown.phase("solve", step, 3, 9)
        shown.step({**ROW, "step": step}, [proposed()])
    shown.warn("step 2: something trips")
    shown.note("done")


@pytest.mark.parametrize("err", ["file"], indirect=True)
def test_where_there_is_no_terminal_it_is_a_line_a_step(err):
    steps(err)
    lines = err.getvalue().splitlines()
    assert lines[0].startswith("step 1/2 | reward -0.12 | solve d 0.25 a 0.50 i - | valid d 0.75")
    assert lines[1] == "  deduction proposed by the model: solved in 12% of tries, reward +0.88"
    assert lines[2] == "      def f(a):"
    assert [line for line in lines if line.startswith(("step", "done"))][2:] == ["done"]
    assert "warning: step 2: something trips" in lines
    assert "\x1b" not in err.getvalue()


@pytest.mark.parametrize("err", ["terminal"], indirect=True)
def test_on_a_terminal_it_is_drawn_in_place_and_warnings_stay_above(err):
    steps(err, name="runs/first")
    text = err.getvalue()
    assert "\x1b[?25l" in text and text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert "step 1/2 |" not in text, "the line of a step, beside the view"
    assert "step 2: something trips" in text and text.rstrip().endswith("done")


@pytest.mark.parametrize("err", ["terminal"], indirect=True)
@pytest.mark.parametrize("how", [{"quiet": True}, {"log_level": "warning"}])
def test_quiet_leaves_only_warnings(err, how):
    steps(err, **how)
    assert "something trips" in err.getvalue() and "done" not in err.getvalue()
    assert "step 1/2" not in err.getvalue()


@pytest.mark.parametrize("err", ["terminal"], indirect=True)
def test_a_dumb_terminal_gets_lines(err, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    steps(err)
    assert "step 1/2 |" in err.getvalue() and "\x1b[?25l" not in err.getvalue()


@pytest.mark.parametrize("err", ["file"], indirect=True)
def test_after_the_first_step_it_says_when_the_last_will_end(err):
    steps(err)
    text = err.getvalue()
    assert text.count("at 4.0 s per step the last step ends in 4.0 s, at ") == 1


@pytest.mark.parametrize("err", ["terminal"], indirect=True)
def test_the_live_view_alone_says_what_is_left(err):
    steps(err)
    assert "the last step ends" not in err.getvalue()


@pytest.mark.parametrize(
    ("step", "end"),
    [
        (1, "at 5 min 0 s per step the last step ends in 45 min 0 s, at 22:46"),
        (9, "at 5 min 0 s per step the last step ends in 5 min 0 s, at 22:06"),
        (10, ""),
    ],
)
def test_the_end_is_a_time_of_day(step, end):
    row = {"step": step, "time/step": 300.0}
    assert terminal.ending(row, 10, datetime(2026, 3, 1, 22, 1)) == end


def test_the_end_on_another_day_has_its_date():
    row = {"step": 1, "time/step": 3600.0}
    said = terminal.ending(row, 10, datetime(2026, 2, 28, 22, 1))
    assert said == "at 1 h 0 min per step the last step ends in 9 h 0 min, at 07:01 on Sun 1 Mar"


@pytest.mark.parametrize("err", ["terminal"], indirect=True)
def test_a_terminal_without_unicode_gets_lines(err, monkeypatch):
    monkeypatch.setattr(Terminal, "encoding", "ascii", raising=False)
    steps(err)
    assert "step 1/2 |" in err.getvalue() and "\x1b[?25l" not in err.getvalue()


@pytest.mark.parametrize("err", ["file"], indirect=True)
def test_no_line_lets_anything_through(err):
    with redirect_stderr(err):
        shown = Display(2, name=HOSTILE)
    one = proposed(HOSTILE, HOSTILE, reason=HOSTILE)
    shown.step({**ROW, "step": 1}, [one])
    shown.warn(HOSTILE)
    shown.note(HOSTILE)
    assert err.getvalue() == plain(err.getvalue()) and "[red]b[/red]" in err.getvalue()


@pytest.mark.parametrize("width", [1, 20, 30])
def test_a_very_narrow_terminal_is_not_overrun(width):
    assert max(map(len, plain_lines(view(), width, 24))) <= width


@pytest.mark.parametrize("err", ["file"], indirect=True)
def test_a_resumed_run_shows_the_rows_that_are_numbers(err):
    with redirect_stderr(err):
        shown = Display(2)
    shown.recall([{**ROW, "step": 1, "entropy": "high", "grad_norm": None, "kl_ref": 10**400}])
    assert "entropy -   gradient -" in "".join(plain_lines(shown.view, 80, 24))


def test_what_a_step_did_not_measure_is_not_shown_as_nothing():
    """A step without an update has no entropy and no gradient; an entropy of 0 is a collapse."""
    row = {name: value for name, value in ROW.items() if name not in ("entropy", "grad_norm")}
    line = step_line({**row, "step": 1}, 2)
    assert "entropy - | grad - |" in line
    assert "entropy 0.00 | grad 0 |" in step_line({**row, "entropy": 0.0, "grad_norm": 0.0}, 2)


@pytest.mark.parametrize("err", ["terminal"], indirect=True)
def test_the_last_picture_stays(err):
    console = Console(file=err, width=80, height=24)
    shown = LiveView(console, view())
    shown.start()
    shown.stop()
    assert "new deduction" in err.getvalue()


def test_what_is_said_is_not_read_as_markup_or_emoji():
    """rich makes a cross of the middle of s[1:x:2]."""
    said = "a run s[1:x:2] in [red]runs[/red] at :b: C:\\"
    with redirect_stderr(io.StringIO()) as out:
        Display(10).warn(said)
    assert out.getvalue() == f"warning: {said}\n"
