"""The loss of a critic against values worked by hand, and the explained variance against its definition."""

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.algorithms.gae import generalised_advantages, token_rewards
from r1jax.algorithms.values import clipped_value_loss, explained_variance_terms


def test_the_clipped_value_loss_by_hand():
    """Old value 0, clip 1.

    V = 2, R = 3: the clipped value is 1, (1 - 3)^2 / 2 = 2 is more than (2 - 3)^2 / 2 = 1/2, so clipped.
    V = 2, R = -1: (1 + 1)^2 / 2 = 2 is less than (2 + 1)^2 / 2 = 4.5, which counts: the value moved away from R.
    V = 1/2, R = 3: not clipped, (5/2)^2 / 2 = 25/8.
    """
    values, old, returns = jnp.array([[2.0, 2.0, 0.5]]), jnp.zeros((1, 3)), jnp.array([[3.0, -1.0, 3.0]])
    loss, clipped = clipped_value_loss(values, old, returns, 1.0)
    np.testing.assert_array_equal(loss, [[2.0, 4.5, 3.125]])
    np.testing.assert_array_equal(clipped, [[True, False, False]])
    slope = jax.grad(lambda v: clipped_value_loss(v, old, returns, 1.0)[0].sum())(values)
    np.testing.assert_array_equal(slope, [[0.0, 3.0, -2.5]])  # V - R unless clipped
    plain, clipped = clipped_value_loss(values, old, returns, 0.0)
    np.testing.assert_array_equal(plain, [[0.5, 4.5, 3.125]])
    assert not clipped.any()
    traced = jax.jit(clipped_value_loss)(values, old, returns, 1.0)[0]
    np.testing.assert_array_equal(traced, loss)


def test_the_mean_of_the_terms_is_the_explained_variance():
    random = np.random.default_rng(0)
    returns, mask = 3 + random.normal(size=(5, 40)), random.random((5, 40)) < 0.6
    values = 0.5 * returns + random.normal(size=(5, 40))
    terms = np.asarray(explained_variance_terms(*(jnp.asarray(x, jnp.float32) for x in (values, returns)), mask))
    want = 1 - np.var((returns - values)[mask]) / np.var(returns[mask])
    np.testing.assert_allclose(terms[mask].mean(), want, atol=1e-5)
    # any split into parts, by their counts
    parts = [(terms[rows][mask[rows]].sum(), mask[rows].sum()) for rows in ([0, 3], [1], [2, 4])]
    np.testing.assert_allclose(sum(t for t, _ in parts) / sum(n for _, n in parts), want, atol=1e-5)


def test_a_perfect_critic_explains_all_and_a_constant_nothing():
    returns, mask = jnp.array([[1.0, 2.0, 6.0]]), jnp.ones((1, 3), bool)
    assert explained_variance_terms(returns + 5, returns, mask).mean() == 1
    np.testing.assert_allclose(explained_variance_terms(0 * returns, returns, mask).mean(), 0, atol=1e-6)
    assert np.isnan(explained_variance_terms(returns, jnp.full((1, 3), 0.1), mask)).all()  # nothing to explain


def test_returns_that_differ_by_rounding_leave_nothing_to_explain():
    values, mask = jnp.asarray(np.random.default_rng(0).normal(size=(8, 1024)), jnp.float32), jnp.ones((8, 1024), bool)

    @jax.jit
    def terms(values, mask):
        rewards = token_rewards(jnp.full(8, 0.01), mask)
        _, returns = generalised_advantages(rewards, values, mask, 1.0, 1.0)
        return returns, explained_variance_terms(values, returns, mask)

    returns, found = terms(values, mask)
    assert len(np.unique(returns)) > 1
    assert np.isnan(found).all()
