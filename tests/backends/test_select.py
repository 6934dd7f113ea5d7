"""Which backend ``auto`` takes if there is an NVIDIA GPU, and what is said if it stays unused."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

pytest.importorskip("mlx.core", reason="mlx is not installed")
pytest.importorskip("torch", reason="torch is not installed")

import mlx.core as mx
import torch

from azr_mlx.backends import select
from azr_mlx.backends.select import choose, nvidia
from azr_mlx.commands import train
from azr_mlx.config import Quantization, load
from azr_mlx.errors import UsageError
from azr_mlx.models.locate import ResolvedModel

pytestmark = pytest.mark.backend


@pytest.fixture
def machine(monkeypatch):
    """A machine with an NVIDIA driver; what MLX computes on, whether torch sees CUDA, and what is
    not installed can be set."""
    for name in ("WORLD_SIZE", "CUDA_VISIBLE_DEVICES", *select._MLX_LAUNCH):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(select, "_said", [])

    def set_up(mlx=mx.cpu, cuda=True, driver=True, missing=()):
        monkeypatch.setattr(mx, "default_device", lambda: mlx)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(select, "nvidia", lambda: driver)
        why = {name: f"{name} does not import" for name in missing}
        monkeypatch.setattr(select, "_missing", lambda name: why.get(name, ""))

    return set_up


def chosen() -> tuple[str, str, list[str]]:
    said: list[str] = []
    return *choose("auto", said.append), said


def test_torch_is_taken_if_it_has_a_gpu_and_mlx_has_none(machine):
    machine()
    why = "auto: torch computes on an NVIDIA GPU, and MLX computes on the CPU"
    assert chosen() == ("torch", why, [])
    machine(missing=["mlx"])
    assert chosen() == ("torch", why.replace("MLX computes on the CPU", "mlx does not import"), [])


def test_mlx_is_taken_if_it_computes_on_the_gpu_itself(machine):
    machine(mlx=mx.gpu)
    assert chosen() == ("mlx", "auto: MLX imports", [])


def test_a_gpu_that_stays_unused_is_warned_of(machine, capsys):
    machine(cuda=False)
    name, why, (said,) = chosen()
    assert (name, why) == ("mlx", "auto: MLX imports")
    assert said.startswith(
        "this machine has an NVIDIA driver, but its CPU computes: MLX computes on the CPU, and "
        f"torch {torch.__version__} sees no CUDA device ("
    )
    machine(missing=["torch"])
    name, _, (said,) = chosen()
    assert name == "mlx" and "torch does not import; " in said and "[torch]" in said
    choose("auto")
    choose("auto")
    assert capsys.readouterr().err == f"azr-mlx: warning: {said}\n"
    machine(cuda=False, missing=["mlx"])
    name, _, said = chosen()
    assert name == "torch" and len(said) == 1
    machine(missing=["mlx", "torch"])
    with pytest.raises(UsageError, match=r"mlx does not import; .*pip install"):
        chosen()


def test_a_gpu_that_torch_cannot_use_is_warned_of_if_torch_is_asked_for(machine, capsys):
    machine(cuda=False)
    for _ in range(2):  # an evaluation chooses twice
        assert choose("torch") == ("torch", "asked for")
    (said,) = capsys.readouterr().err.splitlines()
    assert "an NVIDIA driver, but its CPU computes: torch " in said
    assert "install --" in said and "force-reinstall torch" in said, "pip would leave it as it is"
    for options in ({"cuda": False, "driver": False}, {"cuda": True}):
        machine(**options)
        choose("torch")
        assert capsys.readouterr().err == ""


OLD = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU "
    "driver by downloading and installing a new version from the URL: http://www.nvidia.com/ "
)


@pytest.mark.parametrize(
    ("built", "raised", "why"),
    [
        (None, AssertionError("Torch not compiled with CUDA enabled"), "it is built for the CPU"),
        ("13.0", RuntimeError(OLD), OLD.partition(". ")[0]),
        ("13.0", RuntimeError("No CUDA GPUs are available"), "No CUDA GPUs are available"),
    ],
)
def test_torch_says_why_it_sees_no_gpu(machine, monkeypatch, built, raised, why, recwarn):
    machine(cuda=False)

    def init():
        raise raised

    def is_available():
        warnings.warn(f"CUDA initialization: {raised}", stacklevel=2)
        return False

    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    _, _, (said,) = chosen()
    assert f"torch {torch.__version__} sees no CUDA device ({why}); " in said
    assert ("update the driver" in said) == (built is not None)
    assert not [one for one in recwarn if "CUDA initialization" in str(one.message)]


def test_nothing_changes_without_a_driver_or_if_a_backend_is_named(machine):
    machine(driver=False)
    assert chosen() == ("mlx", "auto: MLX imports", [])
    machine()
    said: list[str] = []
    assert choose("mlx", said.append) == ("mlx", "asked for") and said == []


def test_a_driver_is_known_by_proc_or_by_its_program(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(select, "NVIDIA", tmp_path / "version")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not nvidia()
    program = tmp_path / "nvidia-smi"
    for code, found in ((0, True), (9, False)):
        program.write_text(f"#!/bin/sh\nexit {code}\n")
        program.chmod(0o755)
        assert nvidia() is found
    (tmp_path / "version").write_text("NVRM version: 580.0\n")
    assert nvidia()
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert not nvidia(), "the user has hidden the GPUs"


def test_the_doctor_says_that_a_gpu_stays_unused(machine):
    from azr_mlx.commands.doctor import machine as checks

    machine(cuda=False)
    found = checks.gpu()
    assert found.status == "warn" and "sees no CUDA device" in found.what
    machine()
    found = checks.gpu()
    assert found.status == "ok" and found.what.startswith("torch (auto: torch computes on an NV")


def test_a_run_is_on_the_commit_that_it_was_on(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(select, "resolve", lambda name, revision, **_: asked.append(revision))
    adapters = tmp_path / "adapters"
    adapters.mkdir()
    (adapters / "adapter_config.json").write_text('{"model": "owner/model"}')
    (tmp_path / "config.yaml").touch()
    start = {"model": {"source": "hub:owner/model", "revision": "0123abcd"}}
    (tmp_path / "run.json").write_text(json.dumps({"starts": [start]}))
    for backend in ("mlx", "torch"):
        for place in (tmp_path, adapters, None):
            select.resolve_model(backend, "owner/model", Quantization(), place)
    assert asked == ["0123abcd", "0123abcd", None] * 2


def test_torch_takes_the_original_of_a_shipped_model_in_mlx_format(monkeypatch):
    asked = []
    monkeypatch.setattr(select, "resolve", lambda name, **_: asked.append(name))
    shipped = load("azr_config").model_id
    for backend in ("mlx", "torch"):
        select.resolve_model(backend, shipped, Quantization())
    select.resolve_model("torch", "mlx-community/another-4bit", Quantization())
    assert asked == [shipped, "Qwen/Qwen3-4B-Instruct-2507", "mlx-community/another-4bit"]


def test_adapters_name_the_weights_that_they_were_trained_on(monkeypatch):
    """Otherwise what torch has trained would be used with a base that is rounded to 4 bits."""
    opened = []
    monkeypatch.setattr(train, "open_backend", lambda *_, base, **__: opened.append(base))
    model = ResolvedModel(Path("model"), "folder:model", None, converted=False)
    for name in ("mlx", "torch"):
        train._load(name, load("azr_config"), model, None)
    assert opened == [load("azr_config").model_id, "Qwen/Qwen3-4B-Instruct-2507"]
