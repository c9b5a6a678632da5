"""KL divergence of two policies: an estimate from sampled tokens, and the exact sum over the vocabulary."""

from __future__ import annotations

from typing import Literal

import chex
import jax
import jax.numpy as jnp

from r1jax.algorithms.ratios import BOUND, tangent
from r1jax.models.precision import einsum_f32
from r1jax.sharding import constrain

Direction = Literal["forward", "reverse"]


def k3_kl(logp: jax.Array, reference: jax.Array) -> jax.Array:
    """Schulman's k3 estimate of KL(pi || ref), pi_ref/pi - log(pi_ref/pi) - 1, never negative: same shape.

    GRPO's penalty (arXiv 2402.03300, eq. 4). Where log(pi_ref/pi) is above BOUND, the tangent at BOUND replaces the
    exponential: the gradient of a token that has become improbable is at most exp(BOUND) - 1, so it neither dominates
    the batch nor overflows. Below -BOUND the gradient is at most 1.
    """
    chex.assert_equal_shape([logp, reference])
    difference = reference - logp
    return jnp.expm1(jnp.minimum(difference, BOUND)) + tangent(difference) - difference


def kl_sum(
    student: tuple[jax.Array, jax.Array],
    teacher: tuple[jax.Array, jax.Array],
    mask: jax.Array,
    direction: Direction,
    temperature: float = 1.0,
    chunk: int = 2048,
) -> jax.Array:
    """Sum over the marked tokens of the exact KL divergence between teacher p and student q, in nats.

    forward: sum_v p_v (log p_v - log q_v), which makes the student cover the teacher's modes; reverse: sum_v
    q_v (log q_v - log p_v), which makes it seek the largest of them (arXiv 2306.13649, section 2). The logits of
    [tokens, vocabulary] are never in memory at one time.

    Args:
      student, teacher: final states [B, T, D] and unembedding [D, V] of each; their D may differ, V not. No gradient
        is taken of the teacher's.
      mask: [B, T] bool.
      temperature: of both policies, above 0.
      chunk: tokens whose logits are in memory at one time, forward and backward (at least B: one column).

    Returns:
      [] float32.
    """
    chex.assert_rank([student[0], teacher[0], mask], [3, 3, 2])
    chex.assert_equal_shape_prefix([student[0], teacher[0], mask], 2)
    B, T, _ = student[0].shape
    n = -(-T // max(1, chunk // B))
    columns = -(-T // n)
    wide = student[1].astype(jnp.float32)  # so that its gradient is added up over the chunks in float32

    def split(x: jax.Array) -> jax.Array:  # [B, T, ...] -> [n, B, columns, ...]
        x = jnp.pad(x, [(0, 0), (0, n * columns - T)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(B, n, columns, *x.shape[2:]), 1, 0)

    def log_policy(hidden: jax.Array, unembedding: jax.Array) -> jax.Array:
        logits = einsum_f32("bcd,dv->bcv", hidden, unembedding) / temperature
        return jax.nn.log_softmax(constrain(logits, "batch", None, "vocab"))

    @jax.checkpoint  # the backward pass computes each chunk's logits again
    def one(total: jax.Array, part: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        own, other, marked = part
        q = log_policy(own, wide.astype(student[1].dtype))
        p = jax.lax.stop_gradient(log_policy(other, teacher[1]))
        kl = jnp.exp(p) * (p - q) if direction == "forward" else jnp.exp(q) * (q - p)
        return total + jnp.where(marked, kl.sum(-1), 0.0).sum(), None

    total, _ = jax.lax.scan(one, jnp.zeros(()), (split(student[0]), split(teacher[0]), split(mask)))
    return total
