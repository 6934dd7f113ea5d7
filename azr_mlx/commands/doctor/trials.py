"""Checks that try something: the kernels, the sandbox, a model, and which configuration fits."""

from __future__ import annotations

import importlib.util
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from azr_mlx.commands.doctor.finding import FAIL, OK, WARN, Finding

# -- kernels ---------------------------------------------------------------------------------------

ROWS, ENTRIES = 16, 1031  # a length that no power of two divides
# For float32, in nats or as a share of tokens. On a GPU, exp and log are approximate.
TOLERANCE = 1e-4


def kernels() -> Finding:
    """Compares the package's kernels on this device with a float64 reference."""
    if importlib.util.find_spec("mlx") is None:
        return Finding(OK, "MLX is not installed: torch's own operations are used")
    from azr_mlx.backends.mlx import kernels as own

    path = own.path()
    errors = {"logprob": logprob_error(), "sample": sample_error(), **_cpu_errors(path)}
    names = {"metal": "the Metal kernels", "cuda": "the CUDA kernels"}
    what = names.get(path, "no GPU kernels here: plain MLX, and this package's attention for CPUs")
    if path == "mlx" and os.environ.get(own.SWITCH, "").strip().lower() == "off":
        what = f"plain MLX, because of {own.SWITCH}=off"
    wrong = [name for name, error in errors.items() if not error <= TOLERANCE]
    facts = {"path": path, "errors": errors}
    if wrong:
        fix = f"set {own.SWITCH}=off and report it" if path in names else "install mlx again"
        shown = ", ".join(f"{name} is off by {errors[name]:.2g}" for name in wrong)
        return Finding(FAIL, f"{what}: {shown}", fix, facts)
    worst = max(errors.values())
    return Finding(OK, f"{what}; off the reference by at most {worst:.1g}", facts=facts)


def logprob_error() -> float:
    """The largest error of log-probabilities, entropies and their gradients."""
    import mlx.core as mx

    from azr_mlx.backends.mlx.kernels import row_logprob

    draw = np.random.default_rng(0)
    logits = (4 * draw.standard_normal((ROWS, ENTRIES))).astype(np.float32)
    targets = draw.integers(0, ENTRIES, ROWS).astype(np.int32)
    got = row_logprob(mx.array(logits), mx.array(targets), 1 / 0.7, True, True)
    z = logits.astype(np.float64) / 0.7
    z -= z.max(axis=1, keepdims=True)
    logp = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    p, rows = np.exp(logp), np.arange(ROWS)
    entropy = -(p * logp).sum(axis=1)
    delta = p.copy()
    delta[rows, targets] -= 1
    want = (logp[rows, targets], entropy, delta, -p * (logp + entropy[:, None]))
    return _distance(got, want)


