"""Updates of packed sequences, against those of a sequence in each row."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.algorithms.grpo import GRPO
from r1jax.benchmark.programs import program_times
from r1jax.errors import UserError
from r1jax.models.transformer import param_specs
from r1jax.rl.batch import build_batch, minibatches, planned
from r1jax.rl.config import RLConfig, check_parts
from r1jax.rl.logprobs import batch_logprobs
from r1jax.rl.packing import packed_rows, part_of, places, plan
from r1jax.rl.state import RLState
from r1jax.rl.step import learn
from r1jax.sampling.slots import Samples
from r1jax.sharding import make_mesh, param_shardings, place
from tests.helpers.training import fresh
from tests.models.helpers import experts_alone
from tests.rl.helpers import close, setup_of

LONGEST = 24  # of a prompt and its completion
LENGTHS = np.array([19, 1, 4, 6, 2, 9, 3, 3, 12, 1, 5, 2, 7, 2, 4, 3])
PROMPTS = [list(range(1, 2 + i % 4)) for i in range(16)]


def batch_of(pack, counts=None, prompts=PROMPTS, lengths=LENGTHS, longest=LONGEST):
    rng, shape = np.random.default_rng(0), (len(lengths), max(lengths))
    values = -rng.random(shape, np.float32)
    tokens = rng.integers(1, 97, shape, np.int32)
    samples = Samples(tokens, lengths, np.ones(len(lengths), np.int32), values, values, np.int32(max(lengths)))
    return build_batch(prompts, samples, longest, counts=counts, advantages=np.linspace(-1, 1, len(lengths)), pack=pack)


def lengths(seed, count=64, widest=60):
    rng = np.random.default_rng(seed)
    begin = rng.integers(32, 40, count)
    return begin, begin + np.minimum(rng.integers(1, 20, count) ** 2 // 8, widest)


@pytest.mark.parametrize(("microbatch", "devices", "rows"), [(64, 1, 16), (2, 1, 2), (64, 2, 8), (8, 4, 2)])
def test_a_plan_lays_whole_sequences_side_by_side(microbatch, devices, rows):
    begin, end = lengths(microbatch + devices)
    order, packing = plan(begin, end, 100, microbatch, devices)
    size, room = 64 // devices, packing.rows * 100
    assert sorted(order) == list(range(64)) and packing.rows == rows
    np.testing.assert_array_equal((packing.begin, packing.end), (begin[order], end[order]))
    taken = np.zeros((devices, packing.members.shape[1], room), int)
    sampled = np.zeros(taken.shape[:2], int)
    for d in range(devices):
        assert sorted(packing.members[d][packing.members[d] < size]) == list(range(size))  # each in one part
        for p, members in enumerate(packing.members[d]):
            for b in d * size + members[members < size]:
                at, length = packing.start[b], packing.end[b]
                assert at // 100 == (at + length - 1) // 100  # in one row
                taken[d, p, at : at + length] += 1
                sampled[d, p] += packing.end[b] - packing.begin[b]
    assert taken.max() == 1 and taken.sum() == end.sum()
    assert taken[:, : packing.parts].any(axis=(0, 2)).all() and not taken[:, packing.parts :].any()
    # Room for completions is an eighth too much at most, and rows are nearly full.
    assert sampled.max() <= packing.completions < sampled.max() + -(-room // 8)
    assert packing.parts < 1.25 * taken.sum(axis=(1, 2)).max() / room + 1


def test_devices_and_parts_have_about_the_same_number_of_tokens():
    begin, end = lengths(5, 256)
    _, packing = plan(begin, end, 100, 32, 4)
    assert np.ptp(packing.end.reshape(4, 64).sum(axis=1)) <= end.max()
    found = np.pad((packing.end - packing.begin).reshape(4, 64), ((0, 0), (0, 1)))  # 0 where there is no sequence
    sampled = [[found[d][part].sum() for part in packing.members[d, : packing.parts]] for d in range(4)]
    assert np.max(sampled) < 1.25 * np.mean(sampled)


def test_a_part_has_room_for_the_completions_of_every_device():
    for seed in range(40):
        begin, end = lengths(seed)
        _, packing = plan(begin, end, 100, 8, 4)
        found = np.pad((packing.end - packing.begin).reshape(4, 16), ((0, 0), (0, 1)))
        most = max(found[d][packing.members[d]].sum(axis=1).max() for d in range(4))
        assert most <= packing.completions < most + 25  # 25: an eighth of a part's positions


def test_other_lengths_change_the_number_of_parts_and_not_the_program():
    begin, end = np.zeros(256, int), np.random.default_rng(0).integers(10, 30, 256)
    one, other = (plan(begin, end - less, 100, 8, 2)[1] for less in (0, 5))
    assert one.parts > other.parts
    shapes = [jax.tree.map(jnp.shape, packing) for packing in (one, other)]
    assert shapes[0] == shapes[1]  # with the static numbers of rows and tokens


def test_a_part_has_at_most_so_many_sequences():
    """Though a row would have room for all of them."""
    _, packing = plan(np.zeros(4096, int), np.ones(4096, int), 4096, 64, 1)
    assert (packing.rows, packing.parts) == (4, 4) and (packing.members[0, :4] < 4096).all()
    assert packing.members.shape[2] == 1024


@pytest.mark.parametrize("median", [20, 150])
def test_rows_are_nearly_full_if_a_few_sequences_are_very_long(median):
    end = np.clip(np.random.default_rng(0).lognormal(np.log(median), 1.2, 512), 1, 8191).astype(int)
    end[:4] = 8000
    _, packing = plan(np.zeros(512, int), end, 8192, 64, 1)
    assert packing.parts * packing.rows * 8192 < 1.3 * end.sum() + packing.rows * 8192


@pytest.mark.parametrize(
    ("sequences", "width", "microbatch", "rows"),
    [(256, 4096, 256, 4), (64, 1000, 64, 5), (64, 100, 64, 16), (1024, 100, 1024, 64), (1024, 100, 8, 8)],
    ids=["most positions", "least positions", "least parts", "most parts", "microbatch"],
)
def test_the_limits_of_the_rows_of_a_part(sequences, width, microbatch, rows):
    assert plan(np.zeros(sequences, int), np.full(sequences, 10), width, microbatch, 1)[1].rows == rows


def test_a_plan_that_saves_no_row_is_none():
    assert plan(np.full(8, 3), np.full(8, 20), 23, 4, 1) is None
    assert plan(np.full(8, 3), np.full(8, 11), 23, 4, 1) is not None


def test_rows_hold_the_tokens_and_the_number_of_their_sequence():
    order, packing = plan(np.array([0, 0, 0, 0]), np.array([2, 5, 3, 1]), 6, 4, 1)
    np.testing.assert_array_equal(order, [1, 2, 0, 3])
    tokens = jnp.arange(24, dtype=jnp.int32).reshape(4, 6)[order]
    found = []
    for p in range(int(packing.parts)):
        rows, part = part_of(jax.tree.map(jnp.asarray, packing), tokens, p)
        found.append(packed_rows(rows, part, places(part, 6)))
    np.testing.assert_array_equal(
        np.concatenate([rows for rows, _ in found]), [[6, 7, 8, 9, 10, 18], [12, 13, 14, 0, 1, 0]]
    )
    np.testing.assert_array_equal(
        np.concatenate([segments for _, segments in found]), [[1, 1, 1, 1, 1, 2], [1, 1, 1, 2, 2, 0]]
    )


@pytest.mark.parametrize(("mesh", "gather"), [("1x1", "auto"), ("2x2", "auto"), ("2x1", "device")])
def test_log_probabilities_are_those_of_single_rows(tiny_params, tiny_config, mesh, gather):
    whole = batch_of(False)
    want = batch_logprobs(tiny_params, whole.tokens, tiny_config, 0.8, 1, 16)
    tiny_config = dataclasses.replace(tiny_config, gather=gather)
    with jax.set_mesh(make_mesh(mesh)):
        params = place(jax.device_get(tiny_params), param_shardings(param_specs(tiny_config), make_mesh(mesh)))
        batch = batch_of(True)
        packed = planned(np.asarray(batch.spans), batch.mask.shape[1], 8)
        assert packed is not None and 1 < packed[1].parts < packed[1].members.shape[1]
        got = batch_logprobs(params, batch.tokens, tiny_config, 0.8, 2, 16, 0, None, packed)
        got, single = np.asarray(got), batch_logprobs(params, batch.tokens, tiny_config, 0.8, 2, 16)
    np.testing.assert_allclose(single, want, atol=1e-5)
    np.testing.assert_allclose(got, np.where(whole.mask, want, 0), atol=1e-5)
    assert np.abs(got).max() > 1


@pytest.mark.parametrize(
    ("mesh", "gather", "settings"),
    [
        ("1x1", "auto", {"microbatch": 8}),
        ("2x1", "auto", {"minibatches": 2, "inner_epochs": 2, "microbatch": 4}),
        ("2x1", "device", {"minibatches": 2, "microbatch": 4}),
    ],
)
def test_updates_are_those_of_single_rows(tiny_params, tiny_config, mesh, gather, settings):
    """With a KL divergence, so with the log-probabilities of a reference, and with sequences that do not count."""
    counts = np.arange(16) % 5 > 0
    results = []
    for pack, name in ((False, "1x1"), (True, mesh)):
        config = RLConfig(prompts=4, group=4, pack=pack, algorithm=GRPO(beta=0.1, entropy=0.01), **settings)
        mesh, model = make_mesh(name), dataclasses.replace(tiny_config, gather=gather)
        with jax.set_mesh(mesh):
            reference = place(jax.device_get(tiny_params), param_shardings(param_specs(model), mesh))
            policy, optimizer, _ = fresh(reference, model, mesh=mesh)
            setup, state = setup_of(config, optimizer, model), RLState(policy, reference, {})
            state, metrics, _ = learn(state, batch_of(pack, counts), jax.random.key(1), setup)
            results.append((jax.device_get(state.policy.params), metrics))
    (single, metrics), (packed, packed_metrics) = results
    close(single, packed, atol=2e-6)
    assert packed_metrics == pytest.approx(metrics, rel=1e-4, abs=1e-6)
    moved = max(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (single, tiny_params)), strict=True))
    assert moved > 1e-4


def test_batches_of_other_lengths_have_the_same_programs(tiny_params, tiny_config):
    """Also if the shortest prompt is another, which programs without packing depend on."""
    policy, optimizer, _ = fresh(tiny_params, tiny_config)
    config = RLConfig(prompts=4, group=8, pack=True, microbatch=4, algorithm=GRPO(beta=0.1))
    model = dataclasses.replace(tiny_config, context_length=160)
    setup, state = setup_of(config, optimizer, model), RLState(policy, tiny_params, {})
    with program_times() as times:
        for shortest in (2, 34):
            prompts = [[1] * shortest, *[[1] * 34] * 31]
            lengths = np.append(np.random.default_rng(shortest).integers(1, 30, 31), 120)
            batch = batch_of(True, prompts=prompts, lengths=lengths, longest=160)
            assert batch.first == shortest // 33 * 32
            (part,) = minibatches(batch, jax.random.key(0), 1, config.microbatch_size)
            assert part.packing.rows == 4
            state, _, _ = learn(state, batch, jax.random.key(1), setup)
    compiled = {row["name"]: row["number"] for row in times.figures()["programs"]}
    assert compiled["update"] == compiled["batch_logprobs"] == 1


def test_minibatches_have_the_same_sequences_with_and_without_packing():
    key = jax.random.key(4)
    plain, packed = (minibatches(batch_of(pack), key, 2, 4) for pack in (False, True))
    for one, other in zip(plain, packed, strict=True):
        assert other.packing is not None and one.packing is None
        assert {*map(tuple, np.asarray(one.tokens))} == {*map(tuple, np.asarray(other.tokens))}


def test_models_with_experts_are_refused(tiny_config):
    check_parts(RLConfig(pack=True), tiny_config)
    with pytest.raises(UserError, match=r"rl\.pack: not for a model with experts"):
        check_parts(RLConfig(pack=True), experts_alone(tiny_config))
