"""The learner on a scripted backend: which passes are made, what reaches the loss, and when the
epochs stop."""

import json
from dataclasses import replace

import numpy as np
import pytest

from azr_mlx.config import Config, Distill, Ppo, Proposer, Rollout
from azr_mlx.selfplay.round import Round
from azr_mlx.tasks.buffer import SolutionBuffer, VerifiedSolution
from azr_mlx.training.advantage import EmaBaselines, ema_advantage
from azr_mlx.training.learner import Learner, rate_factor
from azr_mlx.types import Experience, Prompt, Role
from tests.experiences import experience
from tests.fake import FakeBackend
from tests.runs import unregistered

pytestmark = pytest.mark.pure

CONFIG = Config(
    kl_penalty="none", warmup_steps=4, learning_rate=0.4, rollout=Rollout(max_solve_tokens=8)
)


def experiences(count: int = 8) -> list[Experience]:
    return [
        experience(tokens=(3,) * (1 + i % 3), reward=float(i % 2), group=i // 4)
        for i in range(count)
    ]


def learn(config, backend=None, step=1, solutions=None):
    backend = backend or FakeBackend(lambda p, n: "")
    learner = Learner(config, backend)
    return learner.learn(Round(config.seed, step), experiences(), solutions), backend, learner


@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({"ppo": Ppo(advantage="rloo", kl_coef=0.0)}, []),
        ({"ppo": Ppo(advantage="rloo", kl_coef=0.0, epochs=2)}, ["current"]),
        ({"ppo": Ppo(advantage="gae", kl_coef=0.0)}, ["current"]),
        ({"ppo": Ppo(advantage="rloo", kl_coef=0.1), "kl_penalty": "k3"}, ["reference"]),
        ({"ppo": Ppo(advantage="rloo", kl_coef=0.1), "kl_penalty": "kl"}, ["current", "reference"]),
        ({"ppo": Ppo(advantage="rloo", kl_coef=0.0), "kl_penalty": "kl"}, []),
        ({"ppo": Ppo(advantage="rloo", kl_coef=9e-5), "kl_penalty": "kl"}, []),
        ({"ppo": Ppo(advantage="rloo", kl_coef=9e-5), "kl_penalty": "k3"}, []),
        ({"ppo": Ppo(advantage="rloo", kl_coef=1e-4), "kl_penalty": "k3"}, ["reference"]),
    ],
)
def test_no_forward_pass_is_made_for_nothing(changes, passes):
    row, backend, _ = learn(replace(CONFIG, **changes))
    assert backend.scored == passes
    assert ("kl_ref" in row) == ("reference" in passes), "what was not measured is not 0"


def test_the_old_policy_is_given_only_where_several_updates_follow():
    for epochs, given in ((1, False), (2, True)):
        _, backend, _ = learn(replace(CONFIG, ppo=Ppo(advantage="gae", epochs=epochs)))
        assert (backend.updates[0][0].old_logp is not None) == given


def test_epochs_and_minibatches_cover_every_row_each_epoch():
    _, backend, _ = learn(replace(CONFIG, ppo=Ppo(advantage="rloo", epochs=3, minibatches=2)))
    assert [len(batch) for batch, _, _ in backend.updates] == [4] * 6
    assert all(batch.weights.sum() == pytest.approx(1.0) for batch, _, _ in backend.updates)


def half_flat(count: int = 8) -> list[Experience]:
    """In every second group all rewards are equal, and are no numbers that floats hold exactly."""
    rewards = [0.3 if (i // 4) % 2 else float(i % 2) for i in range(count)]
    return [
        experience(tokens=(3,) * (1 + i % 3), reward=r, group=i // 4) for i, r in enumerate(rewards)
    ]


def test_rows_without_an_advantage_are_left_out_and_keep_their_share():
    backend = FakeBackend(lambda p, n: "")
    learner = Learner(replace(CONFIG, ppo=Ppo(advantage="rloo")), backend)
    learner.learn(Round(0, 1), half_flat())
    [(batch, _, _)] = backend.updates
    tokens = sum(1 + i % 3 for i in range(8))
    assert len(batch) == 4 and (batch.weights[batch.mask > 0] == np.float32(1 / tokens)).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"ppo": Ppo(advantage="gae")},
        {"ppo": Ppo(advantage="rloo", entropy_coef=0.01)},
        {"ppo": Ppo(advantage="rloo", entropy_floor=0.5)},
        {"ppo": Ppo(advantage="rloo", kl_coef=0.1), "kl_penalty": "k3"},
    ],
)
def test_no_row_is_left_out_if_the_loss_acts_on_all(changes):
    backend = FakeBackend(lambda p, n: "")
    Learner(replace(CONFIG, **changes), backend).learn(Round(0, 1), half_flat())
    assert [len(batch) for batch, _, _ in backend.updates] == [8]


