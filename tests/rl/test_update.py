"""The policy update: its gradient, microbatches, ratios, extreme tokens, types and shardings."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from r1jax.algorithms.grpo import GRPO
from r1jax.models.transformer import forward, param_specs
from r1jax.rl.logprobs import batch_logprobs
from r1jax.rl.update import update
from r1jax.sharding import make_mesh, param_shardings, place
from r1jax.training.metrics import reduce_metrics
from r1jax.training.optimizer import OptimizerConfig
from tests.helpers.training import fresh
from tests.rl.helpers import CONTEXT, GROUP, PROMPTS, batch_of, close


def test_the_head_may_start_at_the_first_completion(samples, tiny_params, tiny_config):
    """Positions that are prompt in every row need no logits; the next test has their gradient."""
    batch = batch_of(samples)
    assert batch.first == 1
    for first in (0, batch.first):
        got = batch_logprobs(tiny_params, batch.tokens, tiny_config, 0.8, 1, 16, first)
        np.testing.assert_allclose(np.where(batch.mask, got, 0), batch.sampler_logprobs, atol=1e-5)
        assert not np.asarray(got)[:, :first].any()


def test_gradient_equals_policy_gradient_by_hand(samples, tiny_params, tiny_config):
    """On policy the ratio is 1, so the gradient is -sum_i A_i / |o_i| * grad log pi(o_i), averaged over i.

    The first moment of the optimiser is (1 - b1) times the gradient, clipped to a norm of 1. By hand, the logits of all
    positions are computed, those of prompts too.
    """
    batch = batch_of(samples)

    weights = np.zeros(batch.tokens[:, 1:].shape, np.float32)
    for i, n in enumerate(samples.lengths):
        start = len(PROMPTS[i // GROUP])
        weights[i, start - 1 : start - 1 + n] = batch.advantages[i] / n / len(samples.lengths)
    rows, places = np.indices(weights.shape)

    def surrogate(params):
        logq = jax.nn.log_softmax(forward(params, batch.tokens, tiny_config) / 0.8)
        return -(weights * logq[rows, places, batch.tokens[:, 1:]]).sum()

    want = jax.device_get(jax.jit(jax.grad(surrogate))(tiny_params))
    norm = np.sqrt(sum(np.square(w).sum() for w in jax.tree.leaves(want)))
    state, optimizer, _ = fresh(tiny_params, tiny_config)
    after, sums, _ = update(state, batch, optimizer, GRPO(), CONTEXT, tiny_config, 2)
    moment = optax.tree_utils.tree_get(after.opt_state, "mu")
    close(jax.tree.map(lambda m: np.asarray(m) / 0.1 * max(norm, 1.0), moment), want, atol=2e-6)
    assert reduce_metrics(sums)["gradient_norm"] == pytest.approx(norm, rel=1e-4)


WITH_ALL_TERMS = GRPO(beta=0.1, entropy=0.01)


def near(samples):
    """A batch whose reference differs from the policy."""
    batch = batch_of(samples)
    return batch.replace(reference_logprobs=np.where(batch.mask, batch.sampler_logprobs + 0.1, 0.0))


@pytest.fixture(scope="module")
def whole_update(samples, tiny_params, tiny_config):
    """Parameters, metrics and maxima after the update of a near batch in one pass."""
    state, optimizer, _ = fresh(tiny_params, tiny_config)
    state, sums, maxima = update(state, near(samples), optimizer, WITH_ALL_TERMS, CONTEXT, tiny_config, 1)
    return jax.device_get((state.params, reduce_metrics(sums), maxima))


def test_microbatches_change_nothing(samples, tiny_params, tiny_config, whole_update):
    """For the other aggregates, tests/algorithms/test_grpo.py adds up the sums and counts of parts."""
    state, optimizer, _ = fresh(tiny_params, tiny_config)
    state, sums, maxima = update(state, near(samples), optimizer, WITH_ALL_TERMS, CONTEXT, tiny_config, 8)
    close(whole_update, (state.params, reduce_metrics(sums), maxima), rtol=1e-4, atol=1e-6)


def test_sequences_that_do_not_count_change_nothing(samples, tiny_params, tiny_config):
    """The mean over the half that counts is that of the same half twice."""
    counts = np.array([True] * 4 + [False] * 4)
    twice = jax.tree.map(lambda x: np.concatenate([x[:4], x[:4]]), jax.device_get(batch_of(samples)))
    states = []
    for batch in (batch_of(samples, counts), twice):
        state, optimizer, _ = fresh(tiny_params, tiny_config)
        state, *_ = update(state, batch, optimizer, GRPO(), CONTEXT, tiny_config, 2)
        states.append(state.params)
    close(*states, rtol=1e-4, atol=1e-6)


OFF_POLICY = GRPO(beta=0.1, importance_cap=2.0), dataclasses.replace(CONTEXT, on_policy=False)


def test_ratio_is_one_on_the_first_minibatch_and_not_on_the_second(samples, tiny_params, tiny_config):
    state, optimizer, _ = fresh(tiny_params, tiny_config)
    batch = batch_of(samples)
    old = batch_logprobs(state.params, batch.tokens, tiny_config, 0.8, 1, 16, batch.first)
    batch = batch.replace(old_logprobs=np.where(batch.mask, old, 0.0), reference_logprobs=batch.sampler_logprobs)
    batch = jax.device_get(batch)
    first, second = (jax.tree.map(lambda x, s=s: np.concatenate([x[s], x[s]]), batch) for s in (slice(4), slice(4, 8)))
    state, sums, maxima = update(state, first, optimizer, *OFF_POLICY, tiny_config, 2)
    assert reduce_metrics(sums)["ratio_mean"] == pytest.approx(1, abs=1e-5)
    assert float(maxima["ratio_max"]) == pytest.approx(1, abs=1e-4)
    state, sums, maxima = update(state, second, optimizer, *OFF_POLICY, tiny_config, 2)
    assert abs(float(maxima["ratio_max"]) - 1) > 1e-2


def test_an_update_raises_good_completions_and_lowers_bad_ones(samples, tiny_params, tiny_config):
    state, optimizer, _ = fresh(tiny_params, tiny_config)
    batch = batch_of(samples)
    state, *_ = update(state, batch, optimizer, GRPO(), CONTEXT, tiny_config, 2)
    after = batch_logprobs(state.params, batch.tokens, tiny_config, 0.8, 1, 16, batch.first)
    change = np.where(batch.mask, np.subtract(after, batch.sampler_logprobs), 0).sum(axis=1)
    assert change[-1] > 0 > change[0]


@pytest.mark.parametrize("field", ["reference_logprobs", "old_logprobs", "sampling_logprobs"])
def test_an_extreme_token_is_bounded_and_counted_and_drops_no_update(samples, tiny_params, tiny_config, field):
    """One token is 90 nats from the policy, where exp overflows: the others still learn, and a metric counts it."""
    state, optimizer, _ = fresh(tiny_params, tiny_config)
    batch = batch_of(samples)
    batch = batch.replace(
        **{name: batch.sampler_logprobs for name in ("reference_logprobs", "old_logprobs", "sampling_logprobs")}
    )
    at = (0, int(np.flatnonzero(batch.mask[0])[0]))
    change = 90.0 if field == "reference_logprobs" else -90.0
    extreme = np.array(getattr(batch, field))
    extreme[at] += change
    batch = batch.replace(**{field: extreme})
    state, sums, _ = update(state, batch, optimizer, *OFF_POLICY, tiny_config, 2)
    assert int(state.skipped_updates()) == 0
    row = reduce_metrics(sums)
    assert row["bounded_share"] == pytest.approx(1 / samples.lengths.sum())
    assert 0 < row["gradient_norm"] < 1e3 and np.isfinite(row["loss"])


@pytest.mark.parametrize(("stored", "computed"), [("float32", "bfloat16"), ("bfloat16", "bfloat16")])
def test_types_of_mixed_and_pure_bfloat16(samples, tiny_params, tiny_config, stored, computed):
    """An update keeps the types of master weights and moments, and has the direction of the float32 update."""
    model = dataclasses.replace(tiny_config, dtype=computed)
    config = OptimizerConfig(learning_rate=1e-2, eps=1e-3, param_dtype=stored)
    state, optimizer, _ = fresh(tiny_params, model, config)
    types = [x.dtype for x in jax.tree.leaves(state)]
    start = jax.tree.map(lambda w: np.asarray(w, np.float32), jax.device_get(state.params))
    state, *_ = update(state, batch_of(samples), optimizer, GRPO(), CONTEXT, model, 2)
    assert [x.dtype for x in jax.tree.leaves(state)] == types
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {jnp.dtype(stored)}
    exact, optimizer, _ = fresh(tiny_params, tiny_config)
    exact, *_ = update(exact, batch_of(samples), optimizer, GRPO(), CONTEXT, tiny_config, 2)

    def flat(a, b):
        a, b = jax.device_get((a, b))
        return np.concatenate(jax.tree.leaves(jax.tree.map(lambda x, y: (x.astype(np.float32) - y).ravel(), a, b)))

    moved, wanted = flat(state.params, start), flat(exact.params, tiny_params)
    assert np.dot(moved, wanted) / np.linalg.norm(moved) / np.linalg.norm(wanted) > 0.98


def test_a_mesh_gives_the_same_update(samples, tiny_params, tiny_config, whole_update):
    """In two passes on 4x2, which splits rows and weights.

    tests/experiments/test_r1_zero_resume.py has one axis at a time.
    """
    params, want, _ = whole_update
    mesh = make_mesh("4x2")
    with jax.set_mesh(mesh):
        spread = place(jax.device_get(tiny_params), param_shardings(param_specs(tiny_config), mesh))
        state, optimizer, shapes = fresh(spread, tiny_config, mesh=mesh)
        together, sums, _ = update(state, near(samples), optimizer, WITH_ALL_TERMS, CONTEXT, tiny_config, 2)
        got = reduce_metrics(sums)
    assert got == pytest.approx(want, abs=1e-5)
    close(params, jax.device_get(together.params), atol=1e-5)
    # Sharded before and after: an update must not gather its sharded arguments.
    for leaf, shape in zip(jax.tree.leaves(together), jax.tree.leaves(shapes), strict=True):
        assert leaf.sharding.is_equivalent_to(shape.sharding, leaf.ndim)
    for leaf in jax.tree.leaves((together.params, together.opt_state)):
        if leaf.size > 200:
            assert not leaf.sharding.is_fully_replicated
            assert leaf.addressable_shards[0].data.size == leaf.size // 8
