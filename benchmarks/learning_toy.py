"""How soon each advantage estimator learns a task of which the reward is known: seconds and steps.

    python benchmarks/learning_toy.py
    python benchmarks/learning_toy.py --estimators gae grpo --seeds 10 --steps 40

The trainer's own learner and backend, on a random llama of 50,000 parameters in 4 bits through
LoRA. The reward of a completion is its share of 16 tokens of 128, so chance earns 0.125; there is
no self-play in it, and nothing of a real model. For each estimator and seed: the reward by step,
the first step whose rollouts earn 0.9 in the mean, and the seconds that took. Seeds are paired: the
same model, prompts and keys for every estimator. Intervals are 95 % of the mean over seeds
(Student's t). Prints one JSON object.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from argparse import ArgumentParser
from typing import Any

import side_by_side as sbs

WANTED, VOCABULARY, LENGTH, ROWS = range(40, 56), 128, 4, 64
MASTERY = 0.9
PROMPTS = ("ab:", "cde:", "f:", "gh:")
ESTIMATORS = ("gae", "rloo", "grpo", "dr_grpo", "trr++", "ema")
# Student's t at 97.5 %, by degrees of freedom.
T_975 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}
MANY = 2.26  # for more degrees of freedom: a little too wide


def main() -> int:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--estimators", nargs="+", choices=ESTIMATORS, default=list(ESTIMATORS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--lr", type=float, default=1e-2)
    options = parser.parse_args()
    from azr_mlx.backends import blas

    blas.enable()
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in options.estimators}
    for seed in range(options.seeds):
        for name in options.estimators:  # interleaved: a slow minute hits all alike
            runs[name].append(learn(name, seed, options.steps, options.lr))
            print(f"seed {seed}  {name}: {runs[name][-1]['rewards'][-1]:.3f}", file=sys.stderr)
    rows = [{"estimator": name, **summary(found), "runs": found} for name, found in runs.items()]
    print(json.dumps({**sbs.machine(options), "mastery": MASTERY, "rows": rows}, indent=1))
    return 0


def learn(estimator: str, seed: int, steps: int, lr: float) -> dict[str, Any]:
    """One run. Its clock covers rollouts and updates, not the first step, which compiles."""
    from azr_mlx.config import Config, Ppo
    from azr_mlx.selfplay.round import Round
    from azr_mlx.training.learner import Learner

    ppo = Ppo(advantage=estimator, epochs=2, minibatches=2, kl_stop=1.0, value_learning_rate=lr)
    config = Config(learning_rate=lr, warmup_steps=0, kl_penalty="none", seed=seed, ppo=ppo)
    backend = random_backend(seed)
    learner, rewards, reached, spent = Learner(config, backend), [], None, 0.0
    for step in range(steps):
        began = time.perf_counter()
        experiences = rollouts(backend, seed, step)
        rewards.append(statistics.mean(e.reward.total for e in experiences))
        if reached is None and rewards[-1] >= MASTERY:
            reached = {"step": step, "seconds": round(spent, 3)}
        learner.learn(Round(config.seed, step + 1), experiences)
        spent += time.perf_counter() - began if step else 0.0
    return {"seed": seed, "rewards": [round(r, 4) for r in rewards], "mastered": reached}


def random_backend(seed: int) -> Any:
    import mlx.core as mx
    import mlx.nn as nn
    from mlx_lm.models import llama

    from azr_mlx.backends.mlx import MlxBackend
    from azr_mlx.config import Lora

    mx.random.seed(seed)
    sizes = dict(hidden_size=32, num_hidden_layers=2, intermediate_size=64)
    heads = dict(num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False)
    model = llama.Model(
        llama.ModelArgs("llama", rms_norm_eps=1e-5, vocab_size=VOCABULARY, **sizes, **heads)
    )
    model.lm_head.weight = model.lm_head.weight * 5.0
    nn.quantize(model, group_size=32, bits=4)
    return MlxBackend(
        model, sbs.Letters(()), Lora(rank=8, scale=4.0), seed=seed, max_rows=ROWS,
        micro_batch_tokens=4096,
    )  # fmt: skip


def rollouts(backend: Any, seed: int, step: int) -> list[Any]:
    from azr_mlx import rng
    from azr_mlx.backends.base import Sampling
    from azr_mlx.types import Experience, Prompt, Reward, Role, Status, TaskKind, Verdict

    prompts = [Prompt(t, tuple(map(ord, t))) for t in PROMPTS]
    chosen = [prompts[i % len(prompts)] for i in range(ROWS)]
    keys = [rng.key(seed, "learning", step, i) for i in range(ROWS)]
    done = backend.generate(chosen, [Sampling(LENGTH)] * ROWS, keys)

    def experience(i: int) -> Experience:
        ids, kind = done[i].token_ids, list(TaskKind)[i % 3]
        reward = Reward(sum(t in WANTED for t in ids) / len(ids))
        group = i % len(prompts)
        return Experience(
            chosen[i], done[i], Verdict(Status.PASS), reward, Role.SOLVE, kind, group, step
        )

    return [experience(i) for i in range(ROWS)]


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    mastered = [run["mastered"] for run in runs if run["mastered"]]
    out = {
        "first_reward": interval([run["rewards"][0] for run in runs]),
        "last_reward": interval([run["rewards"][-1] for run in runs]),
        "mean_reward": interval([statistics.mean(run["rewards"]) for run in runs]),
        "mastered": f"{len(mastered)} of {len(runs)}",
    }
    if mastered:
        out["median_step"] = statistics.median(one["step"] for one in mastered)
        out["median_seconds"] = statistics.median(one["seconds"] for one in mastered)
    return out


def interval(values: list[float]) -> dict[str, float]:
    """Mean and 95 % interval over seeds."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return {"mean": round(mean, 4)}
    t = T_975.get(len(values) - 1, MANY)
    half = t * statistics.stdev(values) / len(values) ** 0.5
    return {"mean": round(mean, 4), "low": round(mean - half, 4), "high": round(mean + half, 4)}


if __name__ == "__main__":
    sys.exit(main())
