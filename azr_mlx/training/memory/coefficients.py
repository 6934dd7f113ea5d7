"""How many arrays of each kind are in memory when a phase needs most of it. These numbers are
measured, not derived; ``benchmarks/memory_derive.py`` writes this file.

Each entry of the table is a situation that a phase may be in. Its keys are features, and a feature
is an exact count of numbers (see ``estimate.py``):

- ``hidden``, ``query``, ``key``, ``mlp``, ``rank``: tokens of the current stage x the hidden size,
  the width of queries, of keys, of the MLP, and the rank of the adapters (products with A)
- ``scores``: attention scores, [rows, heads, tokens, keys]; ``joined``: keys appended to those of
  the stage before
- ``kept_...``: the same, for all layers together, kept for the backward pass
- ``past``, ``past_before``: keys of all stages before the last stage, or before the current one
- ``logits``, ``entropy_logits``: rows of the head's chunks that are in memory x the vocabulary;
  ``step_logits``: the logits of one decode step
- ``targets``, ``states``: the hidden states that reach the head, and all hidden states
- ``cache``, ``cache_layer``: the keys and values of the rollout, of all layers and of one layer;
  ``reading``: those of the prompts being read and of the prompt beginnings that are kept
- ``adapters``: numbers in the adapters

In the names of situations, ``separate`` means that each row has its own prompt; ``sharing`` that
the rows share one prompt, which is a stage of its own; ``layers`` that layers of both stages are
computed at the same time. ``attention`` and ``mlp`` are points within a layer; ``head`` is in the
head, while the last layers are still in memory. A point at which no configuration needs most is
not listed: leaving such points out changed no plan by more than 1 %.
"""

# float32 on a CPU, mlx 0.32.4, mlx-lm 0.32.2.
COEFFICIENTS: dict[str, dict[str, float]] = {
    "score separate attention": {
        "hidden": 5.19,
        "query": 5.61,
        "key": 3.49,
        "mlp": 2.71,
        "scores": 3.05,
        "joined": 3.97,
        "rank": 6.82,
    },
    "score separate mlp": {
        "hidden": 0.06,
        "key": 0.91,
        "mlp": 5.49,
        "scores": 3.42,
        "joined": 1.24,
        "rank": 1.55,
    },
    "score separate head": {
        "logits": 1.94,
        "states": 7.63,
        "mlp": 5.12,
        "joined": 0.72,
        "rank": 5.43,
    },
    "update separate attention": {
        "kept_hidden": 3.2,
        "kept_query": 1.07,
        "kept_key": 2.35,
        "kept_mlp": 3.25,
        "kept_scores": 1.1,
        "kept_rank": 0.03,
        "hidden": 6.17,
        "query": 8.44,
        "key": 8.36,
        "mlp": 0.18,
        "scores": 2.62,
        "joined": 8.36,
        "rank": 0.12,
    },
    "update separate mlp": {
        "kept_hidden": 4.42,
        "kept_query": 0.95,
        "kept_key": 0.15,
        "kept_mlp": 4.83,
        "kept_scores": 1.1,
        "kept_rank": 5.97,
        "hidden": 5.26,
        "query": 0.22,
        "key": 0.83,
        "mlp": 0.24,
        "scores": 2.88,
        "joined": 0.83,
        "rank": 37.22,
    },
    "update separate head": {
        "kept_hidden": 4.31,
        "kept_query": 3.1,
        "kept_mlp": 5.04,
        "kept_scores": 0.93,
        "kept_rank": 7.2,
        "logits": 1.91,
        "entropy_logits": 2.79,
        "targets": 9.42,
    },
    "score sharing attention": {
        "hidden": 3.96,
        "query": 8.21,
        "key": 3.92,
        "mlp": 1.12,
        "scores": 2.98,
        "joined": 1.73,
        "rank": 0.02,
        "past_before": 3.93,
        "past": 6.5,
    },
    "score sharing head": {
        "logits": 2.09,
        "targets": 1.05,
        "states": 2.49,
        "query": 1.12,
        "mlp": 3.9,
        "joined": 0.66,
        "rank": 15.24,
    },
    "update sharing mlp": {
        "kept_hidden": 3.94,
        "kept_query": 0.43,
        "kept_key": 1.59,
        "kept_mlp": 4.71,
        "kept_scores": 0.94,
        "kept_rank": 15.13,
        "kept_joined": 1.28,
        "hidden": 0.66,
        "scores": 4.56,
        "joined": 3.12,
    },
    "update sharing head": {
        "kept_hidden": 5.84,
        "kept_query": 3.39,
        "kept_mlp": 4.34,
        "kept_scores": 0.79,
        "kept_rank": 8.43,
        "kept_joined": 0.71,
        "logits": 1.99,
        "entropy_logits": 2.7,
        "targets": 5.86,
    },
    "recompute separate attention": {
        "kept_hidden": 1.68,
        "hidden": 1.59,
        "query": 9.0,
        "key": 9.57,
        "mlp": 10.09,
        "scores": 4.98,
        "joined": 4.68,
        "rank": 23.65,
    },
    "recompute separate head": {
        "kept_hidden": 1.97,
        "logits": 1.76,
        "entropy_logits": 2.18,
        "mlp": 4.62,
        "scores": 7.73,
        "joined": 3.68,
    },
    "recompute sharing layers": {
        "kept_hidden": 1.67,
        "kept_key": 9.28,
        "hidden": 1.52,
        "query": 5.87,
        "mlp": 8.85,
        "scores": 3.39,
        "joined": 9.84,
        "rank": 2.0,
    },
    "recompute sharing head": {
        "kept_hidden": 1.29,
        "kept_key": 13.75,
        "logits": 2.01,
        "entropy_logits": 2.78,
        "targets": 6.4,
        "hidden": 6.4,
        "joined": 3.69,
    },
    "read": {
        "cache": 1.0,
        "reading": 0.73,
        "hidden": 8.06,
        "query": 4.47,
        "key": 2.5,
        "mlp": 4.7,
        "scores": 2.79,
        "rank": 0.63,
    },
    "place": {
        "cache": 1.0,
        "reading": 1.0,
        "cache_layer": 0.46,
    },
    "decode": {
        "cache": 1.0,
        "hidden": 0.03,
        "query": 70.99,
        "mlp": 60.68,
        "step_logits": 0.43,
    },
    "optimizer": {
        "adapters": 6.0,
    },
}
