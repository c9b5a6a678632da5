"""Generalised advantage estimation against values worked by hand, the paper's sum, and limits of lambda."""

import jax
import numpy as np
import pytest

from r1jax.algorithms.gae import generalised_advantages, token_rewards, whiten

advantages_and_returns = jax.jit(generalised_advantages)  # gamma and lambda may be traced numbers


def test_advantages_by_hand():
    """Two completions in padded rows, of 3 and 1 tokens; gamma = 1/2, lambda = 1/2, so gamma lambda = 1/4.

    First row, values 8, 4, 2 and rewards 0, 0, 6. Errors from the right: 6 - 2 = 4; 0 + 2/2 - 4 = -3; 0 + 4/2 - 8 = -6.
    Advantages from the right: 4; -3 + 4/4 = -2; -6 - 2/4 = -6.5. Returns: 4 + 2 = 6; -2 + 4 = 2; -6.5 + 8 = 1.5.
    Second row, value 3 and reward 5: advantage 5 - 3 = 2, return 5.
    """
    mask = np.array([[False, True, True, True, False], [True, False, False, False, False]])
    values = np.float32([[9.0, 8.0, 4.0, 2.0, 9.0], [3.0, 9.0, 9.0, 9.0, 9.0]])  # those of 9 are outside the mask
    rewards = jax.jit(token_rewards)(np.float32([6.0, 5.0]), mask)
    np.testing.assert_array_equal(rewards, [[0, 0, 0, 6, 0], [5, 0, 0, 0, 0]])
    advantages, returns = advantages_and_returns(rewards, values, mask, 0.5, 0.5)
    np.testing.assert_array_equal(advantages, [[0, -6.5, -2, 4, 0], [2, 0, 0, 0, 0]])
    np.testing.assert_array_equal(returns, [[0, 1.5, 2, 6, 0], [5, 0, 0, 0, 0]])


def rows(seed, B=6, T=23):
    """Random rewards and values, and completions of random places and lengths, one of them absent."""
    random = np.random.default_rng(seed)
    starts, lengths = random.integers(0, T // 2, B), random.integers(1, T // 2, B)
    lengths[0] = 0
    places = np.arange(T)
    mask = (places >= starts[:, None]) & (places < (starts + lengths)[:, None])
    return random.normal(size=(B, T)), random.normal(size=(B, T)), mask


def by_the_papers_sum(rewards, values, mask, gamma, lam):
    """A_t = sum_l (gamma lambda)^l delta_{t+l} (arXiv 1506.02438, eq. 16) in float64, row by row."""
    out = np.zeros(mask.shape)
    for row in range(len(mask)):
        at = np.flatnonzero(mask[row])
        r, v = rewards[row, at], np.append(values[row, at], 0.0)
        delta = [r[t] + gamma * v[t + 1] - v[t] for t in range(len(at))]
        for t in range(len(at)):
            out[row, at[t]] = sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, len(at)))
    return out


@pytest.mark.parametrize(("gamma", "lam"), [(0.99, 0.95), (1.0, 1.0), (0.9, 0.0), (0.0, 0.5)])
def test_advantages_equal_the_sum_of_the_paper(gamma, lam):
    rewards, values, mask = rows(0)
    want = by_the_papers_sum(rewards, values, mask, gamma, lam)
    advantages, returns = advantages_and_returns(np.float32(rewards), np.float32(values), mask, gamma, lam)
    np.testing.assert_allclose(advantages, want, atol=2e-5)
    np.testing.assert_allclose(returns, np.where(mask, want + values, 0), atol=2e-5)
    if gamma == lam == 1:  # the sum of later rewards, whatever the values
        later = np.where(mask, np.cumsum(np.where(mask, rewards, 0)[:, ::-1], axis=1)[:, ::-1], 0)
        np.testing.assert_allclose(returns, later, atol=2e-5)


def test_nothing_outside_the_mask_has_an_effect():
    rewards, values, mask = rows(1)
    inside = [np.float32(np.where(mask, x, 0)) for x in (rewards, values)]
    outside = [np.float32(np.where(mask, x, 1e6)) for x in (rewards, values)]
    for one, other in zip(
        advantages_and_returns(*inside, mask, 0.9, 0.8), advantages_and_returns(*outside, mask, 0.9, 0.8), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_whitening_counts_the_tokens_of_the_mask():
    values, _, mask = rows(2)
    whitened = jax.jit(whiten)
    got = np.asarray(whitened(np.float32(values), mask))
    counted = values[mask]
    np.testing.assert_allclose(got[mask], (counted - counted.mean()) / counted.std(), atol=1e-5)
    assert not got[~mask].any() and not np.asarray(whitened(np.ones(mask.shape, np.float32), mask)).any()
    assert not np.asarray(whitened(np.float32(values), np.zeros(mask.shape, bool))).any()  # nothing counts
