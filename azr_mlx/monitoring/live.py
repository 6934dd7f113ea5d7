"""The live view of a training run: its progress and its results, redrawn in place on a terminal.

The trainer reports phases and steps to it. A thread of the library rich draws it a few times per
second, so that the clocks also move during a long phase. Text that a model wrote is shown as plain
text and cut to the size of the terminal.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from statistics import median

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.constrain import Constrain
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from azr_mlx.monitoring.metrics import MetricsRow
from azr_mlx.selfplay.round_log import ShownProposal
from azr_mlx.text import duration, plain
from azr_mlx.types import TaskKind

LABELS = {
    "propose": "proposing tasks",
    "solve": "solving them",
    "verify": "judging",
    "update": "training the model",
    "evaluate": "evaluating",
    "pause": "paused: the battery is low",
}
STOPPING = "Ctrl-C: saving the last whole step (once more: end without saving)"
PER_SECOND = 2  # how often the view is drawn
KEPT = 60  # the curves show this many of the last steps
RECENT = 10  # the time left is estimated from this many of the last steps
LONG = 600.0  # seconds that are left from which the time of day is shown as well
# What a terminal writes where the cursor is if a user presses Ctrl-C. In a full line it would move
# the cursor to the next one, and then the view would be drawn again one line too low.
ECHO = "^C"
CURVED = 60  # columns from which the table of kinds has room for curves
WIDE = 118  # columns from which the last proposal is shown next to the figures
BARS = "▁▂▃▄▅▆▇█"
COLORS = ("cyan", "magenta", "green")


@dataclass(slots=True)
class View:
    """What is shown now. Another thread draws it, so fields are replaced and never changed in
    place."""

    max_steps: int
    name: str = ""
    step: int = 0  # the step that is running
    phase: str = ""
    done: int = 0
    total: int = 0
    phase_since: float = field(default_factory=time.monotonic)
    step_since: float = field(default_factory=time.monotonic)
    rows: tuple[MetricsRow, ...] = ()
    proposed: ShownProposal | None = None
    stopping: bool = False  # Ctrl-C was pressed; what cannot be interrupted is being finished

    def enter(self, phase: str, step: int, done: int, total: int) -> None:
        now = time.monotonic()
        if step != self.step:
            self.step, self.step_since = step, now
        if phase != self.phase:
            self.phase, self.phase_since = phase, now
        self.done, self.total = done, total

    def finish(self, row: MetricsRow, chosen: ShownProposal | None) -> None:
        """Take over the results of a step that has ended."""
        self.rows = (*self.rows, dict(row))[-KEPT:]
        self.proposed = chosen or self.proposed
        self.phase, self.step_since = "", time.monotonic()

    def time_left(self) -> float | None:
        """Seconds, at the pace of the last steps; None before the first step has ended."""
        if not self.rows:
            return None
        pace = median(row.get("time/step", 0.0) for row in self.rows[-RECENT:])
        done = int(self.rows[-1]["step"])
        spent = time.monotonic() - self.step_since if self.phase else 0.0
        return max(0.0, pace * (self.max_steps - done) - min(spent, pace))

    # -- drawing -----------------------------------------------------------------------------------

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, height = max(1, options.max_width - len(ECHO)), console.size.height - 1
        for part in self._parts(width, height):
            yield Constrain(part, width)

    def _parts(self, width: int, height: int) -> Iterator[RenderableType]:
        yield self._progress()
        yield self._status(width)
        if not self.rows:
            return
        if width < WIDE:
            figures = self._figures(width)
            yield Group(Text(), self._kinds(width), Text(), *figures)
            room = height - 2 - (1 + 1 + len(TaskKind) + 1 + len(figures)) - 1
            if room > 1:
                yield Group(Text(), *self._last(room))
            return
        left = max(CURVED, width // 2)
        beside = Table.grid(expand=True, padding=(0, 2, 0, 0))
        beside.add_column(width=left)
        beside.add_column(ratio=1)
        own = Group(self._kinds(left), Text(), *self._figures(left))
        beside.add_row(own, Group(*self._last(height - 3)))
        yield Group(Text(), beside)

    def _progress(self) -> Table:
        done = int(self.rows[-1]["step"]) if self.rows else max(self.step - 1, 0)
        grid = Table.grid(expand=True, padding=(0, 2, 0, 0))
        grid.add_column(no_wrap=True, style="bold")
        grid.add_column(ratio=1)
        grid.add_column(no_wrap=True, justify="right")
        grid.add_row(
            f"step {min(done + bool(self.phase), self.max_steps)}/{self.max_steps}",
            ProgressBar(total=max(self.max_steps, 1), completed=done),
            self._left(),
        )
        return grid

    def _left(self) -> str:
        left = self.time_left()
        if left is None:
            return ""
        until = f", until {time_of_day(left, datetime.now())}" if left >= LONG else ""
        return f"{duration(left)} left{until}"

    def _status(self, width: int) -> Text:
        """The current phase, how much of it is done, and how long it has been running."""
        if self.stopping:
            return _line(STOPPING, "yellow")
        if not self.phase:
            return _line(self.name, "dim")
        since = time.monotonic() - self.phase_since
        parts = [LABELS.get(self.phase, self.phase)]
        if self.total:
            parts.append(f"{self.done} of {self.total}")
        if since >= 1:
            parts.append(duration(since))
        text = _line(", ".join(parts), "cyan")
        if width >= 60 and self.name:
            text.append(f"   {self.name}", "dim")
        return text

    def _kinds(self, width: int) -> Table:
        """A table by kind: the shares solved and valid, each with its curve, and the difficulty."""
        points = min(KEPT, (width - 44) // 2) if width >= CURVED else 0
        grid = Table.grid(padding=(0, 2, 0, 0))
        for least in (0, 0, points, 0, points, 0):
            grid.add_column(no_wrap=True, min_width=least)
        grid.add_row("", *(Text(t, "dim") for t in ("solved", "", "valid", "", "difficulty")))
        row = self.rows[-1]
        for kind, color in zip(TaskKind, COLORS, strict=True):
            cells: list[RenderableType] = [Text(kind.value, color)]
            for name in ("solve_rate", "propose/valid_rate"):
                key = f"{name}/{kind.value}"
                curve = [r[key] for r in self.rows if key in r]
                cells += [_share(row.get(key)), Text(sparkline(curve, points, 0.0, 1.0), color)]
            difficulty = row.get(f"difficulty/{kind.value}")
            cells.append("-" if difficulty is None else f"{difficulty:.2f}")
            grid.add_row(*cells)
        return grid

    def _figures(self, width: int) -> list[Text]:
        row = self.rows[-1]
        rewards = [r["reward"] for r in self.rows if "reward" in r]
        curve = sparkline(rewards, min(40, width - 40), None, None)
        signs = [key.removeprefix("health/") for key in row if key.startswith("health/")]
        tripped = [name for name in signs if row[f"health/{name}"]]
        lines = [
            Text.assemble("reward ", (f"{reward_of(row)} ", "bold"), (curve, "yellow")),
            Text(
                "   ".join(
                    [
                        *kl_parts(row),
                        f"entropy {measured(row, 'entropy', '.2f')}",
                        f"gradient {measured(row, 'grad_norm', '.2g')}",
                    ]
                )
            ),
            Text(
                f"{row.get('tok_s/rollout', 0.0):,.0f} tokens/s   "
                f"{row.get('mem/peak_gb', 0.0):.1f} GB   "
                f"{duration(row.get('time/step', 0.0))} per step"
            ),
        ]
        if tripped:
            lines.append(Text(f"collapse? {', '.join(tripped)}: see the warning", "bold yellow"))
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"
        return lines

    def _last(self, room: int) -> list[Text]:
        """The last proposal that was chosen to be shown, in at most ``room`` lines."""
        one = self.proposed
        if one is None or room < 1:
            return []
        title = _line(f"new {one.kind.value}: ", "dim")
        title.append(verdict_line(one), "green" if one.reason == "" else "red")
        return [title, *(_line(f"  {line}") for line in program_lines(one, min(room - 1, 14)))]


class LiveView:
    """Draws the view on a terminal, from ``start`` to ``stop``."""

    def __init__(self, console: Console, view: View):
        self.view = view
        self._live = Live(
            view,
            console=console,
            refresh_per_second=PER_SECOND,
            redirect_stdout=False,
            vertical_overflow="crop",
        )

    def start(self) -> None:
        self._live.start()

    def refresh(self) -> None:
        self._live.refresh()

    def stop(self) -> None:
        """Stop drawing; the last picture stays on the screen."""
        self._live.stop()


def time_of_day(seconds: float, now: datetime) -> str:
    """What the clock will show in so many seconds, and the date if it is not today's."""
    then = now + timedelta(seconds=seconds)
    day = "" if then.date() == now.date() else f" on {then:%a} {then.day} {then:%b}"
    return f"{then:%H:%M}{day}"


