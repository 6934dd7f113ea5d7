"""Randomness without state: every random draw in the package is made with a key of its own.

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
    """The numpy generator of one key."""
    return np.random.Generator(np.random.Philox(key(seed, stream, step, *index)))


def uniforms(key64: int, count: int) -> np.ndarray:
    """float32 [count] in [0, 1): the draws of one sequence, the same in whatever batch it is in."""
    return np.random.Generator(np.random.Philox(key64)).random(count, dtype=np.float32)


def words(key64: int, count: int) -> np.ndarray:
    """uint32 [count, 2]: one 64-bit key per draw of a sequence, for a generator on a device."""
    return np.random.Philox(key64).random_raw(count).view(np.uint32).reshape(count, 2)
