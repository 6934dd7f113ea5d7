"""What a configuration will cost, before anything is loaded: tokens a step, disk per checkpoint,
memory.

Everything follows from the model's config.json and the training configuration. Memory is an
estimate of its largest parts; activations depend on the machine's kernels and are counted coarsely.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from azr_mlx.config import Config, to_yaml
from azr_mlx.models import ModelError, hub_snapshot, locate

FLOAT32, FLOAT16 = 4, 2
MOMENTS = 2  # AdamW keeps two per weight
PROMPT_TOKENS = 320  # a few-shot prompt with its references, as measured on the shipped forms


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a decoder that cost anything."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool

    @classmethod
    def from_config(cls, row: Mapping[str, Any]) -> Shape:
        """From a config.json. Raises KeyError where it lacks a size."""
        heads = int(row["num_attention_heads"])
        return cls(
            layers=int(row["num_hidden_layers"]),
            hidden=int(row["hidden_size"]),
            intermediate=int(row["intermediate_size"]),
            heads=heads,
            kv_heads=int(row.get("num_key_value_heads") or heads),
            head_dim=int(row.get("head_dim") or row["hidden_size"] // heads),
            vocabulary=int(row["vocab_size"]),
            tied=bool(row.get("tie_word_embeddings", True)),
        )

    def linears(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of a layer's linear maps: q, k, v, o, gate, up, down."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        mlp = [(self.hidden, self.intermediate)] * 2 + [(self.intermediate, self.hidden)]
        return [
            (self.hidden, query),
            (self.hidden, key),
            (self.hidden, key),
            (query, self.hidden),
            *mlp,
        ]

    def parameters(self) -> int:
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * sum(i * o for i, o in self.linears())

    def lora_parameters(self, rank: int, layers: int) -> int:
        count = self.layers if layers < 0 else min(layers, self.layers)
        return count * sum(rank * (i + o) for i, o in self.linears())


def describe(config: Config) -> str:
    """What the configuration will cost, as comments, and below it the resolved configuration."""
    lines = ["# what this will cost"]
    lines += [f"# {line}" for line in rollout_lines(config)]
    try:
        shape = Shape.from_config(model_config(config.model_id))
    except (ModelError, KeyError) as e:
        lines.append(f"# memory: unknown: {e}")
    else:
        lines += [f"# {line}" for line in memory_lines(config, shape, sys.platform == "darwin")]
    return "\n".join([*lines, "", to_yaml(config).rstrip("\n")]) + "\n"


def model_config(model_id: str) -> dict[str, Any]:
    """The model's config.json, or a GGUF file's header as one; no weights are read. Raises
    ModelError."""
    local = model_id.startswith("package:") or Path(model_id).expanduser().exists()
    # Of a hub repository only the one file: a dry run downloads no weights.
    path = locate(model_id).path if local else hub_snapshot(model_id, patterns=("config.json",))
    if path.is_file():
        from azr_mlx.gguf_import.architecture import build_config
        from azr_mlx.gguf_import.reader import read

        return build_config(read(path))
    return dict(json.loads((path / "config.json").read_text(encoding="utf-8")))


def rollout_lines(c: Config) -> list[str]:
    """How many rollouts and tokens a step makes at the most."""
    new, replayed = c.batch_size + c.proposer.templates_per_step, c.solver.buffer_tasks_per_step
    solved = new * c.rollout.group_size
    if c.rollout.reuse_rollouts:
        solved += (replayed + c.rollout.resample * c.batch_size) * c.rollout.group_size
    else:
        solved += new + max(replayed, c.batch_size)
    tokens = c.batch_size * c.rollout.max_propose_tokens + solved * c.rollout.max_solve_tokens
    rounds = c.gradient_accumulation_steps
    return [
        f"rollouts a step: at most {rounds * (c.batch_size + solved)} "
        f"({rounds * c.batch_size} proposals, {rounds * solved} solutions)",
        f"tokens a step:   at most {rounds * tokens}, in "
        f"{c.ppo.epochs * c.ppo.minibatches} update(s)",
    ]


def memory_lines(c: Config, shape: Shape, gpu: bool) -> list[str]:
    """Disk of a checkpoint and the largest parts of memory, in MB of 10^6 bytes."""
    lora = shape.lora_parameters(c.lora.rank, c.lora.num_layers)
    weights = shape.parameters() * (_bytes_per_weight(c) if gpu else FLOAT32)
    state = lora * FLOAT32 * (1 + MOMENTS)
    width = FLOAT16 if gpu else FLOAT32
    answer = max(c.rollout.max_propose_tokens, c.rollout.max_solve_tokens)
    longest = PROMPT_TOKENS + answer
    per_token = 2 * shape.layers * shape.kv_heads * shape.head_dim * width
    cache = per_token * longest * c.rollout.max_batch
    activations = _activations(c, shape) * c.ppo.micro_batch_tokens * width
    logits = 3 * 96 * shape.vocabulary * FLOAT32
    mb = 1e6
    dtype = "" if gpu else " (float32: a CPU is far slower on 4 bits)"
    return [
        f"model:           {shape.parameters() / mb:.1f} M parameters, "
        f"{weights / mb:.0f} MB{dtype}",
        f"adapters:        {lora / mb:.2f} M parameters; a checkpoint takes {state / mb:.0f} MB",
        f"memory, rollout: about {(weights + state + cache) / mb:.0f} MB "
        f"({cache / mb:.0f} MB keys and values)",
        f"memory, update:  about {(weights + state + activations + logits) / mb:.0f} MB "
        f"({activations / mb:.0f} MB activations, {logits / mb:.0f} MB logits)",
    ]


def _bytes_per_weight(c: Config) -> float:
    """Packed bits, and a scale and a bias for each group."""
    q = c.quantization
    return q.bits / 8 + 2 * FLOAT16 / q.group_size if q.bits else FLOAT16


def _activations(c: Config, shape: Shape) -> int:
    """Numbers per token that the layers keep for the backward pass: about 14 hidden states and
    three MLP states a layer, or one hidden state where layers are recomputed."""
    if c.ppo.grad_checkpoint:
        return shape.layers * shape.hidden
    return shape.layers * (14 * shape.hidden + 3 * shape.intermediate)
