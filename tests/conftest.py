"""Shared by every tier: the checkout, the fast BLAS before MLX, the real command line."""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

from azr_mlx.backends import blas
from azr_mlx.config import plugins
from azr_mlx.models import cache

# On an M5 MLX multiplies float32 in TF32 by default. Tests compare with float64, as MLX's own do.
os.environ.setdefault("MLX_ENABLE_TF32", "0")

IN_PARALLEL = "PYTEST_XDIST_WORKER" in os.environ
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")

# Beside other workers, threads that wait for each other make a product several times slower.
if IN_PARALLEL:
    for name in THREADS:
        os.environ.setdefault(name, "1")

if cache.VARIABLE not in os.environ:  # the models that tests convert are not the user's
    _own_cache = tempfile.TemporaryDirectory(prefix="azr-mlx-tests-")
    os.environ[cache.VARIABLE] = _own_cache.name

if sys.platform == "darwin":  # runs that tests make notify nobody
    _own_programs = tempfile.TemporaryDirectory(prefix="azr-mlx-programs-")
    _silent = Path(_own_programs.name, "osascript")
    _silent.write_text("#!/bin/sh\n")
    _silent.chmod(0o755)
    os.environ["PATH"] = f"{_own_programs.name}:{os.environ['PATH']}"

blas.enable()  # before any test module imports mlx

# Property tests: few examples, the same each time, and no clock.
settings.register_profile("suite", max_examples=25, deadline=None, derandomize=True, database=None)
settings.load_profile("suite")

ROOT = Path(__file__).resolve().parent.parent
# Data that is not the project's: the tests that read it are skipped if it is not there.
SHARED = ROOT.parent / "shared" / "data"
TIERS = ("pure", "sandbox", "backend", "e2e", "gpu", "learning")

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Every test belongs to a tier, so that `-m pure` leaves nothing out by accident. Those that
    take minutes run if they are asked for; those that measure time, if no other runs beside them.
    """
    lost = [item.nodeid for item in items if not any(item.get_closest_marker(t) for t in TIERS)]
    if lost:
        raise pytest.UsageError(f"no tier marker ({', '.join(TIERS)}) on: {', '.join(lost)}")
    if "long" not in config.option.markexpr:
        _skip(items, "long", "takes minutes: ./run.sh test -m long")
    if IN_PARALLEL:
        _skip(items, "alone", "measures time: ./run.sh test -m alone")


@contextlib.contextmanager
def benchmark_script(name: str) -> Iterator[ModuleType]:
    """benchmarks/NAME.py, which imports what it shares with others from beside itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module(name)


def _skip(items: list[pytest.Item], marker: str, reason: str) -> None:
    for item in items:
        if item.get_closest_marker(marker):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """``azr-mlx`` in a subprocess, in a scratch folder; options go to ``subprocess.run``."""

    def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
        settings: dict[str, object] = {"cwd": tmp_path, "env": environment, "timeout": 300}
        settings.update(options)
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [sys.executable, "-m", "azr_mlx.cli", *arguments],
            capture_output=True,
            text=True,
            check=False,
            **settings,  # type: ignore[call-overload]
        )
        return done

    return run


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], Path]]:
    """Writes a file into a current folder of the test's own. Its modules are forgotten at the end:
    another test may have some of the same name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def written(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    yield written
    plugins.resolve.cache_clear()
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]
