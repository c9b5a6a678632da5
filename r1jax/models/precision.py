"""Sums that accumulate in float32 for operands of any type."""

import jax
import jax.numpy as jnp


def einsum_f32(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """einsum that accumulates in float32 and returns float32.

    Matrix units do this with 16-bit operands. CPUs do not in every version of JAX, so operands are cast there.
    """
    if jax.default_backend() == "cpu":
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.float32)


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """x + bias in the type of x; bias is broadcast over the leading axes of x.

    The addition is in float32, so the gradient of the bias is summed over all positions in float32 too.
    """
    return (x.astype(jnp.float32) + bias.astype(jnp.float32)).astype(x.dtype)
