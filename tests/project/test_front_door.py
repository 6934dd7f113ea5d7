"""What ``import azr_mlx`` gives, and what it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import azr_mlx

pytestmark = pytest.mark.pure

IMPORT = """
import sys, time
began = time.perf_counter()
import azr_mlx
print(time.perf_counter() - began)
print([name for name in ("numpy", "yaml", "mlx", "typer", "transformers") if name in sys.modules])
"""


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


@pytest.mark.alone
def test_the_import_is_light() -> None:
    found = [run("-c", IMPORT).splitlines() for _ in range(5)]
    assert all(loaded == "[]" for _, loaded in found)
    assert min(float(seconds) for seconds, _ in found) < 0.05


def test_every_name_is_there_when_it_is_asked_for() -> None:
    assert set(azr_mlx.__all__) <= set(dir(azr_mlx))
    for name in azr_mlx.__all__:
        assert getattr(azr_mlx, name) is not None
    from azr_mlx import Job, TaskProposer, load_config
    from azr_mlx.config import load

    assert load_config is load and Job.__name__ == "Job"
    assert TaskProposer.__module__ == "azr_mlx.selfplay.proposer"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        azr_mlx.nothing  # noqa: B018


def test_the_package_runs_as_its_command() -> None:
    assert run("-m", "azr_mlx", "--version") == f"azr-mlx {azr_mlx.__version__}\n"
