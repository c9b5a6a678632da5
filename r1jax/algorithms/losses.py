"""Policy losses per token, and their reduction to a sum and a count."""

from __future__ import annotations

from typing import Literal

import chex
import jax
import jax.numpy as jnp

Aggregate = Literal["sequence", "token", "constant"]
Ratio = Literal["token", "sequence"]

BOUND = 6.0  # nats; exp(6) = 403 is the most that the gradient of one token is multiplied by


def k3_kl(logp: jax.Array, reference: jax.Array) -> jax.Array:
    """Schulman's k3 estimate of KL(pi || ref), pi_ref/pi - log(pi_ref/pi) - 1, never negative: same shape.

    Used by GRPO (arXiv 2402.03300, eq. 4). Where log(pi_ref/pi) is above BOUND, the tangent at BOUND takes the place of
    the exponential: a token that the policy has nearly given up is still drawn back to the reference, with the gradient
    1 - exp(BOUND), but it outweighs no batch and never becomes infinite. Below -BOUND the gradient is at most 1.
    """
    chex.assert_equal_shape([logp, reference])
    difference = reference - logp
    return jnp.expm1(jnp.minimum(difference, BOUND)) + _tangent(difference) - difference


def _tangent(x: jax.Array) -> jax.Array:
    """exp at BOUND, continued along its tangent, less exp(BOUND); 0 up to BOUND."""
    return jnp.exp(BOUND) * jnp.maximum(x - BOUND, 0.0)


def bounded_exp(x: jax.Array) -> jax.Array:
    """exp(x) up to BOUND and its tangent beyond, so that the gradient is at most exp(BOUND): same shape."""
    return jnp.exp(jnp.minimum(x, BOUND)) + _tangent(x)


def beyond_bound(*differences: jax.Array) -> jax.Array:
    """Where one of several log-differences of one shape is above BOUND: bool, same shape."""
    return jnp.stack(differences).max(axis=0) > BOUND


def log_ratio(logp: jax.Array, old: jax.Array, mask: jax.Array, ratio: Ratio = "token") -> jax.Array:
    """Log of pi / pi_old per token: [B, T].

    - token: each token's own (GRPO).
    - sequence: the mean over the sequence, the same for each of its tokens (GSPO, arXiv 2507.18071, eq. 7).
    """
    difference = jnp.where(mask, logp - old, 0.0)
    if ratio == "token":
        return difference
    mean = difference.sum(axis=-1, keepdims=True) / jnp.maximum(mask.sum(axis=-1, keepdims=True), 1)
    return jnp.where(mask, mean, 0.0)


def clipped_surrogate(
    log_ratios: jax.Array, advantages: jax.Array, eps_low: float, eps_high: float
) -> tuple[jax.Array, jax.Array]:
    """-min(rho A, clip(rho, 1 - eps_low, 1 + eps_high) A) per token, and where the clip took over: [B, T] each.

    PPO's objective (arXiv 1707.06347, eq. 7); eps_high above eps_low is DAPO's clip-higher (arXiv 2503.14476). The clip
    does not hold rho where A < 0: rho is therefore bounded_exp of the log-ratio, whose gradient such a token keeps.
    At an end of the interval, as at rho = 1 with an eps of 0, the gradient is that of rho A.
    """
    chex.assert_equal_shape([log_ratios, advantages])
    rho = bounded_exp(log_ratios)
    plain = rho * advantages
    clipped = jnp.clip(rho, 1 - eps_low, 1 + eps_high) * advantages
    taken = clipped < plain
    return -jnp.where(taken, clipped, plain), taken


def cispo_surrogate(
    log_ratios: jax.Array, logp: jax.Array, advantages: jax.Array, eps_low: float, eps_high: float
) -> tuple[jax.Array, jax.Array]:
    """-stop_gradient(clip(rho)) A log pi per token, and where rho was clipped: [B, T] (CISPO, arXiv 2506.13585).

    rho is at most exp(BOUND), for eps_high beyond that.
    """
    chex.assert_equal_shape([log_ratios, logp, advantages])
    rho = jnp.exp(jnp.minimum(log_ratios, BOUND))
    weight = jax.lax.stop_gradient(jnp.clip(rho, 1 - eps_low, 1 + eps_high))
    return -weight * advantages * logp, (rho < 1 - eps_low) | (rho > 1 + eps_high)


def truncated_importance(old: jax.Array, sampled: jax.Array, cap: float) -> jax.Array:
    """min(pi_old / pi_sampler, cap) per token, without gradient, and at most exp(BOUND): [B, T].

    Corrects for a sampler whose distribution is not the trainer's: other kernels, or top-p and top-k.
    """
    chex.assert_equal_shape([old, sampled])
    return jax.lax.stop_gradient(jnp.minimum(jnp.exp(jnp.minimum(old - sampled, BOUND)), cap))


def reduce_tokens(
    values: jax.Array, mask: jax.Array, aggregate: Aggregate, max_tokens: int
) -> tuple[jax.Array, jax.Array]:
    """Sum and count of token values [B, T]; sum / count, both added over all microbatches, is the loss.

    - sequence: mean over each sequence's tokens, then over sequences: GRPO. Empty sequences count for nothing.
    - token: mean over all tokens: DAPO.
    - constant: sum over tokens divided by max_tokens per sequence, which favours no length: Dr. GRPO.
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
