"""The commands that messages suggest, and the errors of a device."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from azr_mlx import errors
from azr_mlx.backends import select, trial
from azr_mlx.models.folder import loading

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


INTERACTIVITY = (
    "[METAL] Command buffer execution failed: Impacting Interactivity "
    "(0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)"
)
OUT_OF_MEMORY = (
    "[METAL] Command buffer execution failed: Insufficient Memory "
    "(00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"
)


@pytest.mark.parametrize(
    ("said", "advice", "other"),
    [
        (INTERACTIVITY, "AGX_RELAX_CDM_CTXSTORE_TIMEOUT=1", "close other programs"),
        (OUT_OF_MEMORY, "close other programs", "AGX_RELAX"),
        ("[metal::malloc] Resource limit (499000) exceeded.", "close other programs", "AGX_RELAX"),
        ("[malloc] Unable to allocate 17179869184 bytes.", "close other programs", "AGX_RELAX"),
    ],
)
def test_a_device_that_fails_gets_the_advice_that_helps(said, advice, other):
    error = RuntimeError(said)
    told = str(errors.device_error(error, again="to continue: again"))
    assert errors.device_failed(error)
    assert said in told and advice in told and other not in told and "\n" not in told
    assert told.endswith("; to continue: again")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[matmul] shapes"),
        ValueError(INTERACTIVITY),
        RuntimeError(f"x {INTERACTIVITY}"),
    ],
)
def test_other_errors_are_not_the_device_s(error):
    assert not errors.device_failed(error)
    errors.pass_on(error)
    assert trial.unable(error) is False


def test_a_device_that_fails_says_nothing_about_a_model_or_its_files(tmp_path):
    class Backend:
        def load_adapters(self, path):
            raise RuntimeError(INTERACTIVITY)

    with pytest.raises(RuntimeError, match="Impacting Interactivity"):
        select.load_adapters(Backend(), tmp_path, "--adapter-path")
    with pytest.raises(RuntimeError, match="Impacting Interactivity"), loading(tmp_path):
        raise RuntimeError(INTERACTIVITY)
    with pytest.raises(RuntimeError, match="Impacting Interactivity"):
        trial.unable(RuntimeError(INTERACTIVITY))
