"""The sampler against teacher-forced log-probabilities, and against itself with other slots and meshes."""

import dataclasses
import heapq
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.algorithms.logprobs import token_logprobs
from r1jax.errors import UserError
from r1jax.kernels import decode_attention
from r1jax.models.transformer import forward, hidden_states, param_specs, unembedding
from r1jax.sampling.memory import device_queues, phases
from r1jax.sampling.processors import Sampling
from r1jax.sampling.queues import make_queue
from r1jax.sampling.sampler import random_words, sample, sample_queue
from r1jax.sampling.slots import END, LENGTH
from r1jax.sharding import make_mesh, map_specs, param_shardings, place

PROMPTS = [[1, 2, 3], [5], [7, 8, 9, 10, 11]]
GROUP = 4
LIMITS = [20] * 9 + [7, 5, 1]
ENDS = (3, 50)
WIDTH = 32


@pytest.fixture(scope="module")
def sharp(tiny_params):
    """Weights large enough that the distribution is far from uniform, so that wrong attention shows."""
    return jax.tree.map(lambda w: jax.device_put(w * 8 if w.ndim > 2 else w), jax.device_get(tiny_params))


# Temperature 1 would hide that a temperature is not applied.
PLAIN = {"temperature": 0.6}
FILTERED = {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.01}


def run(params, config, **options):
    sampling = Sampling(**({"max_tokens": 20} | PLAIN | options))
    return sample(
        params,
        PROMPTS,
        config,
        jax.random.key(1),
        sampling=sampling,
        end_tokens=ENDS,
        samples_per_prompt=GROUP,
        limits=LIMITS,
    )


def padded(tokens):
    """One row, padded at the end to a width that all tests share, so that a program is compiled once."""
    return np.array([[*tokens, *[0] * (WIDTH - len(tokens))]])


@partial(jax.jit, static_argnames=("config", "temperature"))
def next_logprobs(params, tokens, config, temperature):
    h, _ = hidden_states(params, tokens[:, :-1], config)
    return token_logprobs(h, unembedding(params, config), tokens[:, 1:], temperature)[0][0]


def teacher_forced(params, config, prompt, completion, temperature):
    """The trainer's log-probabilities of one completion."""
    tokens = [*prompt, *completion]
    logp = next_logprobs(params, padded(tokens), config, temperature)
    return np.asarray(logp[len(prompt) - 1 : len(tokens) - 1])


@pytest.fixture(scope="module")
def whole(sharp, tiny_config):
    """Samples with a slot for each sequence."""
    return jax.device_get(run(sharp, tiny_config))


def steps_of(lengths, slots):
    """Steps of a queue whose next sequence starts in the slot that is free first."""
    free = [0] * slots
    for n in lengths.tolist():
        heapq.heapreplace(free, free[0] + n)
    return max(free)


