"""How much memory the machine has, and the most similar configuration that fits into it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from azr_mlx.config import THOUGHT_TOKENS, Config, diff
from azr_mlx.errors import UsageError
from azr_mlx.text import storage
from azr_mlx.training.memory.estimate import Peaks, Planner, up

GB = 1e9
STEP = 64  # budgets of a micro-batch are tried in steps of this many tokens
LEAST_TOKENS = 16  # shorter completions are useless
FIRST = "quickstart"  # the configuration to begin with
BEYOND = 1.5  # times the machine's limit: it cannot be meant to run anyway
LEAST_PROMPT = 256  # shorter prompts refer to hardly any task


def device() -> str:
    """The device that MLX computes on here, "gpu" or "cpu". If MLX cannot be imported, "gpu" on a
    Mac and "cpu" elsewhere."""
    try:
        import mlx.core as mx
    except ImportError:
        return "gpu" if sys.platform == "darwin" else "cpu"
    return "cpu" if mx.default_device() == mx.cpu else "gpu"


def machine_memory(
    on: str, proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")
) -> int:
    """Bytes that a run can use on this machine; 0 if they cannot be determined."""
    if on == "gpu" and (found := _device_memory()):
        return found
    if sys.platform == "darwin":
        return metal_share(_sysctl("hw.memsize"))
    if on == "gpu":
        return 0
    limits = [_available(proc / "meminfo"), *_cgroup_free(proc / "self" / "cgroup", cgroup)]
    return min((n for n in limits if n), default=0)


def _device_memory() -> int:
    """Bytes that the GPU may use. The key in MLX's device info depends on the device."""
    try:
        import mlx.core as mx
    except ImportError:
        return 0
    info: dict[str, Any] = mx.device_info()
    for key in ("max_recommended_working_set_size", "memory_size", "total_memory"):
        if isinstance(info.get(key), int | float):
            unified = key == "memory_size" and sys.platform == "darwin"
            return metal_share(int(info[key])) if unified else int(info[key])
    return 0


def metal_share(memory: int) -> int:
    """The working set that Metal allows by default, in bytes, of so much unified memory: about two
    thirds on a Mac with up to 32 GB, three quarters on a larger one. A Mac says it itself; this is
    for tables, and for when MLX cannot be asked."""
    return memory * 2 // 3 if memory <= 32 * 2**30 else memory * 3 // 4


def _sysctl(name: str) -> int:
    try:
        done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=True)
        return int(done.stdout)
    except (OSError, ValueError, subprocess.CalledProcessError):
        return 0


def _available(meminfo: Path) -> int:
    for line in _lines(meminfo):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _cgroup_free(own: Path, root: Path) -> Iterator[int]:
    """The bytes left by each limit of this process's cgroup and its parents (cgroup versions 1
    and 2)."""
    for line in _lines(own):
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory") and "memory" not in controllers.split(","):
            continue
        base = root / controllers if controllers else root
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        limit, usage = names if controllers else ("memory.max", "memory.current")
        folder = base / path.lstrip("/")
        for at in (folder, *folder.parents):
            bound, used = _number(at / limit), _number(at / usage)
            if 0 < bound < 1 << 60:
                yield max(bound - used, 1)
            if at == base:
                break


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []


def _number(file: Path) -> int:
    text = "".join(_lines(file)).strip()
    return int(text) if text.isdecimal() else 0


def limit_of(c: Config, on: str) -> int:
    """The memory limit in bytes: ``memory_limit_gb``, or what the machine has; 0 if unknown."""
    return int(c.memory_limit_gb * GB) if c.memory_limit_gb else machine_memory(on)


# -- what fits -------------------------------------------------------------------------------------


def resolve_checkpointing(c: Config, planner: Planner | None, limit: int) -> Config:
    """Replace ``ppo.grad_checkpoint: auto`` by true or false: true only if the update does not fit
    without it but fits with it. Without a planner or a limit it becomes false."""
    if c.ppo.grad_checkpoint != "auto":
        return c
    without, again = (_set(c, grad_checkpoint=value) for value in ("false", "true"))
    if planner is None or not limit or planner.update(without).total <= limit:
        return without
    return again if planner.update(again).total <= limit else without


Largest = Callable[[str, int], str]  # (device, bytes) -> name of a shipped configuration, or ""


