"""What fits a Mac of each memory class: the planner's figures, nothing measured.

    python benchmarks/memory_classes.py

For every shipped configuration and every class: the peak of the largest phase as it is shipped, and
where that is more than Metal's working set (two thirds of up to 32 GB of memory, three quarters of
more), the overrides with which
it fits. No model is downloaded. Prints a table in Markdown.
"""

from __future__ import annotations

import sys

from azr_mlx.config import Config, load
from azr_mlx.text import storage
from azr_mlx.training.memory import planner_of
from azr_mlx.training.memory.limit import (
    fits,
    metal_share,
    nearest,
    overrides,
    resolve_checkpointing,
)

CLASSES = (8, 16, 24, 36, 48, 64)  # GiB of unified memory
CONFIGS = ("quickstart", "smollm2", "qwen2.5-coder-0.5b", "azr_paper", "azr_config")


def main() -> int:
    limits = {size: metal_share(size * 2**30) for size in CLASSES}
    head = ("configuration", "model", "tokens, group", *(f"{size} GB" for size in limits))
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name in CONFIGS:
        cells = [cell(name, limit) for limit in limits.values()]
        rows.append(f"| `{name}` | {' | '.join([*described(load(name)), *cells])} |")
    sys.stdout.write("\n".join(rows) + "\n")
    return 0


def described(c: Config) -> tuple[str, str]:
    """The model and its bits; longest proposal and answer, rollouts a task."""
    bits = f", {c.quantization.bits} bits" if c.quantization.bits else ""
    model = {"package:azr_mlx/nano/model": "nano"}.get(c.model_id, c.model_id.rpartition("/")[2])
    r = c.rollout
    return f"{model}{bits}", f"{r.max_propose_tokens} + {r.max_solve_tokens}, {r.group_size}"


def cell(name: str, limit: int) -> str:
    """The peak as shipped; else what has to change, and the peak then; else a dash."""
    given = load(name)
    planner = planner_of(given, "gpu")
    config = resolve_checkpointing(given, planner, limit)
    changed = "" if config == given or config.ppo.grad_checkpoint != "true" else " (recomputing)"
    if not fits(planner.peaks(config), limit):
        found = nearest(config, planner, limit)
        if found is None:
            return "-"
        changed = " with `" + " ".join(overrides(given, found)) + "`"
        config = found
    peak = max(peak.total for _, peak in planner.peaks(config).items())
    return f"{storage(peak)}{changed}"


if __name__ == "__main__":
    sys.exit(main())
