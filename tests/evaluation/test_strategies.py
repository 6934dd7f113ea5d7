"""Strategies as instructions."""

from __future__ import annotations

import pytest

from azr_mlx.config import Solver
from azr_mlx.errors import UsageError
from azr_mlx.evaluation.strategies import AUTO, STRATEGIES, ask, sequence
from azr_mlx.tasks.prompts import load_form
from azr_mlx.types import TaskKind

pytestmark = pytest.mark.pure


def test_direct_asks_the_question_as_it_is():
    assert ask("Q?", "direct") == "Q?"


def test_the_others_add_an_instruction_after_the_whole_question():
    asked = [ask("Q?", name) for name in STRATEGIES[1:]]
    assert len(set(asked)) == 3 and all(text.startswith("Q?\n\n") for text in asked)
    assert all("the form that was asked for" in text for text in asked)


def test_they_are_the_ones_that_self_play_knows():
    form = load_form("chat")
    assert all(set(form.strategies(kind)) == set(STRATEGIES) for kind in TaskKind)
    assert set(Solver().strategies) <= set(STRATEGIES)


def test_auto_is_all_of_them_in_turn():
    assert sequence(AUTO) == STRATEGIES and sequence("test_driven") == ("test_driven",)
    with pytest.raises(UsageError, match="--strategy quick: take direct, step_by_step"):
        sequence("quick")
