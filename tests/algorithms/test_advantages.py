"""Advantages and reward terms against values worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.algorithms import advantages
from r1jax.algorithms.rollout_terms import RolloutTerms
from r1jax.traced import replace


def test_group_advantages_by_hand():
    rewards = np.array([[1.0, 0.0, 0.0, 1.0], [2.0, 0.0, 0.0, 0.0]])
    # Row 1: mean 1/2, std 1/2. Row 2: mean 1/2, variance (2.25 + 3 * 0.25) / 4 = 3/4.
    got = advantages.group_advantages(rewards, eps=0.0)
    np.testing.assert_allclose(got[0], [1, -1, -1, 1], rtol=1e-6)
    np.testing.assert_allclose(got[1], np.array([1.5, -0.5, -0.5, -0.5]) / np.sqrt(0.75), rtol=1e-6)


def test_advantages_without_std_leave_one_out_and_batch():
    rewards = np.array([[1.0, 0.0], [3.0, 0.0]])
    plain = advantages.group_advantages(rewards, normalise_std=False)
    np.testing.assert_allclose(plain, [[0.5, -0.5], [1.5, -1.5]])
    rloo = advantages.group_advantages(rewards, "leave_one_out", normalise_std=False)
    np.testing.assert_allclose(rloo, [[1, -1], [3, -3]])  # each sample against the other
    np.testing.assert_array_equal(rloo, advantages.group_advantages(rewards, "leave_one_out"))
    batch = advantages.group_advantages(rewards, "batch", eps=0.0)
    np.testing.assert_allclose(batch, plain / np.sqrt((0.25 + 2.25) / 2), rtol=1e-6)


def test_equal_rewards_give_exact_zeros():
    rewards = np.full((2, 3), 0.1 + 0.2)
    rewards[1, 0] = 1.0
    got = advantages.group_advantages(rewards)
    assert (got[0] == 0).all() and (got[1] != 0).all()
    np.testing.assert_array_equal(advantages.groups_with_spread(rewards), [False, True])


def test_the_batch_deviation_is_that_of_the_groups_that_count():
    rewards = np.array([[1.0, 0.0], [3.0, 0.0], [2.0, 2.0], [5.0, 5.0]])
    counts = np.array([True, True, False, False])
    got = advantages.group_advantages(rewards, "batch", eps=0.0, counts=counts)
    # Centred: +-0.5 and +-1.5, whose deviation is sqrt((0.25 + 2.25) / 2); with the others it would be half of 2.5.
    np.testing.assert_allclose(got[:2], np.array([[0.5, -0.5], [1.5, -1.5]]) / np.sqrt(1.25), rtol=1e-6)
    assert not got[2:].any()
    assert not advantages.group_advantages(rewards[2:], "batch", counts=counts[2:]).any()  # no group counts


@pytest.mark.parametrize("baseline", ["group", "leave_one_out", "batch"])
def test_what_rewards_cannot_tell_apart_gives_no_advantage(baseline):
    fine = 2.0**-7
    noise = 0.5 + 0.4 * fine * np.array([[1.0, -1.0, 1.0, -1.0]])
    assert advantages.groups_with_spread(noise).all()
    assert not advantages.groups_with_spread(noise, np.array([fine])).any()
    assert not advantages.group_advantages(noise, baseline, resolution=np.array([fine])).any()
    # Just above the resolution, the divisor is the resolution and not the deviation, a quarter of it.
    outlier = np.array([[0.5 + 1.1 * fine, *[0.5] * 15]])
    got = advantages.group_advantages(outlier, baseline, resolution=fine)
    assert 0 < np.abs(got).max() < 1.1 * (16 / 15)
    plain = advantages.group_advantages(outlier, "group", eps=0.0)
    assert plain.max() == pytest.approx(np.sqrt(15))


def test_float32_totals_that_differ_by_rounding_are_equal():
    """Totals differ like sums of the same weighted rewards in another order, also if they cancel."""
    totals = np.array([[0.3, np.nextafter(np.float32(0.3), np.float32(1))], [2.0**-24, 0.0]], np.float32)
    assert (totals[:, 0] != totals[:, 1]).all()
    assert not advantages.groups_with_spread(totals).any() and not advantages.group_advantages(totals).any()


@pytest.mark.parametrize("bad", [np.ones((2, 1)), np.array([[1.0, np.nan]])])
def test_groups_that_cannot_be_compared_are_refused(bad):
    with pytest.raises(ValueError):
        advantages.group_advantages(bad)


def test_overlong_penalty_by_hand():
    got = advantages.overlong_penalty(np.array([10, 80, 85, 90, 100]), limit=100, buffer=20)
    np.testing.assert_allclose(got, [0, 0, -0.25, -0.5, -1])
    with pytest.raises(ValueError):
        advantages.overlong_penalty(np.array([1]), limit=10, buffer=11)


@pytest.mark.parametrize("baseline", ["group", "leave_one_out", "batch"])
@pytest.mark.parametrize("normalise_std", [True, False])
def test_advantages_inside_a_program_are_those_of_the_host(baseline, normalise_std):
    draws = np.random.default_rng(0)
    rewards = draws.choice([0.0, 0.1, 1.0, 1.1], (6, 5)).astype(np.float32)
    rewards[2] = rewards[2, 0]
    resolution, counts = np.array([0, 0, 0, 0.05, 2, 0]), np.array([True, True, False, True, False, True])

    def traced(rewards, switch, counts):
        return advantages.group_advantages(rewards, baseline, switch, resolution=jnp.array(resolution), counts=counts)

    for counted in (counts, np.zeros(6, bool)):
        want = advantages.group_advantages(rewards, baseline, normalise_std, resolution=resolution, counts=counted)
        got = jax.jit(traced)(rewards, np.float32(normalise_std), counted)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    assert (np.asarray(got)[2] == 0).all()


def test_the_overlong_penalty_inside_a_program():
    lengths = np.array([10, 80, 85, 90, 100])
    terms = RolloutTerms()

    def shaped(buffer, lengths):
        return replace(terms, overlong_buffer=buffer).shape_rewards(jnp.ones(5), lengths, 100)

    for buffer, want in ((20.0, [1, 1, 0.75, 0.5, 0]), (0.0, [1] * 5)):
        np.testing.assert_allclose(jax.jit(shaped)(buffer, lengths), want)