def sample_error() -> float:
    """The error of the log-probabilities of sampled tokens, or the share of tokens that differ from
    those of plain MLX, whichever is larger."""
    import mlx.core as mx

    from azr_mlx.backends.mlx.kernels import sample_rows, sample_rows_mlx

    draw = np.random.default_rng(1)
    logits = mx.array((3 * draw.standard_normal((ROWS, ENTRIES))).astype(np.float32))
    temperature = mx.array([0.0, 0.7, 1.0, 1.3] * (ROWS // 4))
    keys = mx.array(draw.integers(0, 1 << 32, (ROWS, 2), dtype=np.uint32))
    tokens, logp = sample_rows(logits, temperature, keys)
    wanted, wanted_logp = sample_rows_mlx(logits, temperature, keys)
    others = float((np.array(tokens) != np.array(wanted)).mean())
    return max(others, _distance((logp,), (np.array(wanted_logp),)))


def _cpu_errors(path: str) -> dict[str, float]:
    """On a CPU: attention and SwiGLU compared with those of mlx-lm; empty on a GPU."""
    import mlx.core as mx

    if mx.default_device() != mx.cpu:
        return {}
    from azr_mlx.backends.mlx import cpu

    draw = np.random.default_rng(2)
    q = mx.array(draw.standard_normal((2, 4, 9, 16)).astype(np.float32))
    k, v = (mx.array(draw.standard_normal((2, 2, 9, 16)).astype(np.float32)) for _ in range(2))
    library: dict[str, Any] = cpu._LIBRARY
    theirs = library["scaled_dot_product_attention"](q, k, v, None, scale=0.25, mask="causal")
    gate, x = q[0, 0], q[1, 1]
    return {
        "attention": _distance((cpu.attention(q, k, v, None, 0.25, "causal"),), (theirs,)),
        "swiglu": _distance((cpu.swiglu(gate, x),), (library["swiglu"](gate, x),)),
    }


def _distance(got: Sequence[Any], want: Sequence[Any]) -> float:
    pairs = zip(got, want, strict=True)
    return max(float(np.abs(np.array(a) - np.array(b)).max()) for a, b in pairs)


# -- the sandbox -----------------------------------------------------------------------------------

WALL_S = 1.0
STRONG = "strong"
_CONNECT = (
    "import socket\ndef f(port): socket.create_connection(('127.0.0.1', port), 0.5); return True"
)
_WRITE = "def f(path):\n    with open(path, 'w') as file: file.write('x')\n    return True"
_NAMESPACES = (
    "allow user namespaces: sysctl user.max_user_namespaces above 0, on Ubuntu "
    "kernel.apparmor_restrict_unprivileged_userns=0, in Docker --security-opt seccomp=unconfined"
)


def sandbox() -> Finding:
    """Which isolation is available, and whether it holds: five jobs, two of them attacks."""
    from azr_mlx.sandbox import Limits, Sandbox

    with Sandbox(2, "auto", Limits(wall_s=WALL_S, cpu_s=WALL_S, memory_mb=256)) as box:
        broken = try_sandbox(box)
        level, features, reason = box.isolation, box.features, box.fallback
    named = [key for key, on in features.items() if on is True and key != "other_user"]
    what = f"{level} ({', '.join(named) or 'limits'})"
    facts = {"isolation": level, "features": features, "reason": reason, "broken": broken}
    # Known gaps of the level (docs/security.md) are a warning; anything else is a failure.
    leaks = ("the network is open", "files can be written")
    if level == STRONG or any(one not in leaks for one in broken):
        if broken:
            fix = "do not run code from models here, and report this (docs/security.md)"
            return Finding(FAIL, f"{what}: {', '.join(broken)}", fix, facts)
        what += ": right and wrong answers are distinguished, a loop is stopped, network and "
        what += "writes are denied"
        return Finding(OK, what, facts=facts)
    holes = f"; {', '.join(broken)}" if broken else ""
    fix = (
        _NAMESPACES
        if sys.platform == "linux"
        else "see docs/security.md; use a separate user account"
    )
    return Finding(WARN, f"{what}, since strong is not available ({reason}){holes}", fix, facts)


def try_sandbox(box: Any) -> list[str]:
    """What the sandbox does wrong, in a few words each; empty if everything is right."""
    from azr_mlx.sandbox import Job

    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
        os.chmod(folder, 0o777)  # so that only the sandbox can prevent writing
        target, port = Path(folder, "written"), server.getsockname()[1]
        add = "def f(x): return x + 1"
        jobs = [
            Job("right", add, call="f", args="(1,)", expect="2"),
            Job("wrong", add, call="f", args="(1,)", expect="3"),
            Job("twice", add, call="f", args="(1,)", deterministic=True),  # as tasks are checked
            Job("loop", "def f():\n    while True: pass", call="f"),
            Job("network", _CONNECT, call="f", args=f"({port},)"),
            Job("write", _WRITE, call="f", args=f"({str(target)!r},)"),
        ]
        status = {result.id: result.status.value for result in box.run(jobs)}
        reached = bool(select.select([server], [], [], 0)[0]) or status["network"] == "pass"
        written = target.exists() or status["write"] == "pass"
    found = {
        f"a right answer is judged {status['right']}": status["right"] != "pass",
        f"a wrong answer is judged {status['wrong']}": status["wrong"] != "fail",
        f"a program that is run twice is judged {status['twice']}": status["twice"] != "ok",
        f"an endless loop is judged {status['loop']}": status["loop"] != "timeout",
        "the network is open": reached,
        "files can be written": written,
    }
    return [text for text, is_so in found.items() if is_so]


# -- a model ---------------------------------------------------------------------------------------

QUESTION = "def f(a):\n    return a[::-1]\nassert f([3, 1, 2]) =="
ANSWER = "[2, 1, 3]"
MANY, TOKENS = 8, 16


def model() -> Finding:
    """Loads the package's own model in the same way as training, and lets it answer a question."""
    from azr_mlx.backends.base import Sampling
    from azr_mlx.commands.train import backend_for
    from azr_mlx.config import load
    from azr_mlx.types import Prompt

    start = time.perf_counter()
    backend = backend_for(load("quickstart"))
    loaded = time.perf_counter() - start
    ids = tuple(backend.tokenizer.encode(QUESTION))
    prompt = Prompt(QUESTION, ids, form="base")
    (greedy,) = backend.generate([prompt], [Sampling(TOKENS, 0.0)], [0])
    answer = backend.tokenizer.decode(greedy.token_ids).partition("<")[0].strip()
    start = time.perf_counter()
    drawn = backend.generate([prompt] * MANY, [Sampling(TOKENS)] * MANY, list(range(MANY)))
    rate = sum(len(one.token_ids) for one in drawn) / (time.perf_counter() - start)
    facts = {"load_s": loaded, "tokens_per_s": rate, "answer": answer, "backend": backend.name}
    what = f"nano loads in {loaded:.1f} s and generates {rate:.0f} tokens/s ({MANY} rows)"
    if answer != ANSWER:
        fix = "this device computes wrong results: try --backend torch, and report this"
        return Finding(FAIL, f"{what}, but answers {answer!r} for {ANSWER!r}", fix, facts)
    return Finding(OK, what, facts=facts)


# -- a step ----------------------------------------------------------------------------------------

STEPS = 2
_STEP = ("-c", "quickstart", f"max_steps={STEPS}", "held_out.tasks=0", "run_name=tried")


def step() -> Finding:
    """Trains nano for two steps in a folder that is removed: speed, and planned against measured
    memory."""
    from azr_mlx.config import load
    from azr_mlx.files import read_rows
    from azr_mlx.run_folder import METRICS_FILE
    from azr_mlx.text import storage
    from azr_mlx.training.memory import needs
    from azr_mlx.training.memory.limit import device, limit_of

    sys.stderr.write(f"step: training nano for {STEPS} steps, which takes up to a minute\n")
    with tempfile.TemporaryDirectory() as folder:
        given = [*_STEP, f"output_dir={folder}", "--quiet"]
        command = [sys.executable, "-m", "azr_mlx.cli", "train", *given]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
            return Finding(FAIL, f"train ends with {done.returncode}: {last}", "report this")
        row = list(read_rows(Path(folder, "tried", METRICS_FILE)))[-1]
    config = load("quickstart")
    on = device()
    planned, measured = needs(config, on, limit_of(config, on)), int(row["mem/peak_gb"] * 1e9)
    times = {name: row[name] for name in row if name.startswith(("time/", "tok_s/"))}
    what = f"nano: rollouts {row['tok_s/rollout']:.0f} tokens/s, updates {row['tok_s/train']:.0f}; "
    what += f"memory {storage(measured)} measured, {storage(planned)} planned"
    return Finding(OK, what, facts={"planned": planned, "measured": measured, **times})


# -- what fits -------------------------------------------------------------------------------------


def plan() -> Finding:
    """The largest shipped configuration that fits into the memory of this machine."""
    from azr_mlx.config import load
    from azr_mlx.text import storage
    from azr_mlx.training.memory import shipped_needs
    from azr_mlx.training.memory.limit import device, limit_of

    on = device()
    limit = limit_of(load(None), on)
    needed = shipped_needs(on, limit)
    facts = {"limit": limit, "needs": needed}
    if not limit:
        return Finding(WARN, "the size of the memory is unknown", "give memory_limit_gb")
    fitting = {name: n for name, n in needed.items() if n <= limit}
    if not fitting:
        least = min(needed, key=lambda name: needed[name])
        what = f"no shipped configuration fits {storage(limit)}: "
        what += f"{least} needs {storage(needed[least])}"
        return Finding(FAIL, what, "close other programs, or raise the container's limit", facts)
    largest = max(fitting, key=lambda name: fitting[name])
    larger = [f"{name} needs {storage(n)}" for name, n in needed.items() if name not in fitting]
    what = f"{largest} is the largest shipped configuration that fits: "
    what += f"{storage(needed[largest])} of {storage(limit)}"
    what += f"; {', '.join(larger)}" if larger else "; all fit"
    return Finding(OK, what, facts=facts)
