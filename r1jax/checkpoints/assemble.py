"""Builds the parameter tree from the arrays of a file, one array at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from r1jax.checkpoints.layout import Stored, TreePath
from r1jax.sharding import Params

Box = tuple[tuple[int, int], ...]  # first and last + 1 on each axis

_NO_MESH = Mesh(np.empty((), object), ())  # in a mesh of several devices, JAX refuses a program on one of them


def assemble(expected: list[Stored], read: Callable[[Stored], np.ndarray], dtype: str, shardings: Any | None) -> Params:
    """Builds the parameter tree from the arrays that ``read`` returns, cast to ``dtype`` where their specs have none.

    Beyond what the devices hold, the host needs less than twice the memory of the largest array in ``dtype``: weights
    larger than it are built on the devices, array by array. With shardings, each device receives only its part, and
    arrays of which this process needs no part are not read.
    """
    placements = cast(Mapping[TreePath, NamedSharding], flax.traverse_util.flatten_dict(shardings or {}))
    largest = max(math.prod(array.own_shape) for array in expected)
    grouped: dict[TreePath, list[Stored]] = {}
    for array in expected:
        grouped.setdefault(array.path, []).append(array)
    params = {}
    with jax.set_mesh(_NO_MESH):
        for path, arrays in grouped.items():
            build = _on_host if math.prod(arrays[0].weight) <= largest else _on_devices
            params[path] = build(arrays, read, arrays[0].dtype or dtype, placements.get(path))
    return flax.traverse_util.unflatten_dict(params)


def _on_host(arrays: list[Stored], read: Any, dtype: str, sharding: NamedSharding | None) -> jax.Array:
    if arrays[0].own_shape == arrays[0].weight:
        weight = arrays[0].to_own(read(arrays[0]))  # cast on the device
    else:
        weight = np.empty(arrays[0].weight, jnp.dtype(dtype))
        for array in arrays:
            place = tuple(slice(*ends) for ends in _box(array))
            weight[place] = array.to_own(read(array)).reshape(weight[place].shape)
    if sharding is None:
        return jax.device_put(weight).astype(dtype)
    # Each device receives its part of the host array.
    return jax.make_array_from_callback(weight.shape, sharding, weight.__getitem__).astype(dtype)


def _on_devices(arrays: list[Stored], read: Any, dtype: str, sharding: NamedSharding | None) -> jax.Array:
    shape = arrays[0].weight
    parts: dict[Any, Box] = {None: tuple((0, size) for size in shape)}  # None: the default device
    if sharding is not None:
        indices = sharding.addressable_devices_indices_map(shape)
        parts = {
            d: tuple(s.indices(n)[:2] for s, n in zip(index or (), shape, strict=True)) for d, index in indices.items()
        }
    buffers = {d: jnp.zeros([end - begin for begin, end in part], dtype, device=d) for d, part in parts.items()}
    for array in arrays:
        box = _box(array)
        shared = {d: common for d, part in parts.items() if (common := _intersection(box, part)) is not None}
        if shared:
            own = array.to_own(read(array)).reshape([end - begin for begin, end in box])
            buffers |= {d: _with(buffers[d], own, common, box, parts[d], d) for d, common in shared.items()}
            # The array is freed on the host before the next one is read.
            jax.block_until_ready([buffers[d] for d in shared])
            del own
    if sharding is None:
        return buffers[None]
    return jax.make_array_from_single_device_arrays(shape, sharding, list(buffers.values()))


def _with(buffer: jax.Array, own: np.ndarray, common: Box, box: Box, part: Box, device: Any) -> jax.Array:
    """The buffer of ``part`` with the values in ``common`` of an array that fills ``box``."""
    piece = own[tuple(slice(a - first, b - first) for (a, b), (first, _) in zip(common, box, strict=True))]
    start = np.array([a - first for (a, _), (first, _) in zip(common, part, strict=True)], np.int32)
    return _insert(buffer, jax.device_put(piece, device), start)


@partial(jax.jit, donate_argnums=0)
def _insert(buffer: jax.Array, piece: jax.Array, start: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice(buffer, piece.astype(buffer.dtype), list(start))


def _box(array: Stored) -> Box:
    sizes = (*[1] * len(array.index), *array.own_shape)
    return tuple((begin, begin + size) for begin, size in zip(array.start, sizes, strict=True))


def _intersection(a: Box, b: Box) -> Box | None:
    common = tuple((max(x[0], y[0]), min(x[1], y[1])) for x, y in zip(a, b, strict=True))
    return common if all(begin < end for begin, end in common) else None
