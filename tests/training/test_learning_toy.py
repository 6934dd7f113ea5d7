"""The very PPO code that training uses learns a task that a random policy fails."""

import time

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="mlx is not installed")

from azr_mlx import rng
from azr_mlx.backends.base import Sampling
from azr_mlx.backends.mlx import MlxBackend
from azr_mlx.config import Config, Lora, Ppo
from azr_mlx.selfplay.round import Round
from azr_mlx.training.learner import Learner
from azr_mlx.types import Experience, Prompt, Reward, Role, Status, TaskKind, Verdict
from tests.tiny import CharTokenizer, tiny_model

pytestmark = pytest.mark.backend

WANTED = range(40, 56)  # 16 of 128 tokens: a random policy earns 0.125
LENGTH = 4


def rollouts(backend, step: int, rows: int = 64) -> list[Experience]:
    prompts = [Prompt(t, tuple(CharTokenizer().encode(t))) for t in ("ab:", "cde:", "f:", "gh:")]
    chosen = [prompts[i % 4] for i in range(rows)]
    keys = [rng.key(0, "toy", step, i) for i in range(rows)]
    done = backend.generate(chosen, [Sampling(LENGTH)] * rows, keys)
    return [
        Experience(
            p,
            c,
            Verdict(Status.PASS),
            Reward(float(np.mean([t in WANTED for t in c.token_ids]))),
            Role.SOLVE,
            list(TaskKind)[i % 3],
            i % 4,
            step,
        )
        for i, (p, c) in enumerate(zip(chosen, done, strict=False))
    ]


def mean_reward(experiences) -> float:
    return float(np.mean([e.reward.total for e in experiences]))


@pytest.mark.parametrize("advantage", ["gae", "rloo", "grpo", "dr_grpo", "trr++", "ema"])
def test_reward_rises_from_chance_to_mastery(advantage):
    start = time.monotonic()
    config = Config(
        learning_rate=1e-2,
        warmup_steps=0,
        kl_penalty="none",
        ppo=Ppo(
            advantage=advantage,
            epochs=2,
            minibatches=2,
            micro_batch_tokens=2048,
            kl_stop=1.0,
            value_learning_rate=1e-2,
        ),
    )
    backend = MlxBackend(
        tiny_model(scale=5.0),
        CharTokenizer(),
        Lora(rank=8, scale=4.0),
        max_rows=64,
        micro_batch_tokens=4096,
    )
    learner = Learner(config, backend)
    first = mean_reward(rollouts(backend, 0))
    assert first < 0.2
    reward = first
    for step in range(1, 61):
        experiences = rollouts(backend, step)
        reward = mean_reward(experiences)
        if reward > 0.9:
            break
        metrics = learner.learn(Round(config.seed, step), experiences)
        assert metrics["grad_norm"] > 0
    assert reward > 0.9, f"{advantage}: {first:.2f} -> {reward:.2f}"
    assert time.monotonic() - start < 60
