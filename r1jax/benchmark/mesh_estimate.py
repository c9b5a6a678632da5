"""What a GRPO step needs on devices that are not here: its programs compiled from shapes alone, no weight made."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.topologies import get_topology_desc
from jax.sharding import AxisType, Mesh

from r1jax.benchmark.collectives import program_traffic
from r1jax.benchmark.workload import Work
from r1jax.errors import UserError
from r1jax.models.transformer import param_specs
from r1jax.rl.batch import Rollout, width_bucket
from r1jax.rl.update import update
from r1jax.sampling.sampler import Queue, sample_queue
from r1jax.sharding import MESH_AXES, Params, batch_sharding, param_shapes, parse_mesh
from r1jax.training.state import TrainState, make_optimizer, state_shapes


def target_mesh(text: str, target: Path) -> Mesh:
    """A mesh "8x1" of GPUs of one host that only the compiler sees, described by XLA's text ``target``."""
    data, model = parse_mesh(text)
    try:
        described = target.read_text()
        found = get_topology_desc(platform="cuda", target_config=described, topology=f"1x1x{data * model}")
    except (OSError, RuntimeError, ValueError) as error:
        reason = f"{str(error).splitlines()[0]}; docs/performance.md says what it takes"
        raise UserError(f"--target={target}: {reason}") from error
    return Mesh(np.array(found.devices).reshape(data, model), MESH_AXES, axis_types=(AxisType.Auto,) * 2)


def abstract_state(work: Work, mesh: Mesh) -> TrainState:
    """The state of ``work`` on the mesh as shapes with shardings; devices that cannot run must not be entered yet."""
    return state_shapes(work.model_config(), work.rl, make_optimizer(work.rl, work.rl.steps), mesh)


def abstract_rollout(work: Work) -> Rollout:
    """The rollout of ``work`` as shapes on the entered mesh: what build_rollout gives for full lengths."""
    N, T = work.rl.sequences, width_bucket(work.width - 1, work.width - 1)

    def array(dtype: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding())

    per_token = array(jnp.float32, N, T)
    return Rollout(
        array(jnp.int32, N, T + 1),
        array(jnp.bool_, N, T),
        array(jnp.float32, N),
        per_token,
        per_token,
        per_token,
        per_token,
        first=(work.prompt - 1) // 32 * 32,
    )


def update_program(work: Work, state: TrainState) -> jax.stages.Compiled:
    """The update of ``work`` on the entered mesh."""
    passes = work.rl.sequences // work.rl.microbatch_size
    objective = work.rl.objective(work.sampling)
    optimizer = make_optimizer(work.rl, work.rl.steps)
    return update.lower(state, abstract_rollout(work), optimizer, objective, work.model_config(), passes).compile()


def rollout_program(work: Work, params: Params) -> jax.stages.Compiled:
    """The sampler of ``work`` on the entered mesh, all slots side by side until the last sequence has ended."""
    P, N = work.prompts, work.rl.sequences

    def ints(*shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, jnp.int32)

    queue = Queue(ints(P, work.prompt), ints(P), ints(N), ints(N), ints(N))
    key = jax.eval_shape(lambda: jax.random.key(0))
    slots = min(work.slots or N, N)
    return sample_queue.lower(params, queue, key, work.model_config(), work.sampling, (), (slots,)).compile()


def shard_bytes(tree: Any) -> int:
    """Bytes of a tree of shapes with shardings on each device."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def describe(program: jax.stages.Compiled) -> dict[str, Any]:
    """Bytes on each device by what they are for, and the collectives, of a compiled program."""
    memory: Any = program.memory_analysis()
    whole, turn = program_traffic(program.as_text() or "")
    return {
        "argument_bytes": memory.argument_size_in_bytes,
        "new_output_bytes": memory.output_size_in_bytes - memory.alias_size_in_bytes,  # the others replace arguments
        "temporary_bytes": memory.temp_size_in_bytes,
        "collectives": dataclasses.asdict(whole),
        "collectives_of_a_turn": dataclasses.asdict(turn),
    }


def plan(work: Work, mesh: Mesh) -> dict[str, Any]:
    """The programs of a step on the mesh, and the most that a device holds meanwhile.

    ``resident_bytes`` are those of weights, moments and reference, which stay from program to program.
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
