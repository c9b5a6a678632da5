"""The loss of GRPO against values worked by hand."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.algorithms import kl, ratios, reductions
from r1jax.algorithms.grpo import GRPO
from r1jax.algorithms.interface import PolicyTokens


def test_grpo_loss_by_hand():
    """Two sequences of 2 and 1 tokens; every number below follows from the formula in the docstrings."""
    logp = jnp.log(jnp.array([[0.5, 0.2], [0.3, 1.0]]))
    old = jnp.log(jnp.array([[0.25, 0.25], [0.5, 1.0]]))
    reference = jnp.log(jnp.array([[0.5, 0.4], [0.3, 1.0]]))
    mask = jnp.array([[True, True], [True, False]])
    adv = jnp.array([[1.0, 1.0], [-2.0, -2.0]])
    log_ratios = ratios.log_ratio(logp, old, mask)
    np.testing.assert_allclose(jnp.exp(log_ratios), [[2.0, 0.8], [0.6, 1.0]], rtol=1e-6)
    values, clipped = ratios.clipped_surrogate(log_ratios, adv, 0.2, 0.3)
    # min(2, 1.3) = 1.3; min(0.8, 0.8) = 0.8; min(-1.2, -1.6) = -1.6
    np.testing.assert_allclose(values[mask], [-1.3, -0.8, 1.6], rtol=1e-6)
    np.testing.assert_array_equal(clipped[mask], [True, False, True])
    k3 = kl.k3_kl(logp, reference)
    np.testing.assert_allclose(k3[mask], [0, 2 - np.log(2) - 1, 0], atol=1e-6)
    beta = 0.1
    total = values + beta * k3
    middle = -0.8 + 0.1 * (1 - np.log(2))
    expected = {
        "sequence": (((-1.3 + middle) / 2 + 1.6), 2),
        "token": (-1.3 + middle + 1.6, 3),
        "constant": (-1.3 + middle + 1.6, 2 * 10),
    }
    for aggregate, (value, count) in expected.items():
        got = reductions.reduce_tokens(total, mask, aggregate, max_tokens=10)
        np.testing.assert_allclose(got, (value, count), rtol=1e-6)


def test_sums_and_counts_of_parts_add_up():
    """So the number of microbatches changes no loss; some sequences are empty."""
    rng = np.random.default_rng(0)
    values, mask = rng.normal(size=(8, 9)).astype(np.float32), np.arange(9) < np.array([[3, 0, 9, 1, 2, 7, 0, 5]]).T
    reduce = jax.jit(lambda x, m: {a: reductions.reduce_tokens(x, m, a, 9) for a in get_args(reductions.Aggregate)})
    parts = [jax.device_get(reduce(values[i : i + 2], mask[i : i + 2])) for i in range(0, 8, 2)]
    for aggregate, whole in jax.device_get(reduce(values, mask)).items():
        np.testing.assert_allclose(np.sum([part[aggregate] for part in parts], axis=0), whole, rtol=1e-5)


def test_the_algorithm_s_loss_is_the_sum_of_its_terms():
    """GRPO.token_loss gives the numbers of the test above."""
    logp = jnp.log(jnp.array([[0.5, 0.2], [0.3, 1.0]]))
    old = jnp.log(jnp.array([[0.25, 0.25], [0.5, 1.0]]))
    reference = jnp.log(jnp.array([[0.5, 0.4], [0.3, 1.0]]))
    sampled = old - jnp.log(jnp.array([[1.5, 3.0], [0.5, 1.0]]))
    mask, entropy = jnp.array([[True, True], [True, False]]), jnp.full((2, 2), 0.5)
    advantages = jnp.array([[1.0, 1.0], [-2.0, -2.0]])
    tokens = PolicyTokens(logp, entropy, old, sampled, reference, advantages, mask)
    loss, means, maxima = GRPO(eps_high=0.3, beta=0.1, importance_cap=2.0, entropy=0.01).token_loss(tokens)
    k3 = 0.1 * (1 - np.log(2))
    np.testing.assert_allclose(loss[mask], np.array([-1.3 * 1.5, -0.8 * 2.0 + k3, 1.6 * 0.5]) - 0.005, rtol=1e-5)
    np.testing.assert_array_equal(means["clip_share_high"][mask], [True, False, False])
    np.testing.assert_array_equal(means["clip_share_low"][mask], [False, False, True])
    np.testing.assert_allclose(maxima["ratio_max"][mask], [2.0, 0.8, 0.6], rtol=1e-6)
    plain, means, _ = GRPO(eps_high=0.3).token_loss(tokens)
    np.testing.assert_allclose(plain[mask], [-1.3, -0.8, 1.6], rtol=1e-6)
    assert "kl" not in means
