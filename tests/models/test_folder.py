"""What a downloaded folder says of itself, and what it must not do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mlx.core", reason="mlx is not installed")

from azr_mlx.config import Quantization
from azr_mlx.errors import ModelError
from azr_mlx.evaluation.model import open_model as evaluated
from azr_mlx.models.folder import check_folder, missing_keys
from azr_mlx.models.mlx_model import open_model
from tests import architectures
from tests.models import trained

pytestmark = pytest.mark.backend


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(architectures.SIZES, "vocab_size", trained.ROWS)
    model, config = architectures.tiny("llama"), architectures.configuration("llama")
    return trained.write_base(tmp_path / "base", model, config)


def test_the_code_of_a_tokenizer_is_never_run(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "it-ran"
    (base / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Evil: pass\n")
    row = json.loads((base / "tokenizer_config.json").read_text())
    row |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    (base / "tokenizer_config.json").write_text(json.dumps(row))
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # whoever asks is told to go on
    with pytest.raises(ModelError, match="code of its own, which is never run; take a model"):
        open_model(base, None)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"rope_parameters": {"rope_theta": 5.0}}, {"rope_theta": 5.0}),
        ({"rope_theta": 7.0, "rope_parameters": {"rope_theta": 5.0}}, {}),
        (
            {"rope_parameters": {"rope_theta": 5.0, "partial_rotary_factor": 0.5}},
            {"rope_theta": 5.0, "partial_rotary_factor": 0.5},
        ),
        (
            {"rope_parameters": {"rope_theta": 5.0, "rope_type": "linear", "factor": 8.0}},
            {"rope_theta": 5.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        ),
        (
            {"text_config": {"a": 1, "rope_parameters": {"rope_theta": 5.0}}},
            {"text_config": {"a": 1, "rope_parameters": {"rope_theta": 5.0}, "rope_theta": 5.0}},
        ),
        (
            {
                "rope_parameters": {
                    "full_attention": {"rope_theta": 5.0, "rope_type": "linear", "factor": 8.0},
                    "sliding_attention": {"rope_theta": 3.0},
                }
            },
            {
                "rope_theta": 5.0,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
                "rope_local_base_freq": 3.0,
            },
        ),
        ({"rope_parameters": None, "text_config": [1]}, {}),
        ({"rope_parameters": {"full_attention": 3, "sliding_attention": {}}}, {}),
    ],
)
def test_rotary_settings_are_found_where_transformers_5_keeps_them(
    config: dict[str, Any], found: dict[str, Any]
) -> None:
    assert missing_keys(config, set()) == found


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_samples_of_a_changed_model_are_not_taken_for_those_of_another(
    base: Path, name: str
) -> None:
    def identity() -> str:
        return evaluated(str(base), None, Quantization(bits=0), "mlx")[1].model_sha256

    before = identity()
    assert identity() == before
    row = json.loads((base / name).read_text()) if (base / name).exists() else {}
    (base / name).write_text(json.dumps({**row, "added": 1}))
    assert identity() != before


def test_what_transformers_or_mlx_would_fail_on_later_is_one_line(base: Path) -> None:
    file = base / "tokenizer_config.json"
    row = json.loads(file.read_text())
    file.write_text(json.dumps(row | {"model_max_length": "512"}))
    with pytest.raises(ModelError, match="model_max_length: '512': is a text"):
        check_folder(base)
    file.write_text(json.dumps(row))
    check_folder(base)
    file = base / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_hidden_layers": 10**9}))
    with pytest.raises(ModelError, match="num_hidden_layers: 1000000000: is more than 10000"):
        check_folder(base)
