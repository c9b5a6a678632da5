"""Parameter specs, and the table from logical axes to mesh axes.

The mesh has three axes: ``data`` (batch, and parameters split as in FSDP), ``expert`` (the same, but it splits routed
experts by number, and tokens move to the devices of their experts) and ``model`` (tensor parallelism). It is set once
with ``jax.set_mesh`` and is not part of any config.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from r1jax.errors import UserError
from r1jax.seeds import named_key

Params = Any  # nested dict of arrays
MESH_AXES = ("data", "expert", "model")  # from the outermost: neighbouring devices share the model axis
AXIS_TYPES = (AxisType.Auto,) * len(MESH_AXES)
ROWS = ("data", "expert")  # the axes that split batches

# Logical axis -> mesh axes. Other axes are not split, nor are dimensions by a mesh axis that does not divide them.
RULES: dict[str, tuple[str, ...]] = {
    "batch": ROWS,
    "slots": ROWS,
    "experts": ("expert",),
    "embed": ROWS,
    "vocab": ("model",),
    "heads": ("model",),
    "kv_heads": ("model",),
    "mlp": ("model",),
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


class MeshSize(NamedTuple):
    """The number of devices along each axis of a mesh."""

    data: int
    model: int
    expert: int = 1

    @property
    def rows(self) -> int:
        """Devices that split a batch."""
        return self.data * self.expert

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes in the order of MESH_AXES."""
        return tuple(getattr(self, axis) for axis in MESH_AXES)


def parse_mesh(text: str) -> MeshSize:
    """Parses "8x1" as data x model, "2x2x2" as data x model x expert, and named axes such as "data:2,expert:4".

    An axis that is not named has size 1. Raises UserError for other formats.
    """
    named = ":" in text
    pairs = [part.strip().split(":") for part in text.lower().split(",")] if named else []
    parts = [pair[-1] for pair in pairs] if named else text.lower().split("x")
    numbers = all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts)
    if numbers and not named and len(parts) in (2, 3):
        return MeshSize(*map(int, parts))
    names = [pair[0] for pair in pairs]
    known = all(len(pair) == 2 and pair[0] in MeshSize._fields for pair in pairs)
    if not numbers or not named or not known or len(set(names)) < len(names):
        raise UserError(
            f"--mesh={text}: expected DATAxMODEL, DATAxMODELxEXPERT or named axes, of sizes that are whole numbers of "
            "at least 1, for example --mesh=8x1, --mesh=2x2x2 or --mesh=data:2,expert:4"
        )
    return MeshSize(**({"data": 1, "model": 1} | dict(zip(names, map(int, parts), strict=True))))


def make_mesh(text: str) -> Mesh:
    """Mesh of the first devices; raises UserError if there are fewer than its axes need."""
    size = parse_mesh(text)
    needed, devices = math.prod(size), jax.devices()
    if needed > len(devices):
        raise UserError(
            f"--mesh={text} needs {needed} devices and this machine has {len(devices)} "
            f"({devices[0].device_kind}): use a smaller mesh, or emulate {needed} devices on a CPU with "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={needed}"
        )
    # Auto axes: the compiler shards arrays without constraints. The default of make_mesh is Explicit.
    return jax.make_mesh(size.shape, MESH_AXES, axis_types=AXIS_TYPES, devices=devices[:needed])


def entered_mesh() -> Mesh:
    """The mesh of jax.set_mesh, or a mesh of the first device if none is set, as in a notebook."""
    mesh = jax.sharding.get_mesh()
    return make_mesh("1x1") if mesh.empty else mesh


def partition(shape: tuple[int, ...], axes: tuple[str | None, ...], mesh: Any) -> PartitionSpec:
    """PartitionSpec of an array by RULES; a mesh axis splits one dimension at most, and only one that it divides."""
    return _spec(_ruled(shape, axes, mesh))


def _ruled(shape: tuple[int, ...], axes: tuple[str | None, ...], mesh: Any) -> list[tuple[str, ...]]:
    """The mesh axes that split each dimension by RULES; axes of size 1 split nothing."""
    names: list[tuple[str, ...]] = []
    for size, axis in zip(shape, axes, strict=True):
        taken: tuple[str, ...] = ()
        for name in RULES.get(axis or "", ()):
            devices = math.prod(mesh.shape[one] for one in (*taken, name))
            if mesh.shape[name] > 1 and size % devices == 0 and not any(name in others for others in names):
                taken += (name,)
        names.append(taken)
    return names