@pytest.mark.parametrize(("options", "slots"), [(PLAIN, 3), (FILTERED, 7)], ids=["plain", "filtered"])
def test_logprobs_equal_the_trainers(sharp, tiny_config, options, slots):
    """Every token of every sequence, from any slot and step; this also checks that cached decoding equals forward."""
    samples = jax.device_get(run(sharp, tiny_config, slots=slots, **options))
    for i, n in enumerate(samples.lengths):
        want = teacher_forced(sharp, tiny_config, PROMPTS[i // GROUP], samples.tokens[i, :n], options["temperature"])
        np.testing.assert_allclose(samples.logprobs[i, :n], want, atol=2e-5)
        drawn = samples.sampling_logprobs[i, :n]
        if "top_p" in options:  # renormalising over fewer tokens can only raise
            assert (drawn >= samples.logprobs[i, :n] - 1e-6).all() and (drawn > samples.logprobs[i, :n] + 1e-3).any()
        else:
            np.testing.assert_array_equal(drawn, samples.logprobs[i, :n])


@pytest.mark.parametrize(("options", "numbers"), [(PLAIN, (1, 3)), (FILTERED, (7,))], ids=["plain", "filtered"])
def test_a_sample_does_not_depend_on_slots(sharp, tiny_config, options, numbers):
    everything = jax.device_get(run(sharp, tiny_config, **options))
    for slots in numbers:
        again = jax.device_get(run(sharp, tiny_config, slots=slots, **options))
        np.testing.assert_array_equal(again.tokens, everything.tokens)
        np.testing.assert_array_equal(again.lengths, everything.lengths)
        np.testing.assert_array_equal(again.finish, everything.finish)
        np.testing.assert_allclose(again.logprobs, everything.logprobs, atol=1e-5)


def test_a_sample_does_not_depend_on_the_loops_it_goes_through(sharp, tiny_config):
    """Sequences still live when the queue is empty move to fewer slots; the limits include some of each prompt."""
    sampling = Sampling(max_tokens=20, **PLAIN)
    queue = make_queue(PROMPTS, tiny_config, sampling, GROUP, LIMITS[::-1])
    one, several = (
        jax.device_get(sample_queue(sharp, queue, jax.random.key(1), tiny_config, sampling, ENDS, widths))
        for widths in ((12,), (8, 3, 2))
    )
    np.testing.assert_array_equal(one.tokens, several.tokens)
    np.testing.assert_array_equal(one.lengths, several.lengths)
    np.testing.assert_array_equal(one.finish, several.finish)
    np.testing.assert_allclose(one.logprobs, several.logprobs, atol=1e-5)
    assert one.steps == max(one.lengths) and several.steps == steps_of(several.lengths, 8)


def test_loops_narrow_by_quarters():
    assert phases(512) == (512, 128, 32) and phases(127) == (127,) and phases(128) == (128, 32) and phases(1) == (1,)
    assert phases(1024, 4) == (1024, 256) and phases(136, 8) == (136,)  # as many on each device


@pytest.mark.parametrize(("mesh", "slots"), [("4x2", 5), ("1x8", 8)])
def test_a_sample_does_not_depend_on_the_mesh(sharp, tiny_config, whole, mesh, slots):
    """Nor does it depend on the number of slots, which is the same for each device of the data axis.

    Another test has meshes with the data axis alone.
    """
    mesh = make_mesh(mesh)
    with jax.set_mesh(mesh):
        spread = place(jax.device_get(sharp), param_shardings(param_specs(tiny_config), mesh))
        together = jax.device_get(run(spread, tiny_config, slots=slots))
    np.testing.assert_array_equal(whole.tokens, together.tokens)
    np.testing.assert_allclose(whole.logprobs, together.logprobs, atol=1e-5)


def test_biases_of_the_feed_forward_block_count_in_decoding(tiny_config):
    """A mesh that splits gate and up, against the trainer's log-probabilities without a mesh."""
    config = dataclasses.replace(tiny_config, mlp_bias=True, num_layers=1)
    specs, mesh = param_specs(config), make_mesh("1x2")
    rng = np.random.default_rng(0)
    params = map_specs(lambda spec: rng.normal(0, 0.3, spec.shape).astype(np.float32), specs)
    with jax.set_mesh(mesh):
        spread = place(params, param_shardings(specs, mesh))
        samples = sample(spread, [[1, 2, 3]], config, jax.random.key(1), sampling=Sampling(max_tokens=6), end_tokens=())
    want = teacher_forced(params, config, [1, 2, 3], samples.tokens[0].tolist(), 1.0)
    np.testing.assert_allclose(samples.logprobs[0], want, atol=2e-5)


def test_a_batch_can_be_cut_in_two(sharp, tiny_config, whole):
    """Sequence ids, not positions in a call, determine the random numbers."""
    second = sample(
        sharp,
        PROMPTS[1:],
        tiny_config,
        jax.random.key(1),
        sampling=Sampling(max_tokens=20, **PLAIN),
        end_tokens=ENDS,
        samples_per_prompt=GROUP,
        limits=LIMITS[GROUP:],
        sequence_ids=np.arange(GROUP, 12),
    )
    np.testing.assert_array_equal(whole.tokens[GROUP:], second.tokens)
    assert not np.array_equal(whole.tokens[4], whole.tokens[5])


def test_lengths_finish_reasons_and_padding(sharp, tiny_config):
    samples = jax.device_get(run(sharp, tiny_config, slots=3))
    assert {END, LENGTH} == set(samples.finish.tolist())
    for row, n, reason, limit in zip(samples.tokens, samples.lengths, samples.finish, LIMITS, strict=True):
        ended = np.isin(row[:n], ENDS)
        assert not ended[:-1].any() and (row[n:] == 0).all()
        assert reason == (END if ended[-1] else LENGTH)
        assert n == limit if reason == LENGTH else n <= limit


def test_a_free_slot_takes_the_next_sequence_at_once(sharp, tiny_config):
    """The steps are those of a greedy schedule of the queue, not of the longest in each batch."""
    assert steps_of(np.array([12, 1, 1, 1, 1, 1, 6, 6]), 2) == 12 + 5  # slot 1 has 1 * 5, then 6, then the last 6
    samples = jax.device_get(run(sharp, tiny_config, slots=3))
    batches = samples.lengths.reshape(4, 3).max(axis=1).sum()
    assert samples.steps == steps_of(samples.lengths, 3) < batches


def test_greedy_equals_repeated_forward(sharp, tiny_config):
    next_logits = jax.jit(forward, static_argnums=2)
    samples = run(sharp, tiny_config, temperature=0.0)
    for i in (0, 4, 8):
        tokens = list(PROMPTS[i // GROUP])
        for _ in range(int(samples.lengths[i])):
            logits = next_logits(sharp, padded(tokens), tiny_config)
            tokens.append(int(logits[0, len(tokens) - 1].argmax()))
        assert samples.tokens[i, : samples.lengths[i]].tolist() == tokens[len(PROMPTS[i // GROUP]) :]


def test_long_outputs_walk_the_ring_in_chunks(sharp, tiny_config, monkeypatch):
    """With chunks of 4, the ring of 20 is processed in 5 chunks; nothing else may change."""
    plain = jax.device_get(run(sharp, tiny_config, slots=3))
    monkeypatch.setattr(decode_attention, "RING_CHUNK", 4)
    # The chunk is a constant of the compiled program, and an equal config would find the one with a chunk of 512.
    other = dataclasses.replace(tiny_config, context_length=tiny_config.context_length + 1)
    walked = jax.device_get(run(sharp, other, slots=3))
    np.testing.assert_array_equal(walked.tokens, plain.tokens)
    np.testing.assert_allclose(walked.logprobs, plain.logprobs, atol=1e-5)


def test_random_words_use_all_bits_and_differ_by_sequence_and_position():
    ids, positions = jnp.repeat(jnp.arange(20), 20), jnp.tile(jnp.arange(20), 20)
    words = np.asarray(random_words(jax.random.key(0), ids, positions))
    assert words.dtype == np.uint32 and len(np.unique(words)) == words.size
    ones = [(words >> bit & 1).mean() for bit in range(32)]
    assert max(abs(share - 0.5) for share in ones) < 0.1  # of 800, over 5 standard deviations


def test_devices_have_device_queues_where_prompts_split_evenly(sharp, tiny_config):
    """More sequences than slots, of unequal lengths: each device refills its slots, with the samples of one device."""
    prompts = [[1 + i, 5, 9][: 1 + i % 3] for i in range(8)]
    sampling = Sampling(max_tokens=12, slots=8)
    limits = np.random.default_rng(0).integers(1, 13, 24)
    queue = make_queue(prompts, tiny_config, sampling, 3, limits)
    arguments = (tiny_config, sampling, ENDS, phases(8))
    alone = jax.device_get(sample_queue(sharp, queue, jax.random.key(1), *arguments))
    for mesh in (make_mesh("8x1"), make_mesh("2x1")):
        with jax.set_mesh(mesh):
            assert device_queues(8, 24) == mesh.shape["data"]
            spread = place(jax.device_get(sharp), param_shardings(param_specs(tiny_config), mesh))
            program = sample_queue.lower(spread, queue, jax.random.key(1), *arguments).compile()
            found = jax.device_get(program(spread, queue, jax.random.key(1)))
        for name in ("tokens", "lengths", "finish"):
            np.testing.assert_array_equal(getattr(found, name), getattr(alone, name))
        np.testing.assert_allclose(found.logprobs, alone.logprobs, atol=1e-5)
        loops = re.findall(r"^%?\S*region\S* .*?^}", program.as_text(), re.MULTILINE | re.DOTALL)
        assert loops and not any("all-" in loop or "collective-permute" in loop for loop in loops)


@pytest.mark.parametrize(
    ("mesh", "prompts", "sequences"), [("1x8", 8, 8), ("4x2", 8, 8), ("8x1", 9, 9), ("8x1", 8, 12)]
)
def test_otherwise_devices_share_one_queue(mesh, prompts, sequences):
    with jax.set_mesh(make_mesh(mesh)):
        assert device_queues(prompts, sequences) == 1
    assert device_queues(8, 8) == 1


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([[]], {}, "at least one token"),
        ([[1] * 50], {}, "context is 64"),
        ([[1]], {"limits": [21]}, "outside 1..20"),
        ([[1]], {"limits": [1, 2]}, "one entry"),
    ],
)
def test_impossible_requests_are_refused(tiny_params, tiny_config, prompts, options, message):
    with pytest.raises(UserError, match=message):
        sample(
            tiny_params,
            prompts,
            tiny_config,
            jax.random.key(0),
            sampling=Sampling(max_tokens=20),
            end_tokens=(),
            **options,
        )


@pytest.mark.parametrize(
    "options", [{}, {"mlp_bias": True, "qk_norm": True, "tie_embeddings": False}], ids=["", "more"]
)
def test_stored_weights_give_the_same_samples(tiny_config, options):
    """Weights that each step splits, against those that are joined before the loop."""
    config = dataclasses.replace(tiny_config, num_layers=1, attention_bias=True, **options)
    rng = np.random.default_rng(0)
    params = map_specs(lambda spec: rng.normal(0, 0.3, spec.shape).astype(np.float32), param_specs(config))
    copied, stored = (
        sample(
            params,
            PROMPTS,
            dataclasses.replace(config, decoding_weights=where),
            jax.random.key(1),
            sampling=Sampling(max_tokens=6),
            end_tokens=(),
        )
        for where in ("copied", "stored")
    )
    np.testing.assert_array_equal(stored.tokens, copied.tokens)
    np.testing.assert_allclose(stored.logprobs, copied.logprobs, atol=1e-5)
