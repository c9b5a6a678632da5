"""Products of rows with the weight matrix of their group, and the order of rows by group."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp

from r1jax.kernels import grouped_mosaic
from r1jax.kernels.platform import runs_here

_BLOCK = 128  # rows of a product in the loop, at most


@flax.struct.dataclass
class Order:
    """The first M of the k copies of each of N rows, sorted by group; copies of the same group keep their order."""

    sorted: jax.Array  # [M] int32: copy i of the sorted ones is copy sorted[i] of the unsorted ones
    places: jax.Array  # [N k] int32, the inverse; M and more for other copies
    sizes: jax.Array  # [E] int32, copies in each group; their sum is at most M


def order_by_group(groups: jax.Array, number: int, most: int | None = None) -> Order:
    """The order of rows whose copies belong to ``groups`` [N, k], each from 0 to ``number`` - 1.

    A copy with the group ``number`` belongs to none. ``most`` (M) is a limit on the copies that belong to one; None is
    N k.
    """
    flat = groups.reshape(-1)
    places = jnp.arange(len(flat), dtype=jnp.int32)
    sorted_ = jnp.argsort(flat, stable=True).astype(jnp.int32)
    sizes = jnp.zeros(number, jnp.int32).at[flat].add(1)
    return Order(sorted_[:most], jnp.zeros_like(places).at[sorted_].set(places, unique_indices=True), sizes)


def to_groups(x: jax.Array, order: Order) -> jax.Array:
    """Copies of the rows x [N, D], sorted by group: [M, D]. The gradient of a row is summed in float32."""
    return _take(x, order.sorted, order.places, len(order.places) // len(x))


def from_groups(y: jax.Array, order: Order, copies: int) -> jax.Array:
    """The inverse of to_groups without the sum over copies: [N, k, D] of sorted y [M, D]; 0 for other copies."""
    unsorted: jax.Array = _take(y, order.places, order.sorted, 1)
    return unsorted.reshape(-1, copies, y.shape[1])


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _take(x: jax.Array, index: jax.Array, back: jax.Array, copies: int) -> jax.Array:
    """x[index // copies], where ``back`` is the inverse of ``index``; zeros for an index beyond the end of x."""
    return _rows(x, index // copies, len(index) <= len(back))


def _take_forward(x: jax.Array, index: jax.Array, back: jax.Array, copies: int) -> tuple[jax.Array, jax.Array]:
    return _take(x, index, back, copies), back


def _take_backward(copies: int, back: jax.Array, gradient: jax.Array) -> tuple[jax.Array, None, None]:
    # A gather: the scatter of the derived rule adds in the type of the rows, in an order that may vary on a GPU.
    taken = _rows(gradient, back, len(gradient) >= len(back))
    if copies > 1:
        taken = taken.reshape(-1, copies, gradient.shape[1]).sum(axis=1, dtype=jnp.float32).astype(gradient.dtype)
    return taken, None, None


def _rows(x: jax.Array, index: jax.Array, within: bool) -> jax.Array:
    """x[index]; unless all are ``within`` x, zeros for an index beyond its end."""
    return x[index] if within else x.at[index].get(mode="fill", fill_value=0)


_take.defvjp(_take_forward, _take_backward)


@jax.custom_vjp
def grouped_product(x: jax.Array, weights: jax.Array, sizes: jax.Array) -> jax.Array:
    """Each row of x times the matrix of its group: y_m = x_m W_g(m).

    Sums are in float32, also those of the gradients, and are rounded to the type of the operands once.

    Args:
      x: [M, K], sorted by group.
      weights: [E, K, N].
      sizes: [E] int32, rows of each group; their sum is at most M.

    Returns:
      [M, N] in the type of x; zeros after the last group.
    """
    return _product(x, weights, sizes)


def _forward(x: jax.Array, weights: jax.Array, sizes: jax.Array) -> tuple[jax.Array, Any]:
    return _product(x, weights, sizes), (x, weights, sizes)


def _backward(kept: Any, gradient: jax.Array) -> tuple[jax.Array, jax.Array, None]:
    x, weights, sizes = kept
    return _product(gradient, weights, sizes, True), _outer(x, gradient, sizes).astype(weights.dtype), None


grouped_product.defvjp(_forward, _backward)


def form(*operands: jax.Array) -> Literal["loop", "ragged_dot", "mosaic"]:
    """How products of these rows and matrices are computed on the devices of this process."""
    if jax.default_backend() == "cpu":
        return "loop"
    return "mosaic" if runs_here("mosaic") and grouped_mosaic.supports(*operands) else "ragged_dot"


def _product(x: jax.Array, weights: jax.Array, sizes: jax.Array, transposed: bool = False) -> jax.Array:
    chosen = form(x, weights)
    if chosen == "mosaic":
        return grouped_mosaic.product_kernel(x, weights, sizes, transposed)
    weights = weights.swapaxes(1, 2) if transposed else weights
    return (loop_product if chosen == "loop" else ragged_product)(x, weights, sizes)


def _outer(x: jax.Array, y: jax.Array, sizes: jax.Array) -> jax.Array:
    forms = {"loop": loop_outer, "ragged_dot": ragged_outer, "mosaic": grouped_mosaic.outer_kernel}
    return forms[form(x, y)](x, y, sizes)


def ragged_product(x: jax.Array, weights: jax.Array, sizes: jax.Array) -> jax.Array:
    """grouped_product as one operation of XLA."""
    y = jax.lax.ragged_dot(x, weights, sizes, preferred_element_type=jnp.float32)
    # Not all backends write the rows after the last group.
    return jnp.where((jnp.arange(len(x)) < sizes.sum())[:, None], y, 0.0).astype(x.dtype)


def ragged_outer(x: jax.Array, y: jax.Array, sizes: jax.Array) -> jax.Array:
    """The sum of x_m y_m^T over the rows of each group: [E, K, N] float32 of x [M, K] and y [M, N]."""
    return jax.lax.ragged_dot_general(x, y, sizes, _OUTER, preferred_element_type=jnp.float32)


_OUTER = jax.lax.RaggedDotDimensionNumbers(
    dot_dimension_numbers=(((0,), (0,)), ((), ())), lhs_ragged_dimensions=[0], rhs_group_dimensions=[]
)


# XLA:CPU computes a ragged product as one of all rows with all matrices. These loops compute a block of one group at a
# time: without waste but for the last block of each group, and with one matrix in the cache.


def _blocks(sizes: jax.Array, rows: int) -> tuple[int, jax.Array, Any]:
    """Rows of a block, the number of blocks, and the group and the first row of a block; no block has two groups."""
    E = sizes.shape[0]
    size = max(8, min(_BLOCK, rows // E))
    ends, blocks = jnp.cumsum(sizes), jnp.cumsum(-(-sizes // size))

    def one(i: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        group = jnp.searchsorted(blocks, i, side="right").astype(jnp.int32)
        within = i - (blocks[group] - -(-sizes[group] // size))
        return group, ends[group] - sizes[group] + within * size, ends[group]

    return size, blocks[-1], one


def loop_product(x: jax.Array, weights: jax.Array, sizes: jax.Array) -> jax.Array:
    """grouped_product as a loop over blocks of rows."""
    size, number, block = _blocks(sizes, len(x))
    padded = jnp.pad(x, ((0, size), (0, 0)))  # so that the last block is whole

    def body(i: jax.Array, y: jax.Array) -> jax.Array:
        group, start, end = block(i)
        part = jax.lax.dynamic_slice_in_dim(padded, start, size).astype(jnp.float32)
        part = (part @ weights[group].astype(jnp.float32)).astype(y.dtype)
        # Rows after the end of the group are zero until the block of the next group replaces them.
        part = jnp.where((start + jnp.arange(size) < end)[:, None], part, 0.0)
        return jax.lax.dynamic_update_slice_in_dim(y, part, start, axis=0)

    y = jnp.zeros((len(padded), weights.shape[2]), x.dtype)
    return jax.lax.fori_loop(jnp.int32(0), number, body, y)[: len(x)]


def loop_outer(x: jax.Array, y: jax.Array, sizes: jax.Array) -> jax.Array:
    """ragged_outer as a loop over blocks of rows."""
    size, number, block = _blocks(sizes, len(x))
    pad = ((0, size), (0, 0))
    x, y = jnp.pad(x, pad), jnp.pad(y, pad)

    def body(i: jax.Array, total: jax.Array) -> jax.Array:
        group, start, end = block(i)
        left = jax.lax.dynamic_slice_in_dim(x, start, size).astype(jnp.float32)
        right = jax.lax.dynamic_slice_in_dim(y, start, size).astype(jnp.float32)
        left = jnp.where((start + jnp.arange(size) < end)[:, None], left, 0.0)
        return total.at[group].add(left.T @ right)

    total = jnp.zeros((sizes.shape[0], x.shape[1], y.shape[1]), jnp.float32)
    return jax.lax.fori_loop(jnp.int32(0), number, body, total)
