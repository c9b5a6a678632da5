"""Random streams: seed -> stage -> step -> sequence, so that no two stages of a run draw the same numbers."""

from __future__ import annotations

import zlib

import jax
import numpy as np


def named_key(key: jax.Array, name: str) -> jax.Array:
    """The key with a name folded in: its CRC-32, since Python's own hash differs between processes."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def stage_key(seed: int, *names: str) -> jax.Array:
    """The key of a stage, and within it of what the further names say: seed, with the CRC-32 of each name folded in."""
    key = jax.random.key(seed)
    for name in names:
        key = named_key(key, name)
    return key


def stage_seed(seed: int, *names: str) -> int:
    """The same for libraries that take an integer: 32 bits that depend on the seed and on each name."""
    entropy = (seed, *(zlib.crc32(name.encode()) for name in names))
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])
