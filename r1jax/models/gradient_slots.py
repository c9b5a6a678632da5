"""Weights whose gradients are those of slots, in the type of the slots.

In the backward pass, each layer adds its gradient to its part of the slots: the gradient of the whole model need not be
in memory beside their sum over microbatches.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

import flax.struct
import jax

from r1jax.sharding import Params


@flax.struct.dataclass
class Slotted:
    """A weight of stacked layers and its slot, which scan divides into layers together."""

    weight: jax.Array  # [L, ...]
    slot: jax.Array  # [L, ...], of the type of the gradient


def with_slots(params: Params, slots: Params, stacked: Collection[str]) -> Params:
    """The weights, as a function of ``slots`` whose gradient is that of the weights; the weights have none.

    slots: as the weights, in the type that the gradients should have. Their values are not read.
    stacked: the entries of the tree whose leaves become Slotted, for weights_of_layer.
    """
    return {name: jax.tree.map(Slotted if name in stacked else _weight, params[name], slots[name]) for name in params}


def weights_of_layer(layer: Params) -> Params:
    """The weights of a layer, given as arrays or as Slotted."""
    return jax.tree.map(lambda x: _weight(x.weight, x.slot) if _is_slotted(x) else x, layer, is_leaf=_is_slotted)


def _is_slotted(x: Any) -> bool:
    return isinstance(x, Slotted)


def _weight(weight: jax.Array, slot: jax.Array) -> jax.Array:
    return _with_slot(weight, slot, slot.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _with_slot(weight: jax.Array, slot: jax.Array, dtype: Any) -> jax.Array:
    return weight


def _forward(weight: jax.Array, slot: jax.Array, dtype: Any) -> tuple[jax.Array, None]:
    return weight, None


def _backward(dtype: Any, _: None, gradient: jax.Array) -> tuple[None, jax.Array]:
    return None, gradient.astype(dtype)


_with_slot.defvjp(_forward, _backward)
