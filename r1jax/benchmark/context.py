"""Times the sampling of completions of very different lengths in a long context, level by level."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.benchmark.programs import ProgramTimes, program_times
from r1jax.benchmark.workload import Bench
from r1jax.models.cache import ring_length
from r1jax.models.cost import cache_entry_bytes
from r1jax.sampling.levels import Loop
from r1jax.sampling.memory import Request, choose_levels
from r1jax.sampling.queues import make_queue
from r1jax.sampling.sampler import sample_in_levels

PROMPTS = 4


def context_limits(count: int, longest: int) -> np.ndarray:
    """Lognormal lengths with median 2000 and sigma 1.2, at most ``longest``: [count] int64."""
    lengths = np.random.default_rng(0).lognormal(np.log(2000), 1.2, count)
    return np.clip(lengths, 1, longest).astype(np.int64)


@dataclasses.dataclass
class _Clock:
    """Seconds since the last call, with and without those that jax spent on compiling."""

    programs: ProgramTimes
    last: float = dataclasses.field(default_factory=time.perf_counter)
    compiling: float = 0.0

    def take(self) -> dict[str, float]:
        now, compiling = time.perf_counter(), self.programs.figures()["in_main_thread"]
        whole, compiled = now - self.last, compiling - self.compiling
        self.last, self.compiling = now, compiling
        return {"seconds": whole - compiled, "compile_seconds": compiled}


def time_context(bench: Bench, limits: np.ndarray) -> tuple[float, dict[str, Any]]:
    """Samples completions of ``limits`` [N] tokens of the first PROMPTS prompts, once, since the whole takes long.

    Each level compiles a program. The device is idle then, so seconds are those of the call without compiling.

    Returns:
      Seconds, and figures: the seconds of compiling, the bytes of the largest cache, and of one for the longest
      completion in each slot, the levels, and of each loop slots, length of its rings, bytes of the cache, number of
      steps and seconds.
    """
    prompts, config = bench.prompts[:PROMPTS], bench.model_config
    longest, group = int(limits.max()), len(limits) // len(prompts)
    sampling = dataclasses.replace(bench.sampling, max_tokens=longest)
    params = bench.state.policy.params
    queue = make_queue(prompts, config, sampling, group, limits)
    P, width = queue.prompts.shape
    levels = choose_levels(Request(config, sampling, params, P, width, len(limits)))
    entry = cache_entry_bytes(config, jnp.dtype(config.dtype).itemsize)
    loops: list[dict[str, Any]] = []
    with program_times() as programs:
        clock = _Clock(programs)

        def ended(loop: Loop) -> None:
            cache = loop.slots * ring_length(loop.length, config) * entry
            steps = loop.steps - sum(one["steps"] for one in loops)
            loops.append(
                {"slots": loop.slots, "length": loop.length, "cache_bytes": cache, "steps": steps} | clock.take()
            )

        key = jax.random.key(1)
        samples = sample_in_levels(params, queue, key, config, sampling, (), levels, ended=ended)
        lengths = np.asarray(samples.lengths)
    if not np.array_equal(lengths, limits):
        raise AssertionError(f"completions of {lengths.tolist()} tokens, and the limits are {limits.tolist()}")
    figures = {
        "compile_seconds": sum(loop["compile_seconds"] for loop in loops),
        "cache_bytes": max(loop["cache_bytes"] for loop in loops),
        "full_cache_bytes": len(limits) * ring_length(longest, config) * entry,
        "levels": [dataclasses.asdict(level) for level in levels],
        "loops": loops,
    }
    return sum(loop["seconds"] for loop in loops), figures
