"""Seconds of each kernel in a short rollout and in an update of the benchmark, on one GPU. Not part of the suite.

    PYTHONPATH=. python tests/tools/measure_profile.py runs/profile.json --model qwen2.5-0.5b

The rollout draws 64 tokens of each completion, so that its caches are short. Both run without CUDA graphs, of which a
trace shows no kernels, so their gaps are longer than in a rollout; "busy" is the sum over kernels.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_enable_command_buffer="

import jax
import numpy as np

from r1jax.benchmark.collectives import device_events, trace_events
from r1jax.benchmark.workload import Bench, Workload
from r1jax.pipeline.manifest import versions
from r1jax.rewards.config import parse_rewards
from r1jax.rewards.pool import RewardPool
from r1jax.sharding import make_mesh

TOKENS = 64
SHOWN = 60  # kernels, those that take longest


def kernel_times(folder: Path) -> dict[str, Any]:
    """Milliseconds of the kernels in a trace, in total and by name."""
    times: collections.Counter[str] = collections.Counter()
    calls: collections.Counter[str] = collections.Counter()
    for events in device_events(trace_events(folder)).values():
        for event in events:
            times[event["name"]] += event.get("dur", 0.0) / 1e3
            calls[event["name"]] += 1
    rows = [{"kernel": name, "calls": calls[name], "ms": round(ms, 3)} for name, ms in times.most_common(SHOWN)]
    return {"busy_ms": sum(times.values()), "kernels": rows}


def profiled(work: Callable[[], Any]) -> dict[str, Any]:
    """The kernels of a second call."""
    jax.block_until_ready(work())
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(work())
        return kernel_times(Path(folder))


def main() -> None:
    """Writes the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", default="qwen2.5-0.5b")
    options = parser.parse_args()
    work = Workload(model=options.model)
    limits = np.full(work.prompts * work.group, TOKENS)
    with RewardPool(parse_rewards(["accuracy"]), 1, 60.0) as pool, jax.set_mesh(make_mesh("1x1")):
        bench = Bench(work, pool)
        batch = bench.batch(0)
        found = {
            "model": options.model,
            "device": jax.devices()[0].device_kind,
            "versions": versions("jax", "jaxlib"),
            "rollout": profiled(lambda: bench.rollout(work.prompts, work.group, bench.sampling, limits)),
            "update": profiled(lambda: bench.update(batch)),
        }
    options.file.parent.mkdir(parents=True, exist_ok=True)
    options.file.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
