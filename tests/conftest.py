"""Shared by every tier: the checkout, the fast BLAS before MLX, the real command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from azr_mlx.backends import blas

blas.enable()  # before any test module imports mlx

# Property tests: few examples, the same each time, and no clock.
settings.register_profile("suite", max_examples=25, deadline=None, derandomize=True, database=None)
settings.load_profile("suite")

ROOT = Path(__file__).resolve().parent.parent
TIERS = ("pure", "sandbox", "backend", "e2e", "gpu", "learning")

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Every test belongs to a tier, so that `-m pure` leaves nothing out by accident. Those that
    take minutes run where they are asked for.
    """
    lost = [item.nodeid for item in items if not any(item.get_closest_marker(t) for t in TIERS)]
    if lost:
        raise pytest.UsageError(f"no tier marker ({', '.join(TIERS)}) on: {', '.join(lost)}")
    if "long" not in config.option.markexpr:
        skip = pytest.mark.skip(reason="takes minutes: ./run.sh test -m long")
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(skip)


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
