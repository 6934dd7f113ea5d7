"""Log-probabilities of chosen tokens and their gradient: time and peak memory, by several formulas.

    pip install --target FOLDER --no-deps inductive-mlxrl==0.2.4 mlx-lm-lora==5.10.2
    python benchmarks/logprob.py --peers FOLDER
    python benchmarks/logprob.py                     # without the other trainers' formulas

N hidden states of width D through a head of V entries, float32 and 4 bits: the sum of the weighted
log-probabilities, and its gradient with respect to the hidden states. Each formula is what its
library does with the logits of completion tokens; the head is the same for all. Rounds are
interleaved, in one process; the peak is MLX's own count above what was there before, exact to the
byte. Errors are relative to float64, in numpy: of the value, and of the gradient by its largest
entry. Prints one JSON object.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import Any

import side_by_side as sbs

GROUP, BITS = 64, 4


def main() -> int:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", default="", metavar="FOLDER")
    parser.add_argument("--rows", type=int, default=768, help="N")
    parser.add_argument("--vocabulary", type=int, default=32_768, help="V")
    parser.add_argument("--width", type=int, default=576, help="D, of the float32 head")
    parser.add_argument("--width-4bit", type=int, default=128, help="a CPU is slow on 4 bits")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    if options.peers:
        sys.path.insert(0, options.peers)
    from azr_mlx.backends import blas

    library = blas.enable()
    rows = []
    for bits, width, rounds in (
        (0, options.width, options.rounds),
        (BITS, options.width_4bit, max(options.rounds // 2, 1)),
    ):
        rows += measure(options, bits, width, rounds)
    print(json.dumps({**sbs.machine(options), "blas": library.name, "rows": rows}, indent=1))
    return 0


def measure(options: Namespace, bits: int, width: int, rounds: int) -> list[dict[str, Any]]:
    import mlx.core as mx

    model, hidden, targets, weights = problem(options, bits, width)
    functions = {
        name: mx.value_and_grad(weighted(formula, weights))
        for name, formula in formulas(
            model, options.vocabulary, targets, bool(options.peers)
        ).items()
    }
    exact = float64(model, hidden, targets, weights)
    seen: dict[str, list[tuple[float, int]]] = {name: [] for name in functions}
    errors = {}
    for number in range(rounds + 1):
        for name, function in functions.items():
            spent, peak, result = once(function, hidden)
            if number:  # the first compiles
                seen[name].append((spent, peak))
            errors[name] = error(result, exact)
    plain = statistics.median(t for t, _ in seen["plain"])
    ours = max(p for _, p in seen["azr-mlx"])
    out = []
    for name, runs in seen.items():
        seconds, peak = statistics.median(t for t, _ in runs), max(p for _, p in runs)
        print(f"{bits or 32} bits  {name}: {seconds:.3f} s  {peak / 1e6:.1f} MB", file=sys.stderr)
        out.append(
            {
                "head_bits": bits or 32,
                "shape": {"N": options.rows, "V": options.vocabulary, "D": width},
                "formula": name,
                "seconds": round(seconds, 4),
                "best_seconds": round(min(t for t, _ in runs), 4),
                "over_plain": round(seconds / plain, 3),
                "peak_mb": round(peak / 1e6, 2),
                "azr_peak_over_this": round(ours / peak, 4),
                **errors[name],
            }
        )
    return out


def problem(options: Namespace, bits: int, width: int) -> tuple[Any, Any, Any, Any]:
    """(an object with ``lm_head``, hidden states, targets, weights), from fixed keys."""
    import mlx.core as mx
    import mlx.nn as nn

    class Headed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lm_head = nn.Linear(width, options.vocabulary, bias=False)

    model, n = Headed(), options.rows
    keys = mx.random.split(mx.random.key(0), 4)
    model.lm_head.weight = mx.random.normal((options.vocabulary, width), key=keys[0]) * width**-0.5
    if bits:
        nn.quantize(model, group_size=GROUP, bits=bits)
    hidden = mx.random.normal((n, width), key=keys[1])
    targets = mx.random.randint(0, options.vocabulary, (n,), key=keys[2])
    weights = mx.random.normal((n,), key=keys[3]) / n
    mx.eval(model.parameters(), hidden, targets, weights)
    return model, hidden, targets, weights


def formulas(
    model: Any, vocabulary: int, targets: Any, peers: bool
) -> dict[str, Callable[[Any], Any]]:
    """hidden [N, D] -> log-probabilities [N]."""
    import mlx.core as mx

    from azr_mlx.backends.mlx.logprobs import chunk_rows, linear_head, selected_logprob

    head = linear_head(model.lm_head, type(model.lm_head))
    assert head is not None
    rows = chunk_rows(vocabulary)

    def plain(hidden: Any) -> Any:
        logits = model.lm_head(hidden)
        chosen = mx.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
        return chosen - mx.logsumexp(logits, axis=-1)

    found = {
        "azr-mlx": lambda h: selected_logprob(head, h, targets, rows=rows)[0],
        "plain": plain,
        "mx.fast.cross_entropy": lambda h: -mx.fast.cross_entropy(model.lm_head(h), targets),
    }
    if peers:
        from mlx_lm_lora.trainer.grpo_trainer import _select_token_logps
        from mlxrl.policy.logprobs import target_logprobs_from_logits

        kept = mx.ones((1, len(targets)), mx.bool_)
        found["mlxrl"] = lambda h: target_logprobs_from_logits(
            model.lm_head(h)[None], targets[None]
        )[0]
        found["mlx-lm-lora"] = lambda h: _select_token_logps(
            model.lm_head(h)[None], targets[None], kept
        )[0]
    return found


def weighted(formula: Callable[[Any], Any], weights: Any) -> Callable[[Any], Any]:
    return lambda hidden: (weights * formula(hidden)).sum()


def once(function: Any, hidden: Any) -> tuple[float, int, Any]:
    import mlx.core as mx

    mx.clear_cache()
    mx.reset_peak_memory()
    before, started = mx.get_active_memory(), time.perf_counter()
    result = function(hidden)
    mx.eval(result)
    return time.perf_counter() - started, mx.get_peak_memory() - before, result


def float64(model: Any, hidden: Any, targets: Any, weights: Any) -> tuple[float, Any]:
    """(value, gradient) in numpy, a few rows at a time."""
    import mlx.core as mx
    import numpy as np

    layer = model.lm_head
    dense = layer.weight
    if "scales" in layer:
        dense = mx.dequantize(layer.weight, layer.scales, layer.biases, GROUP, BITS)
    w, value, gradient = np.array(dense, np.float64), 0.0, np.zeros(hidden.shape)
    for i in range(0, len(gradient), 64):
        rows = slice(i, i + 64)
        h, y = np.array(hidden[rows], np.float64), np.array(targets[rows])
        scale = np.array(weights[rows], np.float64)
        z = h @ w.T
        z -= z.max(axis=1, keepdims=True)
        p = np.exp(z)
        total = p.sum(axis=1)
        value += float((scale * (z[np.arange(len(y)), y] - np.log(total))).sum())
        gradient[rows] = scale[:, None] * (w[y] - (p / total[:, None]) @ w)
    return value, gradient


def error(result: Any, exact: tuple[float, Any]) -> dict[str, float]:
    import numpy as np

    value, gradient = result[0].item(), np.array(result[1], np.float64)
    apart = np.abs(gradient - exact[1]).max() / np.abs(exact[1]).max()
    return {"value_error": abs(value / exact[0] - 1), "gradient_error": float(apart)}


if __name__ == "__main__":
    sys.exit(main())
