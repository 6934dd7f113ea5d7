"""Randomness without state: every draw names its key, and nothing else in the package draws.

A key is a 64-bit hash of (seed, stream, step, index...). A run that is killed and resumed therefore
draws the same numbers as one that was not, with no generator state to save.
"""

from __future__ import annotations

import hashlib
import struct

import numpy as np


def key(seed: int, stream: str, step: int, *index: int) -> int:
    """A 64-bit key for one draw, or one sequence of draws, of ``stream`` at ``step``."""
    packed = struct.pack(f"<{2 + len(index)}q", seed, step, *index)
    digest = hashlib.blake2b(stream.encode() + b"\0" + packed, digest_size=8).digest()
    return int.from_bytes(digest, "little")


def generator(seed: int, stream: str, step: int, *index: int) -> np.random.Generator:
    """A numpy generator that belongs to one key."""
    return np.random.Generator(np.random.Philox(key(seed, stream, step, *index)))


def uniforms(key64: int, count: int) -> np.ndarray:
    """float32 [count] in [0, 1): the draws of one sequence, whatever batch it is decoded in."""
    return np.random.Generator(np.random.Philox(key64)).random(count, dtype=np.float32)


def words(key64: int, count: int) -> np.ndarray:
    """uint32 [count, 2]: a 64-bit key for each draw of a sequence, for a generator on a device."""
    return np.random.Philox(key64).random_raw(count).view(np.uint32).reshape(count, 2)
