"""Memory of a device, by kind, on a mesh of any size, from shapes and shardings without devices and arrays."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Collection, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from r1jax.benchmark.mesh_estimate import shard_bytes
from r1jax.benchmark.scaling import scaled_workload
from r1jax.benchmark.workload import Workload
from r1jax.errors import UserError
from r1jax.kernels.head_mosaic import supports
from r1jax.kernels.platform import selects_extra
from r1jax.models.attention import implementation
from r1jax.models.config import ModelConfig
from r1jax.models.cost import logits_bytes
from r1jax.models.experts import ROOM
from r1jax.models.layers import runs
from r1jax.models.shapes import first_layers
from r1jax.models.transformer import gathers_once, param_specs
from r1jax.sampling.memory import Level, Request, choose_levels, fixed_bytes, ring_lengths, slot_bytes
from r1jax.sharding import MESH_AXES, RULES, ParamSpec, is_spec, param_shapes, parse_mesh, partition, partition_param
from r1jax.training.by_device import computes_by_device
from r1jax.training.language_model import cross_entropy_sums
from r1jax.training.optimizer import make_optimizer
from r1jax.training.state import state_shapes

STAGES = ("SFT", "RL, update", "RL, rollout", "sampling")
KINDS = ("weights", "optimiser", "reference", "gradients", "gathered", "activations", "cache")
HOST = 8  # devices
MOST = 4096  # devices of the largest mesh that is tried

Needs = dict[str, int]  # kind -> bytes of a device


def abstract_mesh(text: str) -> AbstractMesh:
    """A mesh such as "8x32" without devices."""
    sizes = dict(zip(("data", "model", "expert"), parse_mesh(text), strict=False))
    return AbstractMesh(tuple(sizes[axis] for axis in MESH_AXES), MESH_AXES, axis_types=(AxisType.Auto,) * len(sizes))


def batch_devices(mesh: AbstractMesh) -> int:
    """Number of parts into which the mesh splits a batch."""
    return mesh.size // _shard(mesh.size, "batch", mesh)


@functools.cache
def needs(work: Workload, mesh: AbstractMesh, memory: float) -> dict[str, Needs]:
    """Bytes of a device for each of STAGES by KINDS, at the peak of each.

    optimiser: the moments. gradients: those of one pass or, if there are several, their sum and those of one layer.
    gathered: copies of weights that the mesh splits or that have another type, for the time of their use, and their
    gradients. activations: what backward pass, logits and sampler keep besides. cache: keys and values of prompts and
    slots.

    SFT has the rows and the microbatch of the update. Sampling alone stores the weights in the type of computation.
    Attention and head are those of a Hopper GPU in the update, and plain JAX in sampling, which needs more. Temporary
    arrays of XLA that are smaller than these are left out: the measured peaks of docs/results are within 10% of the
    sums.

    Args:
      work: for the whole mesh, as from scaled_workload.
      mesh: from abstract_mesh.
      memory: bytes of a device; the sampler uses the slots that fit, if work.slots is 0.
    """
    config = work.model_config()
    state = state_shapes(config, work.rl, make_optimizer(work.rl, work.rl.steps), mesh)  # pyright: ignore[reportArgumentType]
    computed = _params(config, config.dtype, mesh)
    stored = {"weights": shard_bytes(state.params), "optimiser": shard_bytes(state.opt_state)}
    with jax.sharding.use_abstract_mesh(mesh):
        alone = computes_by_device(config)
    dividing = abstract_mesh("1x1") if alone else mesh  # the devices that divide a product and a gradient
    update = stored | {"gradients": _gradient_bytes(work, config, dividing)}
    if alone:  # gradients in the type of their sum, and the device's part of the sum over the devices
        added = [mesh] if work.rl.passes > 1 else [dividing, mesh]
        update["gradients"] += sum(shard_bytes(_params(config, config.accumulate, one)) for one in added)
    update["activations"] = _activation_bytes(work, config, mesh, dividing)
    with jax.sharding.use_abstract_mesh(mesh):
        update["gathered"] = _gathered_bytes(config, mesh)
        reference = {"reference": shard_bytes(computed) if work.beta else 0}
        rollout = stored | reference
        rollout |= _sampler_needs(work, config, state.params, memory - sum(rollout.values()))
        alone = {"weights": shard_bytes(computed)}
        alone |= _sampler_needs(work, config, computed, memory - sum(alone.values()))
    found = {"SFT": update, "RL, update": update | reference, "RL, rollout": rollout, "sampling": alone}
    return {stage: {kind: found[stage].get(kind, 0) for kind in KINDS} for stage in STAGES}


def _gradient_bytes(work: Workload, config: ModelConfig, mesh: AbstractMesh) -> int:
    """Gradients of an update, and that of the head in float32, which is summed over chunks.

    The gradient of several passes is their sum; that of the pass beside it is in memory for one layer at a time, and
    for the weights that are in no layer.
    """
    of_pass = _params(config, config.dtype, mesh)
    head = 4 * config.hidden_size * _shard(config.vocab_size, "vocab", mesh)
    if work.rl.passes == 1:
        return shard_bytes(of_pass) + head
    layer = max(shard_bytes(of_pass.pop(run.name)) // run.layers for run in runs(config))
    return shard_bytes(_params(config, config.accumulate, mesh)) + layer + shard_bytes(of_pass) + head


def _gathered_bytes(config: ModelConfig, mesh: AbstractMesh) -> int:
    """Gathered weights of an update on the entered mesh.

    If they are gathered layer by layer, these are the weights of the largest layer, as many numbers for their gradient,
    and one of its matrices in float32; and embedding and head.
    """
    specs, size = param_specs(config), jnp.dtype(config.dtype).itemsize
    if gathers_once(config):
        return size * sum(_copied(specs, mesh))
    layers = [[copied // run.layers for copied in _copied(specs.pop(run.name), mesh)] for run in runs(config)]
    return size * sum(_copied(specs, mesh)) + max(2 * size * sum(layer) + 4 * max(layer) for layer in layers)


def _activation_bytes(work: Workload, config: ModelConfig, mesh: AbstractMesh, dividing: AbstractMesh) -> int:
    """What the backward pass of an update keeps, the values of a layer, and the logits of a chunk or their gradient.

    dividing: the devices that divide a product.
    """
    local, length = on_device(config, mesh), work.width - 1
    rows = -(-work.rl.microbatch_size // batch_devices(mesh))
    chunks = -(-length // max(1, work.rl.logprob_chunk // rows))
    layer = _row_bytes(dataclasses.replace(first_layers(local, 1), remat="none"), length)
    # The gradients of the values in a layer are as many as these; recomputation has them once more.
    kept = _row_bytes(local, length) + (layer if config.remat == "none" else 2 * layer)
    exchanged = _exchange_bytes(local, rows * length, mesh.shape["expert"])
    tokens = rows * -(-length // chunks)
    return rows * kept + exchanged + (_fused_head_bytes(local, tokens, dividing) or logits_bytes(local, tokens))


def _fused_head_bytes(config: ModelConfig, tokens: int, mesh: AbstractMesh) -> int:
    """The array [tokens, V] of the head's kernels, which a Hopper GPU has; 0 if they do not compute this head."""
    dtype, D, V = jnp.dtype(config.dtype), config.hidden_size, config.vocab_size
    states: Any = jax.ShapeDtypeStruct((tokens, D), dtype)
    matrix: Any = jax.ShapeDtypeStruct((D, V), dtype)
    if mesh.size > 1 or not selects_extra(config.kernels, "head") or not supports(states, matrix):
        return 0
    return tokens * V * dtype.itemsize


