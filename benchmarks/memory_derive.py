"""Measures the coefficients of the memory plan anew: peaks of small random models, fitted by
``memory_fit``.

    python benchmarks/memory_derive.py 60     # seconds per phase

Writes ``azr_mlx/training/memory/coefficients.py``.
"""

from __future__ import annotations

import gc
import random
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import memory
import mlx.core as mx
from memory_fit import FIXED, START, Fit, Table

from azr_mlx.backends.base import Hyper, Sampling
from azr_mlx.config import load
from azr_mlx.training.memory import coefficients
from azr_mlx.training.memory.estimate import (
    FLOAT32,
    Planner,
    Situation,
    answer_tokens,
    beginnings,
    calls,
    rollouts,
    separate,
    shared_tokens,
    sharing,
)
from azr_mlx.training.memory.shape import Shape

Record = tuple[list[Situation], float]
VOCABULARIES = (256, 512, 1024, 2048, 2048, 8192, 32768)
RUNS = 4  # as in memory.RUNS
OPTIMIZER = 6.0  # gradients, clipped gradients, moments and weights, old and new: an upper bound


def derive(seconds: float) -> None:
    """Measure, fit, report the errors, and write ``azr_mlx/training/memory/coefficients.py``."""
    draw, table = random.Random(0), {}
    for phase, records in (
        ("score, update", _learning(draw, "false")),
        ("recompute", _learning(draw, "true")),
        ("rollout", _rollouts(draw)),
    ):
        found: dict[str, list[Record]] = {}
        end = time.monotonic() + seconds
        for key, record in records:
            found.setdefault(key, []).append(record)
            if time.monotonic() > end:
                break
        _note(f"{phase}: {sum(map(len, found.values()))} measurements")
        for key, some in found.items():
            if not (phase == "recompute" and key.startswith("score")):
                table |= _fitted(key, some)
    table["optimizer"] = {"adapters": OPTIMIZER}
    write(table, Path(coefficients.__file__))


def _fitted(key: str, records: list[Record]) -> Table:
    fit = Fit(records, START)
    table = fit.solve()
    errors = fit.errors(fit.roots)
    _note(
        f"{key}: {len(records)} peaks, {errors.min():+.2f} to {errors.max():+.2f}, "
        f"deviation {errors.std():.3f}"
    )
    return {
        row: {name: FIXED[name] for name in START[row] if name in FIXED} | values
        for row, values in table.items()
    }


def write(table: Table, file: Path) -> None:
    """The table instead of the one in ``file``, its head as it is."""
    mark = "COEFFICIENTS: dict"
    lines = [f"{mark}[str, dict[str, float]] = {{"]
    for row, values in table.items():
        lines.append(f'    "{row}": {{')
        lines += [f'        "{name}": {value},' for name, value in values.items() if value]
        lines.append("    },")
    head = file.read_text().partition(mark)[0]
    file.write_text(head + "\n".join([*lines, "}"]) + "\n")


def _note(text: str) -> None:
    sys.stderr.write(f"{text}\n")


# -- random models ---------------------------------------------------------------------------------


def _case(draw: random.Random, layers: tuple[int, ...]) -> memory.Case:
    kv = draw.choice((1, 2, 4))
    chosen = memory.case(
        "random",
        draw.choice((17, 40, 64, 128, 256)),
        f"lora.rank={draw.choice((2, 8, 16, 32, 64))}",
        f"ppo.entropy_coef={draw.choice((0, 0.01))}",
        *memory.long(draw.choice((16, 32, 64, 128))),
        f"ppo.micro_batch_tokens={draw.choice((256, 384, 512, 768))}",
        hidden_size=draw.choice((64, 128, 256)),
        num_hidden_layers=draw.choice(layers),
        intermediate_size=draw.choice((64, 128, 256, 512, 768)),
        num_attention_heads=kv * draw.choice((1, 2, 4)),
        num_key_value_heads=kv,
        head_dim=draw.choice((16, 32)),
        vocab_size=draw.choice(VOCABULARIES),
        tie_word_embeddings=draw.random() < 0.5,
    )
    return chosen


def _learning(draw: random.Random, again: str) -> Iterator[tuple[str, Record]]:
    while True:
        one = _case(draw, (2, 3, 4, 6, 8, 12))
        c = load(None, [*one.overrides, f"ppo.grad_checkpoint={again}"])
        planner = Planner(Shape.from_config(one.sizes), "cpu", one.prompt, one.prompt)
        backend = memory.backend_of(memory.model_of(one.sizes), c, planner)
        hyper = Hyper(
            lr=1e-4,
            entropy_coef=c.ppo.entropy_coef,
            micro_batch_tokens=c.ppo.micro_batch_tokens,
        )
        budget, rows = c.ppo.micro_batch_tokens, rollouts(c)
        for layout in (separate, sharing):
            stages = layout(budget, rows, one.prompt, answer_tokens(c))
            batch = memory.batch_of(stages, c, planner, stages[-1].rows)
            kind = "separate" if len(stages) == 1 else "sharing"
            name = f"{'recompute' if again == 'true' else 'update'} {kind}"
            score = _above(lambda: backend.score(batch, "current", 1.0))  # noqa: B023
            yield f"score {kind}", (planner.score_of(c, stages), score / FLOAT32)
            update = _above(lambda: backend.update(batch, hyper))  # noqa: B023
            yield name, (planner.update_of(c, stages), update / FLOAT32)


def _rollouts(draw: random.Random) -> Iterator[tuple[str, Record]]:
    while True:
        one = _case(draw, (2, 3, 4, 8))
        places = draw.choice((4, 8, 16, 32))
        few = memory.long(draw.choice((4, 8, 16)))
        c = load(None, [*one.overrides, *few, f"rollout.max_batch={places}"])
        c = replace(c, batch_size=draw.choice((1, 2, 4)))
        planner = Planner(Shape.from_config(one.sizes), "cpu", one.prompt, one.prompt)
        backend = memory.backend_of(memory.model_of(one.sizes), c, planner)
        rows, answer = calls(c)[1]
        for start in sorted({0, shared_tokens(one.prompt)}):
            families = beginnings(c) if start else 0
            prompts = memory.prompts_of(rows, one.prompt, families, planner.shape.vocabulary)
            backend.engine.forget()
            peak = _above(
                lambda: backend.generate(  # noqa: B023
                    prompts,  # noqa: B023
                    [Sampling(answer)] * len(prompts),  # noqa: B023
                    list(range(len(prompts))),  # noqa: B023
                )
            )
            found = planner.rollout_of(c, len(prompts), one.prompt, answer, start)
            yield "rollout", (found, (peak - planner.merged(c)) / FLOAT32)


def _above(run: Callable[[], Any]) -> int:
    """The highest peak of some runs, in bytes above what was there before."""
    gc.collect()
    mx.clear_cache()
    before = mx.get_active_memory()
    return memory.peak(run, RUNS) - before


def main() -> int:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seconds", type=float, help="of measurements, for each phase")
    derive(parser.parse_args().seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
