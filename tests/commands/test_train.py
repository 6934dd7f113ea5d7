"""What ``train`` checks before it loads a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from azr_mlx.commands.train import _refuse_another_scale as refuse_another_scale
from azr_mlx.config import load
from azr_mlx.errors import UsageError

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
