"""What a downloaded folder says of itself, and what it must not do."""

from __future__ import annotations

import errno
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

pytest.importorskip("mlx.core", reason="mlx is not installed")

from azr_mlx.backends.base import Sampling
from azr_mlx.backends.mlx import MlxBackend
from azr_mlx.commands.generate import Generator
from azr_mlx.config import Lora, Quantization
from azr_mlx.errors import ModelError
from azr_mlx.evaluation.model import open_model as evaluated
from azr_mlx.models.config_keys import missing_keys
from azr_mlx.models.folder import check_folder, convert_folder
from azr_mlx.models.gguf import import_gguf
from azr_mlx.models.locate import locate
from azr_mlx.models.mlx_model import open_model
from azr_mlx.types import Prompt
from tests import architectures
from tests.models import tiny_gguf, trained

pytestmark = pytest.mark.backend

LINEAR = {"rope_type": "linear", "type": "linear", "factor": 8.0}  # some models read the older name


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
            {"rope_theta": 5.0, "rope_scaling": LINEAR},
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
                "rope_scaling": LINEAR,
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


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 1234\n"


def _in_parts(base: Path, keep: int, parts: int = 3) -> None:
    """The weights in several files with an index, of which the first ``keep`` are there."""
    arrays = load_file(base / "model.safetensors")
    index = {name: f"model-{i % parts + 1:05d}-of-{parts:05d}.safetensors" for i, name in
             enumerate(arrays)}  # fmt: skip
    for file in sorted(set(index.values()))[:keep]:
        part = {name: array for name, array in arrays.items() if index[name] == file}
        save_file(part, base / file, {"format": "mlx"})
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (base / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (0, r"lacks 3 of its 3 files of weights .*00001-of"),
        (2, r"lacks 1 of its 3 .*00003-of.*hf"),
    ],
)
def test_parts_that_were_not_fetched_are_named(base: Path, kept: int, message: str) -> None:
    _in_parts(base, kept)
    with pytest.raises(ModelError, match=message):
        check_folder(base)


def test_an_index_from_before_the_parts_were_made_one_is_passed_over(base: Path) -> None:
    whole = (base / "model.safetensors").read_bytes()
    _in_parts(base, 0)
    (base / "model.safetensors").write_bytes(whole)
    check_folder(base)
    open_model(base)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_what_git_has_not_fetched_is_named(base: Path, name: str) -> None:
    (base / name).write_text(POINTER)
    with pytest.raises(ModelError, match=rf"{name} is only git-lfs's pointer .* `git lfs pull`"):
        check_folder(base)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("consolidated.safetensors", r"only consolidated.safetensors, which is Mistral's own"),
        ("model-q4.gguf", r"but a GGUF file; name .*model-q4.gguf"),
        ("pytorch_model.bin", r"no model.*, only pytorch_model.bin; save it with"),
    ],
)
def test_weights_in_another_format_are_named(base: Path, name: str, message: str) -> None:
    (base / "model.safetensors.index.json").unlink()
    (base / "model.safetensors").rename(base / name)
    (base / "mmproj-f16.gguf").touch() if name.endswith(".gguf") else None
    with pytest.raises(ModelError, match=message):
        check_folder(base)


def _configured(base: Path, **entries: Any) -> None:
    file = base / "config.json"
    row = {**json.loads(file.read_text()), **entries}
    file.write_text(json.dumps({key: value for key, value in row.items() if value is not None}))


def test_a_configuration_without_a_type_is_one_line(base: Path) -> None:
    _configured(base, model_type=None)
    with pytest.raises(ModelError, match=r"config.json has no model_type; fetch it again"):
        check_folder(base)


def _opened(base: Path, way: str, tmp_path: Path) -> None:
    if way == "opened":
        open_model(base)
    elif way == "trained":
        MlxBackend.from_folder(base, Lora(rank=1))
    else:
        convert_folder(base, tmp_path / "out", Quantization(bits=0), None)


