"""Times one layer of experts on an expert axis, with tokens moved by a gather and by a ragged all-to-all.

    PYTHONPATH=. python tests/tools/measure_exchange.py OUT.json --devices 2

The layer is that of moe-16b with 16,384 tokens on each device. Each way is compared with the same layer on one device,
for as many tokens as one device has in training.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.benchmark.workload import timed
from r1jax.models import experts
from r1jax.models.experts import ROUTED
from r1jax.models.shapes import SHAPES
from r1jax.pipeline.manifest import versions
from r1jax.sharding import Params, init_params, make_mesh, param_shardings

QUEUED = 5  # calls that are timed together, so that the devices do not wait for the host


def difference(got: Any, want: Any) -> float:
    """The largest norm of a difference of two arrays of a tree, relative to the norm of the second."""

    def one(a: Any, b: Any) -> float:
        a, b = (np.asarray(x).astype(np.float32) for x in (a, b))
        return float(np.linalg.norm(a - b) / (np.linalg.norm(b) + 1e-30))

    return max(jax.tree.leaves(jax.tree.map(one, got, want)))


def main() -> None:
    """Measures both ways, and prints and writes the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--model", default="moe-16b")
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    config = SHAPES[args.model]
    specs, dtype = ROUTED.specs(config), jnp.bfloat16
    weights = init_params(specs, jax.random.key(0), dtype)
    shape = (args.devices, args.tokens, config.hidden_size)
    h = jax.random.normal(jax.random.key(1), shape, jnp.float32).astype(dtype)

    def forward(h: jax.Array, weights: Params) -> jax.Array:
        return ROUTED.apply(h, weights, config, None)[0]

    def both(h: jax.Array, weights: Params) -> Any:
        y, back = jax.vjp(forward, h, weights)
        return y, back(y)

    want = jax.device_get(jax.jit(both)(h, weights))
    figures: dict[str, Any] = {
        "model": args.model,
        "device": f"{args.devices} x {jax.devices()[0].device_kind}",
        "tokens_of_a_device": args.tokens,
        "versions": versions("jax", "jaxlib"),
        "rows": [],
    }

    def measure(way: str, h: jax.Array, weights: Params, check: bool = True) -> None:
        """Adds a row, and writes the file at once: a way that does not return leaves the others."""
        row: dict[str, Any] = {"way": way}
        with mock.patch.object(experts, "is_ragged", lambda *_: way == "ragged all-to-all"):
            for name, run in (("forward", forward), ("forward_and_backward", both)):
                program = jax.jit(lambda h, w, run=run: run(h, w))
                if check and run is both:
                    row["difference"] = difference(program(h, weights), want)
                seconds = timed(lambda p=program: [p(h, weights) for _ in range(QUEUED)], args.repeats)
                row[f"{name}_milliseconds"] = 1e3 * seconds / QUEUED
        print(row, flush=True)
        figures["rows"].append(row)
        args.out.write_text(json.dumps(figures, indent=2) + "\n")

    measure("one device", h[:1], weights, check=False)
    mesh = make_mesh(f"1x1x{args.devices}")
    with jax.set_mesh(mesh):
        split = jax.tree.map(jax.device_put, weights, param_shardings(specs, mesh))
        tokens = jax.device_put(h, jax.NamedSharding(mesh, jax.P(("data", "expert"))))
        for way in ("gather", "ragged all-to-all"):
            measure(way, tokens, split)


if __name__ == "__main__":
    main()
