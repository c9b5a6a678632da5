"""PPO against values worked by hand and a reference in float64."""

import jax
import numpy as np
import pytest

from r1jax.algorithms.interface import PolicyTokens, RolloutTokens
from r1jax.algorithms.ppo import PPO


def rollout_of(rewards, values, mask, policy=None, reference=None):
    zeros = np.zeros(mask.shape, np.float32)
    return RolloutTokens(
        mask=mask,
        rewards=np.float32(rewards),
        rule_rewards={},
        advantages=np.float32(rewards),
        policy_logprobs=zeros if policy is None else np.float32(policy),
        reference_logprobs=zeros if reference is None else np.float32(reference),
        outputs={"critic": np.float32(values)},
    )


def prepared(algorithm, rollout):
    return jax.device_get(jax.jit(algorithm.prepare)(rollout))


def test_advantages_and_targets_by_hand():
    """One completion of 2 tokens with reward 4, values 1 and 2, gamma = lambda = 1, beta = 1/2.

    log(pi / pi_ref) is 2 and -2, so the rewards are -1 and 4 + 1 = 5, the returns -1 + 5 = 4 and 5, and the advantages
    4 - 1 = 3 and 5 - 2 = 3. Without the KL in the reward: returns 4 and 4, advantages 4 - 1 = 3 and 4 - 2 = 2, whitened
    1 and -1. These returns are equal, so there is no variance to explain.
    """
    mask = np.array([[True, True, False]])
    rollout = rollout_of([4.0], [[1.0, 2.0, 0.0]], mask, [[-1.0, -3.0, 0.0]], [[-3.0, -1.0, 0.0]])
    advantages, targets = prepared(PPO(beta=0.5, whiten=False), rollout)
    np.testing.assert_array_equal(advantages, [[3, 3, 0]])
    np.testing.assert_array_equal(targets["critic"]["returns"], [[4, 5, 0]])
    np.testing.assert_array_equal(targets["critic"]["values"], [[1, 2, 0]])
    for other in (PPO(beta=0.5, kl_in="loss", whiten=False), PPO(whiten=False)):
        plain, targets = prepared(other, rollout)
        np.testing.assert_array_equal(plain, [[3, 2, 0]])
        np.testing.assert_array_equal(targets["critic"]["returns"], [[4, 4, 0]])
    whitened, _ = prepared(PPO(), rollout)
    np.testing.assert_allclose(whitened, [[1, -1, 0]], atol=1e-5)
    assert np.isnan(targets["critic"]["explained"][0, 0])


def float64_step(random, algorithm):
    """Random tokens, and advantages, losses of policy and critic, and explained variance by loops in float64."""
    B, T, lengths = 4, 9, (3, 9, 1, 5)
    mask = np.arange(T) < np.array(lengths)[:, None]
    new, old, reference = (np.where(mask, -random.exponential(size=(B, T)), 0.0) for _ in range(3))
    rewards, values = random.normal(size=B), np.where(mask, random.normal(size=(B, T)), 0.0)
    output = values + random.normal(size=(B, T))
    inside = algorithm.beta if algorithm.kl_in == "reward" else 0.0
    advantages, returns = np.zeros((B, T)), np.zeros((B, T))
    for b, n in enumerate(lengths):
        ahead = value_ahead = 0.0
        for t in reversed(range(n)):
            reward = (rewards[b] if t == n - 1 else 0.0) - inside * (old[b, t] - reference[b, t])
            ahead = (
                reward + algorithm.gamma * value_ahead - values[b, t] + algorithm.gamma * algorithm.gae_lambda * ahead
            )
            value_ahead, advantages[b, t], returns[b, t] = values[b, t], ahead, ahead + values[b, t]
    explained = 1 - np.var((returns - values)[mask]) / np.var(returns[mask])
    advantages[mask] = (advantages[mask] - advantages[mask].mean()) / advantages[mask].std()
    policy_loss, critic_loss = [], []
    for b, n in enumerate(lengths):
        for t in range(n):
            ratio, A = np.exp(new[b, t] - old[b, t]), advantages[b, t]
            loss = max(-ratio * A, -min(max(ratio, 1 - algorithm.eps_low), 1 + algorithm.eps_high) * A)
            if algorithm.kl_in == "loss":
                x = reference[b, t] - new[b, t]
                loss += algorithm.beta * (np.exp(x) - x - 1)
            policy_loss.append(loss)
            near = min(max(output[b, t], values[b, t] - algorithm.value_clip), values[b, t] + algorithm.value_clip)
            critic_loss.append(max((output[b, t] - returns[b, t]) ** 2, (near - returns[b, t]) ** 2) / 2)
    arrays = mask, new, old, reference, rewards, values, output
    return arrays, advantages, np.mean(policy_loss), np.mean(critic_loss), explained, returns


@pytest.mark.parametrize("kl_in", ["reward", "loss"])
def test_losses_equal_a_reference_in_float64(kl_in):
    algorithm = PPO(beta=0.1, kl_in=kl_in, gamma=0.9, gae_lambda=0.8, eps_high=0.3)
    arrays, want, policy_loss, critic_loss, explained, returns = float64_step(np.random.default_rng(3), algorithm)
    mask, new, old, reference, rewards, values, output = arrays
    advantages, targets = prepared(algorithm, rollout_of(rewards, values, mask, old, reference))
    np.testing.assert_allclose(advantages, want, atol=1e-5)
    new, old, reference = (np.float32(x) for x in (new, old, reference))
    tokens = PolicyTokens(new, np.zeros(mask.shape, np.float32), old, old, reference, advantages, mask)

    @jax.jit
    def losses(tokens, output, targets):
        loss, metrics, _ = algorithm.token_loss(tokens)
        return algorithm.reduce(loss, mask, 9), metrics, algorithm.learned_loss("critic", output, mask, targets)

    (total, count), metrics, learned = jax.device_get(losses(tokens, np.float32(output), targets["critic"]))
    np.testing.assert_allclose(total / count, policy_loss, rtol=1e-5)
    assert {"kl", "clip_share", "ratio_mean"} <= metrics.keys()
    total, count, metrics = learned
    means = {name: float(value / weight) for name, (value, weight) in metrics.items()}
    np.testing.assert_allclose(total / count, critic_loss, rtol=1e-5)
    assert means["explained_variance"] == pytest.approx(explained, abs=1e-5)
    assert means["value_mean"] == pytest.approx(values[mask].mean(), abs=1e-6)
    assert means["return_mean"] == pytest.approx(returns[mask].mean(), abs=1e-6)
    assert 0 < means["clip_share"] < 1
