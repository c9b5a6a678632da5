"""Streamed tokens against the sampler, which decodes whole batches in another program."""

import dataclasses

import jax
import numpy as np
import pytest

from r1jax.errors import UserError
from r1jax.kernels import decode_attention
from r1jax.sampling.processors import Sampling
from r1jax.sampling.sampler import sample
from r1jax.sampling.stream import CHUNK, decode_chunk, padded_width, start, stream, stream_weights
from r1jax.sharding import make_mesh

PROMPT = [7, 8, 9, 10, 11]
MOST = 40


@pytest.fixture(scope="module")
def sharp(tiny_params):
    """Weights large enough that the distribution is far from uniform, so that wrong attention shows."""
    return jax.tree.map(lambda w: jax.device_put(w * 8 if w.ndim > 2 else w), jax.device_get(tiny_params))


@pytest.fixture(scope="module")
def weights(sharp, tiny_config):
    return stream_weights(sharp, tiny_config)


def sampled(params, config, seed, sampling, ends=(), limit=MOST):
    key = jax.random.key(seed)
    drawn = jax.device_get(
        sample(params, [PROMPT], config, key, sampling=sampling, end_tokens=ends, limits=[limit], prompt_width=64)
    )
    return drawn.tokens[0, : drawn.lengths[0]].tolist()


def parts_of(weights, config, seed, sampling, ends=(), limit=MOST):
    key = jax.random.key(seed)
    return list(stream(weights, PROMPT, config, key, sampling=sampling, end_tokens=ends, limit=limit))


def streamed(*arguments, **options):
    return [token for part in parts_of(*arguments, **options) for token in part]


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "top_p": 0.9, "top_k": 40}])
def test_the_tokens_are_those_of_the_sampler(sharp, weights, tiny_config, options):
    sampling = Sampling(max_tokens=MOST, **options)
    for seed in range(3):
        parts = parts_of(weights, tiny_config, seed, sampling)
        assert len(parts[0]) == 1 and max(map(len, parts)) <= CHUNK
        assert [token for part in parts for token in part] == sampled(sharp, tiny_config, seed, sampling)


def test_a_completion_ends_at_an_end_token_or_at_its_limit(sharp, weights, tiny_config):
    sampling = Sampling(max_tokens=MOST)
    whole = sampled(sharp, tiny_config, 0, sampling)
    end = whole[-1]
    cut = whole[: whole.index(end) + 1]
    assert streamed(weights, tiny_config, 0, sampling, (end,)) == cut
    for limit in (1, 2, 19):
        assert streamed(weights, tiny_config, 0, sampling, limit=limit) == whole[:limit]


def test_a_long_ring_is_read_in_chunks(sharp, weights, tiny_config, monkeypatch):
    """The cache of a long completion has several chunks, as a ring of more than 512 entries has."""
    sampling = Sampling(max_tokens=MOST)
    want = sampled(sharp, tiny_config, 1, sampling)
    monkeypatch.setattr(decode_attention, "RING_CHUNK", 16)
    config = dataclasses.replace(tiny_config, unroll=True)  # another config: a program with the small chunks
    assert streamed(weights, config, 1, sampling) == want


def test_heads_may_be_split_over_devices(sharp, tiny_config):
    sampling = Sampling(max_tokens=MOST)
    want = sampled(sharp, tiny_config, 2, sampling)
    with jax.set_mesh(make_mesh("1x2")):
        assert streamed(stream_weights(sharp, tiny_config), tiny_config, 2, sampling) == want


def test_prompts_of_similar_length_share_their_programs(weights, tiny_config):
    sampling = Sampling(max_tokens=MOST)
    counts = []
    for length in (3, 4, 20):
        list(stream(weights, [5] * length, tiny_config, jax.random.key(0), sampling=sampling, end_tokens=(), limit=3))
        counts.append((start._cache_size(), decode_chunk._cache_size()))
    assert len(set(counts)) == 1
    assert [padded_width(n, 1000) for n in (1, 128, 129, 512, 513)] == [128, 128, 256, 512, 1000]


def test_a_prompt_beyond_the_context_is_one_line(weights, tiny_config):
    for prompt, limit in (([1] * 60, 5), ([], 5), ([1], 0), ([1], MOST + 1)):
        with pytest.raises(UserError) as refused:
            next(
                stream(
                    weights,
                    prompt,
                    tiny_config,
                    jax.random.key(0),
                    sampling=Sampling(max_tokens=MOST),
                    end_tokens=(),
                    limit=limit,
                )
            )
        assert "\n" not in str(refused.value)


def test_an_abandoned_stream_leaves_the_weights_usable(weights, tiny_config):
    sampling = Sampling(max_tokens=MOST)
    first = next(stream(weights, PROMPT, tiny_config, jax.random.key(0), sampling=sampling, end_tokens=(), limit=MOST))
    assert first == streamed(weights, tiny_config, 0, sampling)[:1]
    assert np.isfinite(np.asarray(weights.params["embedding"])).all()
