"""Times an update of the benchmark's work for each way of adding gradients over microbatches.

    PYTHONPATH=. python tests/tools/measure_updates.py runs/updates.json --model qwen2.5-0.5b

The ways: in place in the backward pass, in float32 and in bfloat16, and from the gradient of a whole pass beside the
sum, in float32. The file has the seconds of each of --repeats updates after one that is not timed, the bytes of the
compiled program with its arguments, and the seconds until it was compiled. On a CPU, a small model takes the place of
the one asked for.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path

import jax
import numpy as np

from r1jax.benchmark.mesh_estimate import abstract_batch, abstract_state
from r1jax.benchmark.workload import Workload, frequencies, small_workload
from r1jax.models.transformer import param_specs
from r1jax.pipeline.manifest import versions
from r1jax.rl.update import update
from r1jax.sharding import init_params, make_mesh
from r1jax.training.optimizer import make_optimizer
from r1jax.training.state import init_state

WAYS = {
    "beside the sum, float32": (False, "float32"),
    "in place, float32": (True, "float32"),
    "in place, bfloat16": (True, "bfloat16"),
}


def random_batch(work):
    """Sequences of full length with the frequencies of natural text and random advantages."""
    rng, shapes = np.random.default_rng(0), abstract_batch(work)
    size, vocabulary = shapes.tokens.shape, work.model_config().vocab_size
    tokens = rng.choice(vocabulary, size, p=frequencies(vocabulary)).astype(np.int32)
    mask = np.broadcast_to(np.arange(size[1] - 1) >= work.prompt - 1, shapes.mask.shape)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    advantages = rng.normal(size=size[0]).astype(np.float32)
    return jax.device_put(dataclasses.replace(zeros, tokens=tokens, mask=mask, advantages=advantages))


def measured(work, way, repeats):
    """The figures of one way."""
    in_place, kind = WAYS[way]
    rl, config = work.rl, dataclasses.replace(work.model_config(), accumulate=kind)
    optimizer, context = make_optimizer(rl, rl.steps), dataclasses.replace(rl.context(work.sampling), in_place=in_place)
    shapes, batch = abstract_state(work, jax.sharding.get_mesh()), random_batch(work)
    began = time.perf_counter()
    program = update.lower(shapes, batch, optimizer, rl.algorithm, context, config, rl.passes).compile()
    compiled = time.perf_counter() - began
    memory = program.memory_analysis()
    state = init_state(init_params(param_specs(config), jax.random.key(0), work.dtype), optimizer, shapes)
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        state, sums, _ = program(state, batch)
        jax.block_until_ready((state, sums))
        seconds.append(time.perf_counter() - began)
    return {
        "seconds": seconds[1:],
        "program_bytes": memory.argument_size_in_bytes + memory.temp_size_in_bytes,
        "compile_seconds": compiled,
        "gradient_norm": float(sums["gradient_norm"][0]),
    }


def main():
    """Writes the file after each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", default="qwen2.5-0.5b")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--microbatch", type=int, default=64)
    parser.add_argument("--remat", default="none")
    parser.add_argument("--unroll", type=lambda text: text == "True", default=True)
    parser.add_argument("--ways", nargs="*", default=list(WAYS))
    parser.add_argument("--repeats", type=int, default=3)
    options = vars(parser.parse_args())
    file, ways, repeats = (options.pop(name) for name in ("file", "ways", "repeats"))
    work = Workload(**options, beta=0.0)
    if jax.default_backend() == "cpu":
        work = small_workload(work)
    figures = {"settings": dataclasses.asdict(work), "device": jax.devices()[0].device_kind, "ways": {}}
    figures["versions"] = versions("jax", "jaxlib")
    with jax.set_mesh(make_mesh("1x1")):
        for way in ways:
            figures["ways"][way] = measured(work, way, repeats)
            print(way, figures["ways"][way], flush=True)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