def reward_of(row: MetricsRow) -> str:
    """The mean reward of a step; runs of version 0.1 have not kept it."""
    return f"{row['reward']:+.2f}" if "reward" in row else "-"


def measured(row: MetricsRow, name: str, how: str) -> str:
    """A metric as a number; a dash if the step did not measure it, as one without an update."""
    return format(row[name], how) if name in row else "-"


def kl_parts(row: MetricsRow) -> list[str]:
    """The KL divergences that the step measured: from the policy that sampled (left out after a
    single update, when it is 0), and from the reference policy, if there is a penalty."""
    named = {"KL": "ppo/approx_kl", "KL to base": "kl_ref"}
    if row.get("ppo/updates", 0) <= 1:
        del named["KL"]
    return [f"{name} {row[key]:.4f}" for name, key in named.items() if key in row]


def verdict_line(one: ShownProposal) -> str:
    """What became of a proposal, in a line that half a wide terminal has room for."""
    verdict = "valid" if one.reason == "" else f"rejected ({one.reason})"
    if one.solve_rate is not None:  # only what is valid is tried
        verdict = f"solved in {one.solve_rate:.0%} of tries"
    reward = "" if one.reward is None else f", reward {one.reward.total:+.2f}"
    return f"{verdict}{reward}"


def program_lines(one: ShownProposal, most: int) -> list[str]:
    """A proposal's program and example, in at most ``most`` lines of plain text."""
    lines = plain(one.program.strip()).expandtabs(4).splitlines()
    example = plain(one.example.strip()).splitlines()[:1]
    room = max(0, most - len(example))
    if len(lines) > room:
        lines = [*lines[: max(0, room - 1)], "..."][:room]
    return (lines + example)[: max(0, most)]


def sparkline(
    values: Sequence[float], width: int, low: float | None = None, high: float | None = None
) -> str:
    """The last ``width`` values as bars of eight heights, between ``low`` and ``high``. If one of
    these is None, the smallest or largest of the values is used."""
    shown = list(values)[-width:] if width > 0 else []
    if not shown:
        return ""
    bottom = min(shown) if low is None else low
    span = (max(shown) if high is None else high) - bottom
    if span <= 0:
        return BARS[0] * len(shown)
    top = len(BARS) - 1
    return "".join(BARS[min(top, max(0, round(top * (v - bottom) / span)))] for v in shown)


def _line(text: str, style: str = "") -> Text:
    """One line of the terminal, cut if it is too long."""
    return Text(text, style, no_wrap=True, overflow="ellipsis")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
