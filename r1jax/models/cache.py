"""The cache of decoding: a prefix shared by the samples of a prompt, and a ring of new tokens per slot."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from r1jax.kernels import decode_attention
from r1jax.kernels.decode_attention_mosaic import ALIGNMENT
from r1jax.models.config import ModelConfig
from r1jax.models.kinds import Cached, CacheShape
from r1jax.models.layers import cache_shapes, mtp_cache_shapes
from r1jax.models.mtp import ahead, mtp_states
from r1jax.models.transformer import hidden_states, routing_of_layers
from r1jax.sharding import Params, constrain


@flax.struct.dataclass
class Prefix:
    """What is kept of the tokens of the prompts."""

    layers: tuple[Cached, ...]  # L of [P, heads, Tp, width], or [P, Tp, width] if all heads share them
    experts: jax.Array | None = None  # [P, Tp, L, k] int32 of the layers with experts, if asked for


@flax.struct.dataclass
class Ring:
    """What is kept of the newest tokens.

    At each step every slot writes to the same entry, the step modulo the length of the ring, so that a write is one
    slice and not a scatter. The tokens of a slot's sequence are the ``age`` newest entries; older entries belong to
    sequences that have ended.
    """

    layers: tuple[Cached, ...]  # L of [S, heads, R, width], or [S, R, width] if all heads share them


@flax.struct.dataclass
class SlotCache:
    """What is kept of the tokens of each slot: that of the i-th token of its sequence is entry i.

    Slots write to entries of their own, unlike in a Ring, so a step may add more tokens to some slots than to others.
    Entries from the length of the sequence on belong to rejected tokens and to sequences that have ended.
    """

    layers: tuple[Cached, ...]  # L of [S, heads, R, width], or [S, R, width] if all heads share them


def ring_length(length: int, config: ModelConfig) -> int:
    """Entries of a ring for ``length`` tokens.

    Rounded up to whole chunks if it is longer than one chunk, and to what the kernels of Mosaic need.
    """
    chunk = decode_attention.RING_CHUNK
    if length <= chunk:
        chunk = ALIGNMENT if decode_attention.attention_kernels(config, pairs=1) == "mosaic" else 1
    return -(-length // chunk) * chunk


def split_cache(x: jax.Array, rows: str | None) -> jax.Array:
    """Constrains an array of a Prefix or Ring: its rows to the logical axis ``rows``, its heads to the model axis."""
    return constrain(x, rows, *["kv_heads"] * (x.ndim - 3), None, None)


def init_ring(slots: int, length: int, config: ModelConfig) -> Ring:
    """An empty ring for ``slots`` sequences of up to ``length`` tokens."""
    return Ring(_empty(cache_shapes(config), slots, length, config))


def init_slot_cache(slots: int, length: int, config: ModelConfig, mtp: bool) -> SlotCache:
    """An empty cache for ``slots`` sequences of up to ``length`` tokens; mtp: as in prefill."""
    return SlotCache(_empty(cache_shapes(config) + (mtp_cache_shapes(config) if mtp else ()), slots, length, config))


def _empty(
    shapes: tuple[tuple[CacheShape, ...], ...], slots: int, length: int, config: ModelConfig
) -> tuple[Cached, ...]:
    def empty(shape: CacheShape) -> jax.Array:
        heads = () if shape.heads is None else (shape.heads,)
        return split_cache(jnp.zeros((slots, *heads, ring_length(length, config), shape.width), config.dtype), "slots")

    return tuple(tuple(empty(shape) for shape in layer) for layer in shapes)


def prefill(
    params: Params, tokens: jax.Array, config: ModelConfig, rows: int, keep_routing: bool = False, mtp: bool = False
) -> Prefix:
    """Computes the prefix of prompts [P, Tp], padded on the right, ``rows`` prompts at a time.

    keep_routing: with the experts of each token, if the model has experts.
    mtp: with what the layers of multi-token prediction keep, after that of the decoder's layers.
    """
    P, T = tokens.shape
    n = -(-P // rows)
    padded = jnp.pad(tokens, ((0, n * rows - P), (0, 0))).reshape(n, rows, T)

    def one(chunk: jax.Array) -> tuple[tuple[Cached | None, ...], jax.Array | None]:
        states, extras = hidden_states(params, chunk, config, with_cache=True)
        routing = routing_of_layers(extras) if keep_routing else None
        cached = extras.cache
        if mtp:
            cached += mtp_states(params, states, ahead(chunk, 1), config, with_cache=True)[1].cache
        return cached, None if routing is None else jnp.moveaxis(routing.experts, 0, 2)

    def per_layer(x: jax.Array) -> list[jax.Array]:  # [n, L, rows, Tp, heads, width], or without heads
        x = jnp.moveaxis(x, (0, 3), (1, -2))
        x = x.reshape(x.shape[0], n * rows, *x.shape[3:])
        # Prompts are not split over the data axis: any slot may need any of them.
        return [split_cache(layer[:P], None) for layer in x]

    layers: list[Cached] = []
    of_runs, experts = jax.lax.map(one, padded)
    for cached in of_runs:
        layers += zip(*(per_layer(x) for x in cached), strict=True)
    if experts is not None:
        experts = experts.reshape(n * rows, T, *experts.shape[3:])[:P]
    return Prefix(tuple(layers), experts)
