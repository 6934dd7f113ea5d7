"""Tiny random llamas as GGUF files, and what llama.cpp computes from them, in float64 numpy."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import numpy as np

HIDDEN, HEADS, KV_HEADS, LAYERS, MLP = 256, 4, 2, 2, 256
WIDTH = HIDDEN // HEADS
THETA, EPS = 10000.0, 1e-5
Kind = gguf.GGMLQuantizationType
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def weights(vocabulary: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A random llama under ggml's names, float32, with the head last."""
    draw = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (draw.standard_normal((rows, columns)) / columns**0.5).astype(np.float32)

    def norm() -> np.ndarray:
        return (1 + 0.2 * draw.standard_normal(HIDDEN)).astype(np.float32)

    made = {"token_embd.weight": matrix(vocabulary, HIDDEN)}
    for i in range(LAYERS):
        rows = {"attn_q": HIDDEN, "attn_k": KV_HEADS * WIDTH, "attn_v": KV_HEADS * WIDTH}
        rows |= {"attn_output": HIDDEN, "ffn_gate": MLP, "ffn_up": MLP}
        made |= {f"blk.{i}.{name}.weight": matrix(n, HIDDEN) for name, n in rows.items()}
        made[f"blk.{i}.ffn_down.weight"] = matrix(HIDDEN, MLP)
        made |= {f"blk.{i}.{name}.weight": norm() for name in ("attn_norm", "ffn_norm")}
    return made | {"output_norm.weight": norm(), "output.weight": matrix(vocabulary, HIDDEN)}


def inverse_frequencies(theta: float = THETA) -> np.ndarray:
    return theta ** (-np.arange(0, WIDTH, 2) / WIDTH)


