"""What the pools of tasks are that learning.py leaves with ``--pools``, by the variant of the run.

    python benchmarks/pools.py FOLDER frozen base

Of each kind as many tasks are taken from each pool of a seed as the smallest has, so that sets of
one size are compared: the share of shapes (programs without names and constants) that are
distinct, lines of the program, the solve rate p of the model that the tasks were made for, and
p(1 - p). Means of the kinds, over seeds, with 95 % intervals (Student's t), and less those of the
first variant, paired by seed. A kind of which a pool has under ``FEWEST`` tasks is left out for its
seed, and named. Prints one JSON object.
"""

from __future__ import annotations

import json
import statistics
import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from learning import pool_name
from learning_toy import interval

Pool = dict[str, list[dict[str, Any]]]  # tasks by kind
FEWEST = 30
MANY_SEEDS = 100


def main() -> int:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("variants", nargs="+")
    options = parser.parse_args()
    pools = {name: of_variant(options.folder, name) for name in options.variants}
    print(json.dumps(compared(pools), indent=1))
    return 0


def of_variant(folder: Path, variant: str) -> dict[int, Pool]:
    """Its pools by seed."""
    out = {}
    for seed in range(MANY_SEEDS):
        if (file := folder / pool_name(variant, seed)).exists():
            out[seed] = by_kind([json.loads(line) for line in file.read_text().splitlines()])
    return out


def by_kind(tasks: Sequence[dict[str, Any]]) -> Pool:
    kinds = sorted({task["kind"] for task in tasks})
    return {kind: [task for task in tasks if task["kind"] == kind] for kind in kinds}


def compared(pools: Mapping[str, Mapping[int, Pool]]) -> dict[str, Any]:
    seeds = sorted(set.intersection(*(set(found) for found in pools.values())))
    kinds = sorted({kind for found in pools.values() for pool in found.values() for kind in pool})
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in pools}
    left_out = []
    for seed in seeds:
        own = {name: found[seed] for name, found in pools.items()}
        least = {kind: min(len(pool.get(kind, [])) for pool in own.values()) for kind in kinds}
        left_out += [f"{kind} of seed {seed}" for kind in kinds if least[kind] < FEWEST]
        for name, pool in own.items():
            told = [figures_of(pool[kind][:n]) for kind, n in least.items() if n >= FEWEST]
            figures[name].append(
                {key: statistics.fmean(row[key] for row in told) for key in told[0]}
            )
    first = figures[next(iter(figures))]
    return {
        "seeds": seeds,
        "left out": left_out,
        "pools": {
            name: {
                key: {
                    "mean": interval([row[key] for row in rows]),
                    "less the first": interval(
                        [row[key] - other[key] for row, other in zip(rows, first, strict=True)]
                    ),
                }
                for key in rows[0]
            }
            for name, rows in figures.items()
        },
    }


def figures_of(tasks: Sequence[dict[str, Any]]) -> dict[str, float]:
    from azr_mlx.tasks.program import shape

    rates = [float(task["solve_rate"]) for task in tasks]
    programs = [task["program"] for task in tasks]
    return {
        "distinct": len({shape(program) for program in programs}) / len(tasks),
        "lines": statistics.fmean(len(program.splitlines()) for program in programs),
        "p": statistics.fmean(rates),
        "p(1 - p)": statistics.fmean(p * (1 - p) for p in rates),
    }


if __name__ == "__main__":
    sys.exit(main())
