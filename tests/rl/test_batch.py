"""The arrays of a batch, its width, its minibatches and their shardings."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.rl.batch import build_batch, split_minibatches, width_bucket
from r1jax.sampling.sampler import Samples
from r1jax.sharding import batch_sharding, make_mesh
from tests.rl.helpers import GROUP, PROMPTS, batch_of


def test_layout_of_a_rollout(samples):
    """Position t of each array describes token t + 1, and the mask covers the completion alone."""
    batch = jax.device_get(batch_of(samples))
    for i, n in enumerate(samples.lengths):
        prompt = PROMPTS[i // GROUP]
        assert batch.tokens[i, : len(prompt) + n].tolist() == [*prompt, *samples.tokens[i, :n]]
        assert batch.tokens[i, 1:][batch.mask[i]].tolist() == samples.tokens[i, :n].tolist()
        np.testing.assert_array_equal(batch.sampler_logprobs[i][batch.mask[i]], samples.logprobs[i, :n])


@pytest.mark.parametrize("mesh", ["1x1", "4x2"])
def test_each_token_has_its_place_with_what_belongs_to_it(mesh):
    """Against loops over sequences and tokens, with other numbers after the end of each sample."""
    rng = np.random.default_rng(0)
    B, M, wide = 8, 12, 9
    own = [rng.integers(1, 99, n).tolist() for n in (3, wide, 5, 3)]
    prompts, lengths = [own[i // 2] for i in range(B)], rng.integers(1, M - 4, B)
    tokens = rng.integers(1, 99, (B, M)).astype(np.int32)
    logprobs, others = (rng.normal(size=(B, M)).astype(np.float32) for _ in range(2))
    experts = rng.integers(1, 9, (B, wide + M - 1, 2, 3)).astype(np.uint8)
    samples = Samples(tokens, lengths, lengths * 0, logprobs, others, 4, experts)
    counts = rng.random(B) < 0.7
    with jax.set_mesh(make_mesh(mesh)):
        on_host = build_batch(prompts, samples, wide + M, counts=counts)
        kept = dataclasses.replace(samples, logprobs=jnp.asarray(logprobs), sampling_logprobs=jnp.asarray(others))
        batch = build_batch(prompts, kept, wide + M, counts=counts)
        assert batch.tokens.sharding == batch.mask.sharding == batch.sampler_logprobs.sharding == batch_sharding()
    jax.tree.map(np.testing.assert_array_equal, on_host, batch)
    batch = jax.device_get(batch)
    T = batch.mask.shape[1]
    want = {name: np.zeros((B, T), np.float32) for name in ("mask", "sampler_logprobs", "sampling_logprobs")}
    text, routing = np.zeros((B, T + 1), np.int32), np.zeros((B, T, 2, 3), np.uint8)
    for row, (prompt, n) in enumerate(zip(prompts, lengths, strict=True)):
        text[row, : len(prompt) + n] = [*prompt, *tokens[row, :n]]
        routing[row, : len(prompt) + n - 1] = experts[row, : len(prompt) + n - 1]
        at = slice(len(prompt) - 1, len(prompt) - 1 + n)
        want["mask"][row, at] = counts[row]
        want["sampler_logprobs"][row, at], want["sampling_logprobs"][row, at] = logprobs[row, :n], others[row, :n]
        assert batch.spans is None
    np.testing.assert_array_equal(batch.tokens, text)
    np.testing.assert_array_equal(batch.experts, routing)
    for name, values in want.items():
        np.testing.assert_array_equal(getattr(batch, name), values, err_msg=name)


def test_width_buckets_are_few_and_wide_enough():
    widths = {width_bucket(w, 103) for w in range(1, 104)}
    assert widths == {32, 56, 80, 104}
    assert all(width_bucket(w, 103) >= w for w in range(1, 104))


def test_the_first_completion_is_found_in_steps_of_32():
    prompts = [[1] * 70, [1] * 66]
    empty, lengths = np.zeros((2, 4), np.float32), np.array([4, 4])
    batch = build_batch(prompts, Samples(empty.astype(np.int32), lengths, lengths, empty, empty, 4), 80)
    assert batch.first == 64 and not batch.mask[:, : batch.first].any() and batch.mask[1, 65]


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


def test_batches_are_split_over_the_data_axis(samples):
    mesh = make_mesh("4x2")
    with jax.set_mesh(mesh):
        batch = batch_of(samples)
    assert {shard.data.shape[0] for shard in batch.tokens.addressable_shards} == {2}
