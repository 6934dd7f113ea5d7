"""Metrics: one registry of names, and one JSONL row a step.

Names follow TRL and CleanRL where those have one. The registry is what the documentation, the
report and the trackers are made from; a row with a name that is not in it is a mistake that the
tests catch.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS = "deduction|abduction|induction"
ROLES = "propose|solve"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: its name (``{a|b}`` lists alternatives, ``{}`` is any word), what it is, and what
    healthy looks like."""

    name: str
    description: str
    healthy: str = ""

    def matches(self, key: str) -> bool:
        parts = re.split(r"(\{[^}]*\})", self.name)
        pattern = "".join(
            re.escape(p) if not p.startswith("{") else f"({p[1:-1] or '[a-z0-9_.]+'})"
            for p in parts
        )
        return re.fullmatch(pattern, key) is not None


REGISTRY = (
    Metric("step", "step of training, counted from 1"),
    Metric("time/step", "wall time of the step, seconds"),
    Metric(
        "time/{propose|solve|verify|score|update|evaluate|save}",
        "wall time of one phase, seconds; the phases sum to time/step",
    ),
    Metric(f"reward/{{{ROLES}}}/{{{KINDS}}}", "mean reward by role and kind", "rises, unevenly"),
    Metric(f"solve_rate/{{{KINDS}}}", "share of solver rollouts that are correct", "0.3 to 0.7"),
    Metric(
        f"propose/valid_rate/{{{KINDS}}}",
        "share of the model's proposals that pass the gate",
        "above 0.3",
    ),
    Metric(
        "propose/reject/{}", "share of the model's proposals that were rejected for this reason"
    ),
    Metric(
        f"propose/learnability/{{{KINDS}}}", "mean proposer reward of valid proposals", "0.2 to 0.6"
    ),
    Metric("propose/{count|valid|templates}", "proposals made, valid ones, template tasks added"),
    Metric(f"difficulty/{{{KINDS}}}", "difficulty the proposer was asked for, 0 to 1"),
    Metric(
        "program/{ast_nodes|depth|steps|cyclomatic}", "mean features of the step's new programs"
    ),
    Metric(f"strategy/{{{KINDS}}}/{{}}", "success rate of a solving strategy in this step"),
    Metric("ppo/loss", "whole loss, mean over the step's updates"),
    Metric("ppo/policy_loss", "clipped surrogate loss"),
    Metric("ppo/value_loss", "clipped value loss", "falls, then flat"),
    Metric("ppo/explained_variance", "of the returns by the value head", "above 0 after warm-up"),
    Metric("ppo/approx_kl", "KL(pi_old || pi) at the last update, k3 estimate", "below 0.02"),
    Metric("ppo/clip_frac", "share of tokens outside the clip range", "0 to 0.3"),
    Metric("ppo/ratio_max", "largest probability ratio of the step", "below 10"),
    Metric("ppo/updates", "optimizer steps taken in this step"),
    Metric("ppo/early_stop", "1 where the epochs ended early on KL"),
    Metric("kl_ref", "KL(pi || pi_ref) per token, k1 estimate", "below 0.1"),
    Metric("kl_coef", "coefficient of the KL penalty (beta)"),
    Metric("entropy_coef", "weight of the entropy bonus; it grows below ppo.entropy_floor"),
    Metric("health/{}", "1 where the last steps show this sign of a collapse", "0"),
    Metric(
        "entropy",
        "mean entropy over the vocabulary per token, nats",
        "falls slowly, stays above 0.1",
    ),
    Metric(
        "grad_norm", "norm of the adapters' gradient before clipping, mean", "steady; 0 is a fault"
    ),
    Metric("lr", "learning rate"),
    Metric("distill_loss", "negative log-likelihood of replayed own solutions"),
    Metric("frac_reward_zero_std", "share of groups whose rewards are all equal", "below 0.7"),
    Metric(
        "mismatch/{mean|max}", "|log-probability of sampler - trainer| per token", "mean below 0.01"
    ),
    Metric("len/{mean|max|truncated_rate}", "completion length in tokens; share cut at the limit"),
    Metric(f"buffer/{{{KINDS}}}", "tasks in the buffer"),
    Metric(
        "buffer/{solutions|duplicates}",
        "verified own solutions kept; near-duplicates refused in the step",
    ),
    Metric("exec/{count|timeout_rate|p50_ms|p95_ms}", "sandbox jobs of the step and their latency"),
    Metric("rollouts", "completions generated in the step"),
    Metric("tokens/{prompt|completion|trained}", "tokens of the step"),
    Metric(
        "tok_s/{rollout|train}",
        "completion tokens generated, tokens trained on, per second of their phase",
    ),
    Metric("mem/peak_gb", "peak memory of arrays in the step, GB"),
    Metric("resampled", "extra rounds of tasks because groups had no reward variance"),
    Metric("eval/{}_pass_at_1", "pass@1 on the report half of a benchmark's tasks", "rises"),
    Metric(
        "eval/{}_selection_pass_at_1",
        "pass@1 on the half that the best checkpoint is selected by; report no figure from it",
    ),
    Metric("eval/selection", "mean selection pass@1: what the best checkpoint is selected by"),
    Metric("eval/best_step", "the step whose checkpoint `best` points to"),
)


def unregistered(row: Mapping[str, Any]) -> list[str]:
    """The row's names that no registered metric has."""
    return [key for key in row if not any(m.matches(key) for m in REGISTRY)]


class MetricsFile:
    """``metrics.jsonl``: a row a step, whole lines only."""

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
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue

    def rewind(self, step: int, last: Mapping[str, Any]) -> int:
        """Set aside the rows past ``step`` (in ``metrics.set_aside.jsonl``); returns how many there
        were. ``last`` is the checkpoint's own row of that step, for where a kill came before it was
        written."""
        kept = [row for row in self.rows() if row["step"] <= step]
        aside = [row for row in self.rows() if row["step"] > step]
        if last and all(row["step"] != last["step"] for row in kept):
            kept.append(dict(last))
        if aside:
            with self.path.with_suffix(".set_aside.jsonl").open("a", encoding="utf-8") as f:
                f.writelines(json.dumps(row) + "\n" for row in aside)
        replacement = self.path.with_suffix(".tmp")
        replacement.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        replacement.replace(self.path)
        return len(aside)
