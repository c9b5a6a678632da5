"""The draft that looks up tokens in the texts of a group: its proposals, and samples that are those without it."""

import dataclasses

import jax
import numpy as np
import pytest

from r1jax.errors import UserError
from r1jax.models.transformer import param_specs
from r1jax.sampling.memory import Level, Request, phases, slot_bytes
from r1jax.sampling.ngram import LONGEST, continuations, texts_of
from r1jax.sampling.processors import Sampling
from r1jax.sampling.queues import make_queue
from r1jax.sampling.sampler import sample, sample_in_levels
from r1jax.sampling.slots import NONE
from r1jax.sharding import make_mesh, param_shardings, place
from tests.helpers.latent import sharp_params

PROMPTS = [[1, 2, 3, 1, 2], [5], [7, 8, 9, 10, 11, 7, 8], [4, 4]]
GROUP, ENDS, PROPOSALS = 3, (3,), 3
LIMITS = [24] * 8 + [15, 5, 24, 1]


def equal_tokens(text, end, own):
    """How many tokens before ``end`` are the last ones of ``own``."""
    n = 0
    while n < min(LONGEST, end, len(own)) and text[end - 1 - n] == own[len(own) - 1 - n]:
        n += 1
    return n


def looked_up(texts, mine, number):
    """The proposals for the text of number ``mine``."""
    places = [
        (equal_tokens(text, end, texts[mine]), i == mine, i, end)
        for i, text in enumerate(texts)
        for end in range(1, len(text))
    ]
    found, _, i, end = max(places, default=(0, True, 0, 0))
    return texts[i][end : end + number] if found else []


