"""Rows of a batch that each device computes by itself, with all weights and the kernels of one device.

The functions here run another one inside shard_map, where no product waits for other devices and the compiler
partitions no array. The gradients of the devices are added once, after all microbatches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from r1jax.errors import UserError
from r1jax.models.config import ModelConfig
from r1jax.models.transformer import param_specs
from r1jax.sharding import ROWS, Params, compiler_mesh, map_specs, parse_mesh, partition_param

SPLIT = PartitionSpec(ROWS)


def computes_by_device(config: ModelConfig) -> bool:
    """True if the devices of the current mesh compute the rows of a batch by themselves: with config.gather "device".

    Raises:
      UserError: as check_gather.
    """
    mesh = compiler_mesh()
    if mesh is None or mesh.size == 1 or config.gather != "device":
        return False
    _check(mesh.shape["data"], mesh.size, config)
    return True


def check_gather(gather: str, mesh: str, *models: ModelConfig) -> None:
    """Raises UserError for gather "device" if a mesh such as "2x4" has other axes than data, or a model has experts."""
    size = parse_mesh(mesh)
    if gather == "device" and math.prod(size) > 1:
        for model in models:
            _check(size.data, math.prod(size), model)


def _check(data: int, devices: int, model: ModelConfig) -> None:
    if data != devices or model.experts is not None:
        raise UserError(
            "--gather=device needs a mesh with a data axis alone and a model without experts: use --gather=update"
        )


def over_rows(run: Callable[[Params, Any], Any], params: Params, batch: Any, config: ModelConfig) -> Any:
    """``run(params, batch)``, on each device for its rows if computes_by_device.

    Arrays of the batch and of the result have the rows as their first axis; numbers of the batch are the same on all
    devices.
    """
    return _mapped(run, params, batch, (), SPLIT) if computes_by_device(config) else run(params, batch)


def added_over_rows(
    run: Callable[..., tuple[tuple[Params, jax.Array], Any]],
    params: Params,
    batch: Any,
    config: ModelConfig,
    *whole: Any,
) -> tuple[tuple[Params, jax.Array], Any]:
    """``run(params, batch, *whole)`` as over_rows, which gives gradients and a count, to be added, and other results.

    The gradients are added in the type config.accumulate, and have the sharding of the weights. The first axis of the
    other results has those of all devices, one after another. whole: arrays that all devices have.
    """
    if not computes_by_device(config):
        return run(params, batch, *whole)
    mesh, specs = compiler_mesh(), param_specs(config)
    splits = map_specs(lambda spec: partition_param(spec, mesh), specs)

    def on_device(params: Params, batch: Any, *whole: Any) -> tuple[tuple[Params, jax.Array], Any]:
        (grads, count), others = run(params, batch, *whole)
        grads = jax.tree.map(lambda split, x: _added(x.astype(config.accumulate), split), splits, grads)
        return (grads, jax.lax.psum(count, "data")), others

    return _mapped(on_device, params, batch, whole, ((splits, PartitionSpec()), SPLIT))


def _mapped(run: Callable[..., Any], params: Params, batch: Any, whole: tuple[Any, ...], out: Any) -> Any:
    rows = jax.tree.map(lambda x: SPLIT if jnp.ndim(x) else PartitionSpec(), batch)
    specs = (PartitionSpec(), rows, *[PartitionSpec()] * len(whole))
    return jax.shard_map(run, in_specs=specs, out_specs=out, check_vma=False)(params, batch, *whole)


def _added(x: jax.Array, split: PartitionSpec) -> jax.Array:
    """The sum over the devices, of which each keeps its part of the dimension that the data axis splits, if one is."""
    for dimension, axis in enumerate(split):
        if axis == "data":
            return jax.lax.psum_scatter(x, "data", scatter_dimension=dimension, tiled=True)
    return jax.lax.psum(x, "data")
