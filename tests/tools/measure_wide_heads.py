"""Times cuDNN's and XLA's attention with the heads of DeepSeek-V3, forward and backward, on one GPU.

    PYTHONPATH=. python tests/tools/measure_wide_heads.py OUT.json

Heads have 192 numbers, and values are padded from 128 to 192. An error is the largest difference from float32, relative
to the largest value: of the result and of the gradients of queries, keys and values.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.benchmark.workload import timed

QUEUED = 10  # calls that are timed together, so that the device does not wait for the host


def both(kind: Any, q: jax.Array, k: jax.Array, v: jax.Array, g: jax.Array) -> Any:
    """The result and the gradients for the gradient g of the result."""

    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return jax.nn.dot_product_attention(q, k, v, is_causal=True, scale=192**-0.5, implementation=kind)

    y, back = jax.vjp(attend, q, k, v)
    return y, back(g)


def main() -> None:
    """Measures both, and writes the file."""
    gpu = jax.default_backend() == "gpu"
    batch, length, heads = (16, 640, 16) if gpu else (2, 32, 2)
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v, g = (jax.random.normal(key, (batch, length, heads, 192), jnp.bfloat16) for key in keys)
    v, g = (x.at[..., 128:].set(0) for x in (v, g))
    with jax.default_matmul_precision("highest"):
        exact = jax.device_get(jax.jit(partial(both, "xla"))(*(x.astype(jnp.float32) for x in (q, k, v, g))))

    def error(got: Any, want: Any) -> float:
        return float(np.abs(np.float32(got) - want).max() / np.abs(want).max())

    figures: dict[str, Any] = {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
    for kind in ("xla", "cudnn") if gpu else ("xla",):
        run = jax.jit(partial(both, kind))
        errors = jax.tree.leaves(jax.tree.map(error, jax.device_get(run(q, k, v, g)), exact))
        seconds = timed(lambda run=run: [run(q, k, v, g) for _ in range(QUEUED)], 5) / QUEUED
        figures[kind] = {"errors": errors, "ms": 1e3 * seconds}
        print(kind, figures[kind], flush=True)
    Path(sys.argv[1]).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
