"""What fits a Mac of each memory class, and Linux without a GPU: the planner's figures, nothing
measured.

    python benchmarks/memory_classes.py

For every shipped configuration and every class: the peak of the largest phase as it is shipped, and
if that is more than Metal's working set (two thirds of up to 32 GB of memory, three quarters of
more), the overrides with which it fits. On a CPU, where all memory counts, weights are unpacked. No
model is downloaded. Prints a table in Markdown.
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
ON_CPU = (16, 32)  # GiB of memory
CONFIGS = ("quickstart", "smollm2", "qwen2.5-coder-0.5b", "azr_paper", "azr_config")


def main() -> int:
    macs = [(f"{size} GB", "gpu", metal_share(size * 2**30)) for size in CLASSES]
    classes = [*macs, *((f"CPU, {size} GB", "cpu", size * 2**30) for size in ON_CPU)]
    head = ("configuration", "model", "tokens, group", *(heading for heading, _, _ in classes))
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name in CONFIGS:
        cells = [cell(name, device, limit) for _, device, limit in classes]
        rows.append(f"| `{name}` | {' | '.join([*described(load(name)), *cells])} |")
    sys.stdout.write("\n".join(rows) + "\n")
    return 0


def described(c: Config) -> tuple[str, str]:
    """The model and its bits; longest proposal and answer, rollouts a task."""
    bits = f", {c.quantization.bits} bits" if c.quantization.bits else ""
    model = {"package:azr_mlx/nano/model": "nano"}.get(c.model_id, c.model_id.rpartition("/")[2])
    r = c.rollout
    return f"{model}{bits}", f"{r.max_propose_tokens} + {r.max_solve_tokens}, {r.group_size}"


def cell(name: str, device: str, limit: int) -> str:
    """The peak as shipped; else what has to change, and the peak then; else a dash."""
    given = load(name)
    planner = planner_of(given, device)
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
