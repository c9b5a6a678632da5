"""Parameter specs, and the table from logical axes to mesh axes.

The mesh has two axes: ``data`` (batch, and parameters split as in FSDP) and ``model`` (tensor parallelism). It is set
once with ``jax.set_mesh`` and is not part of any config.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from r1jax.errors import UserError
from r1jax.seeds import named_key

Params = Any  # nested dict of arrays
MESH_AXES = ("data", "model")

# Logical axis -> mesh axis. Other axes, and those whose size is not divisible by the mesh axis, are not split.
RULES = {
    "batch": "data",
    "slots": "data",
    "embed": "data",
    "vocab": "model",
    "heads": "model",
    "kv_heads": "model",
    "mlp": "model",
}

_THREADS = 4  # threads of XLA's CPU thread pool per device


def _enough_threads() -> None:
    """Sets PJRT_NPROC, unless it is set, so that each forced CPU device has _THREADS threads.

    XLA:CPU may start independent collectives in any order, and each blocks a thread until all devices have reached it.
    With one thread per device, the default on few cores, devices with different orders deadlock until XLA aborts the
    process.
    """
    flag = re.findall(r"--xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    devices = max(int(flag[-1]) if flag else 1, jax.config.jax_num_cpu_devices)  # pyright: ignore[reportAttributeAccessIssue]
    if devices > 1:
        os.environ.setdefault("PJRT_NPROC", str(max(_THREADS * devices, os.cpu_count() or 1)))


_enough_threads()  # on import: the thread pool is created with the backend of JAX, before any mesh


@dataclasses.dataclass(frozen=True)
class ParamSpec:
    """Shape, logical axes and initialisation of one weight.

    ``init`` is "normal" (standard deviation ``scale``), "zeros" or "ones". A weight with a ``dtype`` is stored in this
    type, whatever the type of the others.
    """

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    init: str = "normal"
    scale: float = 0.02
    dtype: str | None = None

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.axes):
            raise ValueError(f"{len(self.shape)} dimensions but {len(self.axes)} axes: {self}")


def is_spec(x: Any) -> bool:
    """True for a ParamSpec, a leaf of a tree of specs."""
    return isinstance(x, ParamSpec)


def map_specs(f: Callable[[ParamSpec], Any], specs: Any) -> Any:
    """Applies ``f`` to each ParamSpec of a tree."""
    return jax.tree.map(f, specs, is_leaf=is_spec)


def parse_mesh(text: str) -> tuple[int, int]:
    """Parses "8x1" as (data, model); raises UserError for other formats."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(p.isascii() and p.isdigit() and int(p) > 0 for p in parts):
        raise UserError(f"--mesh={text}: expected DATAxMODEL, two whole numbers of at least 1, for example --mesh=8x1")
    return int(parts[0]), int(parts[1])


def make_mesh(text: str) -> Mesh:
    """Mesh of the first data*model devices; raises UserError if there are fewer."""
    data, model = parse_mesh(text)
    devices = jax.devices()
    if data * model > len(devices):
        raise UserError(
            f"--mesh={text} needs {data * model} devices and this machine has {len(devices)} "
            f"({devices[0].device_kind}): use a smaller mesh, or emulate {data * model} devices on a CPU with "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={data * model}"
        )
    # Auto axes: the compiler shards arrays without constraints. The default of make_mesh is Explicit.
    return jax.make_mesh((data, model), MESH_AXES, axis_types=(AxisType.Auto,) * 2, devices=devices[: data * model])


def entered_mesh() -> Mesh:
    """The mesh of jax.set_mesh, or a mesh of the first device if none is set, as in a notebook."""
    mesh = jax.sharding.get_mesh()
    return make_mesh("1x1") if mesh.empty else mesh


def partition(shape: tuple[int, ...], axes: tuple[str | None, ...], mesh: Any) -> PartitionSpec:
    """PartitionSpec of an array by RULES; dimensions that are not divisible are not split."""
    names: list[str | None] = []
    for size, axis in zip(shape, axes, strict=True):
        name = RULES.get(axis or "")
        names.append(name if name and name not in names and size % mesh.shape[name] == 0 else None)
    return PartitionSpec(*names)


