"""The update: invariances, the ratio over a batch, gradients that are not finite, types, shardings."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from r1jax.algorithms.grpo import GRPO
from r1jax.models.transformer import forward, param_specs
from r1jax.recipe import distillation as distill
from r1jax.recipe import reward_models as reward_model
from r1jax.rl.batch import build_batch, split_minibatches, width_bucket
from r1jax.rl.config import RLConfig, UpdateContext
from r1jax.rl.logprobs import batch_logprobs
from r1jax.rl.setup import StepSetup
from r1jax.rl.state import RLState
from r1jax.rl.step import learn
from r1jax.rl.update import update
from r1jax.sampling.processors import Sampling
from r1jax.sampling.sampler import Samples, sample
from r1jax.sharding import init_params, make_mesh, param_shardings, place
from r1jax.training.language_model import language_model_update
from r1jax.training.metrics import reduce_metrics
from r1jax.training.optimizer import OptimizerConfig, make_optimizer
from r1jax.training.state import apply_gradients, init_state, state_shapes

PROMPTS = [[1, 2, 3], [5, 6]]
GROUP = 4
M = 10
SAMPLING = Sampling(max_tokens=M, temperature=0.8)


@pytest.fixture(scope="module")
def samples(tiny_params, tiny_config):
    drawn = sample(
        tiny_params,
        PROMPTS,
        tiny_config,
        jax.random.key(3),
        sampling=SAMPLING,
        end_tokens=tuple(range(40, 60)),
        samples_per_prompt=GROUP,
    )
    return jax.device_get(drawn)


def batch_of(samples, counts=None):
    B = len(PROMPTS) * GROUP
    prompts = [p for p in PROMPTS for _ in range(GROUP)]
    return build_batch(prompts, samples, 3 + M, counts=counts, advantages=np.linspace(-1, 1, B))


def fresh(params, model, config=None, mesh=None):
    config = config or OptimizerConfig(learning_rate=1e-2, eps=1e-3)
    mesh = mesh or make_mesh("1x1")
    optimizer = make_optimizer(config, 10)
    shapes = state_shapes(model, config, optimizer, mesh)
    return init_state(params, optimizer, shapes), optimizer, shapes


def close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


CONTEXT = UpdateContext(temperature=0.8, on_policy=True, max_tokens=M, chunk=16)


def setup_of(config, optimizer, model):
    """A setup for ``learn``, which does not sample or score."""
    return StepSetup(config, model, config.context(SAMPLING), optimizer, {}, 3 + M, None, None)


def test_layout_of_a_rollout(samples):
    """Position t of each array belongs to token t + 1, and the mask covers only the completion."""
    batch = jax.device_get(batch_of(samples))
    for i, n in enumerate(samples.lengths):
        prompt = PROMPTS[i // GROUP]
        assert batch.tokens[i, : len(prompt) + n].tolist() == [*prompt, *samples.tokens[i, :n]]
        assert batch.tokens[i, 1:][batch.mask[i]].tolist() == samples.tokens[i, :n].tolist()
        np.testing.assert_array_equal(batch.sampler_logprobs[i][batch.mask[i]], samples.logprobs[i, :n])


def test_width_buckets_are_few_and_wide_enough():
    widths = {width_bucket(w, 103) for w in range(1, 104)}
    assert widths == {32, 56, 80, 104}
    assert all(width_bucket(w, 103) >= w for w in range(1, 104))


def test_scores_equal_the_samplers(samples, tiny_params, tiny_config):
    """The trainer's old log-probabilities equal the sampler's for any number of microbatches."""
    batch = batch_of(samples)
    for microbatches in (1, 4):
        got = batch_logprobs(tiny_params, batch.tokens, tiny_config, 0.8, microbatches, 16)
        np.testing.assert_allclose(jnp.where(batch.mask, got, 0), batch.sampler_logprobs, atol=1e-5)


def test_the_head_may_start_at_the_first_completion(samples, tiny_params, tiny_config):
    """Positions that are prompt in every row need no logits: the update without them is equal."""
    batch = batch_of(samples).replace(first=0)
    later = min(map(len, PROMPTS)) - 1
    states = []
    for first in (0, later):
        state, optimizer, _ = fresh(tiny_params, tiny_config)
        state, *_ = update(state, batch.replace(first=first), optimizer, GRPO(), CONTEXT, tiny_config, 1)
        states.append(state.params)
        got = batch_logprobs(tiny_params, batch.tokens, tiny_config, 0.8, 1, 16, first)
        np.testing.assert_allclose(jnp.where(batch.mask, got, 0), batch.sampler_logprobs, atol=1e-5)
        assert not got[:, :first].any()
    close(*states, rtol=1e-4, atol=1e-6)


def test_the_first_completion_is_found_in_steps_of_32():
    prompts = [[1] * 70, [1] * 66]
    empty, lengths = np.zeros((2, 4), np.float32), np.array([4, 4])
    batch = build_batch(prompts, Samples(empty.astype(np.int32), lengths, lengths, empty, empty, 4), 80)
    assert batch.first == 64 and not batch.mask[:, : batch.first].any() and batch.mask[1, 65]


def test_gradient_equals_policy_gradient_by_hand(samples, tiny_params, tiny_config):
    """On policy the ratio is 1, so one SGD step moves by sum_i A_i / |o_i| * grad log pi(o_i), averaged over i."""
    batch = batch_of(samples)

    def surrogate(params):
        logq = jax.nn.log_softmax(forward(params, batch.tokens, tiny_config) / 0.8)
        total = 0.0
        for i, n in enumerate(samples.lengths):
            start = len(PROMPTS[i // GROUP])
            logp = [logq[i, t - 1, batch.tokens[i, t]] for t in range(start, start + n)]
            total += batch.advantages[i] * sum(logp) / n
        return -total / len(samples.lengths)

    want = jax.jit(jax.grad(surrogate))(tiny_params)
    state, _, _ = fresh(tiny_params, tiny_config)
    sgd = optax.apply_if_finite(optax.sgd(1.0), 5)
    state = state.replace(opt_state=sgd.init(state.params))
    after, sums, _ = update(state, batch, sgd, GRPO(), CONTEXT, tiny_config, 1)
    close(jax.tree.map(jnp.subtract, tiny_params, after.params), want, atol=2e-6)
    norm = float(optax.tree.norm(want))
    assert reduce_metrics(sums)["gradient_norm"] == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize("aggregate", ["sequence", "token", "constant"])
def test_microbatches_change_nothing(samples, tiny_params, tiny_config, aggregate):
    algorithm = GRPO(aggregate=aggregate, beta=0.1, entropy=0.01)
    batch = batch_of(samples)
    batch = batch.replace(reference_logprobs=batch.sampler_logprobs + 0.1)
    results = []
    for microbatches in (1, 2, 8):
        state, optimizer, _ = fresh(tiny_params, tiny_config)
        state, sums, maxima = update(state, batch, optimizer, algorithm, CONTEXT, tiny_config, microbatches)
        results.append((state.params, reduce_metrics(sums), maxima))
    for other in results[1:]:
        close(results[0], other, rtol=1e-4, atol=1e-6)


def test_sequences_that_do_not_count_leave_no_trace(samples, tiny_params, tiny_config):
    counts = np.array([True] * 4 + [False] * 4)
    state, optimizer, _ = fresh(tiny_params, tiny_config)
    masked, *_ = update(state, batch_of(samples, counts), optimizer, GRPO(), CONTEXT, tiny_config, 2)
    whole = batch_of(samples)
    half = jax.tree.map(lambda x: x[:4], whole)
    state, optimizer, _ = fresh(tiny_params, tiny_config)
    alone, *_ = update(state, half, optimizer, GRPO(), CONTEXT, tiny_config, 1)
    close(masked.params, alone.params, rtol=1e-4, atol=1e-6)


def test_ratio_is_one_on_the_first_minibatch_and_not_on_the_second(samples, tiny_params, tiny_config):
    state, optimizer, _ = fresh(tiny_params, tiny_config)
    context = dataclasses.replace(CONTEXT, on_policy=False)
    batch = batch_of(samples)
    old = batch_logprobs(state.params, batch.tokens, tiny_config, 0.8, 1, 16)
    batch = batch.replace(old_logprobs=jnp.where(batch.mask, old, 0.0))
    first, second = (jax.tree.map(lambda x, s=s: x[s], batch) for s in (slice(0, 4), slice(4, 8)))
    state, sums, maxima = update(state, first, optimizer, GRPO(), context, tiny_config, 1)
    assert reduce_metrics(sums)["ratio_mean"] == pytest.approx(1, abs=1e-5)
    assert float(maxima["ratio_max"]) == pytest.approx(1, abs=1e-4)
    state, sums, maxima = update(state, second, optimizer, GRPO(), context, tiny_config, 1)
    assert abs(float(maxima["ratio_max"]) - 1) > 1e-2


def test_learning_raises_what_was_good_and_lowers_what_was_bad(samples, tiny_params, tiny_config):
    state, optimizer, _ = fresh(tiny_params, tiny_config)
    batch = batch_of(samples)
    state, *_ = update(state, batch, optimizer, GRPO(), CONTEXT, tiny_config, 1)
    after = batch_logprobs(state.params, batch.tokens, tiny_config, 0.8, 1, 16)
    change = jnp.where(batch.mask, after - batch.sampler_logprobs, 0).sum(axis=1)
    assert change[-1] > 0 > change[0]


def test_inner_epochs_and_minibatches_all_update(samples, tiny_params, tiny_config):
    for minibatches, epochs in ((1, 1), (2, 1), (2, 3)):
        config = RLConfig(
            prompts=2, group=GROUP, minibatches=minibatches, inner_epochs=epochs, algorithm=GRPO(beta=0.1)
        )
        state, optimizer, _ = fresh(tiny_params, tiny_config)
        state = RLState(state, jax.tree.map(jnp.copy, tiny_params))
        setup = setup_of(config, optimizer, tiny_config)
        state, row = learn(state, batch_of(samples), jax.random.key(0), setup)
        counts = [int(c) for _, c in optax.tree_utils.tree_get_all_with_path(state.policy.opt_state, "count")]
        assert counts and set(counts) == {minibatches * epochs}
        assert row["sampler_gap_max"] < 1e-5
        if config.updates == 1:
            assert row["kl"] == pytest.approx(0, abs=1e-9)
        else:
            assert row["kl"] > 1e-7


def test_gradients_that_are_not_finite_are_skipped_and_counted(samples, tiny_params, tiny_config):
    state, optimizer, _ = fresh(tiny_params, tiny_config)
    before = jax.device_get((state.params, optax.tree_utils.tree_get(state.opt_state, "mu")))
    bad = batch_of(samples)
    bad = bad.replace(advantages=bad.advantages.at[0].set(jnp.inf))
    for count in (1, 2):
        state, *_ = update(state, bad, optimizer, GRPO(), CONTEXT, tiny_config, 1)
        after = jax.device_get((state.params, optax.tree_utils.tree_get(state.opt_state, "mu")))
        jax.tree.map(np.testing.assert_array_equal, before, after)
        assert int(state.skipped_updates()) == count
    state, *_ = update(state, batch_of(samples), optimizer, GRPO(), CONTEXT, tiny_config, 1)
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
    return reward_model._update(state, batch | {"counts": jnp.zeros(4, bool)}, optimizer, model, 2)


@pytest.mark.parametrize("empty", [empty_rl, empty_text, empty_distillation, empty_judgements])
def test_an_update_in_which_nothing_counts_changes_nothing_and_is_counted(samples, tiny_params, tiny_config, empty):
    """Momentum, weight decay and schedule would each change the weights without a gradient."""
    params, model = tiny_params, tiny_config
    if empty is empty_judgements:
        model = dataclasses.replace(model, head="scalar", tie_embeddings=True)
        params = init_params(param_specs(model), jax.random.key(0))
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
    state, sums, _ = update(state, bad, optimizer, GRPO(), CONTEXT, tiny_config, 1)
    assert reduce_metrics(sums)["empty_updates"] == 0 and int(state.skipped_updates()) == 1


@pytest.mark.parametrize("kept", [1, 3, 12, 16])
def test_rows_that_count_are_dealt_evenly_and_every_row_once(kept):
    for seed in range(5):
        counts = jnp.zeros(16, bool).at[jax.random.permutation(jax.random.key(100 + seed), 16)[:kept]].set(True)
        deal = np.asarray(split_minibatches(jax.random.key(seed), counts, 8))
        assert deal.shape == (8, 2) and sorted(deal.ravel()) == list(range(16))
        each = np.asarray(counts)[deal].sum(axis=1)
        assert each.max() - each.min() <= 1 and (each > 0).sum() == min(kept, 8)
    again, other = (np.asarray(split_minibatches(jax.random.key(s), counts, 8)) for s in (4, 5))
    np.testing.assert_array_equal(deal, again)
    assert not np.array_equal(deal, other)


@pytest.mark.parametrize("aggregate", ["sequence", "token", "constant"])
@pytest.mark.parametrize("kept", [3, 11])
def test_sequences_that_count_weigh_the_same_in_all_minibatches(samples, tiny_params, tiny_config, aggregate, kept):
    """With small steps, the updates of the minibatches add up to the gradient of the whole batch per epoch."""
    batch = jax.tree.map(lambda x: jnp.concatenate([x, x]), batch_of(samples))
    counts = jnp.zeros(16, bool).at[jax.random.permutation(jax.random.key(1), 16)[:kept]].set(True)
    batch = batch.replace(mask=batch.mask & counts[:, None], advantages=jax.random.normal(jax.random.key(kept), (16,)))
    sgd = optax.apply_if_finite(optax.sgd(1e-4), 5)
    moved = {}
    for minibatches in (1, 8):
        config = RLConfig(prompts=4, group=4, minibatches=minibatches, algorithm=GRPO(aggregate=aggregate))
        state, _, _ = fresh(tiny_params, tiny_config)
        state = RLState(state.replace(opt_state=sgd.init(state.params)))
        state, row = learn(state, batch, jax.random.key(0), setup_of(config, sgd, tiny_config))
        moved[minibatches] = jnp.concatenate(
            [(a - b).ravel() for a, b in zip(*map(jax.tree.leaves, (state.policy.params, tiny_params)), strict=True)]
        )
    updates = min(kept, 8)
    assert jnp.linalg.norm(moved[8] / updates - moved[1]) < 0.02 * jnp.linalg.norm(moved[1])
    assert row["empty_updates"] == pytest.approx(1 - updates / 8)


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
    batch = batch.replace(**{field: getattr(batch, field).at[at].add(change)})
    algorithm, context = GRPO(beta=0.1, importance_cap=2.0), dataclasses.replace(CONTEXT, on_policy=False)
    state, sums, _ = update(state, batch, optimizer, algorithm, context, tiny_config, 2)
    assert int(state.skipped_updates()) == 0
    row = reduce_metrics(sums)
    assert row["bounded_share"] == pytest.approx(1 / samples.lengths.sum())
    assert 0 < row["gradient_norm"] < 1e3 and np.isfinite(row["loss"])


@pytest.mark.parametrize(("stored", "computed"), [("float32", "bfloat16"), ("bfloat16", "bfloat16")])
def test_types_of_mixed_and_pure_bfloat16(samples, tiny_params, tiny_config, stored, computed):
    """Weights and moments keep their type in an update, which is close to the float32 update."""
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
        leaves = jax.tree.leaves(jax.tree.map(lambda x, y: (x.astype(jnp.float32) - y).ravel(), a, b))
        return jnp.concatenate(leaves)

    moved, wanted = flat(state.params, start), flat(exact.params, tiny_params)
    assert jnp.dot(moved, wanted) / jnp.linalg.norm(moved) / jnp.linalg.norm(wanted) > 0.98


@pytest.mark.parametrize("mesh", ["8x1", "4x2", "1x8"])
def test_every_mesh_gives_the_same_update(samples, tiny_params, tiny_config, mesh):
    static = (GRPO(beta=0.1), CONTEXT, tiny_config, 1)
    near = np.where(samples.logprobs, samples.logprobs + 0.1, 0.0)

    def near_batch():
        batch = batch_of(samples)
        return batch.replace(reference_logprobs=batch_of(samples.replace(logprobs=near)).sampler_logprobs)

    state, optimizer, _ = fresh(tiny_params, tiny_config)
    alone, sums, _ = update(state, near_batch(), optimizer, *static)
    want = reduce_metrics(sums)
    mesh = make_mesh(mesh)
    with jax.set_mesh(mesh):
        spread = place(tiny_params, param_shardings(param_specs(tiny_config), mesh))
        state, optimizer, shapes = fresh(spread, tiny_config, mesh=mesh)
        together, sums, _ = update(state, near_batch(), optimizer, *static)
        got = reduce_metrics(sums)
    assert got == pytest.approx(want, abs=1e-5)
    close(jax.device_get(alone.params), jax.device_get(together.params), atol=1e-5)
    # Sharded before and after: an update must not gather its sharded arguments.
    for leaf, shape in zip(jax.tree.leaves(together), jax.tree.leaves(shapes), strict=True):
        assert leaf.sharding.is_equivalent_to(shape.sharding, leaf.ndim)
    for leaf in jax.tree.leaves((together.params, together.opt_state)):
        if leaf.size > 200:
            assert not leaf.sharding.is_fully_replicated
            assert leaf.addressable_shards[0].data.size == leaf.size // 8


def test_batches_are_split_over_the_data_axis(samples):
    mesh = make_mesh("4x2")
    with jax.set_mesh(mesh):
        batch = batch_of(samples)
    assert {shard.data.shape[0] for shard in batch.tokens.addressable_shards} == {2}


def test_language_model_update_lowers_the_loss_on_its_batch(tiny_params, tiny_config):
    tokens = jax.random.randint(jax.random.key(0), (4, 12), 0, tiny_config.vocab_size)
    batch = {"tokens": tokens, "mask": jnp.ones((4, 11), bool).at[:, 8:].set(False)}
    logq = jax.nn.log_softmax(forward(tiny_params, tokens, tiny_config))[:, :-1]
    want = -jnp.take_along_axis(logq, tokens[:, 1:, None], -1)[:, :8].mean()
    state, optimizer, _ = fresh(tiny_params, tiny_config)
    losses = []
    for _ in range(3):
        state, metrics = language_model_update(state, batch, optimizer, tiny_config, 2)
        losses.append(reduce_metrics(metrics)["loss"])
    assert losses[0] == pytest.approx(float(want), rel=1e-5)
    assert losses[0] > losses[1] > losses[2]
