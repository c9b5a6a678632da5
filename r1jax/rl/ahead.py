"""The programs that learn from samples, compiled in threads while the first samples are drawn."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from r1jax.data.problems.problem import Problem
from r1jax.rl.batch import Batch, width_bucket
from r1jax.rl.config import RLConfig
from r1jax.rl.environment import SampleGroups
from r1jax.rl.logprobs import batch_logprobs
from r1jax.rl.packing import first_position
from r1jax.rl.setup import StepSetup
from r1jax.rl.state import RLState
from r1jax.rl.update import update
from r1jax.sampling.slots import Samples
from r1jax.sharding import Params, batch_sharding

_THREADS = 2  # at most three programs, of which the update takes as long to compile as the sampler


def compile_while_sampling(
    sample: SampleGroups, state: RLState, setup: StepSetup, prompt_ids: Callable[[Problem], Sequence[int]]
) -> SampleGroups:
    """``sample``, whose first call also compiles log-probabilities and update for its samples.

    A first rollout nearly always has a sample of the greatest length, so the programs are those of the widest
    batch, and the call waits for them. If it has none, it does not wait, and the step compiles its own programs, as
    it does if one cannot be compiled ahead. The same function as before is returned for settings whose programs
    depend on more than the prompts, on a CPU, and if less than half of the device's memory is free, since the
    compiler tries kernels on the device.
    """
    config = setup.config
    several = config.minibatches > 1 or config.pack or config.replay_routing or setup.learners
    if several or not _on_accelerator() or not _half_free():
        return sample
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    began = threading.Event()

    def first_compiling(
        params: Params, problems: Sequence[Problem], key: jax.Array, attempt: int
    ) -> tuple[list[list[int]], Samples]:
        if began.is_set():
            return sample(params, problems, key, attempt)
        began.set()
        first = first_position(np.array([len(prompt_ids(problem)) for problem in problems]) - 1)
        mesh = jax.sharding.get_mesh()  # of this thread; a new thread has none
        threads = ThreadPoolExecutor(_THREADS)
        programs = [threads.submit(_compile, lower, mesh) for lower in _programs(shapes, first, setup)]
        try:
            prompts, samples = sample(params, problems, key, attempt)
            if _is_widest(prompts, samples, setup.longest):
                wait(programs)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
        return prompts, samples

    return first_compiling


def _is_widest(prompts: Sequence[Sequence[int]], samples: Samples, longest: int) -> bool:
    """True if the batch of these samples is as wide as that of batch_shapes."""
    lengths = np.asarray(samples.lengths)
    widths = np.repeat([len(prompt) for prompt in prompts], len(lengths) // len(prompts)) + lengths
    return width_bucket(int(widths.max()) - 1, longest - 1) == width_bucket(longest - 1, longest - 1)


def batch_shapes(config: RLConfig, longest: int, first: int) -> Batch:
    """The widest batch of build_batch as shapes on the entered mesh, without packing and experts."""
    N, T = config.sequences, width_bucket(longest - 1, longest - 1)

    def array(dtype: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding())

    per_sequence, per_token = array(jnp.float32, N), array(jnp.float32, N, T)
    return Batch(
        tokens=array(jnp.int32, N, T + 1),
        mask=array(jnp.bool_, N, T),
        rewards=per_sequence,
        rule_rewards={},
        advantages=per_sequence,
        sampler_logprobs=per_token,
        sampling_logprobs=per_token,
        old_logprobs=per_token,
        reference_logprobs=per_token,
        first=first,
    )


def _programs(state: RLState, first: int, setup: StepSetup) -> Iterator[Callable[[], jax.stages.Lowered]]:
    """Functions that lower the programs of a step, with the arguments that r1jax.rl.step gives them."""
    config, context, algorithm = setup.config, setup.context, setup.config.algorithm
    batch = batch_shapes(config, setup.longest, first)
    static = (setup.optimizer, algorithm, context, setup.model, config.microbatches, None)
    yield lambda: update.lower(state.policy, batch, *static)
    rest = (setup.model, context.temperature, config.passes, context.chunk, first, None, None)
    if state.reference is not None:
        yield lambda: batch_logprobs.lower(state.reference, batch.tokens, *rest)
    if not context.on_policy:
        yield lambda: batch_logprobs.lower(state.policy.params, batch.tokens, *rest)


def _compile(lower: Callable[[], jax.stages.Lowered], mesh: Mesh) -> None:
    """Compiles a program, which jax keeps for the calls of its function."""
    if mesh.empty:
        lower().compile()
    else:
        with jax.set_mesh(mesh):
            lower().compile()


def _on_accelerator() -> bool:
    """False on a CPU, whose cores draw the samples."""
    return jax.default_backend() != "cpu"


def _half_free() -> bool:
    """True if at least half of the memory of each device of this process is free, or if the devices do not say."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    return all(not s or 2 * s.get("bytes_in_use", 0) <= s.get("bytes_limit", float("inf")) for s in stats)
