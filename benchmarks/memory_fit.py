"""The coefficients of ``azr_mlx.training.memory``: how many arrays of each kind are alive when most
is needed.

    python benchmarks/memory_derive.py 60      # seconds per phase; writes coefficients.py

A phase's peak is the largest over its situations of sum(coefficient x feature): a convex, piecewise
linear function of exact counts. The coefficients are fitted to peaks of small random models by
Levenberg-Marquardt on the logarithm of the ratio, with the maximum softened to a p-norm and errors
below weighted more than errors above.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from azr_mlx.training.memory.estimate import Situation

SOFT = 16  # the p of the p-norm that stands for the maximum
PRIOR = 0.02  # pull towards the coefficients at the start, which settles what the data leave open
UNDER = 2.0  # weight of an error below over one above
FIXED = {"cache": 1.0}  # what is exact by construction

Table = dict[str, dict[str, float]]


def _layer(**changed: float) -> dict[str, float]:
    usual = {"hidden": 6, "query": 4, "key": 2, "mlp": 3.5, "scores": 1, "joined": 2, "rank": 4}
    return {**usual, **changed}


def _start() -> Table:
    """Coefficients to begin with: every row and feature that is fitted."""
    kept = {"hidden": 4, "query": 1.5, "key": 1, "mlp": 5, "scores": 1.1, "rank": 4, "joined": 1.8}
    held = {f"kept_{name}": value for name, value in kept.items()}
    alone = {name: value for name, value in held.items() if name != "kept_joined"}
    past, end = {"past_before": 0.5, "past": 0.5}, {"targets": 1.0}
    answers = {
        **{"logits": 4, "targets": 1, "states": 3, "query": 0.5, "mlp": 1},
        **{"scores": 0.3, "joined": 0.5, "rank": 1},
    }
    logits = {"logits": 4.9, "entropy_logits": 6.7}
    again = {"kept_hidden": 1.0}
    last = {**logits, "targets": 2, "hidden": 2, "mlp": 1, "scores": 0.3, "joined": 0.5}
    attention = {"hidden": 5, "query": 6, "mlp": 0.3, "scores": 2, "joined": 3}
    return {
        "score separate attention": _layer(**attention),
        "score separate mlp": _layer(hidden=8, query=1, key=1, mlp=5, scores=0.3),
        "score separate head": answers,
        "score sharing attention": _layer(**attention, **past),
        "score sharing head": answers,
        "update separate attention": {
            **alone,
            **_layer(hidden=8, query=2, mlp=4.5, rank=10),
            **end,
        },
        "update separate mlp": {**alone, **_layer(hidden=4, query=8, mlp=1, scores=2), **end},
        "update separate head": {**alone, **logits, "targets": 3},
        "update sharing mlp": {**held, **_layer(hidden=4, query=8, mlp=1, scores=2), **end},
        "update sharing head": {**held, **logits, "targets": 3},
        "recompute separate attention": {
            **again,
            **_layer(hidden=9, query=8, scores=3, joined=8),
            **end,
        },
        "recompute separate head": {**again, **last},
        "recompute sharing layers": {
            **{"kept_hidden": 1, "kept_key": 4, "targets": 1},
            **_layer(hidden=8, mlp=12, scores=1.5, rank=20),
        },
        "recompute sharing head": {**again, "kept_key": 4.0, **last},
        "read": {"cache": 1, "reading": 1, **_layer(hidden=8, query=1, mlp=4.5, scores=1.5)},
        "place": {"cache": 1, "reading": 1, "cache_layer": 2},
        "decode": {
            **{"cache": 1, "reading": 1, "hidden": 4, "query": 4, "mlp": 3, "scores": 2},
            **{"joined": 2, "step_logits": 1.2},
        },
    }


START = _start()


class Fit:
    """``records``: a measurement's situations, and the peak that they led to."""

    def __init__(self, records: Sequence[tuple[Sequence[Situation], float]], start: Table):
        self.peaks = np.array([peak for _, peak in records])
        self.names = [
            (row, name) for row in _rows(records) for name in start[row] if name not in FIXED
        ]
        self.start = np.sqrt(np.maximum([start[row][name] for row, name in self.names], 0.02))
        place = {name: i for i, name in enumerate(self.names)}
        most = max(len(found) for found, _ in records)
        self.counts = np.zeros((most, len(records), len(self.names)))
        self.constant = np.zeros((most, len(records)))
        for j, (found, peak) in enumerate(records):
            for k, one in enumerate(found):
                for name, count in one.features.items():
                    if name in FIXED:
                        self.constant[k, j] += FIXED[name] * count / peak
                    elif (one.name, name) in place:
                        self.counts[k, j, place[one.name, name]] = count / peak

    def ratios(self, roots: np.ndarray) -> np.ndarray:
        return self.constant + self.counts @ (roots * roots)

    def errors(self, roots: np.ndarray) -> np.ndarray:
        """predicted / measured - 1, by measurement."""
        return self.ratios(roots).max(axis=0) - 1

    def _residual(self, roots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Residuals and their Jacobian."""
        ratios = self.ratios(roots) + 1e-9
        top = ratios.max(axis=0)
        total = ((ratios / top) ** SOFT).sum(axis=0)
        log = np.log(top) + np.log(total) / SOFT
        share = (ratios / top) ** (SOFT - 1) / (total * top)
        slope = np.einsum("kj,kjm->jm", share, self.counts) * (2 * roots)
        weight = np.where(log < 0, UNDER, 1.0)
        scale = PRIOR / np.sqrt(len(roots))
        return (
            np.concatenate([weight * log, scale * (roots - self.start)]),
            np.vstack([weight[:, None] * slope, scale * np.eye(len(roots))]),
        )

    def solve(self, steps: int = 400) -> Table:
        """Levenberg-Marquardt over the roots of the coefficients, which keeps them positive."""
        roots, damping = self.start.copy(), 1e-2
        residual, slope = self._residual(roots)
        for _ in range(steps):
            normal = slope.T @ slope
            step = np.linalg.solve(
                normal + damping * np.diag(np.diag(normal) + 1e-12), -slope.T @ residual
            )
            new, new_slope = self._residual(roots + step)
            if new @ new < residual @ residual:
                gain = 1 - (new @ new) / (residual @ residual)
                roots, residual, slope, damping = roots + step, new, new_slope, damping / 3
                if gain < 1e-9:
                    break
            else:
                damping *= 4
        self.roots = roots
        table: Table = {}
        for (row, name), root in zip(self.names, roots, strict=True):
            table.setdefault(row, {})[name] = round(float(root * root), 2)
        return table


def _rows(records: Sequence[tuple[Sequence[Situation], float]]) -> list[str]:
    return list(dict.fromkeys(one.name for found, _ in records for one in found))
