"""Root-mean-square normalisation."""

from functools import partial

import jax
import jax.numpy as jnp


@partial(jax.checkpoint, static_argnums=2)  # the backward pass stores x, not the float32 intermediates
def rms_norm(x: jax.Array, weight: jax.Array, eps: float) -> jax.Array:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, computed in float32 (arXiv 1910.07467)."""
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + eps)
    return (y * weight.astype(jnp.float32)).astype(x.dtype)
