"""Rings that grow: the same samples as with rings for the longest completion, whatever memory allows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.errors import UserError
from r1jax.models.cache import Prefix, init_ring
from r1jax.models.shapes import SHAPES
from r1jax.models.transformer import param_specs
from r1jax.sampling import memory, sampler
from r1jax.sampling.levels import _move_layer, fewer_slots, refills, run_level, slots_of_queue
from r1jax.sampling.memory import Level, Request, choose_levels, choose_slots, fixed_bytes, ring_lengths, slot_bytes
from r1jax.sampling.processors import Sampling
from r1jax.sampling.queues import make_queue
from r1jax.sampling.sampler import sample, sample_in_levels, sample_queue
from r1jax.sampling.slots import start
from r1jax.sharding import make_mesh, param_shapes, param_shardings, place

PROMPTS = [[1, 2, 3], [5], [7, 8, 9, 10, 11], [4, 4]]
GROUP = 3
LIMITS = [20, 11, 3] * 3 + [20, 20, 19]
SAMPLING = Sampling(max_tokens=20, temperature=0.6)
ENDS = (3, 50)
AMPLE = Level(12, 8), Level(12, 16), Level(12, 20)
SCARCE = Level(8, 8), Level(4, 16), Level(1, 20)


@pytest.fixture(scope="module")
def sharp(tiny_params):
    return jax.tree.map(lambda w: jax.device_put(w * 8 if w.ndim > 2 else w), jax.device_get(tiny_params))


def drawn(params, config, levels):
    queue = make_queue(PROMPTS, config, SAMPLING, GROUP, LIMITS)
    return jax.device_get(sample_in_levels(params, queue, jax.random.key(1), config, SAMPLING, ENDS, levels))


@pytest.fixture(scope="module")
def whole(sharp, tiny_config):
    """Samples with rings for the longest completion."""
    queue = make_queue(PROMPTS, tiny_config, SAMPLING, GROUP, LIMITS)
    # With the same arguments as from ``sample``, which one test calls, so that both use one compiled program.
    return jax.device_get(sample_queue(sharp, queue, jax.random.key(1), tiny_config, SAMPLING, ENDS, (12,), False))


def assert_same(found, wanted):
    for name in ("tokens", "lengths", "finish"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    for name in ("logprobs", "sampling_logprobs"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), atol=1e-5)


def test_rings_that_grow_give_the_same_samples_in_as_many_steps(sharp, tiny_config, whole):
    found = drawn(sharp, tiny_config, AMPLE)
    assert_same(found, whole)
    assert found.steps == whole.steps == whole.lengths.max() == 20


def test_sequences_without_room_start_again_and_none_is_lost(sharp, tiny_config, whole):
    """More than four sequences outlive the rings of 8, and more than one those of 16, where no slot takes another."""
    assert [refills(SCARCE, at) for at in range(3)] == [True, True, False]
    assert (whole.lengths > 8).sum() > 4 and (whole.lengths > 16).sum() > 1
    found = drawn(sharp, tiny_config, SCARCE)
    assert_same(found, whole)
    assert found.steps > 20


@pytest.mark.parametrize(("mesh", "levels"), [("2x1", (SCARCE[0], Level(4, 20))), ("2x2", AMPLE[1:])])
def test_levels_on_a_mesh(sharp, tiny_config, whole, mesh, levels):
    """A queue on each device of 2x1, and one for each two devices of 2x2."""
    mesh = make_mesh(mesh)
    with jax.set_mesh(mesh):
        spread = place(jax.device_get(sharp), param_shardings(param_specs(tiny_config), mesh))
        assert_same(drawn(spread, tiny_config, levels), whole)


def test_sample_takes_the_levels_that_fit(sharp, tiny_config, whole, monkeypatch):
    monkeypatch.setattr(memory, "SHORTEST", 8)
    taken = []
    monkeypatch.setattr(sampler, "sample_in_levels", lambda *args: taken.append(args[6]) or whole)
    options = {"sampling": SAMPLING, "end_tokens": ENDS, "samples_per_prompt": GROUP, "limits": LIMITS}
    sample(sharp, PROMPTS, tiny_config, jax.random.key(1), **options)
    assert taken == [AMPLE]
    monkeypatch.setattr(memory, "SHORTEST", 20)
    assert_same(jax.device_get(sample(sharp, PROMPTS, tiny_config, jax.random.key(1), **options)), whole)
    assert len(taken) == 1


def test_longer_rings_keep_the_entries_of_the_last_steps():
    """Entries that are numbers of steps: after 11 steps a ring of 4 has steps 7 to 10, each at its place modulo 6."""
    queue = make_queue([[1], [2]], SHAPES["tiny"], Sampling(max_tokens=4))
    ring = jnp.array([8, 9, 10, 7])[None, :, None] + jnp.array([0, 100, 200])[:, None, None]
    found = _move_layer((ring,), jnp.array([2, 0]), jnp.int32(11), queue, 6, True)[0]
    assert found.shape == (2, 6, 1)
    for step in range(7, 11):
        assert found[:, step % 6, 0].tolist() == [200 + step, step]


def test_rings_become_caches_of_slots():
    """The rings above, of whose entries the last three and the last one belong to the sequences of two slots."""
    queue = make_queue([[1], [2]], SHAPES["tiny"], Sampling(max_tokens=4))
    ring = jnp.array([8, 9, 10, 7])[None, :, None] + jnp.array([0, 100, 200])[:, None, None]
    found = _move_layer((ring,), jnp.array([2, 0]), jnp.int32(11), queue, 6, True, jnp.array([3, 1]))[0]
    assert found.shape == (2, 6, 1)
    assert found[0, :3, 0].tolist() == [208, 209, 210] and found[1, 0, 0] == 10


def test_longer_slot_caches_have_the_entries_in_place():
    queue = make_queue([[1], [2]], SHAPES["tiny"], Sampling(max_tokens=4))
    cached = jnp.arange(12).reshape(3, 4, 1)
    found = _move_layer((cached,), jnp.array([2, 0]), jnp.int32(11), queue, 6, False)[0]
    assert found[..., 0].tolist() == [[8, 9, 10, 11, 0, 0], [0, 1, 2, 3, 0, 0]]


@pytest.mark.parametrize("proposals", [0, 1])
def test_a_loop_ends_before_a_ring_is_too_short(tiny_config, proposals):
    """A step that writes one entry runs until 8 are full; one that writes two stops when only one is free."""
    sampling = Sampling(max_tokens=20)
    queue = make_queue([[1], [2], [3]], tiny_config, sampling)
    cache = init_ring(2, 8, tiny_config)
    state = start(queue, Prefix(()), cache, tiny_config, sampling, 2, proposals)
    state = dataclasses.replace(state, age=jnp.array([0, 3]))

    def step(state):
        return dataclasses.replace(state, age=state.age + 1, step=state.step + 1)

    found, numbers = jax.jit(lambda state: run_level(step, state, 0, False, True))(state)
    assert found.age.tolist() == [5 - proposals, 8 - proposals] and numbers[0].tolist() == [2, 1, 1, 5 - proposals]


def test_slots_are_powers_of_two_that_suffice():
    level = Level(96, 8)
    assert [slots_of_queue(level, n, 1) for n in (1, 8, 9, 64, 65, 500)] == [8, 8, 16, 64, 96, 96]
    assert slots_of_queue(Level(5, 8), 1, 1) == 5
    assert [fewer_slots(n, 1) for n in (1, 8, 15, 16, 63, 64, 96, 512)] == [0, 0, 0, 8, 8, 16, 16, 128]
    with jax.set_mesh(make_mesh("4x2")):  # as many on each of four devices
        assert [slots_of_queue(level, n, 1) for n in (1, 32, 33, 500)] == [32, 32, 64, 96]
        assert [slots_of_queue(level, n, 4) for n in (1, 9, 500)] == [8, 16, 24]
        assert [fewer_slots(n, 1) for n in (32, 64, 256)] == [0, 32, 64]


def test_lengths_double():
    assert ring_lengths(2048) == (2048,) and ring_lengths(1) == (1,)
    assert ring_lengths(2049) == (2048, 2049)
    assert ring_lengths(32_768) == (2048, 4096, 8192, 16_384, 32_768)
    assert ring_lengths(20_000) == (2048, 4096, 8192, 16_384, 20_000)


def test_all_sequences_start_where_few_could_end():
    """The 1.5B in bfloat16, 64 sequences of up to 32,768 tokens: 28,672 bytes a token, with 24 GiB free."""
    config = dataclasses.replace(SHAPES["qwen2.5-1.5b"], dtype="bfloat16", context_length=40_000)
    sampling = Sampling(max_tokens=32_768)
    request = Request(config, sampling, param_shapes(param_specs(config), "bfloat16"), 64, 128, 64)
    free = 24 * 2**30
    levels = choose_levels(request, free)
    assert [level.length for level in levels] == [2048, 4096, 8192, 16_384, 32_768]
    assert [level.slots for level in levels] == [64, 64, 64, 32, 16]
    left = free - sum(fixed_bytes(request).values())
    for level in levels:
        cache = level.slots * level.length * 28_672
        taken = slot_bytes(request, level.slots, level.length)
        assert cache < taken["cache"] < 1.05 * cache
        assert sum(taken.values()) < 0.8 * left
    arguments = {"prompts": 64, "width": 128, "sequences": 64, "free": free}
    assert choose_slots(config, sampling, request.params, **arguments) == 64
    fewer = dataclasses.replace(request, sampling=dataclasses.replace(sampling, slots=24))
    assert [level.slots for level in choose_levels(fewer, free)] == [24, 24, 24, 24, 16]
    with pytest.raises(UserError, match=r"with 1 slots of 32768 tokens.*lower max-tokens, or use more devices"):
        choose_levels(request, sum(fixed_bytes(request).values()) + 2**29)
