"""The machine: chip, memory, the GPU, the BLAS, free disk."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from azr_mlx.commands.doctor.finding import FAIL, OK, WARN, Finding
from azr_mlx.errors import PROGRAM
from azr_mlx.models import cache
from azr_mlx.system import platform_name

GB = 1e9
MIB, GIB = 1 << 20, 1 << 30
ROOM = 10 * GB  # disk space for a model of 4 B parameters and its conversion
LEAST_ROOM = 0.2 * GB  # less free disk space than this is a failure
LEAST_MEMORY = 1.5 * GB  # what the quickstart needs, with a margin
SLOW = 15.0  # GFLOP/s; one core with AVX2 that has nothing else to do does 50 and more
ON_MAC = sys.platform == "darwin"


def chip() -> Finding:
    """The processor, and whether this Python is built for it."""
    name = _sysctl("machdep.cpu.brand_string") if ON_MAC else _cpu_model()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    counted = "1 core" if cores == 1 else f"{cores} cores"
    what = f"{name or platform.machine()}, {counted}, {platform_name(terse=True)}"
    facts = {"chip": name, "machine": platform.machine(), "cores": cores}
    if ON_MAC and _sysctl("sysctl.proc_translated") == "1":
        fix = "install an arm64 Python (brew install python) and create .venv again"
        return Finding(FAIL, f"{what}: this Python runs under Rosetta, but MLX does not", fix)
    return Finding(OK, what, facts=facts)


def memory() -> Finding:
    """The memory of the machine, and how much of it a run may use. ``plan`` uses the second
    figure."""
    from azr_mlx.training.memory.limit import device, machine_memory

    on = device()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    usable = machine_memory(on)
    wired = int(_sysctl("iogpu.wired_limit_mb") or 0) if ON_MAC else 0
    facts = {"total": total, "usable": usable, "device": on, "wired_limit_mb": wired}
    if ON_MAC:
        # Apple counts installed memory in powers of two: a Mac with 16 GB has 17.2e9 bytes.
        what = f"{total / GIB:.0f} GB unified memory, of which the GPU may use "
        what += f"{usable / GB:.1f} GB"
        if (more := wired_limit(total, usable)) and on == "gpu":
            what += f" (`sudo sysctl iogpu.wired_limit_mb={more}` raises that to "
            what += f"{more * MIB / GB:.1f} GB until a restart)"
    else:
        where = "GPU" if on == "gpu" else "machine"
        what = f"{total / GB:.1f} GB; a run may use {usable / GB:.1f} GB of {where} memory now"
    if 0 < usable < LEAST_MEMORY:
        return Finding(WARN, what, "close other programs, or raise the container's limit", facts)
    return Finding(OK, what, facts=facts)


def wired_limit(total: int, usable: int) -> int:
    """MiB to wire for the GPU on a Mac with ``total`` bytes of memory; 8 GB or an eighth, whichever
    is more, are left to the system. 0 if that is less than 5 % above ``usable``."""
    more = total - max(8 << 30, total // 8)
    return more // MIB if more > 1.05 * usable else 0


def gpu() -> Finding:
    """Which backend commands use here, and what it computes on."""
    from azr_mlx.backends.select import choose

    concerns: list[str] = []
    name, why = choose("auto", concerns.append)
    if concerns:
        return Finding(WARN, concerns[0], facts={"backend": name})
    if name != "mlx":
        return Finding(OK, f"{name} ({why})", facts={"backend": name})
    import mlx.core as mx

    metal, cuda = (bool(part and part.is_available()) for part in (mx.metal, _cuda(mx)))
    info: dict[str, Any] = mx.device_info()
    facts = {"backend": name, "metal": metal, "cuda": cuda, "device": str(mx.default_device())}
    called = info.get("device_name") or info.get("architecture") or "GPU"
    if metal or cuda:
        kind = "Metal" if metal else "CUDA"
        if mx.default_device() == mx.cpu:
            return Finding(
                WARN, f"{kind} is available, but MLX is set to the CPU", "unset that", facts
            )
        return Finding(OK, f"{kind}: MLX computes on {called}", facts=facts)
    if ON_MAC:
        fix = "use macOS 14 or newer on Apple silicon, not in a virtual machine"
        return Finding(WARN, "Metal is not available: MLX computes on the CPU", fix, facts)
    return Finding(OK, "neither Metal nor CUDA is available: MLX computes on the CPU", facts=facts)


def _cuda(mx: Any) -> Any:
    return getattr(mx, "cuda", None)  # older versions of MLX do not have it


def blas() -> Finding:
    """The library that MLX multiplies matrices with on a CPU, and its speed. It has been chosen
    before this check runs."""
    from azr_mlx.backends import blas as chosen

    if importlib.util.find_spec("mlx") is None:
        return Finding(OK, "MLX is not installed; torch has its own BLAS")
    info, speed = chosen.enable(), chosen.measure()
    facts = {"name": info.name, "path": info.path, "reason": info.reason, "gflops": speed}
    what = f"{info.name}, {speed:.0f} GFLOP/s in float32"
    if info.fast and speed < SLOW:
        fix = "end other programs that compute, and try again"
        return Finding(WARN, f"{what}, which is slow for it", fix, facts)
    if info.fast:
        return Finding(OK, what, facts=facts)
    return Finding(WARN, f"{what} ({info.reason})", info.fix, facts)


def power() -> Finding:
    """Whether a long run would drain a battery, and, on a Mac, what keeps the machine awake."""
    from azr_mlx.training.power import battery

    found = battery()
    what = "no battery" if found is None else str(found)
    facts = {} if found is None else {"percent": found.percent, "on_battery": found.in_use}
    if ON_MAC:
        what += "; a run keeps the Mac awake (caffeinate -i): let the display sleep meanwhile, "
        what += "because macOS can kill long kernels while it is on (ml-explore/mlx#3267)"
    if found is None or not found.in_use:
        return Finding(OK, what, facts=facts)
    fix = "plug it in before a long run, or give power.min_battery=20 to pause at 20 %"
    return Finding(WARN, what, fix, facts)


def disk() -> Finding:
    """Free space and write permission for runs, converted models, downloads and temporary files."""
    places = {
        "runs/": (Path("runs"), "change to a folder that you can write to, or give output_dir=DIR"),
        "converted models": (
            cache.models(),
            f"set {cache.VARIABLE} to a folder that you can write to",
        ),
        "the hub's cache": (_hub_cache(), "set HF_HOME to a folder that you can write to"),
        "temporary files": (
            Path(tempfile.gettempdir()),
            "set TMPDIR to a folder that you can write to",
        ),
    }
    free: dict[str, int] = {}
    for name, (path, fix) in places.items():
        folder = _existing(path)
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"azr-mlx")
        except OSError as error:
            return Finding(FAIL, f"{name}: {folder}: {error.strerror}", fix)
        free[name] = shutil.disk_usage(folder).free
    tightest = min(free, key=lambda name: free[name])
    least = free[tightest]
    what = (
        f"{least / GB:.1f} GB free for {tightest}, at least as much for {_others(free, tightest)}"
    )
    if least >= ROOM:
        return Finding(OK, what, facts=free)
    fix = "make room: a model of 4 B parameters takes 8 GB, and 2.5 GB more when converted"
    return Finding(WARN if least >= LEAST_ROOM else FAIL, what, fix, free)


def models_cache() -> Finding:
    """The folder of converted models, and its size."""
    facts = {"path": str(cache.folder()), "bytes": sum(size for _, size in cache.entries())}
    return Finding(OK, f"{cache.describe()}; {PROGRAM} cache --clear empties it", facts=facts)


def _others(free: dict[str, int], but: str) -> str:
    return ", ".join(name for name in free if name != but)


def _hub_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _existing(path: Path) -> Path:
    """The nearest parent folder that exists."""
    path = path.expanduser().absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _sysctl(name: str) -> str:
    try:
        done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no such name on this system
        return ""
    return done.stdout.strip()


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())
