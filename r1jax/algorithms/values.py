"""The loss of a critic, and how well its values explain the returns."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from r1jax.algorithms.gae import masked_mean

_ROUNDING = 1e-5  # relative: deviations of returns that are smaller may be those of float32 sums


def clipped_value_loss(
    values: jax.Array, old: jax.Array, returns: jax.Array, clip: float
) -> tuple[jax.Array, jax.Array]:
    """max((V - R)^2, (V' - R)^2) / 2 per token, and where the second is larger: [B, T] each.

    V' = V_old + clip(V - V_old, -clip, clip), so a value gains nothing from moving further than ``clip`` in the updates
    of one rollout. A clip of 0 stands for no clipping. PPO's code has this term and its paper (arXiv 1707.06347) has
    not; it is described in arXiv 2005.12729, section 3.
    """
    chex.assert_equal_shape([values, old, returns])
    bound = jnp.where(clip > 0, clip, jnp.inf)
    plain = 0.5 * (values - returns) ** 2
    bounded = 0.5 * (old + jnp.clip(values - old, -bound, bound) - returns) ** 2
    taken = (jnp.abs(values - old) > bound) & (bounded > plain)
    return jnp.where(taken, bounded, plain), taken


def explained_variance_terms(values: jax.Array, returns: jax.Array, mask: jax.Array) -> jax.Array:
    """Terms per token whose mean over the mask is 1 - Var(R - V) / Var(R), the explained variance: [B, T].

    1 is a perfect critic, 0 one as good as a constant. Any split of the tokens into batches has the same mean of all.
    The terms are nan if all returns are equal up to rounding, since there is nothing to explain.
    """
    chex.assert_equal_shape([values, returns, mask])

    def squares(x: jax.Array) -> jax.Array:
        return (x - masked_mean(x, mask)) ** 2

    variance = masked_mean(squares(returns), mask)
    # A return is a sum of errors and values, so the rounding of the values is in it, too.
    differ = variance > _ROUNDING**2 * masked_mean(returns**2 + values**2, mask)
    return 1 - squares(returns - values) / jnp.where(differ, variance, jnp.nan)
