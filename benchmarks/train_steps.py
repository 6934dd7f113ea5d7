"""A few training steps of a shipped configuration, on this machine: where the time goes.

    python benchmarks/train_steps.py --config smollm2 --steps 3

Runs `azr-mlx train` in a scratch folder, as a user would, and prints one JSON object: the machine
and versions, and for each step its wall time, the sum of its phases, tokens per second, memory,
gradient norm, and valid, solve and reward rates; last, whether the adapters moved.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

SHOWN = ("reward/", "solve_rate/", "propose/valid", "tok_s/", "tokens/", "time/")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="smollm2")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = [f"max_steps={arguments.steps}", "checkpoint_interval=1", "keep_checkpoints=0"]
        command = [sys.executable, "-m", "azr_mlx.cli", "train", "-c", arguments.config]
        command += [*settings, "run_name=measured", *arguments.overrides]
        subprocess.run(command, cwd=folder, check=True)
        print(json.dumps(measured(Path(folder, "runs", "measured")), indent=1))


def measured(run: Path) -> dict[str, object]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    weights = [p / "adapters.safetensors" for p in sorted((run / "checkpoints").glob("step_*"))]
    start = json.loads((run / "run.json").read_text())["starts"][0]
    return {
        "machine": {key: start[key] for key in ("platform", "cores", "python", "versions", "time")},
        "isolation": start["isolation"],
        "steps": [step(row) for row in rows],
        "adapters_moved": weights[0].read_bytes() != weights[-1].read_bytes(),
    }


def step(row: dict[str, float]) -> dict[str, float]:
    phases = sum(v for k, v in row.items() if k.startswith("time/") and k != "time/step")
    shown = {k: round(v, 3) for k, v in row.items() if k.startswith(SHOWN)}
    return {
        **shown,
        "phases_over_step": round(phases / row["time/step"], 4),
        "mem/peak_gb": round(row["mem/peak_gb"], 2),
        "grad_norm": row["grad_norm"],
    }


if __name__ == "__main__":
    main()
