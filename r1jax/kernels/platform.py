"""What kernels share: the import that may be missing, the question whether to use one, and the lowest score."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from r1jax.sharding import compiler_mesh

LEAST = float(jnp.finfo(jnp.float32).min)  # of a maximum over nothing: finite, since -inf - -inf is no number

try:  # deprecated since jax 0.11, so it may be gone one day: plain JAX serves then
    from jax.experimental.pallas import triton
except ImportError:
    triton = None


def has_kernels() -> bool:
    """Whether hand-written kernels can run on this process's devices."""
    return triton is not None and jax.default_backend() == "gpu"


def on_one_device() -> bool:
    """Whether the program is one device's, on a mesh of one or within shard_map: the compiler splits no kernels."""
    mesh = compiler_mesh()
    return mesh is None or mesh.size == 1
