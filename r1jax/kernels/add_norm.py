"""Residual sum and the following normalisation, fused into one pass over memory."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from r1jax.kernels import add_norm_mosaic
from r1jax.kernels.few_rows import whole
from r1jax.kernels.platform import Kernels, triton
from r1jax.models.norm import rms_norm


def add_norm(
    x: jax.Array, y: jax.Array, weight: jax.Array, eps: float, kernels: Kernels
) -> tuple[jax.Array, jax.Array]:
    """x + y and its rms_norm, for x [S, D] and y [S, D] or its parts [P, S, D] float32.

    Plain JAX is used if the kernels do not support x.
    """
    if kernels == "triton":
        return add_norm_kernel(x, y, weight, eps)
    if kernels == "mosaic" and add_norm_mosaic.supports(x):
        return add_norm_mosaic.add_norm_mosaic(x, y, weight, eps)
    x = x + whole(y, x.dtype)
    return x, rms_norm(x, weight, eps)


def add_norm_kernel(x, y, weight, eps, interpret=False):
    """The Triton kernel of add_norm; ``interpret`` interprets it on a CPU."""
    S, _ = x.shape
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return pl.pallas_call(
        partial(_kernel, eps=eps),
        grid=(S,),
        out_shape=[shape, shape],
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
        name="add_norm",
    )(x, y, weight)


def _kernel(x_ref, y_ref, weight_ref, sum_ref, normed_ref, *, eps: float):
    row, D = pl.program_id(0), x_ref.shape[1]
    at = jnp.arange(pl.next_power_of_2(D))
    mask = at < D

    def load(ref: Any) -> jax.Array:
        return triton.load(ref, mask=mask, other=0.0)

    total = (load(x_ref.at[row, at]) + load(y_ref.at[row, at])).astype(x_ref.dtype)
    wide = total.astype(jnp.float32)
    scale = jax.lax.rsqrt((wide * wide).sum() / D + eps)
    normed = wide * scale * load(weight_ref.at[at]).astype(jnp.float32)
    triton.store(sum_ref.at[row, at], total, mask=mask)
    triton.store(normed_ref.at[row, at], normed.astype(normed_ref.dtype), mask=mask)
