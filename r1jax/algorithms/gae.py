"""Generalised advantage estimation: from rewards and values per token to advantages and returns."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp


def token_rewards(rewards: jax.Array, mask: jax.Array) -> jax.Array:
    """The reward of each sequence [B] at its last token of ``mask`` [B, T], zero elsewhere: [B, T] float32."""
    chex.assert_rank([rewards, mask], [1, 2])
    last = mask & ~jnp.pad(mask[:, 1:], ((0, 0), (0, 1)))
    return jnp.where(last, rewards[:, None], 0.0)


def generalised_advantages(
    rewards: jax.Array, values: jax.Array, mask: jax.Array, gamma: float, lam: float
) -> tuple[jax.Array, jax.Array]:
    """Advantages and returns per token (arXiv 1506.02438, eq. 16; arXiv 1707.06347, eq. 11).

    delta_t = r_t + gamma V_{t+1} - V_t, A_t = delta_t + gamma lambda A_{t+1}, return_t = A_t + V_t. The value after the
    last token is 0, also if the completion was truncated: its reward is that of the truncated text. With gamma = lambda
    = 1, A_t is the sum of the rewards from t on less V_t.

    Args:
      rewards: [B, T] float32, of each token.
      values: [B, T] float32, of the text before each token.
      mask: [B, T] bool, the tokens that count, which follow each other in a row. The rest has no effect.
      gamma: discount, from 0 to 1.
      lam: lambda, from 0 (the error of one step) to 1 (the whole return less the value).

    Returns:
      advantages and returns, [B, T] float32 each, 0 outside the mask.
    """
    chex.assert_rank(mask, 2)
    chex.assert_equal_shape([rewards, values, mask])
    values = jnp.where(mask, values, 0.0)
    following = jnp.pad(values[:, 1:], ((0, 0), (0, 1)))  # zero after the last token
    errors = jnp.where(mask, rewards + gamma * following - values, 0.0)
    decays = jnp.where(mask, jnp.float32(gamma) * lam, 0.0)

    advantages = discounted_sums(errors, decays)
    return advantages, jnp.where(mask, advantages + values, 0.0)


def discounted_sums(values: jax.Array, decays: jax.Array) -> jax.Array:
    """s_t = x_t + d_t s_{t+1} for each position t: [B, T] float32 for values x and decays d, [B, T] each."""

    def join(later: tuple[jax.Array, jax.Array], earlier: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        # (d, x) stands for the map s -> x + d s from the sum after a span of tokens to that at its start.
        return earlier[0] * later[0], earlier[1] + earlier[0] * later[1]

    # log2(T) passes over [B, T], where a scan would take T steps.
    return jax.lax.associative_scan(join, (decays, values), axis=1, reverse=True)[1]


def whiten(values: jax.Array, mask: jax.Array, eps: float = 1e-6) -> jax.Array:
    """(x - mean) / (standard deviation + eps) over all tokens of ``mask``: [B, T], 0 outside the mask."""
    chex.assert_equal_shape([values, mask])
    centred = jnp.where(mask, values - masked_mean(values, mask), 0.0)
    return centred / (jnp.sqrt(masked_mean(centred**2, mask)) + eps)


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean over the tokens of ``mask``: [] float32 for [B, T]; 0 if there are none."""
    return jnp.where(mask, values, 0.0).sum() / jnp.maximum(mask.sum(), 1)