def refuse_what_does_not_fit(c: Config, planner: Planner, limit: int, largest: Largest) -> None:
    """Raises UsageError, with the nearest configuration that fits, if a phase needs more than
    ``limit`` bytes."""
    peaks = planner.peaks(c)
    phase, worst = max(peaks.items(), key=lambda item: item[1].total)
    if worst.total <= limit:
        return
    has = f"memory_limit_gb={c.memory_limit_gb:g} allows" if c.memory_limit_gb else "there is"
    # A machine's limit keeps a reserve. What is far beyond it ends by the system's hand.
    possible = c.memory_limit_gb or worst.total <= BEYOND * limit
    more = f"(or give memory_limit_gb={worst.total / GB + 0.05:.1f} to run it anyway)"
    raise UsageError(
        f"memory: the {phase} phase needs {storage(worst.total)}, but {has} {storage(limit)}; "
        f"{what_fits(c, planner, limit, largest)}{f' {more}' if possible else ''}"
    )


def what_fits(c: Config, planner: Planner, limit: int, largest: Largest) -> str:
    """Advice: the overrides that make ``c`` fit, or else a shipped configuration that fits."""
    if (other := nearest(c, planner, limit)) is not None:
        return f"this fits: {' '.join(overrides(c, other))}"
    name = largest(planner.device, limit)
    own = bool(c.memory_limit_gb)
    fix = f"use a smaller model, or {'a larger limit' if own else 'close other programs'}"
    if name:
        also = "" if name == FIRST else f", and -c {FIRST}, which needs no download"
        fix = f"-c {name} fits{also}"
    return f"the model alone takes {storage(planner.weights(c))}: {fix}"


def nearest(c: Config, planner: Planner, limit: int) -> Config | None:
    """The first configuration that fits, None if there is none. rollout.max_batch is lowered first,
    then ppo.micro_batch_tokens, then layers are recomputed, and last the token limits are
    halved, with that of prompts."""
    for shorter in _shorter(c):
        batch = next((b for b in _batches(shorter) if planner.rollout(b).total <= limit), None)
        if batch is None:
            continue
        for one in _updates(batch, planner):
            if max(planner.update(one).total, planner.score(one).total) <= limit:
                return one
    return None


def _shorter(c: Config) -> Iterator[Config]:
    yield c
    r = c.rollout
    propose, solve, prompt = r.max_propose_tokens, r.max_solve_tokens, r.max_prompt_tokens
    least = THOUGHT_TOKENS if r.thinks else LEAST_TOKENS
    while max(propose, solve) > least or prompt > LEAST_PROMPT:
        propose, solve, prompt = _half(propose, least), _half(solve, least), _half(prompt)
        buffer = min(c.rollout.overlong_buffer, propose, solve)
        yield replace(
            c,
            rollout=replace(
                c.rollout,
                max_prompt_tokens=prompt,
                max_propose_tokens=propose,
                max_solve_tokens=solve,
                overlong_buffer=buffer,
            ),
        )


def _half(n: int, least: int = LEAST_PROMPT) -> int:
    """Half of ``n``, but not less than ``least`` unless ``n`` is."""
    return max(n // 2, min(n, least))


def _batches(c: Config) -> Iterator[Config]:
    for rows in range(c.rollout.max_batch, 0, -1):
        yield replace(c, rollout=replace(c.rollout, max_batch=rows))


def _updates(c: Config, planner: Planner) -> Iterator[Config]:
    """Smaller micro-batches, down to one row; then the same again with layers recomputed."""
    longest = max(prompt + answer for _, prompt, answer in planner.generated(c))
    least, budget = up(longest, STEP), c.ppo.micro_batch_tokens
    smaller = range((budget - 1) // STEP * STEP, least - 1, -STEP)
    for again in dict.fromkeys((c.ppo.grad_checkpoint, "true")):
        for tokens in (budget, *smaller):
            yield _set(c, grad_checkpoint=again, micro_batch_tokens=tokens)


def _set(c: Config, **values: Any) -> Config:
    return replace(c, ppo=replace(c.ppo, **values))


def overrides(a: Config, b: Config) -> list[str]:
    """The differences between ``a`` and ``b``, as KEY=VALUE of ``b``."""
    return [f"{key}={new}" for key, (_, new) in diff(a, b).items()]


def fits(peaks: Peaks, limit: int) -> bool:
    return all(peak.total <= limit for _, peak in peaks.items())
