"""Estimates before a run: from a model's config.json alone, near what the model turns out to be."""

import json

import pytest

mx = pytest.importorskip("mlx.core", reason="mlx is not installed")

from mlx.utils import tree_flatten  # noqa: E402

from azr_mlx.backends.mlx import MlxBackend, adapters  # noqa: E402
from azr_mlx.config import Config, Lora  # noqa: E402
from azr_mlx.errors import ModelError  # noqa: E402
from azr_mlx.training import memory  # noqa: E402
from tests.tiny import CharTokenizer, tiny_folder, tiny_model  # noqa: E402

pytestmark = pytest.mark.backend


def test_parameters_are_counted_as_the_model_has_them(tmp_path):
    tiny_folder(tmp_path / "tiny")
    shape = memory.Shape.from_config(memory.model_config(str(tmp_path / "tiny")))
    assert (shape.vocabulary, shape.tied) == (257, False)
    shape = memory.Shape.from_config({**vars(tiny_model().args)})
    model = tiny_model(quantized=False)
    matrices = sum(v.size for _, v in tree_flatten(model.parameters()) if v.ndim == 2)
    assert shape.matrices() == matrices
    MlxBackend(model, CharTokenizer(), Lora(rank=4))
    lora = sum(v.size for v in adapters.adapter_weights(model).values())
    assert shape.lora_parameters(Lora(rank=4)) == lora


def test_a_dry_run_says_what_a_run_will_cost(tmp_path):
    tiny_folder(tmp_path / "tiny")
    text = memory.describe(Config(model_id=str(tmp_path / "tiny")))
    assert "rollouts per step: at most 104 (8 proposals, 96 solutions)" in text
    assert "memory, update:" in text and "a checkpoint takes" in text


def test_a_dry_run_downloads_no_weights(tmp_path, monkeypatch):
    asked = []

    def snapshot(repo, revision=None, patterns=()):
        asked.append((repo, patterns))
        (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8}))
        return tmp_path

    monkeypatch.setattr(memory, "hub_snapshot", snapshot)
    assert memory.model_config("somebody/model") == {"hidden_size": 8}
    assert asked == [("somebody/model", ("config.json",))]


def test_a_model_that_is_not_there_is_said_in_a_line(monkeypatch):
    def refuse(*_, **__):
        raise ModelError("model 'a/b' is not in the hub's cache", "go online once")

    monkeypatch.setattr(memory, "hub_snapshot", refuse)
    text = memory.describe(Config(model_id="a/b"))
    assert "# memory: unknown: model 'a/b' is not in the hub's cache; go online once" in text
