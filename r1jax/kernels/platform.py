"""Shared by the kernels: the optional import of Triton, checks of the platform, and the lowest score."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from r1jax.sharding import compiler_mesh

LEAST = float(jnp.finfo(jnp.float32).min)  # maximum of an empty set: finite, since -inf - -inf is NaN

try:  # deprecated since jax 0.11; without it plain JAX is used
    from jax.experimental.pallas import triton
except ImportError:
    triton = None


mosaic: Any
try:
    from jax.experimental.pallas import mosaic_gpu as mosaic
except ImportError:
    mosaic = None


def has_kernels() -> bool:
    """True if hand-written kernels run on the devices of this process."""
    return triton is not None and jax.default_backend() == "gpu"


def on_one_device() -> bool:
    """True on a mesh of one device and inside shard_map. The compiler cannot partition kernels over devices."""
    mesh = compiler_mesh()
    return mesh is None or mesh.size == 1


def multiprocessors() -> int:
    """Multiprocessors of a device; those of an H100 if the devices do not say."""
    return getattr(jax.devices()[0], "core_count", 132)
