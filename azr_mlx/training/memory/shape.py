"""The sizes of a decoder that determine its memory, from its config.json alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from azr_mlx.config import Lora
from azr_mlx.errors import WRONG_VALUES

# The counts below hold for these decoders. Others are accepted, but their memory is unknown.
KNOWN = frozenset({"llama", "mistral", "qwen2", "qwen3"})


class UnknownModel(Exception):
    """A config.json lacks a size, or has another architecture, so its memory cannot be
    estimated."""


@dataclass(frozen=True, slots=True)
class Shape:
    """``query`` and ``key`` are widths: number of heads x size of a head. ``quantized`` is (bits,
    group size) if the model is stored quantised; ``normed`` says whether queries and keys are
    normalised."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    biased: bool = False
    normed: bool = False
    quantized: tuple[int, int] | None = None

    @classmethod
    def from_config(cls, row: Mapping[str, Any]) -> Shape:
        """The shape that a config.json describes. Raises UnknownModel."""
        kind = row.get("model_type")
        if not isinstance(kind, str) or kind not in KNOWN:
            raise UnknownModel(f"model type {kind!r}")
        try:
            return cls._read(row, kind)
        except KeyError as e:
            raise UnknownModel(f"config.json has no {e.args[0]}") from e
        except WRONG_VALUES as e:
            raise UnknownModel(f"config.json: {e}") from e

    @classmethod
    def _read(cls, row: Mapping[str, Any], kind: str) -> Shape:
        heads, stored = int(row["num_attention_heads"]), row.get("quantization")
        packed = stored is not None and (int(stored["bits"]), int(stored["group_size"]))
        return cls(
            layers=int(row["num_hidden_layers"]),
            hidden=int(row["hidden_size"]),
            intermediate=int(row["intermediate_size"]),
            heads=heads,
            kv_heads=int(row.get("num_key_value_heads") or heads),
            head_dim=int(row.get("head_dim") or int(row["hidden_size"]) // heads),
            vocabulary=int(row["vocab_size"]),
            tied=bool(row.get("tie_word_embeddings", kind != "mistral")),
            biased=kind == "qwen2" or bool(row.get("attention_bias")),
            normed=kind == "qwen3",
            quantized=packed or None,
        )

    @property
    def query(self) -> int:
        return self.heads * self.head_dim

    @property
    def key(self) -> int:
        return self.kv_heads * self.head_dim

    def linears(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of the linear maps of a layer."""
        return {
            "self_attn.q_proj": (self.hidden, self.query),
            "self_attn.k_proj": (self.hidden, self.key),
            "self_attn.v_proj": (self.hidden, self.key),
            "self_attn.o_proj": (self.query, self.hidden),
            "mlp.gate_proj": (self.hidden, self.intermediate),
            "mlp.up_proj": (self.hidden, self.intermediate),
            "mlp.down_proj": (self.intermediate, self.hidden),
        }

    def matrices(self) -> int:
        """Number of weights in matrices."""
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * sum(i * o for i, o in self.linears().values())

    def vectors(self) -> int:
        """Number of weights in norms and biases."""
        biases = self.query + 2 * self.key if self.biased else 0
        norms = 2 * self.hidden + (2 * self.head_dim if self.normed else 0)
        return self.hidden + self.layers * (norms + biases)

    def lora_parameters(self, lora: Lora) -> int:
        return sum(lora.rank * (inputs + outputs) for inputs, outputs in self._adapted(lora))

    def adapted(self, lora: Lora) -> int:
        """Number of weights in the matrices that have adapters."""
        return sum(inputs * outputs for inputs, outputs in self._adapted(lora))

    def _adapted(self, lora: Lora) -> list[tuple[int, int]]:
        count = self.layers if lora.num_layers < 0 else min(lora.num_layers, self.layers)
        linears = self.linears().items()
        return count * [size for name, size in linears if name in lora.keys or not lora.keys]
