"""The output of a training run: the live view on a terminal; elsewhere, for each step, one line and
one of its proposals.

Everything goes to stderr. If that is not a terminal, only whole lines are written.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from azr_mlx.evaluation import held_out
from azr_mlx.evaluation.held_out import WAYS, HeldOutLine, Record, RightAnswerLine
from azr_mlx.evaluation.statistics import Estimate
from azr_mlx.monitoring.live import (
    KEPT,
    STOPPING,
    LiveView,
    View,
    kl_parts,
    measured,
    program_lines,
    reward_of,
    time_of_day,
    verdict_line,
)
from azr_mlx.monitoring.metrics import is_number
from azr_mlx.selfplay.round_log import ShownProposal
from azr_mlx.text import duration, plain
from azr_mlx.types import TaskKind

# How much of a program is shown: characters per line, and lines.
LONGEST_LINE, MOST_LINES = 200, 13
LEVELS = ("debug", "info", "warning", "error")

FEW = 30  # tasks; an interval over fewer is not to be trusted
HELD_OUT_HEADINGS = ("tasks", "before", "after", "gain in points (95 %)")


class Display:
    """Shows progress on stderr. With ``quiet``, or a ``log_level`` above "info", only warnings are
    shown."""

    def __init__(
        self, max_steps: int, *, quiet: bool = False, log_level: str = "info", name: str = ""
    ):
        self.console = Console(file=sys.stderr, highlight=False)
        self.muted = False  # True: no warnings either, as another rank prints them
        self.silent = quiet or LEVELS.index(log_level) > LEVELS.index("info")
        self.view = View(max_steps, plain(name))
        self.live: LiveView | None = None
        self._pace_told = False

    @property
    def draws(self) -> bool:
        """Whether the live view is drawn: stderr is a terminal for Unicode, and output is
        wanted."""
        c = self.console
        unicode = c.encoding.startswith("utf")
        return not self.silent and c.is_terminal and not c.is_dumb_terminal and unicode

    def recall(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Take over the earlier steps of a resumed run, so that the curves show them."""
        numbers = [{k: v for k, v in row.items() if is_number(v)} for row in rows[-KEPT:]]
        self.view.rows = tuple(numbers)

    def phase(self, name: str, step: int, done: int = 0, total: int = 0) -> None:
        """Show in the live view which phase is running, and how many of its rollouts are done."""
        if not self.draws:
            return
        self.view.enter(name, step, done, total)
        if self.live is None:
            self.live = LiveView(self.console, self.view)
            self.live.start()

    def step(self, row: Mapping[str, float], proposed: Sequence[ShownProposal]) -> None:
        """Show the figures of a step that has ended, and one of its proposals (see ``telling``)."""
        chosen = telling(proposed)
        self.view.finish(row, chosen)
        if not self.silent and self.live is None:
            self._say(step_line(row, self.view.max_steps))
            if chosen is not None:
                self._say(describe(chosen))
            if not self._pace_told and (when := ending(row, self.view.max_steps, datetime.now())):
                self._say(when)
            self._pace_told = True

    def note(self, text: str) -> None:
        self.close()
        if not self.silent:
            self._say(text)

    def remark(self, text: str) -> None:
        """Print a line above the live view, which stays."""
        if not self.silent:
            self._say(text)

    def stopping(self) -> None:
        """Say that Ctrl-C was noticed. May be called by another thread."""
        self.view.stopping, live = True, self.live
        if live is not None:
            live.refresh()
        elif not self.silent:
            self._say(STOPPING)

    def table(self, made: Table) -> None:
        self.close()
        if not self.silent:
            self.console.print(made)

    def warn(self, text: str) -> None:
        """Print a warning above the live view, where it stays."""
        if not self.muted:
            self._say(f"warning: {text}", "yellow")

    def close(self) -> None:
        """End the live view. What it drew last stays on the screen."""
        if self.live is not None:
            self.live.stop()
            self.live = None

    def _say(self, text: str, style: str | None = None) -> None:
        # A Text: in a str rich looks for emoji as well, and s[1:x:2] has one.
        self.console.print(Text(plain(text)), style=style or "", soft_wrap=True)


def step_line(row: Mapping[str, float], max_steps: int) -> str:
    """One line: reward, solve and valid rate by kind, KL, entropy, gradient, speed, memory and
    time."""
    parts = [
        f"step {int(row['step'])}/{max_steps}",
        f"reward {reward_of(row)}",
        f"solve {_by_kind(row, 'solve_rate')}",
        f"valid {_by_kind(row, 'propose/valid_rate')}",
        *kl_parts(row),
        f"entropy {measured(row, 'entropy', '.2f')}",
        f"grad {measured(row, 'grad_norm', '.2g')}",
        f"{row.get('tok_s/rollout', 0.0):.0f} tok/s",
        f"{row.get('mem/peak_gb', 0.0):.1f} GB",
        f"{row.get('time/step', 0.0):.0f} s",
    ]
    return " | ".join(parts)


