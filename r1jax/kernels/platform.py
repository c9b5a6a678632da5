"""Shared by the kernels: optional imports, the choice among kernels, checks of the platform, and the lowest score."""

from __future__ import annotations

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from r1jax.errors import UserError
from r1jax.sharding import compiler_mesh

LEAST = float(jnp.finfo(jnp.float32).min)  # maximum of an empty set: finite, since -inf - -inf is NaN

triton: Any
try:  # deprecated since jax 0.11
    from jax.experimental.pallas import triton
except ImportError:
    triton = None
mosaic: Any
try:
    from jax.experimental.pallas import mosaic_gpu as mosaic
except ImportError:
    mosaic = None

Kernels = Literal["mosaic", "triton", "plain"]
WantedKernels = Literal["auto", "mosaic", "triton", "plain"]

# What "auto" chooses: the first of these that runs here. A rollout is slower with the kernels of Mosaic than with those
# of Triton (docs/performance.md), since each kernel of Mosaic is a CUDA graph of its own.
ORDER: tuple[Kernels, ...] = ("triton", "mosaic")

# Kernels of Mosaic that run beside those of Triton, too: of the output head, of products with at most 128 rows, of the
# gated product with up to 1,024 rows, and of attention in decoding with few pairs of slot and head.
Extra = Literal["head", "few rows", "gated product", "few pairs"]

# Those of them that "auto" selects, since they are faster than plain JAX or Triton's (docs/performance.md).
FASTER: frozenset[Extra] = frozenset(("head", "few rows", "gated product", "few pairs"))


def runs_here(kernels: Kernels) -> bool:
    """True if these kernels run on the devices of this process; those of Mosaic need Hopper GPUs and jax 0.11."""
    if kernels == "plain":
        return True
    if jax.default_backend() != "gpu":
        return False
    if kernels == "triton":
        return triton is not None
    new = mosaic is not None and jax.__version_info__ >= (0, 11)
    return new and getattr(jax.devices()[0], "compute_capability", None) == "9.0"


def choose(wanted: WantedKernels) -> Kernels:
    """The kernels that run for this setting; plain JAX where they do not exist."""
    for kernels in ORDER if wanted == "auto" else (wanted,):
        if runs_here(kernels):
            return kernels
    return "plain"


def selects_extra(wanted: WantedKernels, extra: Extra) -> bool:
    """True if this setting selects these kernels of Mosaic where they run."""
    return wanted == "mosaic" or (wanted == "auto" and extra in FASTER)


def has_extra(wanted: WantedKernels, extra: Extra) -> bool:
    """True if these kernels of Mosaic run for this setting."""
    return selects_extra(wanted, extra) and runs_here("mosaic")


def batched_kernels(wanted: WantedKernels) -> Kernels:
    """The kernels of a program under vmap, which those of Mosaic do not support."""
    return "triton" if wanted in ("auto", "triton") and runs_here("triton") else "plain"


def described(wanted: WantedKernels) -> str:
    """The kernels that run for this setting, such as "triton, and mosaic for head, few rows, gated product"."""
    chosen = choose(wanted)
    extra = ", ".join(name for name in get_args(Extra) if has_extra(wanted, name))
    return f"{chosen}, and mosaic for {extra}" if extra and chosen != "mosaic" else chosen


def check_kernels(wanted: WantedKernels) -> None:
    """Raises UserError if the devices of this process do not run the kernels that are asked for by name."""
    if wanted != "auto" and not runs_here(wanted):
        needs = {"mosaic": "a Hopper GPU and jax 0.11 or newer", "triton": "an NVIDIA GPU and jax with Pallas's Triton"}
        raise UserError(f"--kernels={wanted} needs {needs[wanted]}: use --kernels=auto")


def missing_kernels(wanted: WantedKernels) -> str:
    """A warning if a GPU has to do without kernels; empty otherwise."""
    if wanted == "plain" or jax.default_backend() != "gpu" or choose(wanted) != "plain":
        return ""
    return (
        f"warning: jax {jax.__version__} has no decoding kernels for this GPU, and rollouts take about twice as long: "
        "use a version of jax with Pallas's Triton, or a Hopper GPU"
    )


def on_one_device() -> bool:
    """True on a mesh of one device and inside shard_map, where each device computes by itself.

    The compiler cannot partition kernels over devices.
    """
    mesh = compiler_mesh()
    return mesh is None or mesh.size == 1


def operand_layout(columns: int, dtype: Any) -> tuple[Any, ...]:
    """The layout in shared memory of an operand of tensor cores with this number of columns, for kernels of Mosaic."""
    size = jnp.dtype(dtype).itemsize
    swizzle = mosaic.find_swizzle(columns * size * 8)
    return mosaic.TilingTransform((8, swizzle // size)), mosaic.SwizzleTransform(swizzle)


def multiprocessors() -> int:
    """Multiprocessors of a device; those of an H100 if the devices do not say."""
    return getattr(jax.devices()[0], "core_count", 132)
