"""Predicted and measured peak memory of rollout, score and update, through the real MLX backend.

    python benchmarks/memory.py                    # all configurations; prints one JSON object
    python benchmarks/memory.py --only qkv --smollm2 MODEL

Every configuration is run as ``azr_mlx.training.memory`` plans it: prompts of the planned length,
completions that end only at their limit, micro-batches filled to the budget; the measured peak is
the highest over the layouts that the plan allows (prompts with and without a common beginning; rows
with their prompts to themselves, and of one prompt). Exits with 1 where a prediction is more than
15 % off, or more than 5 % below.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # times play no part; others may be at work

import gc
import json
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from azr_mlx.backends import blas

blas.enable()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
import numpy as np  # noqa: E402
from mlx_lm.models import llama, qwen3  # noqa: E402

from azr_mlx.backends.base import Hyper, Sampling  # noqa: E402
from azr_mlx.backends.limits import MIN_PREFIX  # noqa: E402
from azr_mlx.backends.mlx import MlxBackend  # noqa: E402
from azr_mlx.config import Config, Quantization, load  # noqa: E402
from azr_mlx.training.memory.estimate import (  # noqa: E402
    PlannedStage,
    Planner,
    answer_tokens,
    beginnings,
    calls,
    kv_tokens,
    rollouts,
)
from azr_mlx.training.memory.shape import Shape  # noqa: E402
from azr_mlx.types import Batch, Prompt  # noqa: E402

OVER, UNDER = 0.15, 0.05
RUNS = 2  # of which the highest counts: how far evaluation runs ahead is a matter of timing
PHASES = ("rollout", "score", "update")


class Case(NamedTuple):
    """A model's sizes as in config.json, the tokens of a prompt, and KEY=VALUE overrides."""

    name: str
    sizes: dict[str, Any]
    prompt: int
    overrides: tuple[str, ...]


class Endless:
    """A tokenizer whose texts never end."""

    chat_template = None
    eos_token_ids = frozenset({1 << 30})

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [1] * len(text)

    def decode(self, token_ids: Any) -> str:
        return ""


def sizes(**changed: Any) -> dict[str, Any]:
    base = {
        "model_type": "llama",
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "intermediate_size": 384,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "vocab_size": 2048,
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 4096,
    }
    return base | changed


def case(name: str, prompt: int, *overrides: str, **changed: Any) -> Case:
    common = ("batch_size=2", "proposer.templates_per_step=2", "rollout.group_size=4")
    small = ("rollout.max_propose_tokens=32", "rollout.max_solve_tokens=32", "rollout.max_batch=8")
    few = ("task_types=deduction", "solver.strategies=direct", "lora.rank=8")
    budget = ("ppo.advantage=gae", "ppo.micro_batch_tokens=768", "ppo.grad_checkpoint=false")
    long = f"rollout.max_prompt_tokens={prompt}"
    return Case(name, sizes(**changed), prompt, (*common, *small, *few, *budget, long, *overrides))


def long(tokens: int) -> tuple[str, str]:
    return f"rollout.max_propose_tokens={tokens}", f"rollout.max_solve_tokens={tokens}"


