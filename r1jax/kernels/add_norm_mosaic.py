"""The kernel of add_norm for Hopper GPUs, in Pallas Mosaic GPU."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from r1jax.kernels.platform import mosaic

WIDTH = 128  # numbers of a row must be a multiple: one for each thread of a warpgroup


def supports(x: jax.Array) -> bool:
    """True if the kernel supports rows of this width and type."""
    return x.shape[-1] % WIDTH == 0 and x.dtype == jnp.bfloat16


# Under jit, so that the kernel is traced, lowered and compiled once for all layers.
@partial(jax.jit, static_argnames=("eps", "interpret"))
def add_norm_mosaic(
    x: jax.Array, y: jax.Array, weight: jax.Array, eps: float, interpret: Any = None
) -> tuple[jax.Array, jax.Array]:
    """add_norm with the kernel, one program per row; ``interpret`` are parameters of the interpreter on a CPU."""
    (S, D), parts = x.shape, y.shape[0] if y.ndim == 3 else 0

    def body(x_ref, y_ref, weight_ref, sum_ref, normed_ref):
        row = lax.axis_index("row")
        if parts:
            added = y_ref[0, row]
            for part in range(1, parts):
                added += y_ref[part, row]
            total = (x_ref[row].astype(jnp.float32) + added).astype(x.dtype)
        else:
            total = (x_ref[row] + y_ref[row]).astype(x.dtype)
        sum_ref[row] = total
        wide = total.astype(jnp.float32)
        scale = lax.rsqrt((wide * wide).sum() / D + eps)
        normed_ref[row] = (wide * scale * weight_ref[...].astype(jnp.float32)).astype(x.dtype)

    run = mosaic.kernel(
        body,
        out_type=[jax.ShapeDtypeStruct(x.shape, x.dtype)] * 2,
        grid=(S,),
        grid_names=("row",),
        compiler_params=mosaic.CompilerParams(lowering_semantics=mosaic.LoweringSemantics.Warpgroup),
        kernel_name="add_norm",
        interpret=interpret,
    )
    total, normed = run(x, y, weight)
    return total, normed
