"""Metrics: one registry of names, and one JSONL row per step.

Names follow TRL and CleanRL if those have one. The documentation (docs/metrics.md) and the report
are made from the registry. If a row has a name that is not in the registry, the tests fail.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from azr_mlx.files import Unreadable, from_json, json_lines, write_whole

KINDS = "deduction|abduction|induction"
ROLES = "propose|solve"

MetricsRow = Mapping[str, float]  # a step's metrics by name


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: its name (``{a|b}`` lists alternatives, ``{}`` is any word), a description, its
    values in a healthy run, its unit, and how the report draws it: "line", "stack" (parts of a
    whole), "flags" (signs that are there or not) or "none"."""

    name: str
    description: str
    healthy: str
    unit: str = ""
    chart: str = "line"

    def slots(self, key: str) -> tuple[str, ...] | None:
        """What the key has in place of the braces in the name; None if the key does not belong to
        this metric."""
        found = _pattern(self.name).fullmatch(key)
        return None if found is None else found.groups()


@cache
def _pattern(name: str) -> re.Pattern[str]:
    parts = re.split(r"(\{[^}]*\})", name)
    return re.compile(
        "".join(
            re.escape(p) if not p.startswith("{") else f"({p[1:-1] or '[a-z0-9_.]+'})"
            for p in parts
        )
    )