def _exchange_bytes(config: ModelConfig, tokens: int, devices: int) -> int:
    """Room for the tokens of all devices of an expert axis in a layer: their states, hidden units and gradients."""
    own = config.experts
    if own is None or devices == 1:
        return 0
    size, D = jnp.dtype(config.dtype).itemsize, config.hidden_size
    room = tokens * devices * min(own.active, own.number // devices) * D * size
    return 2 * min(room, ROOM) * (2 * D + 3 * own.width) // D


def _sampler_needs(work: Workload, config: ModelConfig, params: Any, free: float) -> Needs:
    """What sampling on the entered mesh has besides the stored weights, with one slot a device if not more fit."""
    prompts, width, sequences = work.prompts, work.prompt, work.rl.sequences
    parts = batch_devices(jax.sharding.get_abstract_mesh())
    request = Request(config, work.sampling, params, prompts, width, sequences)
    try:
        levels = choose_levels(request, int(free))
    except UserError:
        first, *longer = ring_lengths(work.tokens)
        slots = min(work.slots or parts, sequences)
        levels = Level(slots, first), *(Level(min(slots, parts), length) for length in longer)
    fixed, parts_of = fixed_bytes(request), [slot_bytes(request, -(-x.slots // parts), x.length) for x in levels]
    of_slots = max(parts_of, key=lambda one: sum(one.values()))
    return {
        "gathered": fixed["weights"],
        "activations": fixed["prefill"] + fixed["results"] + of_slots["logits"] + of_slots["attention"],
        "cache": fixed["prompts"] + of_slots["cache"],
    }


def on_device(config: ModelConfig, mesh: AbstractMesh) -> ModelConfig:
    """The config with the heads, hidden units and words of one device, whose activations are those of a device.

    Experts keep their number: with equal load, a device has as many rows for its own experts as its tokens have copies.
    """
    heads, kv_heads = (_shard(size, "heads", mesh) for size in (config.num_heads, config.num_kv_heads))
    own = config.experts
    if own is not None:
        shared = own.shared_width and _shard(own.shared_width, "mlp", mesh)
        own = dataclasses.replace(own, width=_shard(own.width, "mlp", mesh), shared_width=shared)
    return dataclasses.replace(
        config,
        num_heads=heads,
        num_kv_heads=heads if heads % kv_heads else kv_heads,  # repeated if they are not split alike
        intermediate_size=_shard(config.intermediate_size, "mlp", mesh),
        vocab_size=_shard(config.vocab_size, "vocab", mesh),
        experts=own,
    )


def _row_bytes(config: ModelConfig, length: int) -> int:
    """Bytes that the backward pass of the cross-entropy of a row of ``length`` tokens keeps, without weights."""
    linear, square = _kept(dataclasses.replace(config, attention="xla", unroll=False, gather="auto"))
    scores = 0.0 if implementation(config, "gpu") == "cudnn" else square * length**2
    return int(linear * length + scores)


@functools.cache
def _kept(config: ModelConfig) -> tuple[float, float]:
    """Bytes (a, b) of the arrays that the backward pass keeps of a row of T tokens: a T + b T^2.

    They are traced for a length that divides no other dimension: arrays without a multiple of it are weights.
    """
    length = 10_007  # a prime
    batch = {
        "tokens": jax.ShapeDtypeStruct((1, length + 1), jnp.int32),
        "mask": jax.ShapeDtypeStruct((1, length), jnp.bool_),
    }

    def backward(params: Any, batch: Any) -> Any:
        return jax.vjp(lambda p: cross_entropy_sums(p, batch, config, chunk=length)[0], params)[1]

    totals = [0.0, 0.0, 0.0]
    for x in jax.tree.leaves(jax.eval_shape(backward, _params(config, config.dtype, None), batch)):
        power = sum(size % length == 0 for size in x.shape)
        totals[power] += math.prod(x.shape) * x.dtype.itemsize / length**power
    return totals[1], totals[2]


def _params(config: ModelConfig, dtype: str, mesh: Any) -> Any:
    return param_shapes(param_specs(config), jnp.dtype(dtype), mesh)


def _copied(specs: Any, mesh: AbstractMesh) -> list[int]:
    """Numbers on a device of each weight that is gathered for its use; 0 for weights that are not.

    Weights are gathered over the axes that split batches, except for experts over the axis that splits them by number.
    """
    rows = jax.tree.leaves(tuple(partition((mesh.size,), ("batch",), mesh)))

    def one(spec: ParamSpec) -> int:
        stored = [jax.tree.leaves(axes) for axes in partition_param(spec, mesh)]
        kept = [
            [axis for axis in axes if axis not in rows or (name == "experts" and axis in RULES.get(name, ()))]
            for axes, name in zip(stored, spec.axes, strict=False)
        ]
        whole = NamedSharding(mesh, PartitionSpec(*(tuple(axes) or None for axes in kept)))
        return 0 if kept == stored else math.prod(whole.shard_shape(spec.shape))

    return [one(spec) for spec in jax.tree.leaves(specs, is_leaf=is_spec)]


def _shard(size: int, axis: str, mesh: AbstractMesh) -> int:
    """Size on one device of a dimension with this logical axis."""
    return NamedSharding(mesh, partition((size,), (axis,), mesh)).shard_shape((size,))[0]


def least(work: Workload, mesh: AbstractMesh) -> Workload:
    """The work with the smallest memory on the mesh that has the same rollout.

    One sequence in a backward pass of a device, 8 slots a device, blocks recomputed, and weights gathered by layer.
    """
    slots = min(8, -(-work.rl.sequences // batch_devices(mesh)))
    least = dataclasses.replace(work, microbatch=1, slots=slots, remat="block", gather="layer")
    return scaled_workload(least, batch_devices(mesh), "strong")


def smallest_mesh(work: Workload, stages: Collection[str], memory: float) -> str | None:
    """The mesh with the fewest devices on which ``least`` fits into ``memory`` bytes a device, such as "8x32".

    Meshes have a part of a host or whole hosts. Of those with as many devices, the one with the smallest model axis is
    chosen, whose devices communicate most. None if no mesh of up to MOST devices fits.

    stages: those of STAGES that must fit.
    """

    own = work.model_config().experts

    def fitting(devices: int) -> str | None:
        suits = (sizes for sizes in _factors(devices, 3) if sizes[2] == 1 or (own and own.number % sizes[2] == 0))
        for sizes in sorted(suits, key=lambda sizes: (sizes[1], -sizes[0])):
            text = "x".join(str(size) for size in (*sizes[:2], *(size for size in sizes[2:] if size > 1)))
            mesh = abstract_mesh(text)
            parts = batch_devices(mesh)
            weights = shard_bytes(_params(work.model_config(), work.dtype, mesh))
            if weights > memory or work.rl.sequences % parts:
                continue
            found = needs(least(work, mesh), mesh, memory)
            if all(sum(found[stage].values()) <= memory for stage in stages):
                return text
        return None

    below = 0
    for devices in (2**i for i in range(MOST.bit_length())):
        if found := fitting(devices):
            between = (fitting(fewer) for fewer in range(below + HOST, devices, HOST))
            return next(filter(None, between), found) if below >= HOST else found
        below = devices
    return None


def _factors(number: int, count: int) -> Iterator[tuple[int, ...]]:
    """The tuples of ``count`` whole numbers whose product is ``number``."""
    if count == 1:
        yield (number,)
        return
    for first in range(1, number + 1):
        if number % first == 0:
            yield from ((first, *rest) for rest in _factors(number // first, count - 1))
