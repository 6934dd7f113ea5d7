"""How far a learning rate moves a policy: updates on one batch of rollouts, from the same start.

    python benchmarks/rates.py --config qwen2.5-coder-0.5b --model FILE.gguf \
        --rates 2e-5 1e-4 5e-4 --updates 3 --set batch_size=6 proposer.templates_per_step=1

One round of self-play; then, for each rate and from the same adapters, ``--updates`` optimizer
steps on its rollouts. After each: KL(pi_old || pi) and the share of tokens outside the clip range.
A rate with which a few steps pass ``ppo.kl_stop`` is too high; one with which they do not move the
policy at all needs many steps to learn anything. Prints one JSON object.
"""

from __future__ import annotations

import json
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import side_by_side as sbs

FIXED = ("early_stopping=false", "kl_penalty=none", "warmup_steps=0", "lr_scheduler_type=constant")


def main() -> int:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="qwen2.5-coder-0.5b")
    parser.add_argument("--model", help="instead of the configuration's")
    parser.add_argument("--rates", nargs="+", type=float, default=[2e-5, 1e-4, 5e-4])
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    from azr_mlx.backends import blas

    blas.enable()
    print(json.dumps({**sbs.machine(options), **measured(options)}, indent=1))
    return 0


def measured(options: Namespace) -> dict[str, Any]:
    from azr_mlx.commands import train
    from azr_mlx.config import load
    from azr_mlx.selfplay.round import Round
    from azr_mlx.selfplay.round_log import RoundLog
    from azr_mlx.training.algorithm import SelfPlay

    given = [*options.set, *([f"model_id={options.model}"] if options.model else []), *FIXED]
    config = load(options.config, [*given, f"ppo.epochs={options.updates + 1}"])
    backend = train.backend_for(config)
    with train.open_sandbox(config) as sandbox, tempfile.TemporaryDirectory() as start:
        selfplay = SelfPlay(config, backend, sandbox)
        selfplay.seed()
        log = RoundLog()
        selfplay.play(Round(config.seed, 1), log)
        experiences = log.experiences
        backend.save(Path(start))
        rows = []
        for rate in options.rates:
            backend.load(Path(start))
            rows.append({"rate": rate, **moved(config, backend, experiences, rate)})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return {"rollouts": len(experiences), "rows": rows}


def moved(config: Any, backend: Any, experiences: Sequence[Any], rate: float) -> dict[str, Any]:
    """After 1, 2, ... updates; what an update reports is of the policy before its own step."""
    from dataclasses import replace

    from azr_mlx.selfplay.round import Round
    from azr_mlx.training.learner import Learner

    stats: list[Any] = []
    update = backend.update

    def recorded(*given: Any) -> Any:
        stats.append(update(*given))
        return stats[-1]

    backend.update = recorded
    try:
        learner = Learner(replace(config, learning_rate=rate), backend)
        learner.learn(Round(config.seed, 1), experiences)
    finally:
        backend.update = update
    return {
        "grad_norm": round(stats[0].grad_norm, 4),
        "kl": [round(s.approx_kl, 6) for s in stats[1:]],
        "clipped": [round(s.clip_frac, 4) for s in stats[1:]],
        "entropy": [round(s.entropy, 4) for s in stats],
    }


if __name__ == "__main__":
    sys.exit(main())
