"""Losses and advantages against values worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.algorithms import advantages, kl, ratios, reductions


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
    np.testing.assert_allclose(rloo, [[1, -1], [3, -3]])  # each against the other one
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
    assert not advantages.group_advantages(rewards[2:], "batch", counts=counts[2:]).any()  # none counts


@pytest.mark.parametrize("baseline", ["group", "leave_one_out", "batch"])
def test_what_rewards_cannot_tell_apart_gives_no_advantage(baseline):
    fine = 2.0**-7
    noise = 0.5 + 0.4 * fine * np.array([[1.0, -1.0, 1.0, -1.0]])
    assert advantages.groups_with_spread(noise).all()
    assert not advantages.groups_with_spread(noise, np.array([fine])).any()
    assert not advantages.group_advantages(noise, baseline, resolution=np.array([fine])).any()
    # Just above the resolution the deviation, a quarter of it, is not what is divided by.
    outlier = np.array([[0.5 + 1.1 * fine, *[0.5] * 15]])
    got = advantages.group_advantages(outlier, baseline, resolution=fine)
    assert 0 < np.abs(got).max() < 1.1 * (16 / 15)
    plain = advantages.group_advantages(outlier, "group", eps=0.0)
    assert plain.max() == pytest.approx(np.sqrt(15))


def test_float32_totals_that_differ_by_rounding_are_equal():
    """As sums of the same weighted rewards in another order do, also where they cancel."""
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


def test_k3_is_never_negative_and_estimates_the_kl():
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(5), size=2)
    k3 = kl.k3_kl(jnp.log(p), jnp.log(q))
    assert (k3 >= 0).all()
    np.testing.assert_allclose((p * k3).sum(), (p * np.log(p / q)).sum(), rtol=1e-5)


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
    """So that the first update of a rollout does not depend on the interval, not even on an empty one."""
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
    """Losses and gradients by the docstrings' formulas in float64, finite and at most exp(6) times the advantage."""
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
