"""Reduction of a loss per token to a sum and a count."""

from __future__ import annotations

from typing import Literal

import chex
import jax
import jax.numpy as jnp

Aggregate = Literal["sequence", "token", "constant"]


def reduce_tokens(
    values: jax.Array, mask: jax.Array, aggregate: Aggregate, max_tokens: int
) -> tuple[jax.Array, jax.Array]:
    """Sum and count of token values [B, T]; the loss is sum / count, each added over all microbatches.

    - sequence: mean over the tokens of each sequence, then over sequences without the empty ones (GRPO).
    - token: mean over all tokens (DAPO).
    - constant: sum over tokens / (sequences * max_tokens), without a bias to a length (Dr. GRPO).
    """
    chex.assert_equal_shape([values, mask])
    values = jnp.where(mask, values, 0.0)
    lengths = mask.sum(axis=-1)
    sequences = (lengths > 0).sum().astype(jnp.float32)
    if aggregate == "token":
        return values.sum(), lengths.sum().astype(jnp.float32)
    if aggregate == "constant":
        return values.sum(), sequences * max_tokens
    return (values.sum(axis=-1) / jnp.maximum(lengths, 1)).sum(), sequences
