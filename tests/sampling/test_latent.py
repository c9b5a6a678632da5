"""The sampler with latent attention, which decodes from the compressed cache, against the trainer, which does not."""

from functools import partial

import jax
import numpy as np
import pytest

from r1jax.algorithms.logprobs import token_logprobs
from r1jax.kernels import decode_attention
from r1jax.models.cache import init_ring
from r1jax.models.transformer import hidden_states, param_specs, unembedding
from r1jax.sampling.processors import Sampling
from r1jax.sampling.sampler import sample
from r1jax.sampling.stream import stream, stream_weights
from r1jax.sharding import make_mesh, param_shardings, place
from tests.helpers.latent import LATENT, PLAIN_QUERIES, sharp_params

PROMPTS = [[1, 2, 3], [5], [7, 8, 9, 10, 11]]
GROUP = 4
LIMITS = [12] * 9 + [7, 5, 1]
ENDS = (3, 50)


def run(params, config, slots):
    sampling = Sampling(max_tokens=12, slots=slots)
    options = {"end_tokens": ENDS, "samples_per_prompt": GROUP, "limits": LIMITS}
    drawn = sample(params, PROMPTS, config, jax.random.key(1), sampling=sampling, **options)
    return jax.device_get(drawn)


@pytest.fixture(scope="module")
def params():
    return sharp_params(LATENT)


@pytest.fixture(scope="module")
def alone(params):
    return run(params, LATENT, slots=5)


@partial(jax.jit, static_argnames="config")
def trainer_logprobs(params, tokens, config):
    h, _ = hidden_states(params, tokens[:, :-1], config)
    return token_logprobs(h, unembedding(params, config), tokens[:, 1:])[0]


def check_logprobs(samples, params, config):
    rows = [[*PROMPTS[i // GROUP], *samples.tokens[i, :n].tolist()] for i, n in enumerate(samples.lengths)]
    want = trainer_logprobs(params, np.array([row + [0] * (18 - len(row)) for row in rows]), config)
    for i, n in enumerate(samples.lengths):
        start = len(PROMPTS[i // GROUP]) - 1
        np.testing.assert_allclose(samples.logprobs[i, :n], want[i, start : start + n], atol=1e-5)


def test_logprobs_equal_the_trainers(params, alone):
    """Twelve sequences of three prompts in five slots, which are refilled while others go on: the ring wraps."""
    assert alone.steps > 12
    check_logprobs(alone, params, LATENT)


def test_logprobs_equal_the_trainers_with_plain_queries(monkeypatch):
    """The ring of 12 is processed in chunks of 4."""
    monkeypatch.setattr(decode_attention, "RING_CHUNK", 4)
    params = sharp_params(PLAIN_QUERIES)
    check_logprobs(run(params, PLAIN_QUERIES, slots=5), params, PLAIN_QUERIES)


@pytest.mark.parametrize(("mesh", "slots"), [("1x8", 5), ("4x2", 8)])
def test_a_sample_does_not_depend_on_the_mesh(params, alone, mesh, slots):
    """The model axis splits the queries' heads, and each of its devices has the whole cache."""
    mesh = make_mesh(mesh)
    with jax.set_mesh(mesh):
        spread = place(jax.device_get(params), param_shardings(param_specs(LATENT), mesh))
        together = run(spread, LATENT, slots)
    np.testing.assert_array_equal(alone.tokens, together.tokens)
    np.testing.assert_allclose(alone.logprobs, together.logprobs, atol=1e-5)


def test_the_cache_holds_the_compressed_vector_and_the_rotated_key_once():
    ring = jax.eval_shape(lambda: init_ring(3, 12, LATENT))
    assert [tuple(x.shape for x in layer) for layer in ring.layers] == [((3, 12, 12 + 4),)] * 2


def test_streamed_tokens_are_those_of_the_sampler(params):
    sampling, key = Sampling(max_tokens=30), jax.random.key(1)
    options = {"sampling": sampling, "end_tokens": ()}
    drawn = jax.device_get(sample(params, PROMPTS[2:], LATENT, key, prompt_width=64, **options))
    parts = stream(stream_weights(params, LATENT), PROMPTS[2], LATENT, key, limit=30, **options)
    assert [token for part in parts for token in part] == drawn.tokens[0].tolist()
