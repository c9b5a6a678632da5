"""Losses of reward models, as sums over a batch."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp


def pairwise_loss(chosen: jax.Array, rejected: jax.Array, counts: jax.Array) -> jax.Array:
    """Sum of -log sigmoid(chosen - rejected) over the pairs that count (Bradley and Terry 1952).

    chosen, rejected: [B] float32 scores of the better and the worse reply. counts: [B] bool. Returns [] float32.
    """
    chex.assert_equal_shape([chosen, rejected, counts])
    return -jnp.where(counts, jax.nn.log_sigmoid(chosen - rejected), 0.0).sum()


def pointwise_loss(scores: jax.Array, safe: jax.Array, counts: jax.Array) -> jax.Array:
    """Sum of the binary cross-entropy of sigmoid(score) with ``safe`` over the responses that count.

    scores: [B] float32. safe, counts: [B] bool. Returns [] float32.
    """
    chex.assert_equal_shape([scores, safe, counts])
    return -jnp.where(counts, jax.nn.log_sigmoid(jnp.where(safe, scores, -scores)), 0.0).sum()
