"""The arrays of a batch, its width, its minibatches and their shardings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.rl.batch import build_batch, split_minibatches, width_bucket
from r1jax.sampling.sampler import Samples
from r1jax.sharding import make_mesh
from tests.rl.helpers import GROUP, PROMPTS, batch_of


def test_layout_of_a_rollout(samples):
    """Position t of each array describes token t + 1, and the mask covers the completion alone."""
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
