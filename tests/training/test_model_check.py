"""A dry run of a model that a run could not load, or not ask by its form, ends as the run would:
with one line and its exit code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mlx.core", reason="mlx is not installed")

from azr_mlx.cli import main
from azr_mlx.errors import ModelError
from azr_mlx.models import gguf
from azr_mlx.training import memory
from tests.tiny import tiny_folder

pytestmark = pytest.mark.backend


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "good"
    tiny_folder(folder)
    return folder


def changed(folder: Path, file: str = "config.json", **entries: Any) -> None:
    row = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**row, **entries}))


def unknown(folder: Path) -> None:
    changed(folder, model_type="nobody")


def without_a_part(folder: Path) -> None:
    parts = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(parts))


def cut(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def of_other_sizes(folder: Path) -> None:
    changed(folder, num_hidden_layers=3)


def no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")


def dry(capsys: pytest.CaptureFixture[str], model: str, *more: str) -> tuple[int, str]:
    """The exit code, and the only line of stderr; stdout has the plan or nothing."""
    code = main(["train", "-c", "quickstart", "--dry-run", "--model", model, *more])
    out, err = capsys.readouterr()
    assert bool(out) == (code == 0), out
    assert len(err.splitlines()) == (code != 0), err
    return code, err


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (unknown, "Model type nobody not supported; take a model of another architecture"),
        (without_a_part, "lacks 1 of its 2 files of weights (model-00002-of-00002.safetensors)"),
        (cut, "model.safetensors is not a whole safetensors file"),
        (of_other_sizes, "cannot be loaded: Missing"),
        (no_json, "config.json cannot be read: not JSON"),
        (no_tokenizer, "cannot be loaded: "),
    ],
)
def test_a_folder_that_cannot_be_loaded(good, tmp_path, capsys, damage, what):
    shutil.copytree(good, tmp_path / "model")
    damage(tmp_path / "model")
    code, said = dry(capsys, str(tmp_path / "model"))
    assert code == 1 and what in said


def test_a_model_that_can_be_loaded(good, capsys, monkeypatch):
    import mlx.core as mx

    def read(*_: Any) -> None:
        pytest.fail("weights were read")

    monkeypatch.setattr(mx, "eval", read)
    assert dry(capsys, str(good))[0] == 0


def test_a_form_that_the_model_cannot_be_asked_by(good, capsys):
    code, said = dry(capsys, str(good), "rollout.form=chat")
    assert code == 2 and "rollout.form: chat: this model has no chat template" in said


def test_a_file_that_is_not_whole(tmp_path, capsys):
    (tmp_path / "a.gguf").write_bytes(b"GGUF\x03\0\0\0")
    code, said = dry(capsys, str(tmp_path / "a.gguf"))
    assert code == 1 and "its header is cut off or damaged" in said


def test_a_file_whose_tokenizer_cannot_be_converted(tmp_path, capsys, monkeypatch):
    def refuse(path: Path) -> None:
        raise ModelError("its tokenizer is of another kind", "take another file")

    monkeypatch.setattr(gguf, "check_gguf", refuse)
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(memory, "model_config", lambda model_id: {})
    code, said = dry(capsys, str(tmp_path / "a.gguf"))
    assert code == 1 and "its tokenizer is of another kind; take another file" in said


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("nobody", "model 'some/body' cannot be loaded: Model type nobody not supported"),
        ("gemma3_text", ""),
        (None, "model 'some/body': config.json has no model_type"),
    ],
)
def test_of_the_hub_the_architecture_is_known(tmp_path, capsys, monkeypatch, kind, what):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    monkeypatch.setattr(memory, "hub_snapshot", lambda *_, **__: tmp_path)
    code, said = dry(capsys, "some/body")
    assert (code, what in said) == (1 if what else 0, True)


def test_on_torch_transformers_has_to_know_it(good, tmp_path, capsys):
    pytest.importorskip("peft", reason="torch or peft is not installed")
    shutil.copytree(good, tmp_path / "model")
    (row := json.loads((good / "config.json").read_text())).pop("quantization")
    (tmp_path / "model" / "config.json").write_text(json.dumps(row))
    assert dry(capsys, str(tmp_path / "model"), "--backend", "torch")[0] == 0
    unknown(tmp_path / "model")
    code, said = dry(capsys, str(tmp_path / "model"), "--backend", "torch")
    assert code == 1 and "cannot be loaded: " in said and "nobody" in said
    code, said = dry(capsys, str(good), "--backend", "torch")
    assert code == 2 and "its weights are quantised for MLX" in said
