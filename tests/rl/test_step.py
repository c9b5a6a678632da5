"""Updates of one rollout: epochs, minibatches and their weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from r1jax.algorithms.grpo import GRPO
from r1jax.rl.config import RLConfig
from r1jax.rl.state import RLState
from r1jax.rl.step import learn
from r1jax.rl.update import minibatch_divisor
from tests.helpers.training import fresh
from tests.rl.helpers import CONTEXT, GROUP, batch_of, setup_of


def test_inner_epochs_and_minibatches_all_update(samples, tiny_params, tiny_config):
    for minibatches, epochs in ((1, 1), (2, 1), (2, 3)):
        config = RLConfig(
            prompts=2,
            group=GROUP,
            minibatches=minibatches,
            inner_epochs=epochs,
            logprob_chunk=CONTEXT.chunk,
            algorithm=GRPO(beta=0.1, entropy=0.01),  # the update of the whole batch is that of test_update.py
        )
        state, optimizer, _ = fresh(tiny_params, tiny_config)
        state = RLState(state, jax.tree.map(jnp.copy, tiny_params))
        setup = setup_of(config, optimizer, tiny_config)
        state, row, _ = learn(state, batch_of(samples), jax.random.key(0), setup)
        counts = [int(c) for _, c in optax.tree_utils.tree_get_all_with_path(state.policy.opt_state, "count")]
        assert counts and set(counts) == {minibatches * epochs}
        assert row["sampler_gap_max"] < 1e-5
        if config.updates == 1:
            assert row["kl"] == pytest.approx(0, abs=1e-9)
        else:
            assert row["kl"] > 1e-7


SGD = optax.apply_if_finite(optax.sgd(1e-4), 5)


@pytest.mark.parametrize("aggregate", ["sequence", "token"])
@pytest.mark.parametrize("kept", [3, 11])
def test_sequences_that_count_weigh_the_same_in_all_minibatches(samples, tiny_params, tiny_config, aggregate, kept):
    """With small steps, the updates of the minibatches add up to the gradient of the whole batch per epoch.

    The sum of "constant" is that of "token", and its divisor is in the next test.
    """
    batch, rng = jax.tree.map(lambda x: np.concatenate([x, x]), batch_of(samples)), np.random.default_rng(kept)
    counts = rng.permutation(16) < kept
    batch = batch.replace(mask=batch.mask & counts[:, None], advantages=rng.normal(size=16).astype(np.float32))
    moved = {}
    for minibatches in (1, 8):
        config = RLConfig(prompts=4, group=4, minibatches=minibatches, algorithm=GRPO(aggregate=aggregate))
        state, _, _ = fresh(tiny_params, tiny_config)
        state = RLState(state.replace(opt_state=jax.device_put(SGD.init(state.params), state.step.sharding)))
        state, row, _ = learn(state, batch, jax.random.key(0), setup_of(config, SGD, tiny_config))
        leaves = map(jax.tree.leaves, jax.device_get((state.policy.params, tiny_params)))
        moved[minibatches] = np.concatenate([(a - b).ravel() for a, b in zip(*leaves, strict=True)])
    updates = min(kept, 8)
    assert np.linalg.norm(moved[8] / updates - moved[1]) < 0.02 * np.linalg.norm(moved[1])
    assert row["empty_updates"] == pytest.approx(1 - updates / 8)


def test_the_divisor_of_a_minibatch_is_its_share_of_the_count_of_the_batch():
    mask = np.arange(13) < np.array([4, 0, 7, 2, 0, 1])[:, None]
    for aggregate, count in (("sequence", 4), ("token", 14), ("constant", 4 * 10)):
        for minibatches, share in ((1, 1), (3, 3), (6, 4)):
            found = minibatch_divisor(mask, GRPO(aggregate=aggregate), CONTEXT, minibatches)
            assert float(found) == pytest.approx(count / share), (aggregate, minibatches)