def partition_param(spec: ParamSpec, mesh: Any) -> PartitionSpec:
    """PartitionSpec of a weight: first by RULES, then each unused mesh axis splits the largest divisible dimension.

    A weight with nine heads on eight devices is thus not replicated: another dimension is split, or one dimension over
    both axes. The leading dimension of stacked layers is not split, since scan iterates over it. Weights without named
    dimensions are not split either: norms are small, and splitting one would split all activations that it scales.
    """
    if not any(axis for axis in spec.axes if axis != "layers"):
        return PartitionSpec()
    ruled = partition(spec.shape, spec.axes, mesh)
    names: list[tuple[str, ...]] = [(name,) if name and mesh.shape[name] > 1 else () for name in ruled]
    for name in MESH_AXES:
        if mesh.shape[name] == 1 or any(name in taken for taken in names):
            continue

        def left(i: int) -> int:  # current size of a shard along dimension i
            return spec.shape[i] // math.prod(mesh.shape[taken] for taken in names[i])

        fits = [i for i, axis in enumerate(spec.axes) if axis != "layers" and left(i) % mesh.shape[name] == 0]
        if fits:
            names[max(fits, key=left)] += (name,)
    return PartitionSpec(*(taken[0] if len(taken) == 1 else taken or None for taken in names))


def param_shardings(specs: Any, mesh: Mesh) -> Any:
    """Tree of NamedSharding for a tree of specs."""
    return map_specs(lambda s: NamedSharding(mesh, partition_param(s, mesh)), specs)


def param_shapes(specs: Any, dtype: Any, mesh: Mesh | None = None) -> Any:
    """Tree of ShapeDtypeStruct for a tree of specs, with shardings if a mesh is given: the target of a restore."""

    def shape(s: ParamSpec) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(mesh, partition_param(s, mesh)) if mesh else None
        return jax.ShapeDtypeStruct(s.shape, s.dtype or dtype, sharding=sharding)

    return map_specs(shape, specs)


def param_count(specs: Any) -> int:
    """Number of parameters."""
    return sum(math.prod(s.shape) for s in jax.tree.leaves(specs, is_leaf=is_spec))


def init_params(specs: Any, key: jax.Array, dtype: Any = jnp.float32) -> Params:
    """Initialises each weight with a key that depends only on its path, so new weights do not change others."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(specs, is_leaf=is_spec)

    def draw(path: Any, spec: ParamSpec) -> jax.Array:
        stored = spec.dtype or dtype
        if spec.init == "zeros":
            return jnp.zeros(spec.shape, stored)
        if spec.init == "ones":
            return jnp.ones(spec.shape, stored)
        own = named_key(key, jax.tree_util.keystr(path))
        return (spec.scale * jax.random.normal(own, spec.shape)).astype(stored)

    return jax.tree.unflatten(tree, [draw(p, s) for p, s in leaves])


def compiler_mesh() -> AbstractMesh | None:
    """The current mesh, over which the compiler splits arrays; None if no mesh is set.

    Also None inside shard_map, where a function computes on the arrays of one device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.manual_axes else mesh


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Constrains the sharding of an activation by its logical axes; returns it unchanged without a compiler_mesh."""
    mesh = compiler_mesh()
    return x if mesh is None else jax.lax.with_sharding_constraint(x, partition(x.shape, axes, mesh))


def data_devices() -> int:
    """Size of the data axis of compiler_mesh; 1 without a mesh."""
    mesh = compiler_mesh()
    return 1 if mesh is None else mesh.shape["data"]


def batch_sharding() -> NamedSharding | None:
    """Sharding of rows over the data axis of the current mesh; None without a mesh."""
    mesh = jax.sharding.get_mesh()
    return None if mesh.empty else NamedSharding(mesh, PartitionSpec("data"))


def decoding_partition(spec: ParamSpec, mesh: Any) -> PartitionSpec:
    """PartitionSpec of a weight in decoding: split over the model axis by RULES only.

    A split along another dimension would add a collective to every product.
    """
    return _without_data(partition(spec.shape, spec.axes, mesh))


def gather_over_data(params: Params, specs: Any, decoding: bool = False) -> Params:
    """Gathers weights over the data axis; over the model axis, partition_param or decoding_partition applies."""
    mesh = compiler_mesh()
    if mesh is None:
        return params

    def one(spec: ParamSpec, weight: jax.Array) -> jax.Array:
        kept = decoding_partition(spec, mesh) if decoding else _without_data(partition_param(spec, mesh))
        return jax.lax.with_sharding_constraint(weight, kept)

    return jax.tree.map(one, specs, params, is_leaf=is_spec)


def _without_data(split: PartitionSpec) -> PartitionSpec:
    kept = ("model" if name == "model" or (isinstance(name, tuple) and "model" in name) else None for name in split)
    return PartitionSpec(*kept)


def constrain_param(weight: jax.Array, spec: ParamSpec) -> jax.Array:
    """Constrains a weight or its moments to partition_param; returns it unchanged without a compiler_mesh."""
    mesh = compiler_mesh()
    return weight if mesh is None else jax.lax.with_sharding_constraint(weight, partition_param(spec, mesh))


def place(tree: Any, shardings: Any) -> Any:
    """Moves a tree of arrays to a tree of shardings."""
    return jax.tree.map(jax.device_put, tree, shardings)
