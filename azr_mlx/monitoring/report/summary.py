"""A run in a few figures: for the head of the page, and as JSON for other programs."""

from __future__ import annotations

from typing import Any

from azr_mlx.evaluation.held_out import SHOWN_K, HeldOutLine, Lines
from azr_mlx.evaluation.statistics import Estimate
from azr_mlx.monitoring.health import SIGNS
from azr_mlx.monitoring.report import curves
from azr_mlx.monitoring.report.data import ShownRun, flat
from azr_mlx.text import duration, number
from azr_mlx.types import TaskKind

HIGHLIGHTS = (
    "learning_rate",
    "lr_scheduler_type",
    "batch_size",
    "rollout.group_size",
    "rollout.temperature",
    "ppo.advantage",
    "ppo.epochs",
    "kl_penalty",
    "lora.rank",
    "quantization.bits",
    "initial_difficulty",
    "final_difficulty",
    "seed",
)


def headline(run: ShownRun) -> dict[str, str]:
    """The figures that a reader looks for first."""
    of = "" if run.max_steps is None else f" of {run.max_steps}"
    found = {"steps": f"{run.last_step}{of}"}
    passed = {f"pass@{k}": lines for k, lines in run.held_out.passes.items() if k == SHOWN_K}
    for way, groups in {**run.held_out.solved, **passed}.items():
        if "in_range" in groups:
            gain = groups["in_range"][-1].gain
            found[f"held-out gain, {way}"] = f"{100 * gain.value:+.1f} points"
    for name, prefix in (
        ("own tasks solved", "solve_rate"),
        ("own proposals valid", "propose/valid_rate"),
    ):
        both = [
            curves.ends(values)
            for kind in TaskKind
            if len(values := run.column(f"{prefix}/{kind.value}")[1])
        ]
        if both:
            first, last = (sum(v) / len(both) for v in zip(*both, strict=True))
            found[name] = f"{100 * first:.0f} → {100 * last:.0f} %"
    _, speed = run.column("tok_s/rollout")
    if len(speed):
        found["tokens/s"] = number(float(speed.mean()))
    _, seconds = run.column("time/step")
    if len(seconds):
        found["training time"] = duration(float(seconds.sum()))
    found["signs of a collapse"] = ", ".join(collapses(run)) or "none"
    return found


def collapses(run: ShownRun) -> dict[str, int]:
    """The number of steps in which each sign of a collapse was present."""
    counts = {name: int((run.column(f"health/{name}")[1] > 0).sum()) for name in SIGNS}
    return {name: count for name, count in counts.items() if count}


def facts(run: ShownRun) -> dict[str, str]:
    """Machine, versions and settings of the run."""
    last = run.starts[-1] if run.starts else {}
    model = last.get("model") if isinstance(last.get("model"), dict) else {}
    named = last.get("versions") if isinstance(last.get("versions"), dict) else {}
    config = flat(run.config)
    found = {
        "folder": str(run.path),
        "model": config.get("model_id") or str((model or {}).get("source", "")),
        "revision": str((model or {}).get("revision") or ""),
        "settings": ", ".join(f"{key} {config[key]}" for key in HIGHLIGHTS if key in config),
        "backend": str(last.get("backend", "")),
        "machine": ", ".join(
            [str(last[k]) for k in ("platform",) if k in last]
            + ([f"{last['cores']} cores"] if "cores" in last else [])
        ),
        "isolation": str(last.get("isolation", "")),
        "versions": ", ".join(f"{k} {v}" for k, v in (named or {}).items() if v != "not installed"),
        "started": str(run.starts[0].get("time", "")) if run.starts else "",
        "resumed": ", ".join(str(start.get("time", "")) for start in run.starts[1:]),
    }
    return {name: value for name, value in found.items() if value}


def to_json(run: ShownRun) -> dict[str, Any]:
    """Steps, a summary of each metric, held-out tasks and signs of a collapse; finite numbers
    only."""
    metrics = {}
    for key in run.columns:
        _, values = run.column(key)
        first, last = curves.ends(values)
        metrics[key] = {
            "steps": len(values),
            "first": first,
            "last": last,
            "mean": float(values.mean()),
            "min": float(values.min()),
            "max": float(values.max()),
        }
    return {
        "run": str(run.path),
        "steps": run.last_step,
        "max_steps": run.max_steps,
        **{f"{name}": value for name, value in facts(run).items() if name in ("model", "backend")},
        "held_out": {way: _lines(groups) for way, groups in run.held_out.solved.items()},
        "pass_at_k": {str(k): _lines(groups) for k, groups in run.held_out.passes.items()},
        "right_answers": {
            name: {
                **_line(line.probability),
                "gained": _interval(line.gained),
                "lost": _interval(line.lost),
            }
            for name, line in run.held_out.right_answers.items()
        },
        "signs": collapses(run),
        "not_finite": run.broken,
        "notes": run.notes,
        "metrics": metrics,
    }


def _lines(groups: Lines) -> dict[str, Any]:
    return {name: {line.name: _line(line) for line in lines} for name, lines in groups.items()}


def _line(line: HeldOutLine) -> dict[str, Any]:
    parts = {"before": line.before, "after": line.after, "gain": line.gain}
    return {"tasks": line.tasks, **{name: _interval(one) for name, one in parts.items()}}


def _interval(one: Estimate) -> list[float]:
    return [one.value, one.low, one.high]
