"""What ``train`` checks before it loads a model, and what it says when the device fails."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from azr_mlx import run_folder
from azr_mlx.commands.train import _device_errors as device_errors
from azr_mlx.commands.train import _full_disk as full_disk
from azr_mlx.commands.train import _refuse_another_scale as refuse_another_scale
from azr_mlx.commands.train import _try_line as try_line
from azr_mlx.config import load
from azr_mlx.errors import DeviceError, UsageError

pytestmark = pytest.mark.pure


def test_adapters_of_another_scale_are_not_gone_on_with(tmp_path: Path) -> None:
    adapters = tmp_path / "adapters.safetensors"
    config = load(None, ["lora.scale=2"])
    refuse_another_scale(config, adapters)  # nothing says by what they are multiplied
    for scale in (2.0, 20.0):
        row = {"num_layers": 4, "lora_parameters": {"rank": 8, "scale": scale, "dropout": 0.0}}
        (tmp_path / "adapter_config.json").write_text(json.dumps(row))
        if scale == 2.0:
            refuse_another_scale(config, adapters)
            continue
        with pytest.raises(UsageError, match=r"a scale of 20, .* give lora\.scale=20"):
            refuse_another_scale(config, adapters)


METAL = "[METAL] Command buffer execution failed: Impacting Interactivity (0000000e)"


@pytest.mark.parametrize(("saved", "leads"), [(True, True), (False, True), (True, False)])
def test_a_device_that_fails_ends_a_run_with_advice(
    tmp_path: Path, saved: bool, leads: bool
) -> None:
    if saved:
        run_folder.checkpoint_of(tmp_path, 4).mkdir(parents=True)
    with pytest.raises(DeviceError) as found, device_errors(tmp_path, leads):
        raise RuntimeError(METAL)
    told = str(found.value)
    assert METAL in told and "AGX_RELAX_CDM_CTXSTORE_TIMEOUT=1" in told and "\n" not in told
    assert (f"train --resume {tmp_path}" in told) == (saved and leads)


@pytest.mark.parametrize(
    "said", ["[metal::malloc] Resource limit (499000) exceeded.", "CUDA out of memory. Tried to"]
)
def test_memory_that_runs_out_gets_the_advice_of_the_plan(tmp_path: Path, said: str) -> None:
    advice = r"memory ran out: .*rollout\.max_batch.*--dry-run"
    with pytest.raises(DeviceError, match=advice), device_errors(tmp_path, True):
        raise RuntimeError(said)


def test_other_errors_of_a_run_are_left_alone(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes"), device_errors(tmp_path, True):
        raise RuntimeError("[matmul] shapes")


def test_a_chat_model_is_asked_and_another_has_code_to_continue():
    asked = try_line(Path("runs/a"), SimpleNamespace(chat_template="{{ messages }}"))
    assert "--adapter-path runs/a --prompt 'Write a Python function" in asked
    assert "--prompt 'def f(n):'" in try_line(Path("runs/a"), SimpleNamespace(chat_template=None))


def test_a_full_disk_is_named():
    """Writing to a file that is open tells no name."""
    for error, name in (
        (OSError(28, "No space left on device"), "runs/a"),
        (OSError(28, "No space left on device", "runs/a/metrics.jsonl"), "runs/a/metrics.jsonl"),
        (OSError(5, "Input/output error"), None),
    ):
        with pytest.raises(OSError) as caught, full_disk(Path("runs/a")):
            raise error
        assert caught.value is error and error.filename == name
