"""Ratios and surrogates against values worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.algorithms import kl, ratios


def test_sequence_ratio_is_the_geometric_mean():
    logp = jnp.log(jnp.array([[0.4, 0.1, 0.9]]))
    old = jnp.log(jnp.array([[0.1, 0.1, 0.3]]))
    mask = jnp.array([[True, True, False]])
    got = jnp.exp(ratios.log_ratio(logp, old, mask, "sequence"))
    np.testing.assert_allclose(got, [[2.0, 2.0, 1.0]], rtol=1e-6)


def test_clip_stops_the_gradient_on_the_side_of_the_advantage():
    def loss(log_ratio, advantage):
        return ratios.clipped_surrogate(log_ratio[None, None], jnp.full((1, 1), advantage), 0.2, 0.2)[0].sum()

    slope = jax.grad(loss)
    assert slope(jnp.log(1.5), 1.0) == 0 and slope(jnp.log(0.5), -1.0) == 0
    np.testing.assert_allclose(slope(jnp.log(0.5), 1.0), -0.5, rtol=1e-6)
    np.testing.assert_allclose(slope(jnp.log(1.5), -1.0), 1.5, rtol=1e-6)


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (0.0, 0.2), (0.2, 0.0), (0.2, 0.2)])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_a_ratio_of_one_is_never_clipped(low, high, advantage):
    """The first update of a rollout does not depend on the clipping interval, even if it is empty."""
    adv = jnp.full((1, 1), advantage)
    gradient = jax.grad(lambda x: ratios.clipped_surrogate(x, adv, low, high)[0].sum())(jnp.zeros((1, 1)))
    assert gradient == -advantage


def test_cispo_keeps_the_gradient_of_clipped_tokens():
    def loss(logp):
        ratio = logp - jnp.log(0.1)
        return ratios.cispo_surrogate(ratio, logp, jnp.ones((1, 1)), 0.2, 0.2)[0].sum()

    np.testing.assert_allclose(jax.grad(loss)(jnp.log(jnp.full((1, 1), 0.5))), -1.2, rtol=1e-6)


def test_truncated_importance_by_hand_and_without_gradient():
    old, sampled = jnp.log(jnp.array([[0.5, 0.1]])), jnp.log(jnp.array([[0.1, 0.2]]))
    np.testing.assert_allclose(ratios.truncated_importance(old, sampled, 2.0), [[2.0, 0.5]], rtol=1e-6)
    assert not jax.grad(lambda x: ratios.truncated_importance(x, sampled, 2.0).sum())(old).any()


EXTREMES = [-np.inf, -400.0, -90.0, -20.0, -6.0, 0.0, 3.0, 6.0, 6.1, 20.0, 90.0, 400.0]


@pytest.mark.parametrize("difference", EXTREMES)
def test_no_log_difference_gives_a_token_more_than_its_bound(difference):
    """Losses and gradients equal the formulas in float64, are finite and at most exp(6) times the advantage."""
    x = jnp.array([[difference]], jnp.float32)
    inside, slope = min(difference, 6.0), np.exp(min(difference, 6.0))
    ratio = np.exp(inside) + np.exp(6.0) * max(difference - 6.0, 0.0)
    k3, of_logp = jax.value_and_grad(lambda logp: kl.k3_kl(logp, x).sum())(jnp.zeros((1, 1)))
    np.testing.assert_allclose(k3, ratio - 1 - difference, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(of_logp, 1 - slope, rtol=1e-5, atol=1e-6)
    for advantage in (1.0, -1.0):
        adv = jnp.full((1, 1), advantage)

        def surrogate(x, adv=adv):
            return ratios.clipped_surrogate(x, adv, 0.2, 0.2)[0].sum()

        value, gradient = jax.value_and_grad(surrogate)(x)
        clipped = (ratio > 1.2) if advantage > 0 else (ratio < 0.8)
        np.testing.assert_allclose(
            value, -advantage * np.clip(ratio, 0.8, 1.2) if clipped else -advantage * ratio, rtol=1e-5, atol=1e-30
        )
        np.testing.assert_allclose(gradient, 0 if clipped else -advantage * slope, rtol=1e-5, atol=1e-30)
        # CISPO's weight is a constant, and it is the gradient of log pi.
        of_logp = jax.grad(lambda y, adv=adv: ratios.cispo_surrogate(x, y, adv, 1.0, 1e9)[0].sum())(jnp.zeros((1, 1)))
        np.testing.assert_allclose(of_logp, -advantage * slope, rtol=1e-5, atol=1e-30)
    np.testing.assert_allclose(ratios.truncated_importance(x, jnp.zeros((1, 1)), 1e9), slope, rtol=1e-5, atol=1e-30)
    assert ratios.beyond_bound(x, jnp.zeros((1, 1)))[0, 0] == (difference > 6.0)
