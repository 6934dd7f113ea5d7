"""What a training run says on the terminal: a line a step, one sample of what was proposed, the
phase it is in.

Everything goes to stderr. On a terminal the running phase is shown in place; elsewhere only whole
lines are written.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.status import Status as Spinner
from rich.table import Table

from azr_mlx.types import Experience, Reward, TaskKind, Verdict

LABELS = {
    "propose": "proposing tasks",
    "solve": "solving them",
    "verify": "judging",
    "update": "updating the policy",
    "evaluate": "evaluating",
}
LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Proposed:
    """A proposal as the log shows it: what was written, by whom, and what came of it."""

    kind: TaskKind
    source: str
    program: str
    example: str
    verdict: Verdict
    reason: str
    reward: Reward | None
    solve_rate: float | None = None


class Display:
    """Progress on stderr. ``quiet`` leaves only warnings; ``log_level`` "warning" does the same."""

    def __init__(self, max_steps: int, *, quiet: bool = False, log_level: str = "info"):
        self.console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self.max_steps = max_steps
        self.muted = False  # warnings, too: another rank gives them
        self.silent = quiet or LEVELS.index(log_level) > LEVELS.index("info")
        self.spinner: Spinner | None = None

    def phase(self, name: str, step: int) -> None:
        """Show the running phase, in place, on a terminal."""
        if self.silent or not self.console.is_terminal:
            return
        text = f"step {step}/{self.max_steps}: {LABELS.get(name, name)}"
        if self.spinner is None:
            self.spinner = self.console.status(text)
            self.spinner.start()
        else:
            self.spinner.update(text)

    def step(
        self,
        row: Mapping[str, float],
        experiences: Sequence[Experience],
        proposed: Sequence[Proposed],
    ) -> None:
        """The step's line, and the most telling of its proposals."""
        self.close()
        if self.silent:
            return
        self._say(step_line(row, experiences, self.max_steps))
        for one in telling(proposed):
            self._say(describe(one))

    def note(self, text: str) -> None:
        self.close()
        if not self.silent:
            self._say(text)

    def table(self, made: Table) -> None:
        self.close()
        if not self.silent:
            self.console.print(made)

    def warn(self, text: str) -> None:
        self.close()
        if not self.muted:
            self._say(f"warning: {text}", "yellow")

    def close(self) -> None:
        if self.spinner is not None:
            self.spinner.stop()
            self.spinner = None

    def _say(self, text: str, style: str | None = None) -> None:
        self.console.print(escape(text), style=style)


def step_line(row: Mapping[str, float], experiences: Sequence[Experience], max_steps: int) -> str:
    """One line: reward, solve and valid rate by kind, KL, gradient, speed, memory, time."""
    reward = sum(e.reward.total for e in experiences) / max(len(experiences), 1)
    parts = [
        f"step {int(row['step'])}/{max_steps}",
        f"reward {reward:+.2f}",
        f"solve {_by_kind(row, 'solve_rate')}",
        f"valid {_by_kind(row, 'propose/valid_rate')}",
        f"kl {row.get('ppo/approx_kl', 0.0):.4f}",
        f"grad {row.get('grad_norm', 0.0):.2g}",
        f"{row.get('tok_s/rollout', 0.0):.0f} tok/s",
        f"{row.get('mem/peak_gb', 0.0):.1f} GB",
        f"{row.get('time/step', 0.0):.0f} s",
    ]
    return " | ".join(parts)


def _by_kind(row: Mapping[str, float], name: str) -> str:
    """ "d 0.25 a 0.50 i -": the three kinds by their first letter."""
    shown = ((k.value, row.get(f"{name}/{k.value}")) for k in TaskKind)
    return " ".join(f"{kind[0]} -" if v is None else f"{kind[0]} {v:.2f}" for kind, v in shown)


def telling(proposed: Sequence[Proposed]) -> list[Proposed]:
    """The best-paid proposal of the model that passed the gate; failing that, the last that did
    not."""
    own = [p for p in proposed if p.source == "model" and p.program]
    valid = [p for p in own if p.reason == "" and p.reward is not None]
    if valid:
        return [max(valid, key=lambda p: p.reward.total if p.reward else 0.0)]
    return own[-1:]


def describe(one: Proposed) -> str:
    """A proposal with its verdict and reward, program indented below."""
    verdict = "valid" if one.reason == "" else f"rejected ({one.reason})"
    reward = "" if one.reward is None else f", reward {one.reward.total:+.2f}"
    rate = "" if one.solve_rate is None else f", solved by {one.solve_rate:.0%} of its rollouts"
    lines = one.program.strip().splitlines()[:12] + one.example.strip().splitlines()[:1]
    body = "\n".join(f"      {line}" for line in lines)
    return f"  {one.kind.value} proposed by the {one.source}: {verdict}{rate}{reward}\n{body}"
