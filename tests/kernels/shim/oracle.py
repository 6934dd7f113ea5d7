"""The two row kernels in float64 numpy, and rows of logits that find their weak spots."""

from __future__ import annotations

import numpy as np

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def threefry(k0, k1, x, y) -> tuple[np.ndarray, np.ndarray]:
    """threefry2x32 with 20 rounds on uint64 arrays that hold uint32."""
    low = np.uint64(0xFFFFFFFF)
    k0, k1, x, y = (np.asarray(word, np.uint64) for word in (k0, k1, x, y))
    schedule = (k0, k1, k0 ^ k1 ^ np.uint64(0x1BD11BDA))
    x, y = (x + k0) & low, (y + k1) & low
    for i in range(5):
        for r in ROTATIONS[i % 2]:
            x = (x + y) & low
            y = (((y << np.uint64(r)) | (y >> np.uint64(32 - r))) & low) ^ x
        x = (x + schedule[(i + 1) % 3]) & low
        y = (y + schedule[(i + 2) % 3] + np.uint64(i + 1)) & low
    return x, y


def random_bits(keys: np.ndarray, size: int) -> np.ndarray:
    """uint64 [B, size] of uint32 words: entries i and h + i share a block, h = ceil(size / 2)."""
    half = (size + 1) // 2
    first = np.arange(half)
    second = np.where(first + half < size, first + half, 0)
    k = keys.astype(np.uint64)
    x, y = threefry(k[:, :1], k[:, 1:], first[None], second[None])
    return np.concatenate([x, y], axis=1)[:, :size]


def log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def row_logprob(
    logits: np.ndarray, targets: np.ndarray, inv_temperature: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(logp, entropy, delta, entropy_delta), all float64."""
    logs = log_softmax(logits.astype(np.float64) * inv_temperature)
    p = np.exp(logs)
    terms = p * np.where(p > 0, logs, 0)
    entropy = -terms.sum(axis=-1)
    onehot = np.arange(logits.shape[1])[None] == targets[:, None]
    rows = np.arange(len(logits))
    return logs[rows, targets], entropy, p - onehot, -(terms + p * entropy[:, None])


def scores(logits: np.ndarray, temperature: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """float64 [B, V]: what the arg max is taken of; for a greedy row the logits themselves."""
    v = random_bits(keys, logits.shape[1]).astype(np.float32) * np.float32(2.0**-32)
    v = np.clip(v, np.float32(2.0**-33), np.float32(1 - 2.0**-24)).astype(np.float64)
    gumbel = -np.log(-np.log1p(-v))
    greedy = (temperature <= 0)[:, None]
    x = logits.astype(np.float64)
    return np.where(greedy, x, x / np.where(greedy, 1, temperature[:, None]) + gumbel)


def logprob_rows(size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(logits float32 [8, size], targets [8]): plain, masked, far from 0, peaked, flat, a masked
    target, a steep rise and the lowest floats.
    """
    draw = np.random.default_rng((seed, size))
    x = (draw.normal(size=(8, size)) * 3).astype(np.float32)
    targets = draw.integers(0, size, 8).astype(np.int32)
    x[1] = _masked(draw, x[1], keep=targets[1])
    x[2] += 1e4
    x[3] -= 1e4
    x[4, draw.integers(size)] += 50
    x[5] = 2.5
    targets[6] = 0
    if size > 1:
        x[6, 0] = -np.inf
    x[6, 1:] += np.arange(1, size) * (60 / size)
    x[7] = np.where(np.arange(size) == targets[7], x[7], np.float32(-6e4))
    return x, targets


def sample_rows(size: int, seed: int, rows: int = 24) -> tuple[np.ndarray, ...]:
    """(logits float32 [rows, size], temperature, keys): as above, with greedy rows and ties."""
    draw = np.random.default_rng((seed, size, 1))
    x = (draw.normal(size=(rows, size)) * 2).astype(np.float32)
    temperature = draw.choice([0.5, 1.0, 1.7], rows).astype(np.float32)
    keys = draw.integers(0, 2**32, (rows, 2), dtype=np.uint32)
    x[1] = _masked(draw, x[1], keep=size - 1)
    x[2] = _masked(draw, x[2], keep=size // 2)
    x[3] += 1e4
    x[4] -= 1e4
    temperature[5:9] = 0
    x[6] = np.round(x[6])  # ties
    x[7] = 1.0
    x[8] = _masked(draw, x[8] - 500, keep=0)
    x[9] = np.where(np.arange(size) == size - 1, 0, -np.inf)
    x[10] = -2.0
    return x, temperature, keys


def _masked(draw: np.random.Generator, row: np.ndarray, keep: int) -> np.ndarray:
    masked = draw.random(len(row)) < 0.6
    masked[keep] = False
    return np.where(masked, np.float32(-np.inf), row)
