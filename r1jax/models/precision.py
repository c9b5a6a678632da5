"""Sums that are added in float32 whatever the operands are."""

import jax
import jax.numpy as jnp


def einsum_f32(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """einsum that accumulates and returns float32.

    Matrix units do this from 16-bit operands; CPUs do not in every jax version, so there the operands are cast first.
    """
    if jax.default_backend() == "cpu":
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.float32)


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """x + bias [...], bias broadcast over the leading axes of x: in the type of x.

    Added in float32, so that the gradient of the bias is summed over all positions in float32 too.
    """
    return (x.astype(jnp.float32) + bias.astype(jnp.float32)).astype(x.dtype)