# If several names match a key, the first one counts.
SECTIONS: dict[str, tuple[Metric, ...]] = {
    "Reward and solving": (
        Metric("step", "number of the training step, from 1", "", "steps", "none"),
        Metric(
            "reward",
            "mean reward of all rollouts, as the live view shows it",
            "steady or rising: tasks become harder as the model becomes better",
            "reward",
            "none",
        ),
        Metric(
            f"solve_rate/{{{KINDS}}}",
            "share of solver rollouts that are correct",
            "30 to 70 %",
            "%",
        ),
        Metric(
            "repeats/{deduction|abduction}",
            "share of answers that only repeat an argument, or the output, of their prompt",
            "does not rise; if it rises with `solve_rate`, the solver repeats and does not reason "
            "(solver.repeats)",
            "%",
        ),
        Metric(
            f"reward/{{{ROLES}}}/{{{KINDS}}}",
            "mean reward by role and kind",
            "steady or rising: tasks become harder as the model becomes better",
            "reward",
        ),
        Metric(
            "frac_reward_zero_std",
            "share of groups, among whose rewards each is compared, with equal rewards; they teach "
            "nothing",
            "below 70 %",
            "%",
        ),
        Metric(
            f"strategy/{{{KINDS}}}/{{}}",
            "share of solver rollouts that are correct, by solving strategy",
            "strategies differ, and the better ones are drawn more often",
            "%",
        ),
        Metric(
            "resampled",
            "extra rounds of tasks, made because groups had no reward variance",
            "mostly 0",
            "rounds",
        ),
    ),
    "Proposing": (
        Metric(
            f"propose/valid_rate/{{{KINDS}}}",
            "share of the model's proposals that are valid (they pass the gate); those of shapes "
            "reserved for held-out tasks are not counted",
            "above 30 %",
            "%",
        ),
        Metric(
            "propose/reject/{}",
            "share of the model's proposals that were rejected, by reason",
            "falls; many duplicates mean that proposals have become alike",
            "%",
            "stack",
        ),
        Metric(
            f"propose/learnability/{{{KINDS}}}",
            "mean reward of the proposer for valid proposals",
            "0.4 to 0.9 (0.2 to 0.6 with one_minus): tasks are solved sometimes, but not always",
            "reward",
        ),
        Metric(
            f"propose/variance/{{{KINDS}}}",
            "mean p(1 - p) of valid proposals, p the solve rate; at most 0.25",
            "does not fall while the solver learns: the proposer follows it",
            "p(1-p)",
        ),
        Metric(
            "propose/{count|valid|templates}",
            "proposals made, valid proposals, and tasks added from templates",
            "the count is steady, and the number of valid proposals rises",
            "tasks",
        ),
        Metric(
            f"difficulty/{{{KINDS}}}",
            "difficulty that the proposer was asked for, from 0.1 to 0.9",
            "follows the schedule, or rises while the solve rate stays the same",
            "d",
        ),
    ),
    "Programs": (
        Metric(
            "program/ast_nodes",
            "mean size of the step's new programs",
            "steady or rising; a fall means that tasks become trivial",
            "syntax nodes",
        ),
        Metric(
            "program/depth",
            "mean depth of the step's new programs",
            "steady or rising",
            "levels",
        ),
        Metric(
            "program/cyclomatic",
            "mean cyclomatic complexity of the step's new programs",
            "at least 1, and does not fall",
            "paths",
        ),
        Metric(
            "program/steps",
            "mean number of lines that the step's new programs execute",
            "steady or rising",
            "lines",
        ),
    ),
    "Policy": (
        Metric(
            "ppo/approx_kl",
            "KL(pi_old || pi) at the last update, k3 estimate",
            "below 0.02",
            "nats",
        ),
        Metric("kl_ref", "KL(pi || pi_ref) per token, k1 estimate", "below 0.1", "nats"),
        Metric(
            "kl_coef",
            "coefficient of the KL penalty (beta)",
            "constant; if it adapts, it settles",
            "weight",
        ),
        Metric(
            "entropy",
            "mean entropy per token of the update, over the vocabulary",
            "falls slowly, and stays above 0.1",
            "nats",
        ),
        Metric(
            "entropy_coef",
            "weight of the entropy bonus; it grows while entropy is below ppo.entropy_floor",
            "constant, or returns to its first value after it has grown",
            "weight",
        ),
        Metric("ppo/clip_frac", "share of tokens outside the clip range", "0 to 30 %", "%"),
        Metric(
            "ppo/ratio_max", "largest probability ratio of a token in the step", "below 10", "ratio"
        ),
        Metric(
            "ppo/loss",
            "total loss, mean over the step's updates",
            "varies around one level; its size means little",
            "loss",
        ),
        Metric(
            "ppo/policy_loss", "clipped surrogate loss", "near 0; its size means little", "loss"
        ),
        Metric("ppo/value_loss", "clipped value loss", "falls, then stays flat", "loss"),
        Metric(
            "ppo/explained_variance",
            "share of the variance of the returns that the value head explains",
            "above 0 after the warm-up; 1 is the maximum",
            "share",
        ),
        Metric("ppo/updates", "optimizer steps taken in this step", "constant", "updates"),
        Metric(
            "ppo/early_stop",
            "1 if an update, and the epochs after it, were left out because the KL divergence was "
            "too large",
            "rarely 1; if it is often 1, learning_rate may be too high",
            "0 or 1",
        ),
        Metric(
            "grad_norm",
            "mean norm of the adapters' gradient, before clipping",
            "steady; 0 means that something is wrong",
            "L2 norm",
        ),
        Metric("lr", "learning rate", "follows warmup_steps and lr_scheduler_type", "per update"),
        Metric(
            "distill_loss",
            "negative log-likelihood of the model's own earlier solutions that it learns again",
            "falls slowly",
            "nats",
        ),
        Metric(
            "mismatch/{mean|max}",
            "|log-probability in the sampler - in the trainer| per token",
            "a mean below 0.1 in bfloat16, 0.01 in float16, 0.0001 in float32",
            "nats",
        ),
    ),
    "Rollouts": (
        Metric(
            "len/{mean|max}",
            "completion length",
            "does not climb steadily towards the limit",
            "tokens",
        ),
        Metric(
            "len/truncated_rate",
            "share of completions that were cut off at the limit",
            "below 10 %",
            "%",
        ),
        Metric("rollouts", "completions generated in the step", "steady", "completions"),
        Metric(
            "tokens/{prompt|completion|trained}", "number of tokens in the step", "steady", "tokens"
        ),
    ),
    "Buffer": (
        Metric(
            f"buffer/{{{KINDS}}}",
            "tasks in the buffer",
            "grows evenly to the buffer's size",
            "tasks",
        ),
        Metric(
            "buffer/solutions",
            "the model's own verified solutions that are kept",
            "grows to distill.buffer_size",
            "solutions",
        ),
        Metric(
            "buffer/duplicates",
            "near-duplicates that the buffer refused in the step",
            "few; many mean that proposals have become alike",
            "tasks",
        ),
    ),
    "Sandbox": (
        Metric(
            "exec/count", "proposals and answers that the sandbox ran in the step", "steady", "jobs"
        ),
        Metric(
            "exec/timeout_rate",
            "share of them that ran out of time",
            "below 5 %",
            "%",
        ),
        Metric(
            "exec/{p50_ms|p95_ms}",
            "time of running one, all its inputs together: median and 95th percentile",
            "steady",
            "ms",
        ),
    ),
    "Speed and memory": (
        Metric(
            "time/step",
            "wall time of the step",
            "steady; grows only if completions become longer",
            "s",
        ),
        Metric(
            "time/{propose|solve|verify|score|update|evaluate|save}",
            "wall time by phase; the phases add up to time/step",
            "propose, solve and update take most of it; verify and save take little",
            "s",
            "stack",
        ),
        Metric(
            "tok_s/{rollout|train}",
            "tokens generated, and tokens trained on, per second of their phase",
            "steady",
            "tokens/s",
        ),
        Metric("mem/peak_gb", "peak memory of arrays in the step", "flat after a few steps", "GB"),
    ),
    "Evaluation": (
        Metric(
            "eval/{}_selection_pass_at_1",
            "pass@1 on the half of a benchmark's tasks that selects the best checkpoint; "
            "do not report it as a result",
            "rises",
            "%",
        ),
        Metric(
            "eval/{}_pass_at_1",
            "pass@1 on the other half of a benchmark's tasks; this is the figure to report",
            "rises",
            "%",
        ),
        Metric(
            "eval/selection",
            "mean of the selection pass@1; the best checkpoint is the one with the highest value",
            "rises",
            "%",
        ),
        Metric(
            "eval/best_step",
            "the step whose checkpoint `best` points to",
            "keeps rising; if it stays the same for long, training no longer helps",
            "steps",
        ),
    ),
    "Health": (
        Metric(
            "health/{}",
            "1 if the last steps show this sign of a collapse",
            "0 in every step",
            chart="flags",
        ),
    ),
}
REGISTRY = tuple(metric for section in SECTIONS.values() for metric in section)


