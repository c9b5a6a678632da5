"""Replay of the sampler's routing in updates."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.algorithms.grpo import GRPO
from r1jax.errors import UserError
from r1jax.models.transformer import hidden_states, routing_of_layers
from r1jax.rl.batch import build_batch
from r1jax.rl.config import RLConfig, check_parts
from r1jax.rl.logprobs import batch_logprobs
from r1jax.rl.update import policy_sums, update
from r1jax.sampling.sampler import sample
from r1jax.training.balance import Balance
from r1jax.training.metrics import reduce_metrics
from tests.helpers.training import fresh, random_params
from tests.models.helpers import experts_alone
from tests.rl.helpers import CONTEXT, GROUP, PROMPTS, SAMPLING, batch_of, close


@pytest.fixture(scope="module")
def config(tiny_config):
    return experts_alone(tiny_config)


@pytest.fixture(scope="module")
def params(config):
    drawn = jax.device_get(random_params(config))
    return jax.tree.map(lambda w: 4 * w if w.ndim > 2 else w, drawn)  # scores that differ


@pytest.fixture(scope="module")
def samples(params, config):
    drawn = sample(
        params,
        PROMPTS,
        config,
        jax.random.key(3),
        sampling=SAMPLING,
        end_tokens=tuple(range(40, 60)),
        samples_per_prompt=GROUP,
        keep_routing=True,
    )
    return jax.device_get(drawn)


def test_the_sampler_keeps_the_experts_of_prompts_and_completions(params, config, samples):
    """They are those of a forward pass over prompt and completion, and 0 after it."""
    batch = batch_of(samples)
    extras = jax.jit(lambda p, t: hidden_states(p, t, config)[1])(params, batch.tokens[:, :-1])
    own = np.moveaxis(np.asarray(routing_of_layers(extras).experts), 0, 2)
    assert samples.experts.dtype == np.uint8 and samples.experts.shape[2:] == (1, 2)
    assert len(set(samples.lengths)) > 1
    for row in range(len(own)):
        length = len(PROMPTS[row // GROUP]) + samples.lengths[row] - 1
        np.testing.assert_array_equal(batch.experts[row, :length], own[row, :length])
        assert not batch.experts[row, length:].any()


def test_in_float32_replay_changes_nothing(params, config, samples):
    """Also: the update logs the load of experts and moves the bias of the routers."""
    batch = batch_of(samples)
    context = dataclasses.replace(CONTEXT, balance=Balance(bias_speed=0.01))
    state, optimizer, _ = fresh(params, config)
    state, sums, _ = update(state, batch, optimizer, GRPO(), context, config, 1)
    metrics = reduce_metrics(sums)
    plain = jax.jit(lambda p, b: policy_sums(p, b, GRPO(), context, config)[1][1])
    others = reduce_metrics(plain(params, dataclasses.replace(batch, experts=None)))
    assert metrics["router_disagreement"] == 0 and "router_disagreement" not in others
    close({name: metrics[name] for name in others}, others, rtol=1e-4, atol=1e-6)
    assert set(np.abs(state.params["layers"]["mlp"]["router_bias"]).ravel().tolist()) <= {0.0, np.float32(0.01)}
    used = np.bincount(np.asarray(batch.experts)[np.asarray(batch.mask)].ravel(), minlength=8)
    assert metrics["load_violation"] == pytest.approx(used.max() / used.mean() - 1, rel=1e-5)
    assert metrics["expert_load_5"] == pytest.approx(used[5] / used.mean(), rel=1e-5)


def test_a_policy_with_experts_learns_with_replayed_routing(params, config):
    """The reward is the share of tokens below 32, a third of the vocabulary."""
    context = dataclasses.replace(CONTEXT, balance=Balance(bias_speed=0.01))
    state, optimizer, _ = fresh(params, config)
    means = []
    for step in range(30):
        key = jax.random.key(100 + step)
        own = {"sampling": SAMPLING, "end_tokens": tuple(range(40, 60)), "samples_per_prompt": GROUP}
        weights = jax.tree.map(jnp.asarray, jax.device_get(state.params))  # as in the fixture: no second program
        samples = jax.device_get(sample(weights, PROMPTS, config, key, keep_routing=True, **own))
        within = np.arange(samples.tokens.shape[1]) < samples.lengths[:, None]
        rewards = ((samples.tokens < 32) & within).sum(axis=1) / samples.lengths
        advantages = GRPO().advantages(rewards.reshape(-1, GROUP), np.full(2, 1e-6), np.ones((2, GROUP), bool))
        prompts = [prompt for prompt in PROMPTS for _ in range(GROUP)]
        batch = build_batch(prompts, samples, 13, advantages=advantages.reshape(-1))
        state, *_ = update(state, batch, optimizer, GRPO(), context, config, 1)
        means.append(rewards.mean())
    assert np.mean(means[:3]) < 0.5 and np.mean(means[-3:]) > 0.75


def test_replayed_experts_change_log_probabilities(params, config, samples):
    batch = batch_of(samples)
    rest = (config, 0.8, 2, 16, 0)
    plain = batch_logprobs(params, batch.tokens, *rest, batch.experts)
    other = batch_logprobs(params, batch.tokens, *rest, (batch.experts + 1) % 8)
    assert jnp.abs(jnp.where(batch.mask, plain - other, 0.0)).max() > 1e-3
    gap = jnp.where(batch.mask, plain - batch.sampler_logprobs, 0.0)
    np.testing.assert_allclose(gap, 0.0, atol=1e-5)


def test_replay_needs_experts(config, tiny_config):
    check_parts(RLConfig(replay_routing=True), config)
    with pytest.raises(UserError, match="has no experts"):
        check_parts(RLConfig(replay_routing=True), tiny_config)
