"""``rollout.form: auto``: what a run asks its model by, and that it says and keeps it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from azr_mlx.cli import main
from azr_mlx.commands import train
from azr_mlx.config import ConfigError, load
from azr_mlx.models import template
from azr_mlx.models.parameters import INDEX
from azr_mlx.models.template import has_chat_template
from azr_mlx.training import memory
from azr_mlx.training.asking import asked_by_size

pytestmark = pytest.mark.pure

SIZES = {
    "model_type": "qwen2",
    "hidden_size": 1536,
    "num_hidden_layers": 28,
    "intermediate_size": 8960,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}


def _model(folder: Path, template: str | None = "{{ messages }}", **sizes: Any) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**SIZES, **sizes}))
    (folder / "model.safetensors").write_bytes(b"")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return str(folder)


def _asked(model: str, *given: str) -> tuple[str, int, int, tuple[str, ...], str]:
    config, said = asked_by_size(load(None, [f"model_id={model}", *given]))
    r = config.rollout
    return r.form, r.max_propose_tokens, r.max_solve_tokens, config.solver.strategies, said


def test_the_form_is_that_of_the_models_size(tmp_path: Path) -> None:
    form, _, solve, _, said = _asked(_model(tmp_path / "a"))
    assert form == "chat" and solve < 1024 and "\n" not in said
    assert said.startswith("rollout.form: auto: for a model of 1.5 billion parameters: ")
    assert (
        f"rollout.form=chat rollout.max_propose_tokens=256 rollout.max_solve_tokens={solve}" in said
    )
    form, *_, said = _asked(_model(tmp_path / "b", num_hidden_layers=4))
    assert form == "few_shot" and "solver.strategies=[direct]" in said
    form, propose, solve, *_ = _asked(_model(tmp_path / "c", num_hidden_layers=90))
    assert (form, propose, solve) == ("chat", 1024, 1024)


def test_a_model_without_a_chat_template_continues_a_text(tmp_path: Path) -> None:
    model = _model(tmp_path / "a", None)
    assert not has_chat_template(model)
    form, *_, said = _asked(model)
    assert form == "few_shot" and "without a chat template" in said
    (tmp_path / "a" / "chat_template.jinja").write_text("{{ messages }}")
    assert has_chat_template(model) and _asked(model)[0] == "chat"


def test_models_of_any_architecture_have_a_size(tmp_path: Path) -> None:
    assert "of 1.5 billion" in _asked(_model(tmp_path / "a", model_type="gemma3_text"))[-1]
    within = _model(tmp_path / "b", model_type="any", text_config={"num_hidden_layers": 2})
    assert "of 0.33 billion" in _asked(within)[-1]
    assert "of unknown size" in _asked(_model(tmp_path / "c", model_type="x", vocab_size=None))[-1]
    assert "of unknown size" in _asked(str(tmp_path / "none"))[-1]


def test_what_the_weights_are_known_to_be_counts(tmp_path: Path) -> None:
    """An index of weights says it, also on the hub, from where no weights are fetched."""
    model = _model(tmp_path / "a")
    index = {"metadata": {"total_parameters": 20 * 10**9}, "weight_map": {}}
    (tmp_path / "a" / INDEX).write_text(json.dumps(index))
    form, propose, *_, said = _asked(model)
    assert "of 20 billion" in said and (form, propose) == ("chat", 1024)


def test_of_a_model_on_the_hub_no_weights_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, asked = Path(_model(tmp_path / "a")), []

    def snapshot(repo: str, revision: str | None = None, patterns: tuple[str, ...] = ()) -> Path:
        asked.extend(patterns)
        return folder

    monkeypatch.setattr(memory, "hub_snapshot", snapshot)
    monkeypatch.setattr(template, "hub_snapshot", snapshot)
    assert "of 1.5 billion" in _asked("somebody/model")[-1]
    assert set(asked) == {"config.json", INDEX, "tokenizer_config.json", "*.jinja"}


def test_a_form_that_is_named_is_left_alone(tmp_path: Path) -> None:
    config = load(None, ["rollout.form=few_shot"])
    assert asked_by_size(config) == (config, "")


def test_settings_that_do_not_fit_the_form_are_refused(tmp_path: Path) -> None:
    model = _model(tmp_path / "a", num_hidden_layers=4)
    with pytest.raises(ConfigError, match=r"rollout.overlong_buffer: 100: longer than a whole"):
        _asked(model, "rollout.overlong_buffer=100")


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run accepts a model that has no weights, which it otherwise refuses."""
    monkeypatch.setattr(train, "check_model", lambda config, backend: None)


def test_a_default_that_is_given_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], no_weights: None
) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("rollout: {max_propose_tokens: 1024}\n")
    model = _model(tmp_path / "a", num_hidden_layers=4)
    words = ["--model", model, "--dry-run", "rollout.max_solve_tokens=1024"]
    assert main(["train", "-c", str(own), *words]) == 0
    out = capsys.readouterr().out
    assert "parameters: rollout.form=few_shot solver.strategies=[direct]\n" in out


def test_a_dry_run_shows_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], no_weights: None
) -> None:
    assert main(["train", "--model", _model(tmp_path / "a"), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "# rollout.form: auto: for a model of 1.5 billion parameters" in out
    assert "  form: chat\n" in out and "form: auto\n" not in out