def find(key: str) -> Metric | None:
    """The registered metric that a key belongs to."""
    return next((m for m in REGISTRY if m.slots(key) is not None), None)


def metrics_page() -> str:
    """The text of docs/metrics.md: a table of metrics for each section."""
    lines = [
        "# Metrics",
        "",
        "`metrics.jsonl` has one row per step. Trackers and `report.html` use the same names.",
        "In a name, `{a|b}` stands for `a` or `b`, and `{}` for any word. A share is a number from",
        "0 to 1 in the file; here and in the report its unit is %.",
        "",
        "## Held-out tasks",
        "",
        "With `held_out.tasks` the report has three more figures, measured before the first step",
        "and after the last, from `held_out.json` ([learning](learning.md) says how to read them):",
        "",
        "| name | what it is | unit |",
        "|---|---|---|",
        "| solved | share of answers that are right: greedy ones, and sampled ones | % |",
        "| `pass@k` | share of tasks that at least one of k sampled answers solves, k = 1, 2, 4 "
        "and so on up to `held_out.draws` | % |",
        "| probability of the right answer | of deduction, by teacher forcing; with the shares of "
        "tasks that go from under 1/64 to over 1/2, and back | % |",
    ]
    for title, section in SECTIONS.items():
        lines += ["", f"## {title}", "", "| name | what it is | unit | healthy |"]
        lines.append("|---|---|---|---|")
        for m in section:
            cells = (f"`{m.name}`", m.description, m.unit, m.healthy)
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join([*lines, ""])


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a finite number, so small that differences are finite, too."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and abs(value) < 1e300


class MetricsFile:
    """``metrics.jsonl``: one row per step, whole lines only."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, row: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as f:
            f.write(json.dumps(row) + "\n")
            f.flush()
            os.fsync(f.fileno())

    def rows(self) -> Iterator[dict[str, Any]]:
        """All rows with a step. A line that is none is skipped, such as the last one if it was cut
        off when the run was killed."""
        if not self.path.exists():
            return
        for line in self.path.read_text("utf-8-sig", errors="replace").splitlines():
            try:
                row = from_json(line)
            except Unreadable:
                continue
            if isinstance(row, dict) and is_number(row.get("step")):
                yield row

    def rewind(self, step: int, last: Mapping[str, Any]) -> int:
        """Move the rows after ``step`` to ``metrics.set_aside.jsonl``; returns how many there were.

        ``last`` is the row of ``step`` from the checkpoint. It is added if the run was killed
        before that row was written to the file.
        """
        kept = [row for row in self.rows() if row["step"] <= step]
        aside = [row for row in self.rows() if row["step"] > step]
        if last and all(row["step"] != last["step"] for row in kept):
            kept.append(dict(last))
        if aside:
            with self.path.with_suffix(".set_aside.jsonl").open("a", encoding="utf-8") as f:
                f.write(json_lines(aside))
        write_whole(self.path, json_lines(kept))
        return len(aside)


if __name__ == "__main__":
    sys.stdout.write(metrics_page())
