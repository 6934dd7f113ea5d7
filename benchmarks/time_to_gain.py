"""Seconds until a trainer has raised nano's solve rate by ten points, against other MLX trainers.

    python benchmarks/time_to_gain.py --peers FOLDER
    python benchmarks/time_to_gain.py --libraries azr-mlx mlx-lm-lora --rates 3e-4 1e-3 --rounds 5

The solver alone: the same fixed deduction tasks in every step, ``--group`` answers to each, reward
1 where the answer equals the output, GRPO's advantages, one update a step (peers.py says how each
library is driven). The solve rate is that of a step's own rollouts, before its update, so that it
costs nothing to measure. The goal is ten points more than the untrained model's rate, in the mean
of two steps in a row; the untrained rate is the mean first step of all runs, since all libraries
start from the same policy. The clock starts with the first rollout, and covers what a library
compiles. Each library is run in every setting and at every learning rate, and has its best in the
comparison. A process for each run, libraries interleaved. Prints one JSON object.

``benchmarks/step.py`` without --peers says how the peers are installed.
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

LIBRARIES = ("azr-mlx", "mlx-lm-lora", "mlx-lm-lora:prompts", "mlxrl", "mlxrl:compiled")
GOAL = 0.10
MARGIN = 0.08  # beyond the goal: a first step's rate is uncertain by some points
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
    untrained = statistics.fmean(row["rates"][0] for row in rows)
    for row in rows:
        row["seconds"] = reached(row, untrained + GOAL)
    found = {"untrained": untrained, **compared(rows)}
    print(json.dumps({**sbs.machine(options), "rows": rows, **found}, indent=1))
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
                    f"{library} {rate:g}, seed {seed}: {found['rates'][0]:.3f} to "
                    f"{found['rates'][-1]:.3f} in {found['spent'][-1]:.1f} s, "
                    f"{len(found['rates'])} steps",
                    file=sys.stderr,
                    flush=True,
                )
    return rows


def reached(row: dict[str, Any], goal: float) -> float | None:
    """Seconds before the second of the first two steps whose mean rate is the goal; None: never."""
    for i in range(1, len(row["rates"])):
        if statistics.fmean(row["rates"][i - 1 : i + 1]) >= goal:
            return float(row["spent"][i])
    return None


def compared(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The median time of each library at its best setting and rate; None where half of its runs
    never got there."""
    best: dict[str, dict[str, Any]] = {}
    for name, rate in dict.fromkeys((row["library"], row["rate"]) for row in rows):
        own = [r["seconds"] for r in rows if (r["library"], r["rate"]) == (name, rate)]
        median = statistics.median(float("inf") if t is None else t for t in own)
        library = name.partition(":")[0]
        known = best.get(library)
        if known is None or median < (known["seconds"] or float("inf")):
            shown = None if median == float("inf") else median
            best[library] = {"setting": name, "rate": rate, "seconds": shown, "all": own}
    ours = best.get("azr-mlx", {}).get("seconds")
    others = [b["seconds"] for n, b in best.items() if n != "azr-mlx" and b["seconds"]]
    return {"best": best, "ratio": min(others) / ours if ours and others else None}


# -- one run ---------------------------------------------------------------------------------------


class Reached(Exception):
    """Surely past the goal, or the last step."""


@dataclass
class Race(Clock):
    """A clock that stops the library's own loop once its rollouts are good enough. ``rates`` are
    those of each step's rollouts, ``spent`` the seconds until those had been judged."""

    def __post_init__(self) -> None:
        self.rates: list[float] = []
        self.spent: list[float] = []

    def begin(self) -> int:
        JUDGED.clear()
        return super().begin()

    def end(self, completions: Any) -> None:
        # The first rewards are those of the rollouts; a library that asks twice adds to them.
        self.rates.append(statistics.fmean(JUDGED[: len(completions)]))
        before = sum(row["wall"] for row in self.kept)
        super().end(completions)
        # A step's rate is known after its rollouts; its update comes after.
        row = self.kept[-1]
        self.spent.append(before + row.get("rollout", 0.0) + row.get("reward", 0.0))
        far = statistics.fmean(self.rates[-2:]) >= self.rates[0] + GOAL + MARGIN
        if (len(self.rates) > 2 and far) or len(self.rates) >= self.steps:
            raise Reached


JUDGED: list[float] = []


def child() -> int:
    with sbs.child_work() as (work, answer):
        sbs.build_model = lambda work: nano()
        sbs.prompts = lambda work, tokenizer: [text for text, _ in problems(work.prompts)]
        sbs.fill_adapters = lambda model: None  # as each library starts: no change to the model
        sbs.reward = lambda text: judged(text, work)
        race = Race(0, work.steps)
        adapter = peers.adapter(replace(work))
        with suppress(Reached):
            adapter.train(race)
        answer(
            {
                "rates": [round(r, 4) for r in race.rates],
                "spent": [round(t, 3) for t in race.spent],
                "step_s": statistics.median(row["wall"] for row in race.kept),
                "version": adapter.version(),
            }
        )
    return 0


def judged(text: str, work: Work) -> float:
    """The reward of the next completion in order: prompt by prompt, as every library asks."""
    from azr_mlx.sandbox import equal, parse_literal
    from azr_mlx.tasks.parse import parse_answer
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
    from azr_mlx.tasks.parse import skeleton
    from azr_mlx.tasks.prompts import load_form

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

    from azr_mlx.models.locate import locate
    from azr_mlx.models.mlx_model import to_float32

    model, tokenizer = load(str(locate("package:azr_mlx/nano/model").path))
    return to_float32(model), tokenizer


if __name__ == "__main__":
    sys.exit(main())