AGAIN, ENTROPY = "ppo.grad_checkpoint=true", "ppo.entropy_coef=0.01"
CASES = (
    case("base", 64),
    case("deep", 64, num_hidden_layers=16),
    case("shallow", 64, num_hidden_layers=2),
    case("wide", 64, hidden_size=384),
    case("narrow", 64, hidden_size=64),
    case("broad MLP", 64, intermediate_size=1024),
    case("slim MLP", 64, intermediate_size=128),
    case("many heads", 64, num_attention_heads=12),
    case("all kv heads", 64, num_attention_heads=8, num_key_value_heads=8),
    case("one kv head", 64, num_key_value_heads=1, head_dim=64),
    case("untied", 64, tie_word_embeddings=False, vocab_size=8192),
    case("bytes", 64, vocab_size=256),
    case("vocabulary 16k", 64, vocab_size=16384),
    case("vocabulary 49k", 64, *long(64), vocab_size=49152),
    case("vocabulary 49k, entropy", 64, ENTROPY, *long(64), vocab_size=49152, hidden_size=64),
    case("entropy", 64, ENTROPY, *long(64), vocab_size=8192),
    case("long prompts", 256, "ppo.micro_batch_tokens=1024"),
    case("short prompts", 24),
    case("long answers", 64, *long(160), "ppo.micro_batch_tokens=1024"),
    case("long both", 320, *long(128), "ppo.micro_batch_tokens=1024"),
    case("one row a micro-batch", 128, *long(128), "ppo.micro_batch_tokens=128"),
    case("large micro-batch", 64, "ppo.micro_batch_tokens=1536", "rollout.group_size=8"),
    case("recomputed", 64, AGAIN),
    case("recomputed, deep", 64, AGAIN, num_hidden_layers=16),
    case("recomputed, long", 192, AGAIN, *long(96), "ppo.micro_batch_tokens=1152"),
    case("recomputed, 49k", 64, AGAIN, ENTROPY, *long(64), vocab_size=49152),
    case("rank 64", 64, "lora.rank=64"),
    case("rank 2, attention", 64, "lora.rank=2", num_attention_heads=8),
    case("many places", 96, "rollout.max_batch=32", "rollout.group_size=8", vocab_size=512),
    case("kv budget", 96, "rollout.max_batch=16", "rollout.kv_budget_mb=2", vocab_size=512),
    case("many places, 16k", 64, "rollout.max_batch=16", "rollout.group_size=8", vocab_size=16384),
    case("minibatches", 64, "ppo.minibatches=4", "rollout.group_size=8"),
    case("own norms", 64, model_type="qwen3"),
)
QUICK = ("bytes", "long answers", "recomputed", "vocabulary 16k", "many places", "own norms")


# -- measuring -------------------------------------------------------------------------------------


def model_of(row: dict[str, Any]) -> nn.Module:
    mx.random.seed(0)
    module = {"llama": llama, "qwen3": qwen3}[row["model_type"]]
    model = module.Model(module.ModelArgs.from_dict(row))
    mx.eval(model.parameters())
    return model


def peak(run: Callable[[], Any], runs: int = 1) -> int:
    """Bytes at the most while ``run`` runs, what was there before included."""
    gc.collect()
    mx.clear_cache()
    mx.reset_peak_memory()
    for _ in range(runs):
        run()
    return int(mx.get_peak_memory())


def backend_of(model: nn.Module, c: Config, planner: Planner) -> MlxBackend:
    backend = MlxBackend(
        model,
        Endless(),
        c.lora,
        max_rows=c.rollout.max_batch,
        kv_tokens=kv_tokens(c, planner.shape, planner.device),
        micro_batch_tokens=c.ppo.micro_batch_tokens,
        grad_checkpoint=c.ppo.grad_checkpoint == "true",
    )
    # The moments come into being with the first update: every other phase has them.
    mx.eval(backend.optimizer.state, backend.value_optimizer.state)
    return backend


