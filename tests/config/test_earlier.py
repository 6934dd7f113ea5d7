"""The config.yaml of runs that earlier versions began: they go on as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from azr_mlx.cli.arguments import config_of
from azr_mlx.config import (
    Config,
    ConfigError,
    Quantization,
    diff,
    is_of_run,
    load,
    load_keys,
    load_run,
    schema,
    shipped,
    to_yaml,
)
from azr_mlx.config.earlier import BEFORE
from azr_mlx.evaluation.protocol import Settings

pytestmark = pytest.mark.pure

EARLIER = Path(__file__).with_name("earlier_run.yaml")
AS_IT_WAS = {
    "proposer.advantage": "same",
    "proposer.loss_share": 0.0,
    "proposer.guessing": "counted",
    "proposer.reference_choice": "difficulty",
    "proposer.extended": 0.0,
    "proposer.hardest_template": 0.9,
    "proposer.levels": "asked",
    "proposer.duplicate_cost": 1.0,
    "rollout.thinking": "off",
    "held_out.hardest": 0.0,
    "held_out.draws": 4,
    "solver.reward": "verdict",
    "solver.buffer_choice": "uniform",
    "solver.repeats": "wrong",
}


def run_with(folder: Path, text: str) -> Path:
    """A run with one checkpoint; nothing is in it but its configuration."""
    checkpoint = folder / "runs" / "old" / "checkpoints" / "step_000003"
    checkpoint.mkdir(parents=True)
    (folder / "runs" / "old" / "config.yaml").write_text(text, encoding="utf-8")
    return folder / "runs" / "old"


def earlier_with(**proposer: Any) -> str:
    tree = yaml.safe_load(EARLIER.read_text("utf-8"))
    tree["proposer"] |= proposer
    return yaml.safe_dump(tree)


def values(config: Config) -> dict[str, Any]:
    return dict(schema.flat(config))


def test_a_setting_that_came_later_says_what_was_meant_before() -> None:
    """A setting that is new since this file needs a place in the table: what did runs do that did
    not have it?"""
    tree = yaml.safe_load(EARLIER.read_text("utf-8"))
    known = {f"{k}.{name}" for k, v in tree.items() if isinstance(v, dict) for name in v} | {*tree}
    assert set(schema.leaves(Config)) - known == set(BEFORE) == set(AS_IT_WAS)


def test_a_run_of_an_earlier_version_is_resumed_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_with(tmp_path, EARLIER.read_text("utf-8"))
    config, said = config_of(None, "runs/old", ["max_steps=7"])
    found = values(config)
    assert {key: found[key] for key in AS_IT_WAS} == AS_IT_WAS
    assert (found["proposer.reward"], found["proposer.invalid_reward"]) == ("one_minus", -1.0)
    assert (found["rollout.form"], found["rollout.max_solve_tokens"]) == ("chat", 512)
    assert found["max_steps"] == 7
    assert "\n" not in said and "runs/old/config.yaml is of an earlier version" in said
    kept = "proposer.advantage=same proposer.loss_share=0 proposer.guessing=counted;"
    assert kept in said and "thinking" not in said, "what is today's default needs no word"


def test_an_empty_file_is_not_a_run_of_the_default_model(tmp_path: Path) -> None:
    """As a kill in the middle of writing left it in earlier versions."""
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"config\.yaml: is empty"):
        load_run(tmp_path / "config.yaml")


def test_what_is_given_on_resume_holds(tmp_path: Path) -> None:
    config, said = load_run(EARLIER, ["proposer.advantage=ema", "proposer.loss_share=0.5"])
    assert (config.proposer.advantage, config.proposer.loss_share) == ("ema", 0.5)
    assert "proposer.loss_share=0.5" not in said and "advantage" not in said


def test_a_run_of_this_version_is_resumed_with_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["proposer.loss_share=0.1", "proposer.guessing=counted", "run_name=old"]
    made = load("quickstart", given)
    run_with(tmp_path, to_yaml(made))
    assert config_of(None, "latest", []) == (made, "")


@pytest.mark.parametrize("inputs", [2, 3])
def test_too_few_inputs_are_refused_of_new_runs_alone(inputs: int, tmp_path: Path) -> None:
    path = run_with(tmp_path, earlier_with(induction_inputs=inputs)) / "config.yaml"
    config, said = load_run(path)
    assert config.proposer.induction_inputs == 4
    assert f"proposer.induction_inputs is 4 and not {inputs}" in said and "\n" not in said
    config, said = load_run(path, ["proposer.induction_inputs=6"])
    assert config.proposer.induction_inputs == 6 and "induction_inputs" not in said
    wrong = f"proposer.induction_inputs: {inputs}"
    with pytest.raises(ConfigError, match=wrong):
        load(path)
    with pytest.raises(ConfigError, match=wrong):
        load_run(path, [f"proposer.induction_inputs={inputs}"])


def test_a_setting_that_is_gone_does_not_end_a_run(tmp_path: Path) -> None:
    tree = yaml.safe_load(EARLIER.read_text("utf-8"))
    del tree["ppo"]["micro_batch_tokens"]
    tree["ppo"]["micro_batch"] = 4
    path = run_with(tmp_path, yaml.safe_dump(tree)) / "config.yaml"
    assert diff(load_run(path)[0], load_run(EARLIER)[0]) == {}


def test_mistakes_are_still_reported_all_at_once(tmp_path: Path) -> None:
    text = earlier_with(induction_inputs=1, references=-1)
    path = run_with(tmp_path, text) / "config.yaml"
    with pytest.raises(ConfigError) as caught:
        load_run(path, ["max_step=3"])
    keys = {line.partition(":")[0] for line in caught.value.lines}
    assert keys == {"proposer.induction_inputs", "proposer.references", "max_step"}
    path.write_text("proposer: 3\n")
    with pytest.raises(ConfigError, match="proposer: 3: a section"):
        load_run(path)


def test_a_rank_is_given_a_copy_of_the_file_by_name(tmp_path: Path) -> None:
    """It does not see the run, and has to have the same configuration as the rank that does."""
    copy = tmp_path / "copy.yaml"
    copy.write_text(EARLIER.read_text("utf-8"))
    config, _ = config_of(str(copy), "runs/elsewhere", [])
    assert config == load_run(EARLIER)[0]
    config, said = config_of(str(copy), None, [])
    assert config.proposer.advantage == "ema" and not said, "a new run has the new defaults"
    copy.write_text("max_steps: 3\n")
    config, said = config_of(str(copy), "runs/elsewhere", [])
    assert config == load(None, ["max_steps=3"]) and not said, "no run wrote this"
    assert config_of("quickstart", "runs/elsewhere", []) == (load("quickstart"), "")


def test_a_file_of_a_run_has_every_setting(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(Config()))
    assert is_of_run(EARLIER) and is_of_run(path) and not is_of_run(tmp_path / "none.yaml")
    assert not is_of_run(shipped.shipped_configs()["quickstart"])


# One key of a file


WRONG = "quantization: {bits: 3, group_size: 32}\nrollout: {form: compact, max_solve_tokens: -1}\n"


def test_one_key_is_read_whatever_the_others_say(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(WRONG + "proposer: {induction_inputs: 2}\nunheard_of: 1\nseed: 5\n")
    config = load_keys(path, "quantization", "rollout.form")
    assert config == load(
        None, ["quantization.bits=3", "quantization.group_size=32", "rollout.form=compact"]
    )
    with pytest.raises(ConfigError, match=r"rollout\.max_solve_tokens: -1"):
        load_keys(path, "rollout")
    path.write_text("quantization: {bits: 5000}\nrollout: 3\n")
    with pytest.raises(ConfigError, match=r"quantization\.bits: 5000"):
        load_keys(path, "quantization")
    with pytest.raises(ConfigError, match=r"rollout: 3: a section"):
        load_keys(path, "rollout.form")


def test_adapters_of_a_run_need_nothing_else_of_its_configuration(tmp_path: Path) -> None:
    """eval, generate and export read how the base is quantised, and eval the prompt form."""
    from azr_mlx.commands.evaluate import as_trained
    from azr_mlx.models.adapters import quantization_of

    text = earlier_with(induction_inputs=2) + "unheard_of: 1\n"
    checkpoint = run_with(tmp_path, text) / "checkpoints" / "step_000003"
    assert quantization_of(checkpoint) == Quantization()
    assert as_trained(Settings(protocol="training"), checkpoint).form == "chat"


def test_what_a_run_is_needs_nothing_else_of_its_configuration(tmp_path: Path) -> None:
    from azr_mlx.commands.train import _refuse_another_run

    run = run_with(tmp_path, earlier_with(induction_inputs=3) + "unheard_of: 1\n")
    made = load(None, ["model_id=Qwen/Qwen3-4B"])
    _refuse_another_run(made, run)
    with pytest.raises(ConfigError, match=r"model_id: 'a/b': the run in .* cannot change"):
        _refuse_another_run(load(None, ["model_id=a/b"]), run)