@pytest.mark.parametrize("seed", range(3))
def test_proposals_follow_the_best_place(tiny_config, seed):
    rng = np.random.default_rng(seed)
    queue = make_queue(PROMPTS, tiny_config, Sampling(max_tokens=9), GROUP)
    tokens, lengths = rng.integers(0, 4, (12, 9)), rng.integers(0, 10, 12)
    row = rng.permutation(12)[:7]
    texts = [[*PROMPTS[i // GROUP], *tokens[i, :n]] for i, n in enumerate(lengths)]
    found = jax.jit(lambda *x: continuations(texts_of(*x), PROPOSALS))(queue, row, tokens, lengths)
    for i, proposed in zip(row, found, strict=True):
        first = i // GROUP * GROUP
        want = looked_up(texts[first : first + GROUP], i - first, PROPOSALS)
        assert proposed.tolist() == want + [NONE] * (PROPOSALS - len(want))


@pytest.fixture(scope="module")
def model(tiny_config):
    config = dataclasses.replace(tiny_config, num_layers=1, vocab_size=16)
    return sharp_params(config), config


def draw(model, mesh=None, **options):
    params, config = model
    options = {"sampling": Sampling(max_tokens=24, temperature=0.4, **options), "limits": LIMITS}
    options |= {"end_tokens": ENDS, "samples_per_prompt": GROUP}
    if mesh is None:
        return jax.device_get(sample(params, PROMPTS, config, jax.random.key(1), **options))
    with jax.set_mesh(make_mesh(mesh)):
        spread = place(jax.device_get(params), param_shardings(param_specs(config), jax.sharding.get_mesh()))
        return jax.device_get(sample(spread, PROMPTS, config, jax.random.key(1), **options))


@pytest.fixture(scope="module")
def plain(model):
    return draw(model)


def check(got, plain):
    for name in ("tokens", "lengths", "finish"):
        np.testing.assert_array_equal(getattr(got, name), getattr(plain, name))
    np.testing.assert_allclose(got.logprobs, plain.logprobs, atol=1e-5)
    np.testing.assert_allclose(got.sampling_logprobs, plain.sampling_logprobs, atol=1e-5)


def test_samples_are_the_same_and_proposals_are_those_of_the_texts_so_far(model, plain):
    """A slot for each sequence, and a queue for each of two devices: the steps can be repeated on the host."""
    got = draw(model, "2x1", draft="ngram", draft_tokens=PROPOSALS)
    check(got, plain)
    age, proposed, accepted = (np.zeros(12, int) for _ in range(3))
    known = [list(PROMPTS[i // GROUP]) for i in range(12)]
    steps = 0
    while (age < got.lengths).any():
        steps += 1
        before = [list(text) for text in known]
        for i in np.flatnonzero(age < got.lengths):
            first = i // GROUP * GROUP
            # The first token of a sequence has no proposals.
            guess = looked_up(before[first : first + GROUP], i - first, PROPOSALS) if age[i] else []
            rest = got.tokens[i, age[i] : got.lengths[i]].tolist()
            right = next((k for k, (a, b) in enumerate(zip(guess, rest, strict=False)) if a != b), len(guess))
            proposed[i], accepted[i] = proposed[i] + len(guess), accepted[i] + right
            number = min(right + 1, len(rest))
            known[i] += rest[:number]
            age[i] += number
    assert accepted.sum() > 10 and steps == got.steps < plain.steps == 24
    np.testing.assert_array_equal(got.proposed, proposed)
    over = got.accepted - accepted  # proposals after the end of a sequence may be equal to tokens that are not drawn
    assert ((over >= 0) & (over <= PROPOSALS)).all()


def test_proposals_start_when_few_sequences_are_left(model, plain):
    """Five slots that are refilled, then a loop with two, to which rings of the first move."""
    got = draw(model, slots=5, draft="ngram", draft_slots=2, draft_tokens=2)
    check(got, plain)
    assert 0 < (got.proposed > 0).sum() <= 2 and got.accepted.sum() > 0


@pytest.mark.parametrize("mesh", ["2x1", "2x2"])
def test_proposals_start_with_a_level_of_few_slots_and_anew_after_a_restart(model, plain, mesh):
    """Rings of sequences that began at different steps move to caches of six slots; those sent back have rings."""
    params, config = model
    limits = np.array(LIMITS)
    limits[[0, 3, 6]] = 3, 4, 3
    sampling = Sampling(max_tokens=24, temperature=0.4, draft="ngram", draft_slots=3, draft_tokens=2)
    levels, loops = (Level(8, 8), Level(6, 16), Level(2, 24)), []
    mesh = make_mesh(mesh)
    with jax.set_mesh(mesh):
        spread = place(jax.device_get(params), param_shardings(param_specs(config), mesh))
        queue = make_queue(PROMPTS, config, sampling, GROUP, limits)
        key = jax.random.key(1)
        got = jax.device_get(sample_in_levels(spread, queue, key, config, sampling, ENDS, levels, ended=loops.append))
    drawn = np.arange(24) < np.minimum(plain.lengths, limits)[:, None]
    same = {name: getattr(plain, name) * drawn for name in ("tokens", "logprobs", "sampling_logprobs")}
    check(got, dataclasses.replace(plain, lengths=drawn.sum(axis=1), finish=got.finish, **same))
    slots = [loop.slots for loop in loops]
    assert slots[:2] == [8, 6] and 8 in slots[2:]
    assert got.accepted.sum() > 5 and (got.accepted <= got.proposed).all()
    assert (got.proposed[got.lengths < 5] == 0).all()


def test_a_loop_is_as_narrow_as_the_draft_needs():
    ngram = Sampling(draft="ngram", draft_slots=20)
    assert phases(512, 1, ngram) == (512, 128, 32, 20) and phases(60, 2, ngram) == (60, 40)
    assert phases(8, 1, ngram) == (8,)
    assert phases(512, 1, Sampling(draft="ngram", draft_slots=100)) == (512, 128, 100, 32)
    assert phases(512, 1, Sampling(draft_slots=20)) == (512, 128, 32)


def test_the_estimate_counts_proposed_tokens_of_the_last_loop_alone(model):
    params, config = model

    def logits(slots, **options):
        return slot_bytes(Request(config, Sampling(max_tokens=600, **options), params, 1, 4, 8), slots)["logits"]

    draft = {"draft": "ngram", "draft_tokens": 3, "draft_slots": 10}
    assert logits(8, **draft) == 4 * logits(8)
    assert logits(30, **draft) == logits(40) and logits(50, **draft) == logits(50)


@pytest.mark.parametrize("name", ["draft_tokens", "draft_slots"])
def test_impossible_settings_are_refused(name):
    with pytest.raises(UserError, match=f"{name.replace('_', '-')} 0 must be at least 1"):
        Sampling(**{name: 0})