def measured(model: nn.Module, c: Config, planner: Planner) -> dict[str, int]:
    backend = backend_of(model, c, planner)
    vocabulary = planner.shape.vocabulary
    found: dict[str, list[int]] = {phase: [] for phase in PHASES}
    for rows, answer in calls(c):
        for families in (0, beginnings(c)):
            prompts = prompts_of(rows, planner.prompt_tokens, families, vocabulary)
            sampling = [Sampling(answer)] * len(prompts)
            backend.engine.forget()
            keys = list(range(len(prompts)))
            found["rollout"].append(peak(lambda: backend.generate(prompts, sampling, keys)))  # noqa: B023
    for stages in planner.layouts(c, rollouts(c)):
        batch = batch_of(stages, c, planner, rollouts(c))
        found["score"].append(peak(lambda: backend.score(batch, "current", 1.0), RUNS))  # noqa: B023
    each = -(-rollouts(c) // c.ppo.minibatches)
    hyper = Hyper(
        lr=1e-4,
        entropy_coef=c.ppo.entropy_coef,
        kl_coef=c.ppo.kl_coef,
        tis_cap=c.ppo.tis_cap,
        micro_batch_tokens=c.ppo.micro_batch_tokens,
    )
    for stages in planner.layouts(c, each):
        batch = batch_of(stages, c, planner, each)
        found["update"].append(peak(lambda: backend.update(batch, hyper), RUNS))  # noqa: B023
    return {phase: max(values) for phase, values in found.items()}


def prompts_of(rows: int, tokens: int, families: int, vocabulary: int) -> list[Prompt]:
    """Distinct prompts; where there are ``families``, all but the last two of each of the others
    begin like the first one does."""
    draw = np.random.default_rng(0)
    shared = max(tokens - 1 - MIN_PREFIX, 0) if families else 0
    begins = [draw.integers(1, vocabulary, shared).tolist() for _ in range(max(families, 1))]
    others = [f for f in range(1, families) for _ in range(2)]
    family = [0] * max(rows - len(others), 0) + others
    return [
        Prompt(
            f"{chr(65 + f)}{i}",
            (*begins[f], *draw.integers(1, vocabulary, tokens - shared).tolist()),
            prefix=1 if shared else 0,
        )
        for i, f in enumerate(family[:rows])
    ]


def batch_of(stages: tuple[PlannedStage, ...], c: Config, planner: Planner, rows: int) -> Batch:
    """Two micro-batches' worth of rows of that layout, as far as there are so many."""
    draw, prompt, answer = np.random.default_rng(0), planner.prompt_tokens, answer_tokens(c)
    count = min(rows, 2 * stages[-1].rows)
    tokens = draw.integers(1, planner.shape.vocabulary, (count, prompt + answer)).astype(np.int32)
    if len(stages) > 1:
        tokens[:, :prompt] = tokens[0, :prompt]
    mask = np.zeros(tokens.shape, np.float32)
    mask[:, prompt:] = 1
    some = np.where(mask > 0, -1.0, 0.0).astype(np.float32)
    return Batch(
        tokens=tokens,
        mask=mask,
        sampler_logp=some,
        old_logp=some,
        ref_logp=some,
        values=some,
        advantages=some,
        returns=some,
        weights=mask / mask.sum(),
    )


def compared(one: Case, model: nn.Module | None = None) -> dict[str, Any]:
    """Predicted and measured bytes of each phase, their ratio, and whether it is within bounds."""
    c = load(None, one.overrides)
    planner = Planner(Shape.from_config(one.sizes), "cpu", one.prompt, one.prompt)
    real = measured(model_of(one.sizes) if model is None else model, c, planner)
    row: dict[str, Any] = {"name": one.name}
    for phase, planned in planner.peaks(c).items():
        ratio = planned.total / real[phase]
        row[phase] = {
            "predicted": planned.total,
            "measured": real[phase],
            "ratio": round(ratio, 3),
            "holds": 1 - UNDER <= ratio <= 1 + OVER,
        }
    return row


def smollm2(path: str, cache: Path) -> Iterator[tuple[Case, nn.Module]]:
    from mlx_lm.utils import load as load_mlx

    from azr_mlx.backends.mlx.backend import on_device
    from azr_mlx.models.locate import resolve

    found = resolve(path, quantization=Quantization(group_size=32), cache_dir=cache)
    row = json.loads((found.path / "config.json").read_text())
    for name, more in (("SmolLM2-135M", ()), ("SmolLM2-135M, recomputed", (AGAIN,))):
        made = case(name, 48, "ppo.micro_batch_tokens=160", "rollout.max_batch=4", *long(12), *more)
        model, _ = load_mlx(str(found.path))
        yield made._replace(sizes=row), on_device(model)


def main() -> int:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", help="names of configurations")
    parser.add_argument("--quick", action="store_true", help="a few of them")
    parser.add_argument("--smollm2", help="path of the model's GGUF file")
    parser.add_argument("--cache", type=Path, default=Path("models"), help="of converted models")
    options = parser.parse_args()
    chosen = options.only or (QUICK if options.quick else [one.name for one in CASES])
    start, rows = time.monotonic(), []
    for one in CASES:
        if one.name in chosen:
            rows.append(compared(one))
            sys.stderr.write(f"{summary(rows[-1])}\n")
    for one, model in smollm2(options.smollm2, options.cache) if options.smollm2 else ():
        rows.append(compared(one, model))
        sys.stderr.write(f"{summary(rows[-1])}\n")
    holds = all(row[phase]["holds"] for row in rows for phase in PHASES)
    report = {"seconds": round(time.monotonic() - start), "holds": holds, "rows": rows}
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    return 0 if holds else 1


def summary(row: dict[str, Any]) -> str:
    found = "  ".join(
        f"{phase} {row[phase]['ratio']:.2f}{' ' if row[phase]['holds'] else '!'} "
        f"({row[phase]['measured'] / 1e6:.0f} MB)"
        for phase in PHASES
    )
    return f"{row['name']:<26} {found}"


if __name__ == "__main__":
    sys.exit(main())
