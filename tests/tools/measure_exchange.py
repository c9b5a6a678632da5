"""Compares the two ways in which tokens move to the devices of their experts, on all devices of this machine.

    PYTHONPATH=. python tests/tools/measure_exchange.py OUT.json [moe-16b TOKENS]

The file has, for each way, the largest error of the results and gradients of a small layer in float32 against one
device, and the milliseconds of the forward and backward pass of a layer of moe-16b in bfloat16 with TOKENS (16,384)
tokens a device. On CPUs the ragged all-to-all is emulated; "small" in place of moe-16b times the small layer.
"""

import dataclasses
import json
import sys
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from r1jax.benchmark.workload import timed
from r1jax.models.config import Experts, ModelConfig
from r1jax.models.experts import ROUTED
from r1jax.models.shapes import SHAPES
from r1jax.sharding import init_params, make_mesh, param_shardings, place
from tests.models.test_exchange import emulated

SMALL = ModelConfig(hidden_size=64, experts=Experts(64, 2, 64, 64, scores="sigmoid", scale=2.5))


def layer(config, tokens, way):
    """A function that computes results and gradients of a layer with random tokens [devices, tokens, D].

    way: "gather" or "ragged", on a mesh of all devices; "": on one device.
    """
    rows = len(jax.devices())
    mesh = make_mesh(f"1x1x{rows}" if way else "1x1")
    specs = ROUTED.specs(config)
    h = jax.random.normal(jax.random.key(1), (rows, tokens, config.hidden_size), config.dtype)
    weights = init_params(specs, jax.random.key(0), jnp.dtype(config.dtype))
    with jax.set_mesh(mesh):
        weights = place(weights, param_shardings(specs, mesh))
        h = jax.device_put(h, NamedSharding(mesh, P("expert" if way else None)))

    @jax.jit
    def both(h, weights):
        y, back = jax.vjp(lambda h, weights: ROUTED.apply(h, weights, config, None)[0], h, weights)
        return y, back(y)

    def run():
        with jax.set_mesh(mesh), mock.patch("r1jax.models.experts.is_ragged", lambda *_: way == "ragged"):
            return both(h, weights)

    return run


def main(out, model="moe-16b", tokens="16384"):
    figures = {"devices": f"{len(jax.devices())} x {jax.devices()[0].device_kind}", "jax": jax.__version__}
    with jax.default_matmul_precision("highest"):
        alone = jax.device_get(layer(SMALL, 40, "")())
    big = SMALL if model == "small" else dataclasses.replace(SHAPES[model], dtype="bfloat16")
    for way in ("gather", "ragged"):
        with jax.default_matmul_precision("highest"):
            own = jax.device_get(layer(SMALL, 40, way)())
        errors = jax.tree.map(lambda a, b: float(np.abs(a - b).max() / np.abs(b).max()), own, alone)
        row = {"largest_error_float32": max(jax.tree.leaves(errors))}
        Path(out).write_text(json.dumps(figures | {way: row}, indent=2) + "\n")  # kept if the large layer fails
        row["milliseconds"] = 1e3 * timed(layer(big, int(tokens), way), 7)
        figures[way] = row
        print(way, row, flush=True)
    Path(out).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    own = emulated if jax.default_backend() == "cpu" else jax.lax.ragged_all_to_all
    with mock.patch("jax.lax.ragged_all_to_all", own):
        main(*sys.argv[1:])
