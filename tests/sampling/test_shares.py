"""Queues whose devices divide the layers of the model: the samples of one device, and what they exchange."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from r1jax.kernels import platform
from r1jax.models.config import Experts, ModelConfig
from r1jax.models.shapes import SHAPES
from r1jax.models.shares import divides
from r1jax.models.transformer import param_specs
from r1jax.sampling.head import token_of
from r1jax.sampling.memory import Level, Request, has_own_queues, slot_bytes
from r1jax.sampling.processors import Sampling, sample_token
from r1jax.sampling.queues import make_queue
from r1jax.sampling.sampler import first_level, sample, sample_in_levels, sample_queue
from r1jax.sharding import make_mesh, map_specs, param_shapes, param_shardings, place
from tests.helpers.latent import LATENT

PROMPTS = [[1, 2, 3], [5], [7, 8, 9, 10, 11], [4, 4]]
GROUP = 3
LIMITS = [12, 11, 3] * 3 + [12, 12, 1]
ENDS = (3, 50)
# Two key and value heads, of which four devices have one each twice; a block of the draw for each of four devices.
CONFIG = ModelConfig(
    vocab_size=512,
    hidden_size=32,
    intermediate_size=64,
    num_layers=2,
    num_heads=8,
    num_kv_heads=2,
    head_dim=8,
    context_length=64,
    attention_bias=True,
)
# What a share must count once, normalise by itself, or read beside the layers.
MORE = dataclasses.replace(
    CONFIG, num_layers=1, output_bias=True, mlp_bias=True, qk_norm=True, tie_embeddings=False, context_length=63
)
SAMPLING = Sampling(max_tokens=12, temperature=0.6, slots=8)


def weights(config):
    rng = np.random.default_rng(0)
    return map_specs(lambda spec: rng.normal(0, 0.25, spec.shape).astype(np.float32), param_specs(config))


def on_mesh(mesh, config, draw):
    """The result of draw(params) on a mesh, or without one."""
    if not mesh:
        return jax.device_get(draw(weights(config)))
    mesh = make_mesh(mesh)
    with jax.set_mesh(mesh):
        assert has_own_queues(len(PROMPTS), len(LIMITS), config)
        return jax.device_get(draw(place(weights(config), param_shardings(param_specs(config), mesh))))


def drawn(config, mesh="", **options):
    sampling = dataclasses.replace(SAMPLING, **options)
    given = {"end_tokens": ENDS, "samples_per_prompt": GROUP, "limits": LIMITS, "sampling": sampling}
    return on_mesh(mesh, config, lambda params: sample(params, PROMPTS, config, jax.random.key(1), **given))


def check(found, wanted):
    for name in ("tokens", "lengths", "finish"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    for name in ("logprobs", "sampling_logprobs"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), atol=1e-5)


@pytest.fixture(scope="module")
def alone():
    """Twelve sequences in eight slots."""
    return drawn(CONFIG)


@pytest.mark.parametrize("mesh", ["1x2", "2x2", "2x4"])
def test_samples_are_those_of_one_device(alone, mesh):
    assert len(set(alone.lengths.tolist())) > 3 and alone.steps > 12  # slots are refilled
    check(drawn(CONFIG, mesh), alone)


def test_loops_with_fewer_slots(alone):
    """Queue and slots of one device, whose four shares have two heads twice."""
    queue = make_queue(PROMPTS, CONFIG, SAMPLING, GROUP, LIMITS)

    def draw(params):
        return sample_queue(params, queue, jax.random.key(1), CONFIG, SAMPLING, ENDS, (8, 3, 2))

    check(on_mesh("1x4", CONFIG, draw), alone)


def test_rings_that_grow(alone):
    """More sequences than slots at the second length, so that some start again."""
    queue, levels = make_queue(PROMPTS, CONFIG, SAMPLING, GROUP, LIMITS), (Level(16, 4), Level(4, 12))

    def draw(params):
        return sample_in_levels(params, queue, jax.random.key(1), CONFIG, SAMPLING, ENDS, levels)

    check(on_mesh("2x4", CONFIG, draw), alone)


def test_each_device_has_its_part_of_the_cache():
    """On 2x4, the rows of its queue, and one head of keys and values."""
    queue = make_queue(PROMPTS, CONFIG, SAMPLING, GROUP, LIMITS)
    with jax.set_mesh(make_mesh("2x4")):
        params = param_shapes(param_specs(CONFIG), "float32")
        prefix, state = jax.eval_shape(lambda *of: first_level(*of, CONFIG, SAMPLING, 8, 12), params, queue)
    for layers, rows, length in ((prefix.layers, 4, 5), (state.cache.layers, 16, 12)):
        assert [[x.shape for x in layer] for layer in layers] == [[(rows, 4, length, 8)] * 2] * 2


def test_a_draft(alone):
    found = drawn(CONFIG, "1x4", draft="ngram", draft_slots=8)
    check(found, alone)
    assert found.proposed.sum() > 0


def test_a_draft_of_multi_token_prediction():
    """Its layer is divided as those of the decoder."""
    config = dataclasses.replace(CONFIG, architecture="deepseek_v3", mtp_layers=1)
    found, wanted = (drawn(config, mesh, draft="mtp") for mesh in ("1x4", ""))
    check(found, wanted)
    assert found.accepted.sum() == wanted.accepted.sum() > 0


@pytest.mark.parametrize(("vocabulary", "where"), [(100, "copied"), (97, "stored")], ids=["not in blocks", "whole"])
def test_biases_norms_and_an_output_matrix(vocabulary, where):
    """A vocabulary whose shares have no whole blocks of the draw, and one that does not divide."""
    config = dataclasses.replace(MORE, vocab_size=vocabulary, decoding_weights=where)
    check(drawn(config, "1x4"), drawn(config))


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"top_p": 0.8, "top_k": 40}], ids=["greedy", "truncated"])
def test_draws_that_need_all_logits(options):
    config = dataclasses.replace(CONFIG, num_layers=1)
    check(drawn(config, "1x2", **options), drawn(config, **options))


@pytest.mark.parametrize("vocabulary", [512, 100, 97])
def test_devices_draw_one_token_from_states_that_differ(vocabulary):
    """Logits that differ from device to device, more than the rounding of a sum over devices."""
    config, rows, devices = ModelConfig(vocab_size=vocabulary), 64, 4
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(devices, rows, vocabulary)).astype(np.float32) * 3
    bits = rng.integers(0, 2**32, (rows, 2), np.uint32)
    width = vocabulary // devices if vocabulary % devices == 0 else vocabulary
    shares = np.stack([x[:, i * width :][:, :width] if width < vocabulary else x for i, x in enumerate(logits)])

    def on_device(share, bits):
        return [x[None] for x in token_of(share[0], bits, config, SAMPLING)]

    with jax.set_mesh(make_mesh("1x4")):
        spec = PartitionSpec("model")
        found = jax.jit(
            jax.shard_map(on_device, in_specs=(spec, PartitionSpec()), out_specs=[spec] * 3, check_vma=False)
        )(shares, bits)
    whole = np.concatenate(list(shares), axis=1) if width < vocabulary else logits[0]
    for got, want in zip(found, sample_token(jnp.asarray(whole), bits, SAMPLING), strict=True):
        assert all(np.array_equal(got[0], other) for other in got)
        np.testing.assert_allclose(got[0], want, atol=1e-5)
    assert len(set(np.asarray(found[0][0]).tolist())) > 20


def test_a_step_exchanges_two_sums_per_layer():
    """Besides: the embeddings, the block of the token, and the sums of all blocks. Weights are not exchanged."""
    queue = make_queue(PROMPTS, CONFIG, SAMPLING, GROUP, LIMITS)
    mesh = make_mesh("1x2")
    with jax.set_mesh(mesh):
        params = param_shapes(param_specs(CONFIG), "float32", mesh)
        key = jax.eval_shape(lambda: jax.random.key(0))
        text = sample_queue.lower(params, queue, key, CONFIG, SAMPLING, ENDS, (8,)).compile().as_text()
    step = [part for part in re.findall(r"^%.*?^}", text, re.MULTILINE | re.DOTALL) if "_decode_layer" in part]
    kinds = re.findall(r"= \S+ (all-\w+|collective-\w+|reduce-scatter)\(", "\n".join(step))
    assert sorted(kinds) == ["all-gather"] + ["all-reduce"] * (2 * CONFIG.num_layers + 2)


def test_kernels_run_on_each_share(monkeypatch):
    """Traced as on a GPU: the kernels of one device, for one of the two heads of keys and values."""
    monkeypatch.setattr(platform, "runs_here", lambda kernels: kernels != "mosaic")
    config = dataclasses.replace(CONFIG, dtype="bfloat16", head_dim=32, context_length=62)
    queue = make_queue(PROMPTS, config, SAMPLING, GROUP, LIMITS)
    with jax.set_mesh(make_mesh("1x2")):
        params = param_shapes(param_specs(config), "bfloat16")
        text = str(sample_queue.trace(params, queue, jax.random.key(0), config, SAMPLING, ENDS, (8,)).jaxpr)
    for kernel in ("decode_attention", "add_norm", "block_sums"):
        assert kernel in text
    assert "bf16[8,1,4,32]" in text  # queries of a share after attention


def test_which_models_are_divided():
    assert [divides(SHAPES["qwen2.5-7b"], n) for n in (1, 2, 4, 7, 8)] == [True, True, True, False, False]
    assert divides(SHAPES["qwen2.5-1.5b"], 4) and not divides(SHAPES["qwen2.5-0.5b"], 4)  # 12 and 14 heads
    assert not divides(dataclasses.replace(CONFIG, intermediate_size=66), 4)
    assert not divides(dataclasses.replace(CONFIG, num_heads=12, num_kv_heads=6), 4)  # nor 4 by 6
    assert not divides(LATENT, 2) and not divides(dataclasses.replace(CONFIG, experts=Experts()), 2)
    assert not divides(dataclasses.replace(CONFIG, qk_norm=True, qk_norm_joint=True), 2)
    for mesh, prompts, own in (("1x2", 3, True), ("2x2", 4, True), ("2x2", 3, False), ("1x1x2", 4, False)):
        with jax.set_mesh(make_mesh(mesh)):
            assert has_own_queues(prompts, 2 * prompts, CONFIG) == own


def test_bytes_of_a_slot_are_those_of_its_share():
    """Four devices have one of the two heads each; gathered logits are whole on each device."""
    config = dataclasses.replace(SHAPES["qwen2.5-1.5b"], dtype="bfloat16")

    def counted(mesh, vocabulary=512, prompts=4, **options):
        sized = dataclasses.replace(config, vocab_size=vocabulary)
        with jax.set_mesh(make_mesh(mesh)):
            return slot_bytes(Request(sized, Sampling(max_tokens=512, **options), {}, prompts, 64, 2 * prompts), 8)

    whole = 8 * 512 * 28 * 2 * 2 * 128 * 2
    assert [counted(mesh)["cache"] for mesh in ("1x1", "1x2", "1x4")] == [whole, whole // 2, whole // 2]
    assert counted("2x4", prompts=3)["cache"] == whole  # a shared queue, whose two heads do not split over four
    rest = counted("1x4")["logits"] - 8 * 4 * 3 * 128  # what is not of the vocabulary, besides 3 copies of a share
    gathered, shared = counted("1x4", 516)["logits"], counted("2x4", 516, prompts=3)["logits"]
    assert [(size - rest) // (8 * 4) for size in (gathered, shared)] == [129 + 3 * 516, 3 * 129]
    assert (counted("1x4", top_p=0.5)["logits"] - rest) // (8 * 4) == 128 + 5 * 512