def ending(row: Mapping[str, float], max_steps: int, now: datetime) -> str:
    """When the last step will end if all steps take as long as this one; empty after the last."""
    seconds = row.get("time/step", 0.0)
    left = seconds * (max_steps - row["step"])
    if left <= 0:
        return ""
    pace = f"at {duration(seconds)} per step"
    return f"{pace} the last step ends in {duration(left)}, at {time_of_day(left, now)}"


def _by_kind(row: Mapping[str, float], name: str) -> str:
    """ "d 0.25 a 0.50 i -": the three kinds by their first letter."""
    shown = ((k.value, row.get(f"{name}/{k.value}")) for k in TaskKind)
    return " ".join(f"{kind[0]} -" if v is None else f"{kind[0]} {v:.2f}" for kind, v in shown)


def telling(proposed: Sequence[ShownProposal]) -> ShownProposal | None:
    """The model's valid proposal with the highest reward. If none was valid, the last that was
    rejected; None if the model proposed no program."""
    own = [p for p in proposed if p.source == "model" and p.program]
    valid = [p for p in own if p.reason == "" and p.reward is not None]
    if valid:
        return max(valid, key=lambda p: p.reward.total if p.reward else 0.0)
    return own[-1] if own else None


def describe(one: ShownProposal) -> str:
    """A proposal with its verdict and reward, and its program indented below."""
    body = "".join(f"\n      {line[:LONGEST_LINE]}" for line in program_lines(one, MOST_LINES))
    return f"  {one.kind.value} proposed by the {one.source}: {verdict_line(one)}{body}"


def held_out_table(
    title: str,
    found: Mapping[str, Sequence[HeldOutLine]],
    last: Mapping[str, HeldOutLine] | None = None,
) -> Table:
    """A table of shares and gains that fits 80 columns; ``last`` is one more line for each
    distribution. The report also has the intervals of the shares."""
    made = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    made.add_column("")
    for heading in HELD_OUT_HEADINGS:
        made.add_column(heading, justify="right", no_wrap=True)
    for name, lines in found.items():
        made.add_row(held_out.NAMES[name])
        shown = [*lines, last[name]] if last and name in last else lines
        for line in shown:
            shares = [f"{one.value:.1%}" for one in (line.before, line.after)]
            cells = [str(line.tasks), *shares, _points(line.gain)]
            made.add_row(f"  {line.name}", *cells, end_section=line is shown[-1])
    return made


def gain_line(way: str, found: Mapping[str, Sequence[HeldOutLine]]) -> str:
    """One line: whether the mean of the kinds rose or fell in each distribution, with 95 %
    confidence."""
    parts = (f"{_change(lines[-1])} {held_out.NAMES[name]}" for name, lines in found.items())
    return f"in short, {way} answers: {', '.join(parts)}"


def _change(mean: HeldOutLine) -> str:
    gain = mean.gain
    if mean.tasks < FEW:
        return f"{mean.tasks} tasks are too few to tell"
    if gain.low <= 0.0 <= gain.high:
        return "no clear change"
    return f"{'better' if gain.value > 0 else 'worse'} by {abs(100 * gain.value):.1f} points"


def standing_line(record: Record) -> str:
    """One line: what was solved before training, in the mean of the kinds."""
    parts = []
    for way, found in record.standing.items():
        shares = (f"{held_out.NAMES[name]} {share:.1%}" for name, share in found.items())
        parts.append(f"{WAYS[way]}: {', '.join(shares)}")
    return f"solved before training, {'; '.join(parts)}"


def right_answer_line(found: Mapping[str, RightAnswerLine]) -> str:
    """One line: how likely the right answers to deduction tasks became; empty if not measured. The
    report says for how many tasks they became likely at all."""
    parts = [
        f"{held_out.NAMES[name]} {line.probability.before.value:.1%} before and "
        f"{line.probability.after.value:.1%} after"
        for name, line in found.items()
    ]
    return f"mean probability of the right answer, deduction: {'; '.join(parts)}" if parts else ""


def _points(one: Estimate) -> str:
    return f"{100 * one.value:+.1f} ({100 * one.low:+.1f} to {100 * one.high:+.1f})"
