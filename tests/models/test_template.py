"""A chat template is tried before weights are fetched, converted or trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from azr_mlx import cli
from azr_mlx.commands.evaluate import EvalRequest, evaluate
from azr_mlx.commands.generate import Generator
from azr_mlx.commands.train import train
from azr_mlx.config import load
from azr_mlx.evaluation.protocol import Settings
from azr_mlx.models import template
from azr_mlx.models.template import check_template, has_chat_template
from azr_mlx.tasks.chat import TemplateError, has_template
from tests import chats
from tests.models.tiny_gguf import tiny

pytestmark = pytest.mark.backend

BROKEN = "{{ raise_exception('broken on purpose') }}"
FAILS = "chat template fails: broken on purpose"


def folder_with(path: Path, **config: Any) -> Path:
    """A model of which there is only the template."""
    path.mkdir(exist_ok=True)
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    (path / "config.json").write_text("{}")
    return path


@pytest.mark.parametrize("family", chats.FAMILIES)
def test_the_templates_of_families_are_fine(family: str, tmp_path: Path) -> None:
    check_template(str(folder_with(tmp_path / "a", chat_template=chats.template(family))))


@pytest.mark.parametrize(
    "config",
    [
        {"chat_template": BROKEN},
        {"chat_template": [{"name": "default", "template": BROKEN}]},
    ],
)
def test_a_template_in_the_tokenizers_configuration(config: Any, tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match=FAILS):
        check_template(str(folder_with(tmp_path / "a", **config)))


def test_a_template_in_its_own_file_is_the_one_that_counts(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "a", chat_template=chats.template("qwen3"))
    (folder / "chat_template.jinja").write_text(BROKEN)
    with pytest.raises(TemplateError, match=FAILS):
        check_template(str(folder))


@pytest.mark.parametrize("broken", [True, False])
def test_the_template_of_a_gguf_file(broken: bool, tmp_path: Path) -> None:
    from tests.models import tiny_gguf

    key = {"tokenizer.chat_template": BROKEN if broken else chats.template("gemma2")}
    path = tmp_path / "model.gguf"
    tiny(path, tiny_gguf.byte_vocabulary() | key)
    if broken:
        with pytest.raises(TemplateError, match=FAILS):
            check_template(str(path))
    else:
        check_template(str(path))


def test_any_part_of_a_split_file_has_the_template_of_the_first(tmp_path: Path) -> None:
    from tests.models.test_gguf import write_parts

    parts, _ = write_parts(tmp_path, {"tokenizer.chat_template": BROKEN})
    for part in parts:
        with pytest.raises(TemplateError, match=FAILS):
            check_template(str(part))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"chat_template": 3}', "{}"])
def test_what_has_no_template_has_none_to_fail(text: str, tmp_path: Path) -> None:
    check_template(str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text(text)
    check_template(str(tmp_path))


def test_of_a_model_on_the_hub_only_the_template_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def snapshot(repo: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
        asked.append((repo, revision, patterns))
        return folder_with(tmp_path / "snapshot", chat_template=BROKEN)

    monkeypatch.setattr(template, "hub_snapshot", snapshot)
    with pytest.raises(TemplateError, match=FAILS):
        check_template("someone/some-model", "main")
    [(repo, revision, patterns)] = asked
    assert (repo, revision) == ("someone/some-model", "main")
    assert not any("safetensors" in pattern or pattern == "config.json" for pattern in patterns)


FOUND = {
    "none": ({}, {}, False),
    "empty": ({"chat_template": ""}, {}, False),
    "in the configuration": ({"chat_template": "{{ messages }}"}, {}, True),
    "several": ({"chat_template": [{"name": "default", "template": "x"}]}, {}, True),
    "a file": ({}, {"chat_template.jinja": "{{ messages }}"}, True),
    "more files": ({}, {"additional_chat_templates/tool_use.jinja": "{{ messages }}"}, True),
    "a processor's": ({}, {"chat_template.json": '{"chat_template": "{{ messages }}"}'}, False),
}


@pytest.mark.parametrize("name", FOUND)
def test_a_template_is_found_where_the_tokenizer_finds_it(name: str, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import AutoTokenizer

    config, files, there = FOUND[name]
    folder = folder_with(tmp_path / "a", tokenizer_class="PreTrainedTokenizerFast", **config)
    Tokenizer(models.BPE()).save(str(folder / "tokenizer.json"))
    for file, text in files.items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(text)
    assert has_chat_template(str(folder)) == there
    assert has_template(AutoTokenizer.from_pretrained(folder)) == there


def test_code_that_writes_conversations_is_as_good_as_a_template(tmp_path: Path) -> None:
    """And it is what is used: a template beside it need not work."""
    by_code = {"chat_template_type": "deepseek_v32"}
    assert has_chat_template(str(folder_with(tmp_path / "a", **by_code)))
    check_template(str(folder_with(tmp_path / "b", **by_code, chat_template=BROKEN)))


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return str(folder_with(tmp_path / "broken", chat_template=BROKEN))


def test_nothing_is_written_for_a_template_that_fails(broken: str, tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match=FAILS):
        train(load(None, [f"model_id={broken}", "backend=mlx"]), quiet=True)
    with pytest.raises(TemplateError, match=FAILS):
        Generator(broken)
    data = tmp_path / "data.jsonl"
    row = {"task_id": "HumanEval/0", "prompt": "def f(x):\n", "canonical_solution": "    return x",
           "test": "def check(f):\n    assert f(1) == 1\n", "entry_point": "f"}  # fmt: skip
    data.write_text(json.dumps(row))
    with pytest.raises(TemplateError, match=FAILS):
        evaluate(EvalRequest(["humaneval"], Settings(), model=broken, data=data))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "data.jsonl"]


def test_a_model_with_such_a_template_can_still_be_converted(
    broken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["convert", "--hf-path", broken, "--mlx-path", str(tmp_path / "out")]) != 0
    first, *others = capsys.readouterr().err.splitlines()
    assert first.startswith("azr-mlx: warning: the model's chat template fails: broken on")
    assert "has no model*.safetensors" in others[-1]
