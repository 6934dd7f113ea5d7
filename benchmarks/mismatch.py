"""How much sampler and trainer differ in half precision: what ``mismatch/mean`` is in good health.

    python benchmarks/mismatch.py --model FILE.gguf [FILE.gguf ...] --dtypes bfloat16 float16

The sampler decodes token by token with its cache, the trainer reads the row at once. In exact
arithmetic both give a token the same log-probability; rounding makes them differ. MLX's CPU kernels
round alike in both, which a GPU's do not, so the row is read in float32 here (with the weights of
the type): the difference is the rounding error of one side. Two sides with independent errors
differ by at most about 1.4 times as much. For each model and type: mean, 99th percentile and
maximum of |difference| per token, over sampled completions of four prompts at temperature 1. Prints
one JSON object.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import numpy as np
import side_by_side as sbs

PROMPTS = (
    "def count_vowels(text):\n",
    "The three largest cities of France are",
    "Question: a train leaves at 14:35 and takes 1 hour 40 minutes. Answer:",
    "import random\n\nclass Stack:\n",
)


def main() -> int:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", required=True)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16", "float16"])
    parser.add_argument("--tokens", type=int, default=128, help="sampled tokens of each prompt")
    options = parser.parse_args()
    from azr_mlx.backends import blas

    blas.enable()
    found = {
        f"{Path(model).stem}, {dtype}": measured(model, dtype, options.tokens)
        for model in options.model
        for dtype in options.dtypes
    }
    print(json.dumps({**sbs.machine(options), **found}, indent=1))
    return 0


def measured(model_id: str, dtype: str, tokens: int) -> dict[str, float]:
    """The differences of one model in one type."""
    import mlx.core as mx
    from mlx.utils import tree_map

    from azr_mlx.config import Quantization
    from azr_mlx.models.locate import resolve
    from azr_mlx.models.mlx_model import open_model

    folder = resolve(model_id, quantization=Quantization(8, 32)).path
    model, tokenizer, _ = open_model(folder, dense=True)

    def cast(kind: Any) -> None:
        model.update(tree_map(lambda a: a.astype(kind), model.parameters()))

    differences = []
    for seed, prompt in enumerate(PROMPTS):
        mx.random.seed(seed)
        ids = tokenizer.encode(prompt)
        cast(getattr(mx, dtype))
        drawn, sampled = decoded(model, ids, tokens)
        cast(mx.float32)
        row = mx.array([[*ids, *drawn]])
        read = logprobs(model(row[:, :-1])[0, len(ids) - 1 :], row[0, len(ids) :])
        differences.append(np.abs(np.array(read) - np.array(sampled)))
    every = np.concatenate(differences)
    shown = {"mean": every.mean(), "p99": np.percentile(every, 99), "max": every.max()}
    return {name: float(f"{value:.3g}") for name, value in shown.items()} | {"tokens": len(every)}


def decoded(model: Any, ids: list[int], tokens: int) -> tuple[list[int], list[float]]:
    """Tokens drawn at temperature 1, one by one, and their log-probabilities."""
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache

    cache = make_prompt_cache(model)
    logits = model(mx.array([ids]), cache=cache)[0, -1]
    drawn, sampled = [], []
    for _ in range(tokens):
        token = mx.random.categorical(logits.astype(mx.float32))
        sampled.append(logprobs(logits[None], token[None]).item())
        drawn.append(int(token.item()))
        logits = model(token[None, None], cache=cache)[0, -1]
    return drawn, sampled


def logprobs(logits: Any, chosen: Any) -> Any:
    """The log-probabilities [N] of the chosen tokens [N] by the logits [N, V], in float32."""
    import mlx.core as mx

    logits = logits.astype(mx.float32)
    picked = mx.take_along_axis(logits, chosen[:, None], axis=-1)[:, 0]
    return picked - mx.logsumexp(logits, axis=-1)


if __name__ == "__main__":
    raise SystemExit(main())