@pytest.mark.parametrize("how", ["rloo", "grpo", "dr_grpo"])
def test_without_any_advantage_there_is_no_update_but_a_lesson_is_learned(how):
    flat = [experience(reward=0.1, group=i // 3) for i in range(9)]
    backend = FakeBackend(lambda p, n: "")
    config = replace(CONFIG, ppo=Ppo(advantage=how))
    row = Learner(config, backend).learn(Round(0, 1), flat)
    assert row["ppo/updates"] == 0 and not backend.updates
    solutions = SolutionBuffer()
    solutions.add(VerifiedSolution("task", (1, 2), (2,), 1.0, 1))
    learner = Learner(replace(config, distill=Distill(coef=0.3, batch_size=1)), backend)
    learner.learn(Round(0, 1), flat, solutions)
    [(batch, _, lesson)] = backend.updates
    assert len(batch) == 9 and len(lesson) == 1


def played(*rewards: float, role: Role, first: int, tokens: int = 1, **rest) -> list[Experience]:
    """Rollouts of one role whose prompts are the numbers from ``first`` on."""
    prompts = [Prompt("p", (first + i,)) for i in range(len(rewards))]
    return [
        experience(prompt=p, tokens=(3,) * tokens, reward=r, role=role, **rest)
        for p, r in zip(prompts, rewards, strict=True)
    ]


def updated(proposer: Proposer, *steps: list[Experience], advantage: str = "dr_grpo"):
    """Each step's batch (rows in the order of their prompts), and the learner."""
    backend = FakeBackend(lambda p, n: "")
    config = replace(CONFIG, ppo=Ppo(advantage=advantage), proposer=proposer, batch_size=6)
    learner = Learner(config, backend)
    for step, rows in enumerate(steps, 1):
        learner.learn(Round(0, step), rows)
    batches = [batch for batch, _, _ in backend.updates]
    return [batch.rows(np.argsort(batch.tokens[:, 0])) for batch in batches], learner


def test_proposals_can_have_a_share_of_the_loss_whatever_their_length():
    rows = played(0.5, -1.0, role=Role.PROPOSE, first=10, tokens=5, group=9)
    rows += played(1.0, 0.0, 1.0, 0.0, 1.0, 0.0, role=Role.SOLVE, first=20)
    [batch], _ = updated(Proposer(loss_share=0.0), rows)
    assert batch.weights[:2].sum() == pytest.approx(10 / 16)
    [batch], _ = updated(Proposer(loss_share=0.25), rows)
    assert batch.weights[:2].sum() == pytest.approx(0.25)
    assert batch.weights[2:].sum() == pytest.approx(0.75)


def test_a_lone_proposal_is_compared_with_those_of_its_kind_in_earlier_steps():
    """In a group of one nothing has an advantage."""
    answers = played(1.0, 0.0, role=Role.SOLVE, first=20)
    paid = (0.25, 0.5, 0.75)
    steps = [played(r, role=Role.PROPOSE, first=10, group=9) + answers for r in paid]
    alone, _ = updated(Proposer(advantage="same"), *steps)
    assert [len(batch) for batch in alone] == [2, 2, 2], "the proposals were left out"
    found, learner = updated(Proposer(advantage="ema"), *steps)
    baselines = EmaBaselines(0.9)
    wanted = []
    for r in paid:
        wanted += ema_advantage([r], ["propose/deduction"], baselines, scaled=False).tolist()
    assert wanted[0] == 0.0 and 0.1 < wanted[2] < 0.25, "on the scale of rewards, as rloo's"
    assert [batch.advantages[0].sum() for batch in found[1:]] == pytest.approx(wanted[1:])
    assert learner.baselines.to_json() == baselines.to_json()


def test_a_resumed_run_compares_proposals_with_those_before_it():
    answers = played(1.0, 0.0, role=Role.SOLVE, first=20)
    steps = [played(r, role=Role.PROPOSE, first=10, group=9) + answers for r in (0.25, 0.5, 0.75)]
    whole, learner = updated(Proposer(advantage="ema"), *steps)
    _, first = updated(Proposer(advantage="ema"), *steps[:2])
    again = Learner(learner.config, FakeBackend(lambda prompt, n: ""))
    again.restore(json.loads(json.dumps(first.to_json())))
    again.learn(Round(0, 3), steps[2])
    [(batch, _, _)] = again.backend.updates
    batch = batch.rows(np.argsort(batch.tokens[:, 0]))
    np.testing.assert_array_equal(batch.advantages, whole[2].advantages)
    assert batch.advantages[0].sum() > 0.2 and again.to_json() == learner.to_json()


@pytest.mark.parametrize("how", ["rloo", "grpo", "dr_grpo", "trr++", "gae", "ema"])
def test_running_baselines_of_proposals_leave_answers_as_they_are(how):
    rows = played(0.0, 0.3, 1.2, 2.7, role=Role.PROPOSE, first=10, group=9)
    rows += played(4.8, 7.5, 10.8, 14.7, role=Role.SOLVE, first=20)
    [plain], _ = updated(Proposer(advantage="same"), rows, advantage=how)
    [apart], learner = updated(Proposer(advantage="ema"), rows, advantage=how)
    np.testing.assert_array_equal(apart.advantages[4:], plain.advantages[4:])
    cells = {"propose/deduction", "solve/deduction"} if how == "ema" else {"propose/deduction"}
    assert set(learner.baselines.state) == cells
    if how == "ema":
        np.testing.assert_array_equal(apart.advantages, plain.advantages)


@pytest.mark.parametrize(
    ("how", "proposer", "share"),
    [("rloo", "ema", 1.0), ("rloo", "same", 2 / 3), ("trr++", "ema", 0.0), ("trr++", "same", 0.0)],
)
def test_rewards_that_teach_nothing_are_counted_among_those_they_are_compared_with(
    how, proposer, share
):
    """Two groups of equal rewards, which a baseline over both tells apart, and proposals that are
    compared with each other or with a running mean."""
    rows = [experience(reward=float(i < 4), group=i // 4) for i in range(8)]
    proposed = [replace(rows[0], role=Role.PROPOSE, group=2) for _ in range(2)]
    proposed[1] = replace(proposed[1], reward=rows[-1].reward)
    config = replace(CONFIG, ppo=Ppo(advantage=how), proposer=Proposer(advantage=proposer))
    learner = Learner(config, FakeBackend(lambda p, n: ""))
    row = learner.learn(Round(config.seed, 1), rows + proposed)
    assert row["frac_reward_zero_std"] == pytest.approx(share)


def test_epochs_stop_early_on_kl():
    class Drifts(FakeBackend):
        def update(self, batch, hyper, distill=None):
            made = super().update(batch, hyper, distill)
            kl = 0.1 * (len(self.updates) - 1)
            return replace(made, approx_kl=kl, applied=not 0 < hyper.max_kl < kl)

    config = replace(CONFIG, ppo=Ppo(advantage="rloo", epochs=10, kl_stop=0.2))
    row, backend, _ = learn(config, Drifts(lambda p, n: ""))
    assert len(backend.updates) == 5 and row["ppo/early_stop"] == 1.0  # 0.4 > 1.5 x 0.2
    assert row["ppo/updates"] == 4 and row["ppo/approx_kl"] == pytest.approx(0.4)
    row, backend, _ = learn(replace(config, early_stopping=False), Drifts(lambda p, n: ""))
    assert len(backend.updates) == 10 and row["ppo/early_stop"] == 0.0


def test_the_entropy_bonus_grows_while_the_policy_is_below_the_floor():
    class Sure(FakeBackend):
        def update(self, batch, hyper, distill=None):
            return replace(super().update(batch, hyper, distill), entropy=0.1)

    backend = Sure(lambda p, n: "")
    learner = Learner(replace(CONFIG, ppo=Ppo(advantage="rloo", entropy_floor=0.5)), backend)
    for step in range(1, 4):
        learner.learn(Round(learner.config.seed, step), experiences())
    given = [hyper.entropy_coef for _, hyper, _ in backend.updates]
    assert given[0] == 0.0 and 0 < given[1] < given[2]
    again = Learner(learner.config, backend)
    again.restore(json.loads(json.dumps(learner.to_json())))
    assert again.entropy == learner.entropy


@pytest.mark.parametrize("advantage", ["rloo", "trr++"])
def test_a_floor_measures_the_entropy_of_a_step_that_teaches_nothing_and_makes_no_update(advantage):
    """AdamW's momentum would move the weights with no gradient at all. And answers that are all
    alike are what the floor is for."""
    flat = [experience(tokens=(3,) * (1 + i % 3), reward=0.1, group=i // 3) for i in range(9)]
    backend = FakeBackend(lambda p, n: "")  # whose entropy is 1 nat everywhere
    ppo = Ppo(advantage=advantage, entropy_floor=1.5)
    learner = Learner(replace(CONFIG, ppo=ppo), backend)
    row = learner.learn(Round(0, 1), flat)
    assert not backend.updates and row["ppo/updates"] == 0 and backend.scored == ["current"]
    assert row["entropy"] == 1.0 and row["entropy_coef"] == 0.0 and unregistered(row) == []
    assert learner.entropy.coef > 0, "below its floor: the next step has a bonus"
    learner.learn(Round(0, 2), flat)
    [(batch, hyper, _)] = backend.updates
    assert len(batch) == 9 and hyper.entropy_coef > 0, "which is a gradient"


def test_without_a_floor_nothing_is_scored_for_a_step_that_teaches_nothing():
    flat = [experience(reward=0.1, group=i // 3) for i in range(9)]
    backend = FakeBackend(lambda p, n: "")
    row = Learner(replace(CONFIG, ppo=Ppo(advantage="rloo")), backend).learn(Round(0, 1), flat)
    assert not backend.scored and "entropy" not in row


def test_the_learning_rate_warms_up():
    rates = [
        learn(replace(CONFIG, ppo=Ppo(advantage="rloo")), step=s)[0]["lr"] for s in (1, 2, 4, 9)
    ]
    assert rates == pytest.approx([0.1, 0.2, 0.4, 0.4])


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447]),
    ],
)
def test_the_learning_rate_falls_to_nothing_after_the_last_step(how, wanted):
    assert [rate_factor(s, 2, 6, how) for s in range(1, 7)] == pytest.approx(wanted, abs=1e-6)
    assert rate_factor(7, 2, 6, how) == (1.0 if how == "constant" else 0.0)
    assert rate_factor(1, 0, 1, how) == 1.0


def test_the_schedule_reaches_both_rates():
    config = replace(
        CONFIG, ppo=Ppo(advantage="rloo"), lr_scheduler_type="linear", max_steps=8, warmup_steps=0
    )
    hyper = learn(config, step=8)[1].updates[0][1]
    assert hyper.lr == pytest.approx(config.learning_rate / 8)
    assert hyper.value_lr == pytest.approx(config.ppo.value_learning_rate / 8)


def test_beta_follows_the_measured_kl():
    config = replace(
        CONFIG, kl_penalty="k3", target_kl=0.05, ppo=Ppo(advantage="rloo", kl_coef=0.1)
    )
    _, backend, learner = learn(config)
    assert backend.updates[0][1].kl_coef == 0.1
    assert learner.kl.coef < 0.1, "no drift at all: the penalty may fall"
    _, _, still = learn(replace(config, ppo=replace(config.ppo, adaptive_kl=False)))
    assert still.kl.coef == 0.1


def test_a_kl_penalty_in_the_reward_lowers_what_drifted_earns():
    class Drifted(FakeBackend):
        def score(self, batch, policy, temperature):
            scores = super().score(batch, policy, temperature)
            return scores if policy == "current" else replace(scores, logp=scores.logp - batch.mask)

    config = replace(CONFIG, kl_penalty="kl", ppo=Ppo(advantage="gae", kl_coef=0.5, whiten=False))
    _, plain, _ = learn(replace(config, ppo=replace(config.ppo, kl_coef=0.0)))
    _, drifted, _ = learn(config, Drifted(lambda p, n: ""))
    assert drifted.updates[0][0].returns.sum() < plain.updates[0][0].returns.sum() - 1


def test_each_update_gets_its_own_lesson():
    solutions = SolutionBuffer()
    for i in range(40):
        solutions.add(VerifiedSolution(f"task {i}", (1, i), (2,), 1.0, 1))
    distill = Distill(coef=0.3, batch_size=4)
    config = replace(CONFIG, distill=distill, ppo=Ppo(advantage="rloo", epochs=2))
    row, backend, _ = learn(config, solutions=solutions)
    first, second = (lesson.tokens for _, _, lesson in backend.updates)
    assert first.shape[0] == second.shape[0] == 4 and not np.array_equal(first, second)
    assert backend.updates[0][1].distill_coef == 0.3 and "distill_loss" in row


def test_state_round_trip_and_names():
    row, _, learner = learn(replace(CONFIG, kl_penalty="k3", ppo=Ppo(advantage="ema", kl_coef=0.1)))
    assert unregistered(row) == []
    other = Learner(learner.config, learner.backend)
    other.restore(learner.to_json())
    assert other.to_json() == learner.to_json() and other.baselines.state


def test_a_penalty_that_is_not_adapted_is_the_configurations():
    def resumed(before, **after):
        old = Learner(replace(CONFIG, **before), FakeBackend(lambda p, n: ""))
        new = Learner(replace(CONFIG, **after), FakeBackend(lambda p, n: ""))
        new.restore(json.loads(json.dumps(old.to_json())))
        return new.kl.coef

    with_one = {"kl_penalty": "kl", "ppo": Ppo(kl_coef=0.01)}
    assert resumed({"kl_penalty": "none"}, kl_penalty="kl", ppo=Ppo(kl_coef=0.1)) == 0.1
    fixed = Ppo(kl_coef=0.5, adaptive_kl=False)
    assert resumed(with_one, kl_penalty="kl", ppo=fixed) == 0.5
    adapted = Ppo(kl_coef=0.5, adaptive_kl=True)
    assert resumed(with_one, kl_penalty="kl", ppo=adapted) == 0.01


def test_no_experience_is_no_update():
    """A frozen proposer whose proposals all failed leaves nothing to learn from."""
    backend = FakeBackend(lambda p, n: "")
    learner = Learner(replace(CONFIG, kl_penalty="k3", ppo=Ppo(kl_coef=0.1)), backend)
    row = learner.learn(Round(0, 1), [])
    assert row["ppo/updates"] == 0 and not backend.updates and learner.kl.coef == 0.1


def test_what_the_configuration_says_holds_on_resume():
    _, _, old = learn(replace(CONFIG, kl_penalty="k3", ppo=Ppo(advantage="ema", kl_coef=0.1)))
    state = old.to_json()
    other = Learner(
        replace(CONFIG, kl_penalty="k3", target_kl=5.0, ppo=Ppo(advantage="ema", ema_decay=0.5)),
        old.backend,
    )
    other.restore(state)
    assert (other.kl.target, other.baselines.decay) == (5.0, 0.5)
    assert other.kl.coef == old.kl.coef and other.baselines.state == old.baselines.state
    without = Learner(replace(CONFIG, kl_penalty="none", ppo=Ppo(advantage="ema")), old.backend)
    without.restore(state)
    assert without.kl.coef == 0.0, "the reference would be scored for nothing"