def logits(
    made: Mapping[str, np.ndarray],
    ids: list[int],
    frequencies: np.ndarray | None = None,
    magnitude: float = 1.0,
) -> np.ndarray:
    """[tokens, vocabulary]. Neighbouring rows of queries and keys rotate together by position x
    ``frequencies``, and are multiplied by ``magnitude``."""
    w = {name: array.astype(np.float64) for name, array in made.items()}
    frequencies = inverse_frequencies() if frequencies is None else frequencies
    turn = np.exp(1j * np.arange(len(ids))[:, None] * frequencies) * magnitude

    def rotate(x: np.ndarray) -> np.ndarray:
        pairs = (x[..., 0::2] + 1j * x[..., 1::2]) * turn[:, None]
        return np.stack([pairs.real, pairs.imag], -1).reshape(x.shape)

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * w[f"{name}.weight"]

    def heads(x: np.ndarray, name: str) -> np.ndarray:
        return (x @ w[f"{name}.weight"].T).reshape(len(ids), -1, WIDTH)

    h = w["token_embd.weight"][ids]
    for i in range(LAYERS):
        x = norm(h, f"blk.{i}.attn_norm")
        q, k = (rotate(heads(x, f"blk.{i}.attn_{part}")) for part in "qk")
        k, v = (np.repeat(a, HEADS // KV_HEADS, 1) for a in (k, heads(x, f"blk.{i}.attn_v")))
        scores = np.einsum("qhd,khd->hqk", q, k) / WIDTH**0.5
        scores = np.where(np.tri(len(ids), dtype=bool), scores, -np.inf)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.einsum("hqk,khd->qhd", scores / scores.sum(-1, keepdims=True), v)
        h = h + mixed.reshape(len(ids), -1) @ w[f"blk.{i}.attn_output.weight"].T
        x = norm(h, f"blk.{i}.ffn_norm")
        gate = x @ w[f"blk.{i}.ffn_gate.weight"].T
        up = x @ w[f"blk.{i}.ffn_up.weight"].T
        h = h + (gate / (1 + np.exp(-gate)) * up) @ w[f"blk.{i}.ffn_down.weight"].T
    return norm(h, "output_norm") @ w.get("output.weight", w["token_embd.weight"]).T


def byte_vocabulary(*special: tuple[str, int]) -> dict[str, Any]:
    """GPT-2's 256 bytes, "he" and "the" with their merges, and special tokens with their types."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    tokens = [*bytes_to_unicode().values(), "he", "the"]
    kinds = [NORMAL] * len(tokens) + [kind for _, kind in special]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens + [name for name, _ in special],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": ["h e", "t he"],
    }


def piece_vocabulary(**flags: Any) -> dict[str, Any]:
    """A SentencePiece vocabulary with all bytes; long pieces have the highest scores."""
    special = {"<unk>": UNKNOWN, "<s>": CONTROL, "</s>": CONTROL}
    special |= {f"<0x{byte:02X}>": BYTE for byte in range(256)}
    pieces = [*"\u2581helowrdtxis", "he", "ll", "llo", "hello", "\u2581hello", "\u2581\u2581"]
    pieces += ["wo", "wor", "worl", "world", "\u2581world"]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [*special, *pieces],
        "tokenizer.ggml.token_type": [*special.values(), *[NORMAL] * len(pieces)],
        "tokenizer.ggml.scores": [0.0] * len(special) + [float(len(p)) for p in pieces],
        **{f"tokenizer.ggml.{name}": value for name, value in flags.items()},
    }


def pieces_of(text: str, vocabulary: Mapping[str, Any]) -> list[str]:
    """llama.cpp's tokens of a text without spaces: the neighbours that form the token of the
    highest score become one, the leftmost first, until there are none."""
    tokens = vocabulary["tokenizer.ggml.tokens"]
    scores = dict(zip(tokens, vocabulary["tokenizer.ggml.scores"], strict=True))
    parts = list(text)
    while True:
        pairs = [(scores.get(a + b), -i) for i, (a, b) in enumerate(pairwise(parts))]
        found = [pair for pair in pairs if pair[0] is not None]
        if not found:
            break
        at = -max(found)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    as_bytes = ([part] if part in scores else _byte_pieces(part) for part in parts)
    return [piece for pieces in as_bytes for piece in pieces]


def _byte_pieces(part: str) -> list[str]:
    return [f"<0x{byte:02X}>" for byte in part.encode()]


def stored(weight: np.ndarray, kind: Kind) -> np.ndarray:
    """The weight's bytes in a type of ggml; random blocks for types that can only be read."""
    try:
        return gguf.quants.quantize(weight, kind)
    except NotImplementedError:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        # Bytes below 44 make every float16 a small number.
        draw = np.random.default_rng(1)
        shape = (len(weight), weight.shape[1] // block * size)
        return draw.integers(0, 44, shape, dtype=np.uint8)


def write(
    path: Path,
    made: Mapping[str, np.ndarray],
    metadata: Mapping[str, Any],
    kinds: Mapping[str, str] | None = None,
    *,
    architecture: str = "llama",
    big: bool = False,
) -> dict[str, np.ndarray]:
    """Write a file, ``kinds`` by tensor (F32 otherwise); returns the weights that it holds."""
    endian = gguf.GGUFEndian.BIG if big else gguf.GGUFEndian.LITTLE
    writer = gguf.GGUFWriter(path, architecture, endianess=endian)
    for key, value in metadata.items():
        _add(writer, key, value)
    held = {}
    for name, weight in made.items():
        kind = Kind[(kinds or {}).get(name, "F32")]
        if kind in (Kind.F64, Kind.I8):
            weight = weight if kind == Kind.F64 else np.clip(20 * weight, -9, 9)
            held[name] = weight = weight.astype(np.float64 if kind == Kind.F64 else np.int8)
            writer.add_tensor(name, weight.copy())
            continue
        raw = stored(weight, kind)
        held[name] = np.array(gguf.quants.dequantize(raw, kind))
        writer.add_tensor(name, raw.copy(), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def model_keys(architecture: str = "llama", **more: Any) -> dict[str, Any]:
    """The metadata of the random llama; in ``more`` ``rope__scaling__type`` is a key's name."""
    keys: dict[str, Any] = {
        "context_length": 512,
        "embedding_length": HIDDEN,
        "block_count": LAYERS,
        "feed_forward_length": MLP,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.layer_norm_rms_epsilon": EPS,
        "rope.freq_base": THETA,
        **{name.replace("__", "."): value for name, value in more.items()},
    }
    return {f"{architecture}.{name}": value for name, value in keys.items() if value is not None}


def tiny(
    path: Path,
    vocabulary: Mapping[str, Any] | None = None,
    kinds: Mapping[str, str] | None = None,
    extra: Mapping[str, np.ndarray] | None = None,
    big: bool = False,
    **more: Any,
) -> dict[str, np.ndarray]:
    """Write a whole tiny llama, with further tensors and keys; returns the weights it holds."""
    vocabulary = byte_vocabulary() if vocabulary is None else vocabulary
    made = weights(len(vocabulary["tokenizer.ggml.tokens"])) | dict(extra or {})
    return write(path, made, {**model_keys(**more), **vocabulary}, kinds, big=big)


def set_type(path: Path, tensor: str, number: int) -> None:
    """Write another number of a type into the header."""
    content = bytearray(path.read_bytes())
    name = tensor.encode()
    at = content.index(struct.pack("<Q", len(name)) + name) + 8 + len(name)
    (dimensions,) = struct.unpack_from("<I", content, at)
    struct.pack_into("<I", content, at + 4 + 8 * dimensions, number)
    path.write_bytes(content)
