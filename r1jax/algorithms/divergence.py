"""Divergence of two policies over the whole vocabulary, without ever holding [tokens, vocabulary]."""

from __future__ import annotations

from typing import Literal

import chex
import jax
import jax.numpy as jnp

from r1jax.models.precision import einsum_f32
from r1jax.sharding import constrain

Direction = Literal["forward", "reverse"]


def kl_sum(
    student: tuple[jax.Array, jax.Array],
    teacher: tuple[jax.Array, jax.Array],
    mask: jax.Array,
    direction: Direction,
    temperature: float = 1.0,
    chunk: int = 2048,
) -> jax.Array:
    """Sum over the marked tokens of the exact KL divergence between teacher p and student q, in nats.

    forward: sum_v p_v (log p_v - log q_v), which spreads the student over all that the teacher does; reverse: sum_v
    q_v (log q_v - log p_v), which keeps it to what the teacher does most (arXiv 2306.13649, section 2).

    Args:
      student, teacher: final states [B, T, D] and unembedding [D, V] of each; their D may differ, V not. No gradient
        enters the teacher's.
      mask: [B, T] bool.
      temperature: of both policies, above 0.
      chunk: tokens whose logits exist at one time, forward and backward (at least B: one column of the batch).

    Returns:
      [] float32.
    """
    chex.assert_rank([student[0], teacher[0], mask], [3, 3, 2])
    chex.assert_equal_shape_prefix([student[0], teacher[0], mask], 2)
    B, T, _ = student[0].shape
    n = -(-T // max(1, chunk // B))
    columns = -(-T // n)
    wide = student[1].astype(jnp.float32)  # its gradient is added up over the chunks in this type

    def split(x: jax.Array) -> jax.Array:  # [B, T, ...] -> [n, B, columns, ...]
        x = jnp.pad(x, [(0, 0), (0, n * columns - T)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(B, n, columns, *x.shape[2:]), 1, 0)

    def log_policy(hidden: jax.Array, unembedding: jax.Array) -> jax.Array:
        logits = einsum_f32("bcd,dv->bcv", hidden, unembedding) / temperature
        return jax.nn.log_softmax(constrain(logits, "batch", None, "vocab"))

    @jax.checkpoint  # the backward pass makes each chunk's logits again
    def one(total: jax.Array, part: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        own, other, marked = part
        q = log_policy(own, wide.astype(student[1].dtype))
        p = jax.lax.stop_gradient(log_policy(other, teacher[1]))
        kl = jnp.exp(p) * (p - q) if direction == "forward" else jnp.exp(q) * (q - p)
        return total + jnp.where(marked, kl.sum(-1), 0.0).sum(), None

    total, _ = jax.lax.scan(one, jnp.zeros(()), (split(student[0]), split(teacher[0]), split(mask)))
    return total
