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


CUDA_MEMORY = (
    "CUDA out of memory. Tried to allocate 2.32 GiB. GPU 0 has a total capacity of 23.64 GiB of "
    "which 1.07 GiB is free. Including non-PyTorch memory, this process has 22.50 GiB memory in "
    "use."
)
TORCH_GOES_ON = (
    " Of the allocated memory 21.00 GiB is allocated by PyTorch, and 1.01 GiB is reserved by "
    "PyTorch but unallocated. If reserved but unallocated memory is large try setting "
    "PYTORCH_ALLOC_CONF=expandable_segments:True to avoid fragmentation.  See documentation"
)
NO_IMAGE = "CUDA error: no kernel image is available for execution on the device"
ILLEGAL = "CUDA error: an illegal memory access was encountered"


@pytest.mark.parametrize(
    ("said", "advice", "other"),
    [
        (INTERACTIVITY, "AGX_RELAX_CDM_CTXSTORE_TIMEOUT=1", "close other programs"),
        (OUT_OF_MEMORY, "close other programs", "AGX_RELAX"),
        ("[metal::malloc] Resource limit (499000) exceeded.", "close other programs", "AGX_RELAX"),
        ("[malloc] Unable to allocate 17179869184 bytes.", "close other programs", "AGX_RELAX"),
        (CUDA_MEMORY, "memory ran out: CUDA out of memory. Tried", "dmesg"),
        ("CUDA error: out of memory", "memory ran out: CUDA error", "dmesg"),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when", "close other programs", "dmesg"),
        ("Triton Error [CUDA]: out of memory", "close other programs", "dmesg"),
        ("HIP out of memory. Tried to allocate 2.00 GiB.", "close other programs", "dmesg"),
        ("MPS backend out of memory (MPS allocated: 9 GB)", "close other programs", "AGX_RELAX"),
        ("[enforce fail at alloc_cpu.cpp:127] err == 0.", "close other programs", "dmesg"),
        (NO_IMAGE, "was not built for this GPU", "close other programs"),
        (ILLEGAL, "dmesg", "AGX_RELAX"),
    ],
)
def test_a_device_that_fails_gets_the_advice_that_helps(said, advice, other):
    error = RuntimeError(said)
    told = str(errors.device_error(error, again="to continue: again"))
    assert errors.device_failed(error)
    assert said.rstrip(".") in told and advice in told and other not in told and "\n" not in told
    assert told.endswith("; to continue: again")


@pytest.mark.parametrize("said", [CUDA_MEMORY, NO_IMAGE, ILLEGAL])
def test_what_torch_adds_for_its_developers_is_left_out(said):
    lines = f"{said}{TORCH_GOES_ON}" if said == CUDA_MEMORY else f"{said}\nCUDA kernel errors might"
    told = str(errors.device_error(RuntimeError(lines)))
    assert said.rstrip(".") in told and "\n" not in told
    assert "Of the allocated" not in told and "might" not in told and ".;" not in told


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[matmul] shapes"),
        ValueError(INTERACTIVITY),
        RuntimeError(f"x {INTERACTIVITY}"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasGemmEx`"),
        AssertionError("Torch not compiled with CUDA enabled"),
    ],
)
def test_other_errors_are_not_the_device_s(error):
    assert not errors.device_failed(error)
    errors.pass_on(error)
    assert trial.unable(error) is False


@pytest.mark.parametrize(
    ("said", "words"), [(INTERACTIVITY, "Impacting Interactivity"), (CUDA_MEMORY, "CUDA out of")]
)
def test_a_device_that_fails_says_nothing_about_a_model_or_its_files(tmp_path, said, words):
    class Backend:
        def load_adapters(self, path):
            raise RuntimeError(said)

    with pytest.raises(RuntimeError, match=words):
        select.load_adapters(Backend(), tmp_path, "--adapter-path")
    with pytest.raises(RuntimeError, match=words), loading(tmp_path):
        raise RuntimeError(said)
    with pytest.raises(RuntimeError, match=words):
        trial.unable(RuntimeError(said))
