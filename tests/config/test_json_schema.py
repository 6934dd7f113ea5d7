"""The schema by which editors check a configuration: fresh, and never stricter than the program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from azr_mlx.config import Config, ConfigError, json_schema, load, schema, shipped, to_yaml

pytestmark = pytest.mark.pure


@pytest.fixture(scope="module")
def validator() -> Any:
    jsonschema = pytest.importorskip("jsonschema", reason="pip install 'azr-mlx[dev]'")
    jsonschema.Draft7Validator.check_schema(json_schema.json_schema())
    return jsonschema.Draft7Validator(json_schema.json_schema())


def test_the_shipped_schema_is_that_of_the_settings() -> None:
    text = (shipped.config_dir() / json_schema.FILE).read_text("utf-8")
    assert text == json_schema.to_text(), "run: python docs/refresh.py"


def test_every_key_is_described() -> None:
    sections = json_schema.json_schema()["properties"]
    for key in schema.leaves(Config):
        section, _, name = key.rpartition(".")
        known = sections[section]["properties"] if section else sections
        assert known[name]["description"], key
        assert "default" in known[name], key
    assert all(part["description"] for part in sections.values())
    assert sections["learning_rate"]["description"].startswith("Learning rate of AdamW")
    assert sections["model_id"]["description"].startswith("Hub repository")


@pytest.mark.parametrize("name", sorted(shipped.shipped_configs()))
def test_shipped_configurations_name_the_schema_and_follow_it(name: str, validator: Any) -> None:
    text = shipped.shipped_configs()[name].read_text("utf-8")
    assert text.splitlines()[0] == json_schema.MODELINE
    validator.validate(yaml.safe_load(text))


def test_what_a_run_writes_follows_it(validator: Any) -> None:
    validator.validate(yaml.safe_load(to_yaml(Config())))


@pytest.mark.parametrize(
    "text",
    [
        "learning_rate: 15e-4",  # text to PyYAML
        "learning_rate: '1_0.5e-3'",
        "max_steps: '1_000'",
        "run_name: 2026",
        "run_name:",
        "early_stopping: 'YES'",
        "rollout: {thinking: off}",
        "ppo: {grad_checkpoint: true}",
        "ppo: {dual_clip: 0}",
        "quantization: {bits: '8'}",
        "task_types: deduction, induction",
        "lora: {keys: }",
        "lora:",
        "sandbox: {allowed_imports: []}",
        "",
    ],
)
def test_what_the_program_accepts_is_accepted(text: str, validator: Any, tmp_path: Path) -> None:
    load(_file(tmp_path, text))
    validator.validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    "text",
    [
        "learning_rates: 1",
        "learning_rate: 0",
        "learning_rate: fast",
        "max_steps: 1.5",
        "early_stopping: maybe",
        "kl_penalty: k2",
        "initial_difficulty: 0.95",
        "ppo: {dual_clip: 0.5}",
        "ppo: {clips: 1}",
        "ppo: 3",
        "quantization: {bits: 7}",
        "task_types: []",
        "task_types: [deduction, deduction]",
        "evaluation: {benchmarks: [humanevil]}",
    ],
)
def test_what_is_refused_by_one_key_alone_is_refused(
    text: str, validator: Any, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError):
        load(_file(tmp_path, text))
    assert not validator.is_valid(yaml.safe_load(text))


def _file(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, "utf-8")
    return path
