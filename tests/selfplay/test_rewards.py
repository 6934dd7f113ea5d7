"""Rewards: what each verdict is worth, learnability, and the soft length penalty."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azr_mlx.config import Config, Ppo, Proposer, Rollout, Solver
from azr_mlx.selfplay.rewards import (
    has_contrast,
    learnability,
    overlong_penalty,
    proposer_reward,
    solver_reward,
    with_overlong,
)
from azr_mlx.selfplay.round import Solution
from azr_mlx.types import Completion, Prompt, Reward, Status, Task, TaskKind, Verdict

pytestmark = pytest.mark.pure

WRONG = [s for s in Status if s not in (Status.PASS, Status.OK, Status.FORMAT)]
REJECTED = WRONG  # the same statuses make a proposal invalid


@pytest.mark.parametrize(
    ("how", "same_kind", "contrast"),
    [("rloo", True, False), ("trr++", True, True), ("trr++", False, False)],
)
def test_contrast_is_among_the_rewards_that_are_compared(how, same_kind, contrast):
    """Two groups, one all right and one all wrong: a mean over both tells them apart."""
    kinds = TaskKind.DEDUCTION, TaskKind.DEDUCTION if same_kind else TaskKind.ABDUCTION
    done, prompt = Completion((1,), (0.0,), "stop", 0, ""), Prompt("", (1,))
    solutions = [
        Solution(
            Task.create(kind, "def f(x):\n    return x", ("(1,)",), ("1",)),
            prompt, done, None, Verdict(status), group,
        )
        for group, (kind, status) in enumerate(zip(kinds, (Status.PASS, Status.FAIL), strict=True))
        for _ in range(2)
    ]  # fmt: skip
    assert has_contrast(solutions, Config(ppo=Ppo(advantage=how))) == contrast


def test_solver_is_paid_for_right_wrong_and_malformed_answers():
    config = Solver(wrong_reward=-0.25, malformed_reward=-0.75)
    assert solver_reward(Verdict(Status.PASS), config) == Reward(1.0, {"correct": 1.0})
    assert solver_reward(Verdict(Status.FORMAT), config) == Reward(-0.75, {"malformed": -0.75})
    for status in WRONG:
        assert solver_reward(Verdict(status), config) == Reward(-0.25, {"wrong": -0.25}), status


def test_a_wrong_answer_that_repeats_costs_what_one_costs_that_is_none():
    config = Solver(wrong_reward=-0.25, malformed_reward=-0.75, repeats="malformed")
    paid = lambda status, config: solver_reward(Verdict(status), config, True)  # noqa: E731
    assert paid(Status.FAIL, config) == Reward(-0.75, {"repeated": -0.75})
    assert paid(Status.FAIL, replace(config, repeats="wrong")).total == -0.25
    assert paid(Status.PASS, config).total == 1.0
    assert paid(Status.FAIL, replace(config, binary_reward=True)).total == 0.0


def test_binary_solver_reward_is_one_or_zero():
    config = Solver(binary_reward=True)
    for status in Status:
        if status is not Status.OK:
            expected = 1.0 if status is Status.PASS else 0.0
            assert solver_reward(Verdict(status), config).total == expected, status


def test_an_answer_compared_with_nothing_has_no_reward():
    with pytest.raises(ValueError, match="compared with nothing"):
        solver_reward(Verdict(Status.OK), Solver())


def test_the_detail_of_a_verdict_never_decides():
    """Validity was once read from the substring 'error' in a text; only the status counts here."""
    passed = Verdict(Status.PASS, detail="Traceback: error: fail", value="'error'")
    failed = Verdict(Status.FAIL, detail="pass")
    assert solver_reward(passed, Solver()).total == 1.0
    assert solver_reward(failed, Solver()).total == -0.5
    valid = Verdict(Status.OK, detail="error", value="'ValueError'")
    assert proposer_reward(valid, 0.25, Proposer()).total == 0.75


def test_proposals_that_are_not_valid_ignore_the_solve_rate():
    config = Proposer(invalid_reward=-0.9, malformed_reward=-0.8)
    for rate in (None, 0.5):
        malformed = proposer_reward(Verdict(Status.FORMAT), rate, config)
        assert malformed == Reward(-0.8, {"malformed": -0.8})
        for status in REJECTED:
            got = proposer_reward(Verdict(status), rate, config)
            assert got == Reward(-0.9, {"invalid": -0.9}), status


@pytest.mark.parametrize("status", [Status.OK, Status.PASS])
def test_a_valid_proposal_earns_its_learnability(status):
    for shape, value in (("one_minus", 0.875), ("frontier", 0.4375)):
        got = proposer_reward(Verdict(status), 0.125, Proposer(reward=shape))
        assert got == Reward(value, {"learnability": value})


def test_a_valid_proposal_needs_a_measured_rate():
    with pytest.raises(ValueError, match="solve_rate None"):
        proposer_reward(Verdict(Status.OK), None, Proposer())


@pytest.mark.parametrize("shape", ["one_minus", "frontier"])
def test_tasks_always_or_never_solved_teach_nothing(shape):
    for rate in (0.0, 1.0):
        assert learnability(rate, Proposer(reward=shape)) == 0.0
        assert learnability(rate, Proposer(reward=shape, extremes="minus_half")) == -0.5


@given(st.integers(1, 15))
def test_learnability_shapes(solved):
    """one_minus prefers the rarely solved; frontier is symmetric and highest at one half."""
    rate = solved / 16
    frontier = Proposer(reward="frontier")
    assert learnability(rate, Proposer(reward="one_minus")) == 1 - rate
    assert learnability(rate, frontier) == learnability(1 - rate, frontier)
    assert learnability(rate, frontier) <= learnability(0.5, frontier) == 1.0


@pytest.mark.parametrize("rate", [-0.01, 1.01, float("nan")])
def test_a_rate_outside_the_unit_interval_is_refused(rate):
    with pytest.raises(ValueError, match="solve_rate"):
        learnability(rate, Proposer())


@pytest.mark.parametrize("options", [{"reward": "cubic"}, {"extremes": "none"}])
def test_unknown_options_are_refused_by_name(options):
    key, value = next(iter(options.items()))
    with pytest.raises(ValueError, match=f"proposer.{key} '{value}'"):
        learnability(0.0, Proposer(**options))


def test_overlong_penalty_of_dapo():
    """The published setting: limit 20480, buffer 4096, from 0 at 16384 to -1 at the limit."""
    config = Rollout(overlong_buffer=4096, overlong_penalty=1.0)
    penalties = [overlong_penalty(n, "stop", 20480, config) for n in (1, 16384, 18432, 20480)]
    assert penalties == [0.0, 0.0, -0.5, -1.0]


def test_a_truncated_completion_pays_the_full_penalty_wherever_it_was_cut():
    config = Rollout(overlong_buffer=10, overlong_penalty=0.4)
    assert overlong_penalty(3, "length", 100, config) == -0.4


def test_overlong_penalty_can_be_off():
    assert overlong_penalty(100, "length", 100, Rollout(overlong_buffer=0)) == 0.0


@given(st.integers(0, 300), st.integers(1, 200), st.integers(1, 400))
def test_overlong_penalty_is_bounded_and_never_falls_with_length(length, limit, buffer):
    config = Rollout(overlong_buffer=buffer, overlong_penalty=0.5)
    here = overlong_penalty(length, "stop", limit, config)
    assert -0.5 <= overlong_penalty(length + 1, "stop", limit, config) <= here <= 0.0
    assert overlong_penalty(0, "stop", limit, config) == 0.0


def test_with_overlong_adds_a_part_and_keeps_the_sum():
    config = Rollout(overlong_buffer=10, overlong_penalty=0.5)
    right = Reward(1.0, {"correct": 1.0})
    assert with_overlong(right, 95, "stop", 100, config) == Reward(
        0.75, {"correct": 1.0, "overlong": -0.25}
    )
    assert with_overlong(right, 50, "stop", 100, config) is right
    assert right.parts == {"correct": 1.0}
