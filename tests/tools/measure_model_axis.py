"""Times rollouts alone on meshes with and without a model axis, and compares log-probabilities with the trainer's.

    PYTHONPATH=. python tests/tools/measure_model_axis.py runs/axis.json --model qwen2.5-7b --meshes 1x1 2x2 1x4

For each mesh the file has the seconds of a rollout, of one decoding step (from rollouts of all tokens and of a few),
and of collectives in a trace of a few tokens, the gap |log p - log p of the trainer| over the tokens of the first
sequences, and the seconds until the first rollout has ended. To compare ways of adding over devices, run it under
XLA_FLAGS, once for each --label. On a CPU, a small model takes the place of the one asked for.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.algorithms.logprobs import token_logprobs
from r1jax.benchmark.scaling import TRACED_TOKENS, time_in_collectives
from r1jax.benchmark.workload import Bench, Workload, small_workload, timed
from r1jax.models.config import ModelConfig
from r1jax.models.transformer import cast, hidden_states, unembedding
from r1jax.pipeline.manifest import versions
from r1jax.rewards.config import parse_rewards
from r1jax.rewards.pool import RewardPool
from r1jax.sampling.memory import has_own_queues
from r1jax.sharding import Params, make_mesh

COMPARED = 16  # sequences whose log-probabilities the trainer computes


@partial(jax.jit, static_argnames="config")
def trainer_logprobs(params: Params, tokens: jax.Array, config: ModelConfig) -> jax.Array:
    """Log-probabilities [B, T - 1] of tokens [B, T]."""
    params = cast(params, config)
    states, _ = hidden_states(params, tokens[:, :-1], config)
    return token_logprobs(states, unembedding(params, config), tokens[:, 1:])[0]


def gap(bench: Bench, samples: Any) -> dict[str, float]:
    """Mean and largest difference of the sampler's and the trainer's log-probabilities."""
    number = min(COMPARED, len(samples.tokens))
    prompts = np.repeat(np.array(bench.prompts), bench.config.group, axis=0)[:number]
    tokens = jnp.asarray(np.concatenate([prompts, samples.tokens[:number]], axis=1), jnp.int32)
    wanted = trainer_logprobs(bench.state.policy.params, tokens, bench.model_config)[:, prompts.shape[1] - 1 :]
    found = np.abs(np.asarray(wanted) - samples.logprobs[:number])
    return {"gap": float(found.mean()), "gap_max": float(found.max())}


def measured(work: Workload, pool: RewardPool, repeats: int) -> dict[str, Any]:
    """The figures of the current mesh."""
    bench, sequences = Bench(work, pool, training=False), work.prompts * work.group
    try:

        def rollout(limit: int = work.tokens) -> Any:
            return bench.rollout(work.prompts, work.group, bench.sampling, np.full(sequences, limit))

        few = min(TRACED_TOKENS, work.tokens // 2)
        began = time.perf_counter()
        samples = jax.device_get(rollout())
        first = time.perf_counter() - began
        whole, short = timed(rollout, repeats), timed(lambda: rollout(few), repeats)
        return {
            "own_queues": has_own_queues(work.prompts, sequences, bench.model_config),
            "first_seconds": first,
            "rollout_seconds": whole,
            "step_seconds": (whole - short) / (work.tokens - few),
            "collectives": time_in_collectives(lambda: rollout(few)),
            **gap(bench, samples),
        }
    finally:
        bench.free()


def main() -> None:
    """Writes the file after each mesh."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", default="qwen2.5-7b")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--meshes", nargs="+", default=["4x1", "2x2", "1x4"])
    parser.add_argument("--label", default="")
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    work = Workload(model=options.model, prompts=options.prompts, group=options.group, beta=0.0)
    if jax.default_backend() == "cpu":
        work = small_workload(work)
    figures = {"settings": dataclasses.asdict(work), "device": jax.devices()[0].device_kind, "runs": []}
    if options.file.exists():
        figures = json.loads(options.file.read_text())
    figures["versions"] = versions("jax", "jaxlib")
    with RewardPool(parse_rewards(["accuracy"]), 1, 60.0) as pool:
        for mesh in options.meshes:
            with jax.set_mesh(make_mesh(mesh)):
                run = {"mesh": mesh, "label": options.label, **measured(work, pool, options.repeats)}
            print(run, flush=True)
            figures["runs"].append(run)
            options.file.parent.mkdir(parents=True, exist_ok=True)
            options.file.write_text(json.dumps(figures, indent=2) + "\n")
            jax.clear_caches()


if __name__ == "__main__":
    main()
