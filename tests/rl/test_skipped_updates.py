"""Updates that change nothing: gradients that are not finite, and batches in which no token counts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from r1jax.algorithms.grpo import GRPO
from r1jax.recipe import distillation as distill
from r1jax.recipe import reward_models as reward_model
from r1jax.rl.update import update
from r1jax.training.balance import OFF
from r1jax.training.language_model import language_model_update
from r1jax.training.metrics import reduce_metrics
from r1jax.training.optimizer import OptimizerConfig
from r1jax.training.state import apply_gradients
from tests.helpers.training import fresh, random_params
from tests.rl.helpers import CONTEXT, batch_of


def test_gradients_that_are_not_finite_are_skipped_and_counted(samples, tiny_params, tiny_config):
    state, optimizer, _ = fresh(tiny_params, tiny_config)
    before = jax.device_get((state.params, optax.tree_utils.tree_get(state.opt_state, "mu")))
    bad = batch_of(samples)
    bad = bad.replace(advantages=bad.advantages.at[0].set(jnp.inf))
    for count in (1, 2):
        state, *_ = update(state, bad, optimizer, GRPO(), CONTEXT, tiny_config, 2)
        after = jax.device_get((state.params, optax.tree_utils.tree_get(state.opt_state, "mu")))
        jax.tree.map(np.testing.assert_array_equal, before, after)
        assert int(state.skipped_updates()) == count
    state, *_ = update(state, batch_of(samples), optimizer, GRPO(), CONTEXT, tiny_config, 2)
    assert int(state.skipped_updates()) == 2
    assert not np.array_equal(state.params["embedding"], before[0]["embedding"])


def empty_rl(params, model, state, optimizer, samples):
    state, sums, _ = update(state, batch_of(samples, np.zeros(8, bool)), optimizer, GRPO(), CONTEXT, model, 2)
    return state, sums


def empty_text(params, model, state, optimizer, samples):
    batch = {"tokens": jnp.ones((4, 6), jnp.int32), "mask": jnp.zeros((4, 5), bool)}
    return language_model_update(state, batch, optimizer, model, 2)


def empty_distillation(params, model, state, optimizer, samples):
    batch = (jnp.ones((4, 6), jnp.int32), jnp.zeros((4, 5), bool))
    teacher = jax.tree.map(lambda w: w + 0.1, params)
    return distill._update(state, batch, teacher, optimizer, (model, model), distill.MatchConfig(), 1.0, 2)


def empty_judgements(params, model, state, optimizer, samples):
    batch = {"tokens": jnp.ones((4, 6), jnp.int32), "lengths": jnp.full(4, 6), "safe": jnp.ones(4, bool)}
    return reward_model._update(state, batch | {"counts": jnp.zeros(4, bool)}, optimizer, model, 2, OFF)


@pytest.mark.parametrize("empty", [empty_rl, empty_text, empty_distillation, empty_judgements])
def test_an_update_in_which_nothing_counts_changes_nothing_and_is_counted(samples, tiny_params, tiny_config, empty):
    """Momentum, weight decay and schedule would each change the weights without a gradient."""
    params, model = tiny_params, tiny_config
    if empty is empty_judgements:
        model = dataclasses.replace(model, head="scalar", tie_embeddings=True)
        params = random_params(model)
    config = OptimizerConfig(learning_rate=1e-2, weight_decay=0.1, schedule="cosine", warmup_steps=2)
    state, optimizer, _ = fresh(params, model, config)
    moving = jax.tree.map(jnp.ones_like, state.params)
    state, metrics = jax.jit(apply_gradients, static_argnums=(3, 4))(state, moving, jnp.float32(2), optimizer, model)
    assert reduce_metrics(metrics)["empty_updates"] == 0 and reduce_metrics(metrics)["gradient_norm"] > 1
    before = jax.device_get(state)
    state, metrics = empty(params, model, state, optimizer, samples)
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(state))
    row = reduce_metrics(metrics)
    assert row["empty_updates"] == 1 and np.isnan(row["gradient_norm"])  # no norm that a mean could take in
    assert int(state.skipped_updates()) == 0


def test_a_gradient_that_is_not_finite_is_no_empty_update(samples, tiny_params, tiny_config):
    state, optimizer, _ = fresh(tiny_params, tiny_config)
    bad = batch_of(samples)
    bad = bad.replace(advantages=bad.advantages.at[0].set(jnp.inf))
    state, sums, _ = update(state, bad, optimizer, GRPO(), CONTEXT, tiny_config, 2)
    assert reduce_metrics(sums)["empty_updates"] == 0 and int(state.skipped_updates()) == 1
