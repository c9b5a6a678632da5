"""Random keys: seed -> stage -> step -> sequence, so that stages of a run draw different numbers."""

from __future__ import annotations

import zlib

import jax
import numpy as np


def named_key(key: jax.Array, name: str) -> jax.Array:
    """Folds the CRC-32 of a name into the key; Python's hash differs between processes."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def stage_key(seed: int | jax.Array, *names: str) -> jax.Array:
    """The key of a stage, and of parts of it by further names: the seed with the CRC-32 of each name folded in."""
    key = jax.random.key(seed)
    for name in names:
        key = named_key(key, name)
    return key


def stage_seed(seed: int, *names: str) -> int:
    """stage_key for libraries that take an integer seed: 32 bits that depend on the seed and all names."""
    entropy = (seed, *(zlib.crc32(name.encode()) for name in names))
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])
