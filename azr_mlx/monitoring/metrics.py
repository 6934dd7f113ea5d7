"""Metrics: one registry of names, and one JSONL row per step.

Names follow TRL and CleanRL where those have one. The documentation (docs/metrics.md), the report
and the trackers are made from the registry; a row with a name that is not in it is a mistake that
the tests catch.
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

from azr_mlx.files import json_lines, write_whole

KINDS = "deduction|abduction|induction"
ROLES = "propose|solve"

MetricsRow = Mapping[str, float]  # a step's metrics by name


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: its name (``{a|b}`` lists alternatives, ``{}`` is any word), what it is, what
    healthy looks like, its unit, and how the report draws it: "line", "stack" (parts of a whole),
    "flags" (signs that are there or not) or "axis" (not at all)."""

    name: str
    description: str
    healthy: str
    unit: str = ""
    chart: str = "line"

    def slots(self, key: str) -> tuple[str, ...] | None:
        """What the key has in the name's braces; None if it is another metric's."""
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


# Where several names match a key, the first counts.
SECTIONS: dict[str, tuple[Metric, ...]] = {
    "Reward and solving": (
        Metric("step", "step of training, counted from 1", "", "steps", "axis"),
        Metric(f"solve_rate/{{{KINDS}}}", "solver rollouts that are correct", "30 to 70 %", "%"),
        Metric(
            f"reward/{{{ROLES}}}/{{{KINDS}}}",
            "mean reward by role and kind",
            "rises unevenly",
            "reward",
        ),
        Metric(
            "frac_reward_zero_std",
            "groups whose rewards are all equal, and teach nothing",
            "below 70 %",
            "%",
        ),
        Metric(
            f"strategy/{{{KINDS}}}/{{}}",
            "success of a solving strategy in the step",
            "the strategies differ, and the better ones are drawn more often",
            "%",
        ),
        Metric(
            "resampled",
            "extra rounds of tasks because groups had no reward variance",
            "mostly 0",
            "rounds",
        ),
    ),
    "Proposing": (
        Metric(
            f"propose/valid_rate/{{{KINDS}}}",
            "the model's proposals that pass the gate",
            "above 30 %",
            "%",
        ),
        Metric(
            "propose/reject/{}",
            "the model's proposals that were rejected, by reason",
            "falls; a large share of duplicates says that proposals have become alike",
            "%",
            "stack",
        ),
        Metric(
            f"propose/learnability/{{{KINDS}}}",
            "mean proposer reward of valid proposals",
            "0.2 to 0.6: tasks that are sometimes solved",
            "reward",
        ),
        Metric(
            "propose/{count|valid|templates}",
            "proposals made, valid ones, template tasks added",
            "a steady count, and valid ones that become more",
            "tasks",
        ),
        Metric(
            f"difficulty/{{{KINDS}}}",
            "difficulty the proposer was asked for, 0 to 1",
            "follows the schedule, or rises while the solve rate holds",
            "d",
        ),
    ),
    "Programs": (
        Metric(
            "program/ast_nodes",
            "size of the step's new programs, mean",
            "keeps its size or grows; a fall says that tasks become trivial",
            "syntax nodes",
        ),
        Metric(
            "program/depth",
            "depth of the step's new programs, mean",
            "keeps its level or grows",
            "levels",
        ),
        Metric(
            "program/cyclomatic",
            "cyclomatic complexity of the step's new programs, mean",
            "at or above 1, and does not fall",
            "paths",
        ),
        Metric(
            "program/steps",
            "lines that the step's new programs execute, mean",
            "keeps its level or grows",
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
            "constant, or settles if it adapts",
            "weight",
        ),
        Metric(
            "entropy",
            "mean entropy over the vocabulary per token",
            "falls slowly, and stays above 0.1",
            "nats",
        ),
        Metric(
            "entropy_coef",
            "weight of the entropy bonus; it grows below ppo.entropy_floor",
            "constant, or comes back after it has grown",
            "weight",
        ),
        Metric("ppo/clip_frac", "tokens outside the clip range", "0 to 30 %", "%"),
        Metric("ppo/ratio_max", "largest probability ratio of the step", "below 10", "ratio"),
        Metric(
            "ppo/loss",
            "whole loss, mean over the step's updates",
            "noise around a level; its size says little",
            "loss",
        ),
        Metric("ppo/policy_loss", "clipped surrogate loss", "near 0; its size says little", "loss"),
        Metric("ppo/value_loss", "clipped value loss", "falls, then stays flat", "loss"),
        Metric(
            "ppo/explained_variance",
            "variance of the returns that the value head explains",
            "above 0 after warm-up, at most 1",
            "share",
        ),
        Metric("ppo/updates", "optimizer steps taken in this step", "constant", "updates"),
        Metric(
            "ppo/early_stop",
            "1 if the epochs ended early on KL",
            "rare; often says that learning_rate is high",
            "0 or 1",
        ),
        Metric(
            "grad_norm",
            "norm of the adapters' gradient before clipping, mean",
            "steady; 0 is a fault",
            "L2 norm",
        ),
        Metric("lr", "learning rate", "follows warmup_steps and lr_scheduler_type", "per update"),
        Metric(
            "distill_loss",
            "negative log-likelihood of replayed own solutions",
            "falls slowly",
            "nats",
        ),
        Metric(
            "mismatch/{mean|max}",
            "|log-probability of sampler - trainer| per token",
            "a mean below 0.01",
            "nats",
        ),
    ),
    "Rollouts": (
        Metric(
            "len/{mean|max}",
            "completion length",
            "no steady climb towards the limit",
            "tokens",
        ),
        Metric("len/truncated_rate", "completions cut at the limit", "below 10 %", "%"),
        Metric("rollouts", "completions generated in the step", "steady", "completions"),
        Metric("tokens/{prompt|completion|trained}", "tokens of the step", "steady", "tokens"),
    ),
    "Buffer": (
        Metric(f"buffer/{{{KINDS}}}", "tasks in the buffer", "grow to the size, evenly", "tasks"),
        Metric(
            "buffer/solutions",
            "verified own solutions kept",
            "grows to distill.buffer_size",
            "solutions",
        ),
        Metric(
            "buffer/duplicates",
            "near-duplicates refused in the step",
            "few; many say that proposals have become alike",
            "tasks",
        ),
    ),
    "Sandbox": (
        Metric("exec/count", "sandbox jobs of the step", "steady", "jobs"),
        Metric(
            "exec/timeout_rate",
            "sandbox jobs that ran out of time",
            "below 5 %",
            "%",
        ),
        Metric("exec/{p50_ms|p95_ms}", "latency of sandbox jobs", "steady", "ms"),
    ),
    "Speed and memory": (
        Metric(
            "time/step",
            "wall time of the step",
            "steady; grows with lengths only",
            "s",
        ),
        Metric(
            "time/{propose|solve|verify|score|update|evaluate|save}",
            "wall time by phase; the phases sum to time/step",
            "generation and update take most of it, judging and saving little",
            "s",
            "stack",
        ),
        Metric(
            "tok_s/{rollout|train}",
            "tokens generated and trained on, per second of their phase",
            "steady",
            "tokens/s",
        ),
        Metric("mem/peak_gb", "peak memory of arrays in the step", "flat after a few steps", "GB"),
    ),
    "Evaluation": (
        Metric(
            "eval/{}_selection_pass_at_1",
            "pass@1 on the half that the best checkpoint is selected by; report no figure from it",
            "rises",
            "%",
        ),
        Metric(
            "eval/{}_pass_at_1",
            "pass@1 on the report half of a benchmark's tasks",
            "rises",
            "%",
        ),
        Metric(
            "eval/selection",
            "mean selection pass@1: what the best checkpoint is selected by",
            "rises",
            "%",
        ),
        Metric(
            "eval/best_step",
            "the step whose checkpoint `best` points to",
            "keeps moving; long flat stretches say that training no longer helps",
            "steps",
        ),
    ),
    "Health": (
        Metric(
            "health/{}",
            "steps whose last ones show this sign of a collapse",
            "empty: every value is 0",
            chart="flags",
        ),
    ),
}
REGISTRY = tuple(metric for section in SECTIONS.values() for metric in section)


def find(key: str) -> Metric | None:
    """The registered metric that a key belongs to."""
    return next((m for m in REGISTRY if m.slots(key) is not None), None)


def metrics_page() -> str:
    """docs/metrics.md: what every metric is, by section."""
    lines = [
        "# Metrics",
        "",
        "One row per step in `metrics.jsonl`; trackers and `report.html` have the same names.",
        "`{a|b}` stands for one name each, `{}` for any word; what is a share of something is a",
        "number from 0 to 1 in the file, and has the unit % here and in the report.",
    ]
    for title, section in SECTIONS.items():
        lines += ["", f"## {title}", "", "| name | what it is | unit | healthy |"]
        lines.append("|---|---|---|---|")
        for m in section:
            cells = (f"`{m.name}`", m.description, m.unit, m.healthy)
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join([*lines, ""])


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
        """The whole rows; a last line that was cut off by a kill is skipped."""
        if not self.path.exists():
            return
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue

    def rewind(self, step: int, last: Mapping[str, Any]) -> int:
        """Set aside the rows past ``step`` (in ``metrics.set_aside.jsonl``); returns how many there
        were. ``last`` is the checkpoint's own row of that step, in case a kill came before it was
        written."""
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
