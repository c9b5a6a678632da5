"""The cost of several trainings at once against that of one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from r1jax.ablation.config import AblationConfig, loop_spec
from r1jax.ablation.in_graph import make_loop
from r1jax.ablation.train import check_memory
from r1jax.checkpoints.model import Model
from r1jax.data.problems.dataset import ProblemSet


def measure(
    config: AblationConfig, counts: Sequence[int], seed: int, model: Model, problems: ProblemSet
) -> Iterator[dict[str, Any]]:
    """Yields the cost of each of ``counts`` trainings that differ in the seed, in ascending order.

    A row has the number of trainings, seconds of the compilation, seconds of the first call of chunks.every steps and
    per step in the second call, tokens per second there, bytes of the program, and the peak of the device's memory so
    far, if it is known. ``times_one`` is seconds per step divided by those of the first row, per training of it. Raises
    UserError if they do not fit into memory.
    """
    every, first_row = config.chunks.every, None
    loop = make_loop(model, problems.train, loop_spec(config), problems.held_out[:1])
    for count in sorted(counts):
        began = time.perf_counter()
        size = check_memory(loop, count, every, "--measure ")
        compilation = time.perf_counter() - began
        seeds = np.arange(seed, seed + count, dtype=np.int32)
        states = loop.start({}, seeds)
        seconds = []
        for first in (0, every):
            began = time.perf_counter()
            states, metrics = loop.run(states, {}, first, every)
            tokens = float(jax.device_get(metrics["tokens"]).sum())
            seconds.append(time.perf_counter() - began)
        row: dict[str, Any] = {
            "trainings": count,
            "seconds_compilation": compilation,
            "seconds_first_call": seconds[0],
            "seconds_per_step": seconds[1] / every,
            "tokens_per_second": tokens / seconds[1],
            "program_gibibytes": size / 2**30,
        }
        if stats := jax.local_devices()[0].memory_stats():
            row["peak_gibibytes"] = stats["peak_bytes_in_use"] / 2**30
        first_row = first_row or row
        row["times_one"] = row["seconds_per_step"] / first_row["seconds_per_step"] * first_row["trainings"]
        del states, metrics
        yield row
