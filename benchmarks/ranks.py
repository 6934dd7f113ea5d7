"""What a second rank is worth: two ranks on a core each against one rank on one core.

    python benchmarks/ranks.py --engines mlx torch --rounds 3

Both train nano with the quickstart's configuration and ``--batch`` proposals a rank, so that two
ranks make twice the rollouts of a step. The figure is rollouts a second of steps 2 to ``--steps``,
medians over interleaved rounds. Every rank has one thread for arithmetic and one sandbox worker;
the single rank is bound to one core. Prints one JSON object.

``mlx.launch`` (mlx 0.32) keeps a core busy for as long as its ranks run: it waits for their
standard input to be writable, which it always is. On a machine of two cores that is a third
process; so it is stopped (SIGSTOP) while the ranks take their steps, unless --let-launcher-spin.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from subprocess import PIPE
from typing import Any

import side_by_side as sbs


def main() -> int:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", nargs="+", default=["mlx", "torch"])
    parser.add_argument("--batch", type=int, default=36)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--let-launcher-spin", action="store_true")
    options = parser.parse_args()
    rows = []
    for _ in range(options.rounds):
        for engine in options.engines:
            for ranks in (1, 2):
                rows.append({"engine": engine, "ranks": ranks, **measured(options, engine, ranks)})
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print(json.dumps({**sbs.machine(options), "rows": rows, "summary": summary(rows)}, indent=1))
    return 0


def measured(options: Namespace, engine: str, ranks: int) -> dict[str, float]:
    given = ["-c", "quickstart", "--backend", engine, "--quiet", f"max_steps={options.steps}"]
    given += [f"batch_size={options.batch}", "held_out.tasks=0", "sandbox.workers=1"]
    given += ["run_name=r", f"checkpoint_interval={options.steps}", "tracking.save_rollouts=false"]
    command = launched(engine, ranks, ["-m", "azr_mlx.cli", "train", *given])
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS")}
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, **threads, "PYTHONPATH": str(sbs.ROOT)}
        metrics = Path(folder, "runs", "r", "metrics.jsonl")
        paused = engine == "mlx" and ranks > 1 and not options.let_launcher_spin
        with Path(folder, "log").open("w+") as log:
            process = subprocess.Popen(command, cwd=folder, env=env, stdin=PIPE, stderr=log)
            while process.poll() is None:
                steps = metrics.read_text().count("\n") if metrics.exists() else 0
                if paused and steps:
                    process.send_signal(SIGSTOP if steps < options.steps else SIGCONT)
                time.sleep(0.2)
            log.seek(0)
            if process.returncode:
                raise sbs.BenchmarkError(f"{engine}, {ranks}: {log.read().strip()[-2000:]}")
        text = metrics.read_text()
    steps = [json.loads(line) for line in text.splitlines()][1:]
    seconds = sum(step["time/step"] for step in steps)
    return {
        "rollouts_s": sum(step["rollouts"] for step in steps) / seconds,
        "step_s": seconds / len(steps),
    }


def launched(engine: str, ranks: int, arguments: list[str]) -> list[str]:
    """The command; on Linux every rank is bound to a core of its own."""
    bound = ["bash", "-c", 'exec taskset -c ${MLX_RANK:-${LOCAL_RANK:-0}} "$0" "$@"']
    run = [*(bound if sys.platform == "linux" else []), sys.executable, *arguments]
    if ranks == 1:
        return run
    beside = Path(sys.executable).parent
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    if engine == "torch":
        start = [beside / "torchrun", "--nproc-per-node", ranks, "--master-port", port]
        return [*map(str, start), "--no-python", *run]
    start = [beside / "mlx.launch", "-n", ranks, "--backend", "ring", "-p", port]
    start += ["--env", f"PYTHONPATH={sbs.ROOT}", "--env", "OPENBLAS_NUM_THREADS=1"]
    return [*map(str, start), "--", *run]


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for engine in dict.fromkeys(row["engine"] for row in rows):
        one, two = (
            statistics.median(
                r["rollouts_s"] for r in rows if r["engine"] == engine and r["ranks"] == n
            )
            for n in (1, 2)
        )
        found.append({"engine": engine, "one": one, "two": two, "ratio": two / one})
    return found


if __name__ == "__main__":
    sys.exit(main())
