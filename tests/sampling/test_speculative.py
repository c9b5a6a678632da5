"""Speculative decoding: the samples are those of decoding one token per step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.errors import UserError
from r1jax.kernels import decode_attention
from r1jax.kernels.decode_attention import Context
from r1jax.models.cache import init_slot_cache, prefill
from r1jax.models.mtp import ahead, mtp_states
from r1jax.models.transformer import hidden_states, param_specs
from r1jax.sampling.block import decode_block
from r1jax.sampling.decode import decoding_layers
from r1jax.sampling.memory import Request, slot_bytes
from r1jax.sampling.processors import Sampling, sample_token
from r1jax.sampling.sampler import sample
from r1jax.sampling.slots import random_words
from r1jax.sampling.stream import stream
from r1jax.sharding import make_mesh, param_shardings, place
from tests.helpers.latent import sharp_params
from tests.helpers.mtp import MTP

CONFIG = dataclasses.replace(MTP, num_layers=1, experts=dataclasses.replace(MTP.experts, dense_layers=0))
PROMPTS = [[1, 2, 3], [5], [7, 8, 9, 10, 11]]
DRAFTS = ("none", "mtp")
LIMITS = [12] * 9 + [7, 5, 1]


def draw(params, draft, slots=5, config=CONFIG):
    sampling = Sampling(max_tokens=12, slots=slots, draft=draft)
    options = {"end_tokens": (3, 50), "samples_per_prompt": 4, "limits": LIMITS, "keep_routing": True}
    return jax.device_get(sample(params, PROMPTS, config, jax.random.key(1), sampling=sampling, **options))


@pytest.fixture(scope="module")
def params():
    return sharp_params(CONFIG)


@pytest.fixture(scope="module")
def plain(params):
    return draw(params, "none")


def check(got, plain):
    np.testing.assert_array_equal(got.tokens, plain.tokens)
    np.testing.assert_array_equal(got.lengths, plain.lengths)
    np.testing.assert_array_equal(got.finish, plain.finish)
    np.testing.assert_allclose(got.logprobs, plain.logprobs, atol=1e-5)
    np.testing.assert_allclose(got.sampling_logprobs, plain.sampling_logprobs, atol=1e-5)


@pytest.fixture(scope="module")
def drafted(params):
    return draw_on_mesh(params)


def draw_on_mesh(params):
    mesh = make_mesh("2x2")
    with jax.set_mesh(mesh):
        return draw(place(jax.device_get(params), param_shardings(param_specs(CONFIG), mesh)), "mtp", slots=6)


def test_samples_are_those_of_single_steps_without_a_mesh(plain, drafted):
    """Twelve sequences of three prompts in six slots, which are refilled while others go on."""
    got = drafted
    check(got, plain)
    np.testing.assert_array_equal(got.experts, plain.experts)
    assert plain.proposed is None and 0 < got.accepted.sum() < got.proposed.sum()
    # Each step but the first one of a sequence verifies a token, and an accepted one saves a step, unless it was last.
    steps = got.proposed + 1
    assert ((steps <= got.lengths) & (got.lengths - steps <= got.accepted)).all()


def test_proposals_are_those_of_the_layer_over_whole_texts(params, drafted):
    """Also those after a prompt, whose states come from prefill."""
    got = drafted
    starts = np.repeat([len(prompt) for prompt in PROMPTS], 4)
    texts = np.zeros((12, 17), np.int32)
    for i, n in enumerate(got.lengths):
        texts[i, : starts[i] + n] = [*PROMPTS[i // 4], *got.tokens[i, :n]]
    places = np.arange(1, 12)  # in the completion; the first token has no proposal

    @jax.jit
    def proposed(texts):
        h, _ = hidden_states(params, texts, CONFIG)
        (states,), extras = mtp_states(params, h, ahead(texts, 1), CONFIG, with_cache=True)
        before = states[np.arange(12)[:, None], starts[:, None] + places - 2]
        logits = (before @ params["unembedding"]).reshape(12 * 11, -1)
        words = random_words(jax.random.key(1), np.repeat(np.arange(12), 11), np.tile(places, 12))
        prefix = prefill(params, texts[:, :5], CONFIG, 4, mtp=True).layers[-1][0]
        return sample_token(logits, words, Sampling())[0].reshape(12, 11), prefix, extras.cache[0][0][0]

    tokens, prefix, whole = proposed(texts)
    np.testing.assert_allclose(prefix[:, :4], whole[:, :4], atol=1e-5)
    right = np.asarray(tokens) == got.tokens[:, 1:]
    for i, n in enumerate(got.lengths):
        verified, accepted, place = 0, 0, 1
        while place < n:
            verified, accepted = verified + 1, accepted + right[i, place - 1]
            place += 1 + right[i, place - 1]
        assert (verified, accepted) == (got.proposed[i], got.accepted[i])


def test_a_draft_that_knows_the_model_is_always_accepted(params):
    """Without blocks, the next token depends on the last one alone, whose embedding the draft reads."""
    D = CONFIG.hidden_size
    nothing = ("output", "down", "shared_down")
    known = jax.tree_util.tree_map_with_path(lambda path, w: 0 * w if path[-1].key in nothing else w, params)
    own = known["mtp"] | {
        "embedding_norm": jnp.ones((1, D)),
        "projection": jnp.eye(2 * D, D)[None],
        "final_norm": known["final_norm"][None],
    }
    known |= {"mtp": own}
    got = draw_on_mesh(known)
    check(got, draw(known, "none"))
    assert got.lengths.tolist() != LIMITS
    np.testing.assert_array_equal(got.proposed, -(-(got.lengths - 1) // 2))  # one token at first, then two per step
    np.testing.assert_array_equal(got.accepted, got.proposed)


def test_a_block_of_tokens_has_the_states_of_whole_sequences(tiny_config, tiny_params, monkeypatch):
    """Grouped attention with biases and normalised heads; three tokens a pass, over a cache read in chunks of four."""
    monkeypatch.setattr(decode_attention, "RING_CHUNK", 4)
    config = dataclasses.replace(tiny_config, num_layers=1, attention_bias=True, qk_norm=True)
    params = sharp_params(config)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (2, 15))
    lengths, m = np.array([3, 5]), 3  # of the prompts
    states = jax.jit(hidden_states, static_argnums=2)(params, tokens, config)[0]

    @jax.jit
    def start(params, tokens):
        prefix = prefill(params, tokens[:, :5], config, 2)
        return prefix, decoding_layers(params, config), init_slot_cache(2, 10, config, mtp=False)

    prefix, layers, cache = start(params, tokens)
    block = jax.jit(decode_block, static_argnums=6)
    age = np.array([0, 0])
    for step in (3, 1, 2):  # how many of the three tokens count
        at = (lengths + age)[:, None] + np.arange(m)
        context = Context(jnp.arange(2), jnp.asarray(lengths), jnp.asarray(age))
        guessed = np.where(np.arange(m) < step, tokens[np.arange(2)[:, None], at], 1)
        got, cache, _ = block(params, layers, guessed, prefix, cache, context, config)
        want = states[np.arange(2)[:, None], at]
        np.testing.assert_allclose(got[:, :step], want[:, :step], atol=2e-5)
        age = age + step


def test_a_draft_needs_its_layer(params):
    without = dataclasses.replace(CONFIG, mtp_layers=0)
    with pytest.raises(UserError, match=r"sampling\.draft=mtp: the model has no layer of multi-token prediction"):
        draw(params, "mtp", config=without)
    with pytest.raises(UserError, match="draft suffix is not one of none, mtp, ngram"):
        Sampling(draft="suffix")
    options = {"sampling": Sampling(draft="mtp"), "end_tokens": (), "limit": 9}
    with pytest.raises(UserError, match=r"sampling\.draft=mtp is not supported for a stream of tokens"):
        next(stream(None, [1], CONFIG, None, **options))


def test_the_draft_has_a_cache_too(params):
    """The estimate counts it beside those of the decoder's layers, and the logits of two tokens."""
    plain, drafting = (
        slot_bytes(Request(CONFIG, Sampling(max_tokens=600, draft=draft), params, 1, 4, 8), 3) for draft in DRAFTS
    )
    cache = jax.eval_shape(lambda: init_slot_cache(3, 600, CONFIG, mtp=True))
    assert drafting["cache"] == 2 * plain["cache"] == sum(4 * x.size for x in jax.tree.leaves(cache))
    assert drafting["logits"] == 2 * plain["logits"]