@pytest.mark.parametrize("way", ["opened", "trained", "converted"])
def test_weights_that_another_program_quantised_are_refused(
    base: Path, way: str, tmp_path: Path
) -> None:
    """transformers may read them, and torch is left to try."""
    _configured(base, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    check_folder(base)
    with pytest.raises(
        ModelError, match=r"quantised by bitsandbytes.*; take the model that it was"
    ):
        _opened(base, way, tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "how",
    [
        {"quant_method": "fp8", "weight_block_size": [128, 128]},
        {"quant_method": "compressed-tensors", "format": "float-quantized"},
        {"quant_method": "modelopt", "quant_algo": "FP8"},
        {"bits": 4},
    ],
    ids=["fp8", "compressed-tensors", "modelopt", "no method"],
)
def test_a_format_that_mlx_lm_does_not_have_is_named_as_that(
    base: Path, how: dict[str, Any]
) -> None:
    _configured(base, quantization_config=how)
    arrays = load_file(base / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight_scale_inv"
    save_file({**arrays, name: np.ones(1, np.float32)}, base / "model.safetensors")
    with pytest.raises(ModelError, match=r"quantised in a way that MLX does not read; take the"):
        open_model(base)


def test_a_rotary_share_that_mlx_lm_ignores_is_refused(base: Path) -> None:
    """Of glm; its logits would be wrong without any error."""
    _configured(base, model_type="glm", partial_rotary_factor=0.5)
    with pytest.raises(ModelError, match=r"ignores its partial_rotary_factor, 0.5; train it with"):
        open_model(base)
    _configured(base, partial_rotary_factor=None, rope_parameters={"partial_rotary_factor": 0.5})
    with pytest.raises(ModelError, match=r"ignores its partial_rotary_factor, 0.5"):
        open_model(base)


def test_a_module_of_mlx_lm_that_ends_the_program_does_not(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of olmo does, if a package is missing."""
    monkeypatch.setitem(sys.modules, "hf_olmo", None)
    monkeypatch.delitem(sys.modules, "mlx_lm.models.olmo", raising=False)
    _configured(base, model_type="olmo")
    with pytest.raises(ModelError, match=r"cannot be loaded: its architecture needs another pack"):
        open_model(base)


def test_a_token_that_the_model_has_no_row_for_is_named(base: Path) -> None:
    """MLX would read beyond the embedding, and torch would end with an error of the device."""
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokenizer.add_special_tokens([f"<added {i}>" for i in range(trained.ROWS)])
    tokenizer.save(str(base / "tokenizer.json"))
    generator = Generator(str(base), raw=True)
    wrong = rf"token \d+ \('<added 271>'\), and the model has {trained.ROWS} rows; take the tok"
    with pytest.raises(ModelError, match=wrong):
        generator.complete("x <added 271>", Sampling(max_tokens=1), raw=True)
    backend = MlxBackend.from_folder(base, Lora(rank=1))
    ids = tuple(backend.tokenizer.encode("x <added 271>"))
    with pytest.raises(ModelError, match=wrong):
        backend.generate([Prompt("", ids)], [Sampling(max_tokens=1)], [0])


def test_the_hubs_cache_and_ollamas_files_are_explained(base: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--owner--name" / "snapshots" / "c0ffee"
    shutil.copytree(base, snapshot)
    with pytest.raises(ModelError, match=rf"no config.json; did you mean {snapshot}\?"):
        locate(str(tmp_path / "models--owner--name"))
    (tmp_path / "sha256-1234").write_bytes(b"GGUF\3\0\0\0")
    with pytest.raises(ModelError, match=r"is a GGUF file, but its name does not end in .gguf;"):
        locate(str(tmp_path / "sha256-1234"))


@pytest.mark.parametrize(
    "name",
    [
        "https://huggingface.co/owner/a.model",
        "huggingface.co/owner/a.model/tree/main",
        "hf.co/owner/a.model:Q4_K_M",
        "owner/a.model:Q4_K_M",
    ],
)
def test_other_programs_names_of_a_repository(name: str) -> None:
    with pytest.raises(ModelError, match=r"is not the name of .*; did you mean owner/a\.model\?"):
        locate(name)


@pytest.mark.parametrize(
    "full",
    [RuntimeError("[write] Unable to write 8 bytes to file."), OSError(errno.ENOSPC, "No space")],
    ids=["as MLX says it", "as Python says it"],
)
def test_a_full_disk_is_not_blamed_on_the_model(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: Exception
) -> None:
    def save(*_: object, **__: object) -> None:
        raise full

    file = tmp_path / "m.gguf"
    tiny_gguf.tiny(file)
    monkeypatch.setattr("mlx.core.save_safetensors", save)
    for convert in (
        lambda: convert_folder(base, tmp_path / "out", Quantization(bits=0), None),
        lambda: import_gguf(file, tmp_path / "out", Quantization(bits=0)),
    ):
        with pytest.raises(ModelError, match=r"cannot be written to .*; make room, or choose ano"):
            convert()
    assert not list(tmp_path.glob("out*"))
