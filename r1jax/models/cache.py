"""Key/value cache for decoding: a prefix shared by the samples of a prompt, and a ring of new tokens per slot."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from r1jax.models.config import ModelConfig
from r1jax.models.transformer import hidden_states
from r1jax.sharding import Params, constrain

RING_CHUNK = 512  # entries of a long ring that attention processes at a time


@flax.struct.dataclass
class Prefix:
    """Keys and values of the prompts, one pair of arrays per layer."""

    keys: tuple[jax.Array, ...]  # L of [P, G, Tp, K]
    values: tuple[jax.Array, ...]  # L of [P, G, Tp, K]


@flax.struct.dataclass
class Ring:
    """Keys and values of the newest tokens, one pair of arrays per layer.

    At each step every slot writes to the same entry, the step modulo the length of the ring, so that a write is one
    slice and not a scatter. The tokens of a slot's sequence are the ``age`` newest entries; older entries belong to
    sequences that have ended.
    """

    keys: tuple[jax.Array, ...]  # L of [S, G, R, K]
    values: tuple[jax.Array, ...]  # L of [S, G, R, K]


def ring_length(length: int) -> int:
    """Entries of a ring for ``length`` tokens; rounded up to whole chunks if it is longer than one chunk."""
    return length if length <= RING_CHUNK else -(-length // RING_CHUNK) * RING_CHUNK


def init_ring(slots: int, length: int, config: ModelConfig) -> Ring:
    """An empty ring for ``slots`` sequences of up to ``length`` tokens."""
    shape = (slots, config.num_kv_heads, ring_length(length), config.head_dim)

    def empty() -> tuple[jax.Array, ...]:
        zeros = jnp.zeros(shape, config.dtype)
        return tuple(constrain(zeros, "slots", "kv_heads", None, None) for _ in range(config.num_layers))

    return Ring(keys=empty(), values=empty())


def prefill(params: Params, tokens: jax.Array, config: ModelConfig, rows: int) -> Prefix:
    """Computes the prefix of prompts [P, Tp], padded on the right, ``rows`` prompts at a time."""
    P, T = tokens.shape
    n = -(-P // rows)
    padded = jnp.pad(tokens, ((0, n * rows - P), (0, 0))).reshape(n, rows, T)

    def one(chunk: jax.Array) -> tuple[jax.Array, jax.Array]:
        _, cache = hidden_states(params, chunk, config, with_cache=True)
        assert cache is not None
        return cache

    keys, values = jax.lax.map(one, padded)  # [n, L, rows, Tp, G, K]

    def per_layer(x: jax.Array) -> tuple[jax.Array, ...]:
        x = x.transpose(1, 0, 2, 4, 3, 5).reshape(config.num_layers, n * rows, *x.shape[4:5], T, x.shape[5])
        # Prompts are not split over the data axis: any slot may need any of them.
        return tuple(constrain(layer[:P], None, "kv_heads", None, None) for layer in x)

    return Prefix(keys=per_layer(keys), values=per_layer(values))
