"""The commands that messages suggest."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from azr_mlx import errors

pytestmark = pytest.mark.pure


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A virtual environment in the current folder, whose Python runs."""
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    for name in ("python", "pip"):
        (folder / name).touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def test_pip_is_enough_if_it_is_that_of_this_python(own):
    assert errors.install("-U", "gguf") == "pip install -U gguf"
    assert errors.install("azr-mlx[torch]") == "pip install 'azr-mlx[torch]'"


def test_otherwise_the_pip_of_this_python_is_named(own, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert errors.install("wandb") == f"{own}/pip install wandb"


def test_an_environment_without_pip_is_one_of_uv(own):
    Path(own, "pip").unlink()
    assert errors.install("wandb") == f"uv pip install --python {own}/python wandb"