def _spec(names: list[tuple[str, ...]]) -> PartitionSpec:
    return PartitionSpec(*(taken[0] if len(taken) == 1 else taken or None for taken in names))


def partition_param(spec: ParamSpec, mesh: Any) -> PartitionSpec:
    """PartitionSpec of a weight: first by RULES, then each unused mesh axis splits the largest divisible dimension.

    A weight with nine heads on eight devices is thus not replicated: another dimension is split, or one dimension over
    several axes. The leading dimension of stacked layers is not split, since scan iterates over it. Weights without
    named dimensions are not split either: norms are small, and splitting one would split all activations that it
    scales.
    """
    return _spec(_split_param(spec, mesh))


def _split_param(spec: ParamSpec, mesh: Any) -> list[tuple[str, ...]]:
    if not any(axis for axis in spec.axes if axis != "layers"):
        return []
    names = _ruled(spec.shape, spec.axes, mesh)
    for name in MESH_AXES:
        if mesh.shape[name] == 1 or any(name in taken for taken in names):
            continue

        def left(i: int) -> int:  # current size of a shard along dimension i
            return spec.shape[i] // math.prod(mesh.shape[taken] for taken in names[i])

        fits = [i for i, axis in enumerate(spec.axes) if axis != "layers" and left(i) % mesh.shape[name] == 0]
        if fits:
            names[max(fits, key=left)] += (name,)
    return names


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


def model_devices() -> int:
    """Inside shard_map, the number of devices that divide the layers of a model among them; 1 elsewhere."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.shape["model"] if "model" in mesh.manual_axes else 1


def sum_over_model(x: jax.Array) -> jax.Array:
    """The sum over model_devices of their terms ``x``, in the type of x: the same on each of them."""
    return x if model_devices() == 1 else jax.lax.psum(x, "model")


def data_devices() -> int:
    """Number of devices of compiler_mesh that split a batch; 1 without a mesh."""
    mesh = compiler_mesh()
    return 1 if mesh is None else math.prod(mesh.shape[name] for name in ROWS)


def batch_sharding() -> NamedSharding | None:
    """Sharding of the rows of a batch on the current mesh; None without a mesh."""
    mesh = jax.sharding.get_mesh()
    return None if mesh.empty else NamedSharding(mesh, PartitionSpec(ROWS))


def decoding_partition(spec: ParamSpec, mesh: Any) -> PartitionSpec:
    """PartitionSpec of a weight in decoding: experts over the expert axis, other dimensions over the model axis.

    Both by RULES only: a split along another dimension would add a collective to every product.
    """
    return _spec(_gathered(_ruled(spec.shape, spec.axes, mesh), spec))


def gather_over_data(params: Params, specs: Any, decoding: bool = False) -> Params:
    """Gathers weights over the axes that split batches, but not the experts, which stay split over the expert axis.

    Over the model axis, partition_param or decoding_partition applies.
    """
    mesh = compiler_mesh()
    if mesh is None:
        return params

    def one(spec: ParamSpec, weight: jax.Array) -> jax.Array:
        kept = decoding_partition(spec, mesh) if decoding else _spec(_gathered(_split_param(spec, mesh), spec))
        return jax.lax.with_sharding_constraint(weight, kept)

    return jax.tree.map(one, specs, params, is_leaf=is_spec)


def gathered_count(specs: Any) -> int:
    """Number of parameters on a device of compiler_mesh after gather_over_data, if the axes divide all weights."""
    mesh = compiler_mesh()
    expert, model = (1, 1) if mesh is None else (mesh.shape["expert"], mesh.shape["model"])
    found = jax.tree.leaves(specs, is_leaf=is_spec)
    return sum(math.prod(s.shape) // (expert if "experts" in s.axes else 1) for s in found) // model


def _gathered(names: list[tuple[str, ...]], spec: ParamSpec) -> list[tuple[str, ...]]:
    """The mesh axes that still split each dimension after gather_over_data."""
    kept = [("expert", "model") if axis == "experts" else ("model",) for axis in spec.axes]
    return [tuple(name for name in taken if name in own) for taken, own in zip(names, kept, strict=False)]


def constrain_param(weight: jax.Array, spec: ParamSpec) -> jax.Array:
    """Constrains a weight or its moments to partition_param; returns it unchanged without a compiler_mesh."""
    mesh = compiler_mesh()
    return weight if mesh is None else jax.lax.with_sharding_constraint(weight, partition_param(spec, mesh))


def place(tree: Any, shardings: Any) -> Any:
    """Moves a tree of arrays to a tree of shardings."""
    return jax.tree.map(jax.device_put, tree, shardings)
