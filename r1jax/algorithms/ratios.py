"""Ratios of two policies per token, and the surrogate losses that are made of them."""

from __future__ import annotations

from typing import Literal

import chex
import jax
import jax.numpy as jnp

Ratio = Literal["token", "sequence"]

BOUND = 6.0  # nats: no token's gradient is multiplied by more than exp(6) = 403


def tangent(x: jax.Array) -> jax.Array:
    """exp(BOUND) max(x - BOUND, 0): what the tangent of exp at BOUND adds to exp(BOUND) beyond BOUND; same shape."""
    return jnp.exp(BOUND) * jnp.maximum(x - BOUND, 0.0)


def bounded_exp(x: jax.Array) -> jax.Array:
    """exp(x) up to BOUND and its tangent beyond, with a gradient of at most exp(BOUND): same shape."""
    return jnp.exp(jnp.minimum(x, BOUND)) + tangent(x)


def beyond_bound(*differences: jax.Array) -> jax.Array:
    """True where the largest of several log-differences of one shape is above BOUND: bool, same shape."""
    return jnp.stack(differences).max(axis=0) > BOUND


def log_ratio(logp: jax.Array, old: jax.Array, mask: jax.Array, ratio: Ratio = "token") -> jax.Array:
    """log(pi / pi_old) per token, 0 outside the mask: [B, T].

    - token: the ratio of the token (GRPO).
    - sequence: the geometric mean of the sequence's ratios, for all its tokens (GSPO, arXiv 2507.18071, eq. 7).
    """
    difference = jnp.where(mask, logp - old, 0.0)
    if ratio == "token":
        return difference
    mean = difference.sum(axis=-1, keepdims=True) / jnp.maximum(mask.sum(axis=-1, keepdims=True), 1)
    return jnp.where(mask, mean, 0.0)


def clipped_surrogate(
    log_ratios: jax.Array, advantages: jax.Array, eps_low: float, eps_high: float
) -> tuple[jax.Array, jax.Array]:
    """-min(rho A, clip(rho, 1 - eps_low, 1 + eps_high) A) per token, and where the second is smaller: [B, T] each.

    PPO's objective (arXiv 1707.06347, eq. 7); eps_high above eps_low is DAPO's clip-higher (arXiv 2503.14476). The clip
    does not bound rho where A < 0; rho is therefore bounded_exp of the log-ratio. At the ends of the interval, as at
    rho = 1 with an eps of 0, the gradient is that of rho A.
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

    rho is at most exp(BOUND), also if 1 + eps_high is larger.
    """
    chex.assert_equal_shape([log_ratios, logp, advantages])
    rho = jnp.exp(jnp.minimum(log_ratios, BOUND))
    weight = jax.lax.stop_gradient(jnp.clip(rho, 1 - eps_low, 1 + eps_high))
    return -weight * advantages * logp, (rho < 1 - eps_low) | (rho > 1 + eps_high)


def truncated_importance(old: jax.Array, sampled: jax.Array, cap: float) -> jax.Array:
    """min(pi_old / pi_sampler, cap, exp(BOUND)) per token, without a gradient: [B, T].

    Corrects for a sampler whose distribution differs from the trainer's: by its kernels, or by top-p and top-k.
    """
    chex.assert_equal_shape([old, sampled])
    return jax.lax.stop_gradient(jnp.minimum(jnp.exp(jnp.minimum(old - sampled, BOUND)), cap))


def clip_metrics(log_ratios: jax.Array, clipped: jax.Array, advantages: jax.Array) -> dict[str, jax.Array]:
    """The ratio, and where the clip acted: anywhere, on bad samples, and on good ones: [B, T] each."""
    return {
        "ratio_mean": bounded_exp(log_ratios),
        "clip_share": clipped,
        "clip_share_low": clipped & (advantages < 0),
        "clip_share_high": clipped & (advantages > 0),
    }
