"""The torch backend on an NVIDIA GPU: one command, one table, eight minutes.

    python benchmarks/gpu.py --model Qwen/Qwen2.5-Coder-0.5B-Instruct [--peers FOLDER]
    python benchmarks/gpu.py --model qwen.gguf --parts kernels plain step
    python benchmarks/gpu.py --rehearse                    # the same at toy size, on a CPU

"kernels" holds the Triton kernels against plain torch; "plain" decodes without CUDA graphs, "step"
times whole GRPO steps (with graphs) and "trl" the same work with TRL's GRPOTrainer (if it imports;
pip install --target FOLDER --no-deps trl, then --peers FOLDER); "selfplay" trains, and solves
held-out tasks before and after. The model is a hub name, a folder or a GGUF file.

Every part is a process of its own with a time limit; "selfplay" gets all that the others leave.
What a part has found when its time is up counts. Rows are appended to --out as they come, and the
table is printed at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gpu_parts
import side_by_side as sbs
from gpu_table import show

SCRIPT = Path(__file__).resolve()
# Seconds of each part, if the whole has eight minutes. Self-play has the rest.
SECONDS = {"machine": 30, "model": 60, "kernels": 50, "plain": 60, "step": 60, "trl": 70}
MEASURED = ("kernels", "plain", "step", "trl", "selfplay")
LEAST_SELFPLAY = 60
NO_GPU = "torch sees no GPU here (azr-mlx doctor says why); --rehearse runs at toy size on a CPU"
GRACE = 15  # seconds that self-play has to save after Ctrl-C

REHEARSAL = {
    "model": str(sbs.ROOT / "azr_mlx" / "nano" / "model"),
    "config": "quickstart",
    "prompts": 2, "group": 2, "prompt_tokens": 16, "new_tokens": 6, "steps": 1,
    "kernel_rows": 4, "vocabulary": 300, "selfplay_steps": 1, "held_out": 2,
    "set": ["batch_size=6", "proposer.templates_per_step=3", "rollout.group_size=2",
            "sandbox.workers=1", "checkpoint_interval=1", "warmup_steps=0"],
}  # fmt: skip


def main(given: list[str] | None = None) -> int:
    options = arguments(given)
    if options.one:
        gpu_parts.PARTS[options.one](options)
        return 0
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        options.runs = folder
        try:
            for row in measured(options):
                rows.append(row)
        finally:  # after Ctrl-C, too
            show(rows)
    return 0 if all(row["status"] in ("ok", "left out") for row in rows) else 1


def arguments(given: list[str] | None) -> Namespace:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="Qwen/Qwen2.5-Coder-0.5B-Instruct")
    parser.add_argument("--parts", nargs="+", choices=MEASURED, default=list(MEASURED))
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", default="gpu.jsonl", help="rows are appended as they come")
    parser.add_argument("--rehearse", action="store_true", help="toy sizes, for a CPU")
    parser.add_argument("--bits", type=int, default=0, help="0: bfloat16 on CUDA; 4: NF4; 8: int8")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--micro-batch-tokens", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=3, help="timed, after one to warm up")
    parser.add_argument("--kernel-rows", type=int, default=128)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--peers", default="", metavar="FOLDER", help="a folder that has trl")
    parser.add_argument("--config", default="qwen2.5-coder-0.5b")
    parser.add_argument("--selfplay-steps", type=int, default=12)
    parser.add_argument("--held-out", type=int, default=40, help="tasks of each kind")
    parser.add_argument("--set", nargs="+", default=["quantization.bits=0"], metavar="KEY=VALUE")
    for name in ("--one", "--runs"):
        parser.add_argument(name, default="", help=SUPPRESS)
    if "--rehearse" in (sys.argv[1:] if given is None else given):
        parser.set_defaults(**REHEARSAL)
    return parser.parse_args(given)


# -- the parts -------------------------------------------------------------------------------------


def measured(options: Namespace) -> Iterable[dict[str, Any]]:
    """A row for each part, written to ``--out`` before the next part begins."""
    end = time.monotonic() + 60 * options.minutes
    for part in ("machine", "model", *options.parts):
        left = end - time.monotonic()
        limit = SECONDS.get(part, left) * options.minutes / 8
        row = one(options, part, min(left, limit) if part != "selfplay" else left - GRACE)
        if part == "machine" and row["found"].get("device") == "cpu" and not options.rehearse:
            yield written(options, row | {"status": "failed", "why": NO_GPU})
            return
        if part == "model":
            if row["status"] != "ok":
                hint = f"; if it is on the hub, fetch it first: hf download {options.model}"
                late = row["status"] == "out of time"
                yield written(options, row | ({"why": row["why"] + hint} if late else {}))
                return
            options.model = row["found"]["folder"]
        yield written(options, row)


def written(options: Namespace, row: dict[str, Any]) -> dict[str, Any]:
    with open(options.out, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(f"{row['part']}: {row['status']} after {row['seconds']} s", file=sys.stderr, flush=True)
    return row


def one(options: Namespace, part: str, limit: float) -> dict[str, Any]:
    """The row of one part: its status, and what it has found."""
    row: dict[str, Any] = {"part": part, "status": "left out", "seconds": 0.0, "found": {}}
    if part == "trl" and not _has_trl(options):
        return row | {"why": "trl is not installed; give --peers"}
    if limit < (LEAST_SELFPLAY if part == "selfplay" and not options.rehearse else 1):
        return row | {"why": "no time is left"}
    began = time.monotonic()
    status, printed, complaints = _child(options, part, limit)
    found = _last_object(printed)
    if part == "selfplay":
        found = gpu_parts.of_run(Path(options.runs, "gpu"))
    row |= {"status": status, "seconds": round(time.monotonic() - began, 1), "found": found}
    return row if status == "ok" else row | {"why": complaints[-2000:]}


def _has_trl(options: Namespace) -> bool:
    code = f"import sys; sys.path[:0] = {[options.peers] if options.peers else []}; import trl"
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def _child(options: Namespace, part: str, limit: float) -> tuple[str, str, str]:
    """(status, what it printed, why it did not end well) of a part in a process of its own."""
    environment = {**os.environ, "AZR_MLX_CUDA_GRAPHS": "off" if part == "plain" else "on"}
    environment["PYTHONPATH"] = os.pathsep.join([str(sbs.ROOT), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *_given(options, part)],
            stdout=out, stderr=err, env=environment, start_new_session=True,
        )  # fmt: skip
        try:
            status = "ok" if process.wait(limit) == 0 else "failed"
        except subprocess.TimeoutExpired:
            status = "out of time"
        finally:
            _end(process)
        out.seek(0)
        err.seek(0)
        why = err.read().strip() or f"ended with {process.returncode}"
        return status, out.read(), f"{limit:.0f} s were not enough" if "time" in status else why


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ctrl-C, so that self-play saves; then the end for the part and its children."""
    for sent in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, sent)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)


def _given(options: Namespace, part: str) -> list[str]:
    """The options as arguments of a child."""
    given = ["--one", part]
    for name, value in vars(options).items():
        option = "--" + name.replace("_", "-")
        if isinstance(value, list):
            given += [option, *map(str, value)]
        elif value and not isinstance(value, bool) and name != "one":
            given += [option, str(value)]
    return given


def _last_object(text: str) -> dict[str, Any]:
    """What a part told last. A line that was cut off when its process ended does not count."""
    whole = text.split("\n")[:-1]
    found = [line for line in whole if line.startswith(gpu_parts.MARK)]
    return dict(json.loads(found[-1].removeprefix(gpu_parts.MARK))) if found else {}


if __name__ == "__main__":
    sys.exit(main())
