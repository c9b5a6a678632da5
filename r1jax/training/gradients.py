"""Gradients of sums, added up over microbatches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from r1jax.errors import UserError
from r1jax.models.config import ModelConfig
from r1jax.models.gradient_slots import with_slots
from r1jax.models.layers import runs
from r1jax.sharding import Params, constrain
from r1jax.training.by_device import added_over_rows


def check_microbatch(size: int, what: str, data_axis: int, settings: str) -> None:
    """Raises UserError, naming the settings to change, if ``size`` of ``what`` do not split over the devices.

    data_axis: devices that split a batch, those of the data axis times those of the expert axis.
    """
    if size % data_axis:
        raise UserError(
            f"a microbatch of {size} {what} does not split over the {data_axis} devices of the mesh's data and expert "
            f"axes: change {settings} or --mesh"
        )


def split_microbatches(tree: Any, n: int) -> Any:
    """Leading axis [B, ...] as [n, B/n, ...], each part split over the data axis."""

    def split(x: jax.Array) -> jax.Array:
        # Row b is in part b % n: each part then has rows of every device, and none moves between devices.
        x = jnp.swapaxes(x.reshape(-1, n, *x.shape[1:]), 0, 1)
        return constrain(x, None, "batch", *[None] * (x.ndim - 2))

    return jax.tree.map(split, tree)


def map_microbatches(run: Callable[[Any], jax.Array], rows: Any, n: int) -> jax.Array:
    """The results [B/n, ...] of ``run`` for the n microbatches of a tree of arrays [B, ...], as one array [B, ...]."""
    parts = jax.lax.map(run, split_microbatches(rows, n))  # [n, B/n, ...]
    return jnp.swapaxes(parts, 0, 1).reshape(-1, *parts.shape[2:])


def accumulate(
    sums: Callable[..., tuple[jax.Array, Any]],
    params: Params,
    batch: Any,
    microbatches: int,
    config: ModelConfig,
    in_place: bool = True,
    whole: tuple[Any, ...] = (),
) -> tuple[tuple[Params, jax.Array], Any]:
    """Gradients and counts of a batch added over its microbatches, and the other results stacked.

    ``sums(params, part, *whole)`` gives (a sum, (count, *others)). Gradients are added in the type config.accumulate.
    That of a single microbatch keeps its type, unless devices compute by themselves (r1jax.training.by_device): a
    float32 copy of a large model may not fit into memory.

    in_place: in the backward pass, each layer adds its gradient to the running sum, so that the gradient of a
    microbatch is not in memory beside the sum. vmap over this function is not supported then.
    whole: further arrays that ``sums`` reads. Arrays of the mesh must reach ``sums`` as arguments.
    """

    def added(params: Params, batch: Any, *whole: Any) -> tuple[tuple[Params, jax.Array], Any]:
        def part_sums(params: Params, part: Any) -> tuple[jax.Array, Any]:
            return sums(params, part, *whole)

        if microbatches == 1:
            grads, (count, *others) = jax.grad(part_sums, has_aux=True)(params, batch)
            return (grads, count), jax.tree.map(lambda x: x[None], others)
        one = _adding(part_sums, params, config, in_place)
        return jax.lax.scan(one, _zeros(params, config), split_microbatches(batch, microbatches))

    return added_over_rows(added, params, batch, config, *whole)


def accumulate_parts(
    sums: Callable[[Params, Any], tuple[jax.Array, Any]],
    params: Params,
    part: Callable[[Any, jax.Array], Any],
    batch: Any,
    parts: jax.Array,
    most: int,
    config: ModelConfig,
    in_place: bool = True,
) -> tuple[tuple[Params, jax.Array], Any]:
    """As accumulate, for a number of parts that is known when the program runs.

    part: of the batch, by its number, which is below ``parts``. The other results are stacked in arrays for ``most``
    parts, with zeros for those that there are not.
    """

    def added(params: Params, inputs: tuple[Any, jax.Array]) -> tuple[tuple[Params, jax.Array], Any]:
        batch, parts = inputs
        adding, start = _adding(sums, params, config, in_place), _zeros(params, config)

        @jax.jit  # traced once, for the shapes and for the loop
        def one(total: Any, p: jax.Array) -> tuple[Any, Any]:
            return adding(total, part(batch, p))

        _, blank = jax.eval_shape(one, start, jnp.int32(0))
        stacked = jax.tree.map(lambda x: jnp.zeros((most, *x.shape), x.dtype), blank)

        def step(p: jax.Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
            total, stacked = carry
            total, others = one(total, p)
            return total, jax.tree.map(lambda stacked, x: stacked.at[p].set(x), stacked, others)

        return jax.lax.fori_loop(0, parts, step, (start, stacked))

    return added_over_rows(added, params, (batch, parts), config)


def _adding(
    sums: Callable[[Params, Any], tuple[jax.Array, Any]], params: Params, config: ModelConfig, in_place: bool
) -> Callable[[Any, Any], tuple[Any, Any]]:
    """The function (gradients and count so far, part) -> gradients and count with those of the part, other results."""
    stacked = [run.name for run in runs(config)]

    def one(total: Any, part: Any) -> tuple[Any, Any]:
        grads, count = total
        _, backward, (more, *others) = jax.vjp(
            lambda slots: sums(with_slots(params, slots, stacked), part), grads, has_aux=True
        )
        if in_place:
            refs = jax.tree.map(jax.new_ref, grads)
            backward.with_refs(refs)(jnp.ones(()))
            added = jax.tree.map(jax.freeze, refs)
        else:
            added = jax.tree.map(jnp.add, grads, backward(jnp.ones(()))[0])
        return (added, count + more), others

    return one


def _zeros(params: Params, config: ModelConfig) -> tuple[Params, jax.Array]:
    """Gradients and count of nothing."""
    # Without the barrier, XLA keeps one array of zeros per shape until the optimiser, which selects between zeros and
    # its updates.
    zero = jax.lax.optimization_barrier(jnp.zeros((), config.accumulate))
    return jax.tree.map(lambda w: jnp.broadcast_to(zero, w.shape), params), jnp.zeros(())
