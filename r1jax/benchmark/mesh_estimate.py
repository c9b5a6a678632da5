"""Memory and collectives of a GRPO step on devices that are not present, from programs compiled without weights."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.topologies import get_topology_desc
from jax.sharding import Mesh

from r1jax.benchmark.collectives import program_traffic
from r1jax.benchmark.workload import Workload
from r1jax.errors import UserError
from r1jax.models.transformer import param_specs
from r1jax.rl.ahead import batch_shapes
from r1jax.rl.batch import Batch
from r1jax.rl.update import update
from r1jax.sampling.sampler import Queue, sample_queue
from r1jax.sharding import AXIS_TYPES, MESH_AXES, Params, param_shapes, parse_mesh
from r1jax.training.optimizer import make_optimizer
from r1jax.training.state import TrainState, state_shapes


def target_mesh(text: str, target: Path) -> Mesh:
    """A mesh such as "8x1" of GPUs of one host for the compiler only; ``target`` is the GPU description of XLA."""
    size = parse_mesh(text)
    try:
        described = target.read_text()
        topology = get_topology_desc(platform="cuda", target_config=described, topology=f"1x1x{math.prod(size)}")
    except (OSError, RuntimeError, ValueError) as error:
        reason = f"{str(error).splitlines()[0]}; see docs/performance.md"
        raise UserError(f"--target={target}: {reason}") from error
    return Mesh(np.array(topology.devices).reshape(size.shape), MESH_AXES, axis_types=AXIS_TYPES)


def abstract_state(work: Workload, mesh: Mesh) -> TrainState:
    """The training state as shapes with shardings; call it before setting a mesh of devices that are not present."""
    return state_shapes(work.model_config(), work.rl, make_optimizer(work.rl, work.rl.steps), mesh)


def abstract_batch(work: Workload) -> Batch:
    """The batch of ``work`` as shapes on the entered mesh: that of build_batch for completions of full length."""
    return batch_shapes(work.rl, work.width, (work.prompt - 1) // 32 * 32)


def update_program(work: Workload, state: TrainState) -> jax.stages.Compiled:
    """The update of ``work`` on the entered mesh."""
    rl, optimizer = work.rl, make_optimizer(work.rl, work.rl.steps)
    static = (optimizer, rl.algorithm, rl.context(work.sampling), work.model_config(), rl.passes)
    return update.lower(state, abstract_batch(work), *static).compile()


def rollout_program(work: Workload, params: Params) -> jax.stages.Compiled:
    """Compiles the sampler on the current mesh, with one loop over all slots."""
    P, N = work.prompts, work.rl.sequences

    def ints(*shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, jnp.int32)

    queue = Queue(ints(P, work.prompt), ints(P), ints(N), ints(N), ints(N))
    key = jax.eval_shape(lambda: jax.random.key(0))
    slots = min(work.slots or N, N)
    return sample_queue.lower(params, queue, key, work.model_config(), work.sampling, (), (slots,)).compile()


def shard_bytes(tree: Any) -> int:
    """Bytes per device of a tree of shapes with shardings."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def describe(program: jax.stages.Compiled) -> dict[str, Any]:
    """Bytes per device by purpose, and collectives of a compiled program."""
    memory: Any = program.memory_analysis()
    whole, turn = program_traffic(program.as_text() or "")
    return {
        "argument_bytes": memory.argument_size_in_bytes,
        "new_output_bytes": memory.output_size_in_bytes - memory.alias_size_in_bytes,  # others reuse arguments
        "temporary_bytes": memory.temp_size_in_bytes,
        "collectives": dataclasses.asdict(whole),
        "collectives_of_a_turn": dataclasses.asdict(turn),
    }


def estimate(work: Workload, mesh: Mesh) -> dict[str, Any]:
    """Estimates the programs of a step on the mesh, and the peak memory per device.

    ``resident_bytes`` is the memory of weights, moments and reference, which stay allocated between programs.
    """
    state = abstract_state(work, mesh)
    resident = shard_bytes(state)
    if work.beta:
        resident += shard_bytes(param_shapes(param_specs(work.model_config()), jnp.dtype(work.dtype), mesh))
    with jax.set_mesh(mesh):
        programs = {"update": update_program(work, state), "rollout": rollout_program(work, state.params)}
    described = {name: describe(program) for name, program in programs.items()}
    own = max(one["new_output_bytes"] + one["temporary_bytes"] for one in described.values())
    return {"resident_bytes": resident, "peak_bytes": resident + own, **described}
