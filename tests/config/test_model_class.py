"""The table of how models of a size are asked."""

from __future__ import annotations

from math import inf
from pathlib import Path

import pytest

from azr_mlx.config import AUTO, Config, ConfigError, chosen_keys, diff, load
from azr_mlx.config.model_class import CLASSES, class_of, settled
from azr_mlx.config.shipped import shipped_configs
from azr_mlx.tasks.prompts import load_form
from azr_mlx.types import TaskKind

pytestmark = pytest.mark.pure


def test_sizes_rise_and_every_class_can_be_asked() -> None:
    assert [one.below for one in CLASSES] == sorted(one.below for one in CLASSES)
    assert CLASSES[-1].below == inf
    for one in CLASSES:
        form = load_form(one.form)
        assert all(set(one.strategies) <= set(form.strategies(kind)) for kind in TaskKind)


@pytest.mark.parametrize(
    ("parameters", "chats", "form"),
    [
        (0.5e9, True, "few_shot"),
        (1.5e9, True, "chat"),
        (4e9, True, "chat"),
        (4e9, False, "few_shot"),
        (None, True, "chat"),
        (None, False, "few_shot"),
    ],
)
def test_the_class_of_a_model(parameters: float | None, chats: bool, form: str) -> None:
    assert class_of(parameters, chats).form == form


def test_the_largest_class_is_the_defaults() -> None:
    assert set(diff(Config(), settled(Config(), class_of(4e9, True)))) == {"rollout.form"}


def test_what_was_given_stays() -> None:
    small = class_of(0.5e9, True)
    given = load(None, ["rollout.max_solve_tokens=300", "solver.strategies=[chain_of_thought]"])
    found = settled(given, small)
    assert found.rollout.max_solve_tokens == 300
    assert found.solver.strategies == ("chain_of_thought",)
    assert found.rollout.max_propose_tokens == small.max_propose_tokens
    other = load(None, ["rollout.form=chat"])
    assert settled(other, small) == other and Config().rollout.form == AUTO
    assert settled(found, class_of(4e9, True)) == found, "it is settled once"


def test_what_was_given_stays_if_it_is_the_default(tmp_path: Path) -> None:
    words = ["rollout.max_solve_tokens=1024"]
    found = settled(load(None, words), class_of(0.5e9, True), chosen_keys(None, words))
    assert found.rollout.max_solve_tokens == 1024 and found.rollout.max_propose_tokens == 192
    own = tmp_path / "own.yaml"
    own.write_text(
        "rollout: {max_propose_tokens: 1024}\nsolver:\n  strategies: [direct, step_by_step]\n"
    )
    found = settled(load(own), class_of(0.5e9, True), chosen_keys(own))
    assert found.rollout.max_solve_tokens == 64 and found.rollout.max_propose_tokens == 1024
    assert found.solver.strategies == ("direct", "step_by_step")


def test_the_keys_that_a_user_has_chosen(tmp_path: Path) -> None:
    assert chosen_keys() == chosen_keys("azr_config") == frozenset(), "what ships has all keys"
    assert chosen_keys(shipped_configs()["azr_config"]) == frozenset()
    own = tmp_path / "own.yaml"
    own.write_text("seed: 1\nrollout: {form: auto, top_p: 1}\nppo:\n")
    assert chosen_keys(own, ["lora.rank=4"]) == {
        *("seed", "rollout.form", "rollout.top_p", "ppo", "lora.rank")
    }
    with pytest.raises(ConfigError, match="no such file"):
        chosen_keys(tmp_path / "none.yaml")


def test_a_model_that_is_to_think_is_asked_in_a_chat() -> None:
    limits = ["rollout.max_solve_tokens=4096", "rollout.max_propose_tokens=4096"]
    found = settled(load(None, ["rollout.thinking=on", *limits]), class_of(0.5e9, True))
    assert found.rollout.form == "chat" and found.rollout.max_solve_tokens == 4096
