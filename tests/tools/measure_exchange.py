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
from r1jax.models import exchange
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
    rows: list[dict[str, Any]] = []
    mesh = make_mesh(f"1x1x{args.devices}")
    with jax.set_mesh(mesh):
        split = jax.tree.map(jax.device_put, weights, param_shardings(specs, mesh))
        tokens = jax.device_put(h, jax.NamedSharding(mesh, jax.P(("data", "expert"))))
        for way, most in (("gather", 0.0), ("ragged all-to-all", 1.0)):
            row: dict[str, Any] = {"way": way}
            with mock.patch.object(exchange, "_MOST", most):
                for name, run in (("forward", forward), ("both", both)):
                    try:
                        program = jax.jit(lambda h, w, run=run: run(h, w))
                        if name == "both":
                            row["difference"] = difference(program(tokens, split), want)
                        seconds = timed(lambda p=program: [p(tokens, split) for _ in range(QUEUED)], args.repeats)
                        row[f"{name}_milliseconds"] = 1e3 * seconds / QUEUED
                    except Exception as error:  # the other way is measured all the same
                        row["error"] = f"{type(error).__name__}: {str(error)[:300]}"
            rows.append(row)
            print(row, flush=True)
    with jax.set_mesh(make_mesh("1x1")):
        for name, run in (("forward", forward), ("both", both)):
            program = jax.jit(lambda h, w, run=run: run(h, w))
            seconds = timed(lambda p=program: [p(h[:1], weights) for _ in range(QUEUED)], args.repeats)
            print("one device", name, f"{1e3 * seconds / QUEUED:.3f} ms", flush=True)
            rows.append({"way": "one device", f"{name}_milliseconds": 1e3 * seconds / QUEUED})
    figures = {
        "model": args.model,
        "device": f"{args.devices} x {jax.devices()[0].device_kind}",
        "tokens_of_a_device": args.tokens,
        "rows": rows,
        "versions": versions("jax", "jaxlib"),
    }
    args.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
