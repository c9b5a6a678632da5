"""Moves tokens to the devices of their experts and the results back, on one device under shard_map.

The expert axis has P devices, each with n tokens of its own. A token goes once to a device, however many of its experts
are there, and the device returns one sum for it. No token is dropped: each device has room for the P n tokens of all.

There are two ways, with equal results. A gather brings all tokens to all devices. A ragged all-to-all moves only those
that have an expert on a device; it is used on TPUs.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

AXIS = "expert"
_MOST = 0.75  # of the pairs of a token and a device; above it, a ragged all-to-all moves little less than a gather


def is_ragged(devices: int, active: int) -> bool:
    """True if tokens with ``active`` experts each move by a ragged all-to-all.

    With experts chosen alike, a token has one on a share 1 - (1 - 1 / P)^k of the P devices. On GPUs, XLA has the
    operation too, but it did not return on two of them with jax 0.11.2.
    """
    return jax.default_backend() == "tpu" and 1 - (1 - 1 / devices) ** active <= _MOST


@flax.struct.dataclass
class Routes:
    """Which tokens of this device go to which, for a ragged all-to-all.

    ``sent`` has room for L = n min(P, k) tokens, those of one destination after those of the other. A device receives
    the tokens of source s from row s n on.
    """

    tokens: jax.Array  # [L] int32, the token in each row of ``sent``; n after the last one
    rows: jax.Array  # [n, min(P, k)] int32, the rows of each token in ``sent``, padded with L
    sizes: jax.Array  # [P] int32, tokens for each destination
    received: jax.Array  # [P] int32, tokens from each source
    starts: jax.Array  # [P] int32, where this device's tokens are in ``sent`` of each source


def routes(needed: jax.Array, active: int) -> Routes:
    """The routes of n tokens, of which needed [n, P] bool says to which devices they go, at most ``active`` each."""
    n, P = needed.shape
    most = min(P, active)
    sizes = needed.sum(axis=0, dtype=jnp.int32)
    row = jnp.cumsum(sizes) - sizes + jnp.cumsum(needed, axis=0, dtype=jnp.int32) - 1
    row = jnp.where(needed, row, n * most)
    tokens = jnp.full(n * most, n, jnp.int32).at[row].set(jnp.arange(n, dtype=jnp.int32)[:, None], mode="drop")
    every = jax.lax.all_gather(sizes, AXIS)  # [P sources, P destinations]
    own = jax.lax.axis_index(AXIS)
    return Routes(
        tokens=tokens,
        rows=jnp.sort(row, axis=1)[:, :most],
        sizes=sizes,
        received=every[:, own],
        starts=(jnp.cumsum(every, axis=1) - every)[:, own],
    )


@jax.custom_vjp
def spread(x: jax.Array, way: Routes | None) -> jax.Array:
    """The tokens x [n, D] of all devices, those of source s from row s n on: [P n, D].

    By a gather (None) all tokens are there, in order. By ``way``, those that this device needs are there, without gaps,
    and zeros after them.
    """
    return _spread(x, way)


@jax.custom_vjp
def collect(y: jax.Array, way: Routes | None) -> jax.Array:
    """The transpose of spread: for each token of this device the sum of its rows y [P n, D] on all devices, [n, D].

    The sum is in float32 and is rounded to the type of y once.
    """
    return _collect(y, way)


def _spread(x: jax.Array, way: Routes | None) -> jax.Array:
    if way is None:
        return jax.lax.all_gather(x, AXIS, tiled=True)
    n, own = len(x), jax.lax.axis_index(AXIS)
    sent = _filled(x, way.tokens)
    room = jnp.zeros((len(way.sizes) * n, x.shape[1]), x.dtype)
    offsets = jnp.cumsum(way.sizes) - way.sizes
    there = jnp.full_like(way.sizes, own * n)
    return jax.lax.ragged_all_to_all(sent, room, offsets, way.sizes, there, way.received, axis_name=AXIS)


def _collect(y: jax.Array, way: Routes | None) -> jax.Array:
    if way is None:
        parts = jax.lax.all_to_all(y.reshape(jax.lax.axis_size(AXIS), -1, y.shape[1]), AXIS, 0, 0)
        return parts.sum(axis=0, dtype=jnp.float32).astype(y.dtype)
    P = len(way.sizes)
    room = jnp.zeros((len(way.tokens), y.shape[1]), y.dtype)
    offsets = jnp.arange(P, dtype=jnp.int32) * (len(y) // P)
    back = jax.lax.ragged_all_to_all(y, room, offsets, way.received, way.starts, way.sizes, axis_name=AXIS)
    return _filled(back, way.rows).sum(axis=1, dtype=jnp.float32).astype(y.dtype)


def _filled(x: jax.Array, index: jax.Array) -> jax.Array:
    """x[index], and zeros for an index beyond the end."""
    return x.at[index].get(mode="fill", fill_value=0)


def _forward(move: Any, x: jax.Array, way: Routes | None) -> tuple[jax.Array, Routes | None]:
    return move(x, way), way


def _backward(move: Any, way: Routes | None, gradient: jax.Array) -> tuple[jax.Array, None]:
    return move(gradient, way), None


# Not the derived rules, whose sums are in the type of the rows.
spread.defvjp(partial(_forward, _spread), partial(_backward, _collect))
collect.defvjp(partial(_forward, _collect), partial(_backward, _spread))


def spread_routing(
    experts: jax.Array, share: jax.Array, way: Routes | None, nobody: int
) -> tuple[jax.Array, jax.Array]:
    """The experts [P n, k] int32 and shares [P n, k] float32 of the rows of ``spread``.

    ``nobody`` is the expert of empty rows. experts: [n, k] int32, below 2^24; share: [n, k] float32.
    """
    both = jnp.concatenate([share, (experts + 1).astype(jnp.float32)], axis=1)  # in one message
    share, experts = jnp.split(spread(both, way), 2, axis=1)
    experts = experts.astype(jnp.int32) - 1
    return jnp.where(experts < 0, nobody, experts), share
