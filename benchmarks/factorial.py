r"""What each of several changes adds, from runs with half of all their combinations.

    VARIANTS=$(python benchmarks/factorial.py design ema proposer.reward=frontier kl,seed=3)
    python benchmarks/learning.py --variants $VARIANTS --seeds 2 ... > runs.json
    python benchmarks/factorial.py effects runs.json

With k changes ``design`` has 2^(k-1) variants: "base", and every set of an even number of changes.
Each change is on in half of them, and off in the other half, and so is each of the others within
these halves: every run tells of every change. With five changes or more no effect of a change is
mixed with one of a pair of them (Box, Hunter and Hunter, Statistics for Experimenters: a half
fraction of resolution k).

``effects`` fits gain = its seed's mean + the sum of the effects of the changes that are on, by
least squares, and prints each effect with its 95 % interval (Student's t, or a little wider) as one
JSON object, in points; a table goes to stderr.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from learning import gained, parts
from learning_toy import MANY, T_975


def main() -> int:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    which = parser.add_subparsers(required=True)
    made = which.add_parser("design", help="print the variants")
    made.add_argument("changes", nargs="+", help="variants of learning.py")
    made.set_defaults(run=lambda options: print(*design(options.changes)))
    fitted = which.add_parser("effects", help="what each change adds")
    fitted.add_argument("file", type=Path, help="what learning.py printed")
    fitted.set_defaults(run=tell)
    options = parser.parse_args()
    options.run(options)
    return 0


def design(changes: Sequence[str]) -> list[str]:
    """The variants with an even number of the changes."""
    sets = (chosen for n in range(0, len(changes) + 1, 2) for chosen in combinations(changes, n))
    return [",".join(chosen) or "base" for chosen in sets]


def tell(options: Any) -> None:
    runs = [run for run in json.loads(options.file.read_text())["runs"] if "failed" not in run]
    found = effects(runs)
    for measure, rows in found.items():
        for change, row in rows.items():
            told = f"{row['effect']:+.1f} ({row['low']:+.1f} to {row['high']:+.1f})"
            print(f"{measure:<24} {told:<24} {change}", file=sys.stderr)
    print(json.dumps({"runs": len(runs), "effects": found}, indent=1))


def effects(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """By measure and change: effect, low and high, in points."""
    changes = columns([parts(run["variant"]) for run in runs])
    seeds = sorted({run["seed"] for run in runs})
    blocks = [[float(run["seed"] == seed) for run in runs] for seed in seeds]
    on = np.array([*blocks, *changes.values()]).T
    out = {}
    for measure, values in measures(runs).items():
        fit, (spread, free) = least_squares(on, 100 * np.array(values))
        half = T_975.get(free, MANY) * spread
        out[measure] = {
            name: {
                "effect": round(float(fit[i]), 2),
                "low": round(float(fit[i] - half[i]), 2),
                "high": round(float(fit[i] + half[i]), 2),
            }
            for i, name in enumerate(changes, len(seeds))
        }
    return out


def columns(variants: Sequence[Sequence[str]]) -> dict[str, list[float]]:
    """The changes, each with whether it is on in each run; words that are on in the same runs are
    one change."""
    words = list(dict.fromkeys(word for variant in variants for word in variant if word != "base"))
    together: dict[tuple[float, ...], list[str]] = {}
    for word in words:
        together.setdefault(tuple(float(word in v) for v in variants), []).append(word)
    return {",".join(names): list(column) for column, names in together.items()}


def measures(runs: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    out = {
        f"{way}/{where}": [gained(run[way], where) for run in runs]
        for way in ("greedy", "sampled")
        for where in [*runs[0][way], "all"]
    }
    for which in ("valid", "all"):
        if all(run["proposer"] for run in runs):
            out[f"p(1-p) of {which}"] = [run["proposer"][which] for run in runs]
    return out


def least_squares(on: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, int]]:
    """The coefficients, their standard errors, and the degrees of freedom that are left. Raises
    ValueError if the runs do not tell the changes apart."""
    free = len(values) - on.shape[1]
    if np.linalg.matrix_rank(on) < on.shape[1] or free < 1:
        raise ValueError("too few runs, or changes that are never apart")
    fit = np.linalg.lstsq(on, values, rcond=None)[0]
    left = values - on @ fit
    error = np.sqrt(left @ left / free * np.diag(np.linalg.inv(on.T @ on)))
    return fit, (error, free)


if __name__ == "__main__":
    sys.exit(main())
