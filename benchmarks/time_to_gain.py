"""Seconds until a trainer has raised nano's solve rate by ten points, against other MLX trainers.

    python benchmarks/time_to_gain.py --peers FOLDER
    python benchmarks/time_to_gain.py --libraries azr-mlx mlx-lm-lora --rates 3e-4 1e-3 --rounds 5

The solver alone: the same fixed deduction tasks in every step, ``--group`` answers to each, reward
1 where the answer equals the output, GRPO's advantages, one update a step (peers.py says how each
library is driven). The solve rate is that of a step's own rollouts, before its update, so that it
costs nothing to measure; the goal is the first step's rate and ten points, in the mean of two steps
in a row. The clock starts with the first rollout, and covers what a library compiles. Each library
is run at every learning rate, and has its best one in the comparison. A process for each run,
libraries interleaved. Prints one JSON object.

The peers are installed by:
    pip install --target FOLDER --no-deps inductive-mlxrl==0.2.4 mlx-lm-lora==5.10.2
"""

from __future__ import annotations

import ast
import json
import statistics
import sys
from argparse import ArgumentParser, Namespace
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from typing import Any

import peers
import side_by_side as sbs
from side_by_side import Clock, Work

LIBRARIES = ("azr-mlx", "mlx-lm-lora", "mlxrl")
GOAL = 0.10
MAX_TOKENS = 24
END = "<eos>"


def main() -> int:
    if sys.argv[1:] == ["--child", "measure"]:
        return child()
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--libraries", nargs="+", default=list(LIBRARIES))
    parser.add_argument("--rates", nargs="+", type=float, default=[3e-4, 1e-3])
    parser.add_argument("--tasks", type=int, default=48)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--steps", type=int, default=80, help="after which a run is given up")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peers", default="")
    options = parser.parse_args()
    rows = every(options)
    print(json.dumps({**sbs.machine(options), "rows": rows, **compared(rows)}, indent=1))
    return 0


def every(options: Namespace) -> list[dict[str, Any]]:
    rows = []
    for seed in range(options.rounds):
        for rate in options.rates:
            for library in options.libraries:
                work = Work(
                    library, "nano", "natural", options.tasks, options.group, MAX_TOKENS, 80,
                    steps=options.steps, warmup=0, seed=1000 * seed, lr=rate, peers=options.peers,
                )  # fmt: skip
                found = sbs.in_child(__file__, "measure", work, options.threads)
                rows.append({"library": library, "rate": rate, "seed": seed, **found})
                print(
                    f"{library} {rate:g}, seed {seed}: {found['first']:.3f} to "
                    f"{found['last']:.3f}, goal after {found['seconds']} s, {found['steps']} steps",
                    file=sys.stderr,
                    flush=True,
                )
    return rows


def compared(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The median time of each library at its best rate; a run that never got there counts as
    infinitely long."""
    best: dict[str, Any] = {}
    for library in dict.fromkeys(row["library"] for row in rows):
        for rate in dict.fromkeys(row["rate"] for row in rows):
            own = [r for r in rows if r["library"] == library and r["rate"] == rate]
            times = [float("inf") if r["seconds"] is None else r["seconds"] for r in own]
            median = statistics.median(times)
            if library not in best or median < best[library]["seconds"]:
                best[library] = {"rate": rate, "seconds": median, "all": times}
    ours = best.get("azr-mlx", {}).get("seconds")
    others = [one["seconds"] for name, one in best.items() if name != "azr-mlx"]
    return {"best": best, "ratio": min(others) / ours if ours and others else None}


# -- one run ---------------------------------------------------------------------------------------


class Reached(Exception):
    """The goal, or the last step."""


@dataclass
class Race(Clock):
    """A clock that stops the library's own loop once its rollouts are good enough."""

    def __post_init__(self) -> None:
        self.rates: list[float] = []
        self.spent = 0.0
        self.seconds: float | None = None

    def begin(self) -> int:
        JUDGED.clear()
        return super().begin()

    def end(self, completions: Any) -> None:
        # The first rewards are those of the rollouts; a library that asks twice adds to them.
        rows = len(completions)
        self.rates.append(statistics.fmean(JUDGED[:rows]))
        recent = statistics.fmean(self.rates[-2:])
        if len(self.rates) > 2 and recent >= self.rates[0] + GOAL:
            self.seconds = round(self.spent, 2)
            raise Reached
        super().end(completions)
        self.spent = sum(row["wall"] for row in self.kept)
        if len(self.rates) >= self.steps:
            raise Reached


JUDGED: list[float] = []


def child() -> int:
    with sbs.child_work() as (work, answer):
        peers.build_model = lambda work: nano()
        peers.prompts = lambda work, tokenizer: [text for text, _ in problems(work.prompts)]
        peers.fill_adapters = lambda model: None  # as each library starts: no change to the model
        peers.reward = lambda text: judged(text, work)
        race = Race(0, work.steps)
        adapter = peers.adapter(replace(work))
        with suppress(Reached):
            adapter.train(race)
        answer(
            {
                "seconds": race.seconds,
                "steps": len(race.rates),
                "first": race.rates[0],
                "last": statistics.fmean(race.rates[-2:]),
                "step_s": statistics.median(row["wall"] for row in race.kept),
                "rates": [round(r, 4) for r in race.rates],
                "version": adapter.version(),
            }
        )
    return 0


def judged(text: str, work: Work) -> float:
    """The reward of the next completion in order: prompt by prompt, as every library asks."""
    from azr_mlx.parse import parse_answer
    from azr_mlx.sandbox import equal, parse_literal
    from azr_mlx.types import TaskKind

    _, wanted = problems(work.prompts)[len(JUDGED) // work.group % work.prompts]
    ended = text.partition(END)[0]  # some libraries' texts have it
    said = parse_answer(ended, TaskKind.DEDUCTION, "completion")
    try:
        right = said is not None and equal(parse_literal(said), ast.literal_eval(wanted))
    except ValueError:
        right = False
    JUDGED.append(float(right))
    return float(right)


@cache
def problems(count: int) -> list[tuple[str, str]]:
    """(prompt, output) of deduction tasks of distinct shapes: lessons of a stream that nano's
    training did not read."""
    from azr_mlx.nano.lessons import lessons
    from azr_mlx.parse import skeleton
    from azr_mlx.prompts import load_form

    found: dict[str, tuple[str, str]] = {}
    for lesson in islice(lessons(load_form("compact"), 77, 7), 100_000):
        (prompt, _), (output, _) = lesson[:2]
        program, _, last = prompt.rpartition("\nassert f(")
        if last.endswith(") =="):
            found.setdefault(skeleton(program), (prompt, output.strip()))
        if len(found) == count:
            break
    return list(found.values())


def nano() -> tuple[Any, Any]:
    from mlx_lm.utils import load

    from azr_mlx.models import locate, to_float32

    model, tokenizer = load(str(locate("package:azr_mlx/nano/model").path))
    return to_float32(model), tokenizer


if __name__ == "__main__":
    sys.exit(main())
