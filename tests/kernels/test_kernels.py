"""Kernels, interpreted on the CPU, against plain JAX; the costs of a model against values worked by hand."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.kernels.add_norm import add_norm, add_norm_kernel
from r1jax.kernels.block_attention import block_attention
from r1jax.kernels.block_sums import block_sums, block_sums_kernel
from r1jax.kernels.decode_attention import Context, attend_block, decode_attention, decode_attention_kernel
from r1jax.models import rotary
from r1jax.models.attention import write_block
from r1jax.models.config import Latent, ModelConfig
from r1jax.models.cost import (
    Cost,
    cache_entry_bytes,
    forward_cost,
    logits_bytes,
    rollout_cost,
    training_bytes,
    update_cost,
)
from r1jax.models.shapes import SHAPES
from r1jax.models.transformer import param_specs
from r1jax.sharding import param_count

S, G, HEADS, K, PROMPTS, PREFIX = 5, 2, 3, 16, 4, 70


def request(ring, biased=True):
    """Slots of every kind: an empty ring, a nearly full ring, a ring that wraps, prompts of minimum and full length."""
    rng = np.random.default_rng(ring)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    age = jnp.array([0, ring - 1, ring // 3, ring // 2, 1], jnp.int32)
    length = jnp.array([1, PREFIX, 33, 64, 32], jnp.int32)
    return (
        normal(S, G, HEADS + 2, K),
        normal(G, HEADS + 2, K) if biased else None,
        rotary.tables(length + age, ModelConfig(head_dim=K)),
        (normal(PROMPTS, G, PREFIX, K), normal(PROMPTS, G, PREFIX, K)),
        (normal(S, G, ring, K), normal(S, G, ring, K)),
        Context(jnp.array([0, 3, 1, 3, 2], jnp.int32), length, age),
        jnp.int32(ring // 4),
    )


plain_attention = jax.jit(partial(decode_attention, kernels="plain"))


@pytest.mark.parametrize(("ring", "biased"), [(96, True), (96, False), (1536, True)])
def test_decode_attention_equals_plain_jax(ring, biased):
    """The long ring is split among programs, whose partial results are combined."""
    arguments = request(ring, biased)
    out, cache = plain_attention(*arguments)
    got, written = jax.jit(lambda *a: decode_attention_kernel(*a, interpret=True))(*arguments)
    np.testing.assert_allclose(got, out, atol=2e-6)
    for a, b in zip(written, cache, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_attention_of_several_tokens_equals_plain_jax():
    """Each token attends to those up to itself; the first is written to the slot's own entry."""
    ring, m, rng = 96, 3, np.random.default_rng(1)
    prefix, cached, context = request(ring, biased=False)[3:6]
    q, keys, values = (rng.normal(size=(S, m, G, *x, K)).astype(np.float32) for x in ((HEADS,), (), ()))
    context = dataclasses.replace(context, age=jnp.minimum(context.age, ring - m))

    @jax.jit
    def both(q, keys, values, prefix, cached, context):
        written = tuple(write_block(x, new, context.age) for x, new in zip(cached, (keys, values), strict=True))
        plain = attend_block(q, prefix, written, context, K**-0.5)
        return plain, block_attention(q, keys, values, prefix, cached, context, "triton", interpret=True)

    plain, (got, cache) = both(q, keys, values, prefix, cached, context)
    np.testing.assert_allclose(got, plain, atol=2e-6)
    at = np.arange(S), slice(None), context.age
    np.testing.assert_allclose(cache[0][at], keys[:, 0], atol=1e-6)
    np.testing.assert_allclose(cache[1][at], values[:, 0], atol=1e-6)


def test_decode_attention_by_hand():
    """One slot in float64: two tokens of the prompt, the newest three around the end of the ring, and the new token."""
    qkv, _, tables, prefix, ring, _, _ = request(96, biased=False)
    cos, sin = jax.device_get(tables)
    ring = tuple(x[:1, :, :4] for x in ring)  # entries 3, 0, 1 belong to the sequence; 2 is written
    age, entry, length = np.array([3], np.int32), np.int32(2), np.array([2], np.int32)
    context = Context(np.array([1], np.int32), length, age)
    out, _ = plain_attention(qkv[:1], None, (cos[:1], sin[:1]), prefix, ring, context, entry)
    turned = np.asarray(jax.jit(rotary.rotate)(qkv[:1], cos[:1, None], sin[:1, None]), np.float64)[0]
    for g in range(G):
        own = np.array([3, 0, 1])
        keys = np.concatenate([prefix[0][1, g, :2], ring[0][0, g, own], turned[g, -2][None]]).astype(np.float64)
        values = np.concatenate([prefix[1][1, g, :2], ring[1][0, g, own], qkv[0, g, -1][None]]).astype(np.float64)
        scores = turned[g, :-2] @ keys.T / np.sqrt(K)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        np.testing.assert_allclose(out[0, g], weights @ values / weights.sum(axis=1, keepdims=True), atol=2e-6)


def test_add_norm_equals_plain_jax():
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(4, 48)).astype(np.float32) for _ in range(2))
    weight = rng.normal(size=48).astype(np.float32)
    found = jax.jit(lambda *a: add_norm_kernel(*a, 1e-2, interpret=True))(x, y, weight)
    plain = jax.jit(lambda *a: add_norm(*a, 1e-2, kernels="plain"))(x, y, weight)
    for got, want in zip(found, plain, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_block_sums_equal_plain_jax_and_float64():
    rng = np.random.default_rng(0)
    logits = (rng.normal(size=(3, 128 * 40)) * 5).astype(np.float32)
    logits[0, 128:256] = -np.inf  # a block without mass
    logits[1, 300] = 80.0
    blocks = logits.reshape(3, 40, 128).astype(np.float64)
    tops = np.maximum(blocks.max(axis=-1), np.finfo(np.float32).min)
    sums = np.exp(blocks - tops[..., None]).sum(axis=-1)
    for form in (partial(block_sums, kernels="plain"), partial(block_sums_kernel, interpret=True)):
        got = jax.jit(form)(logits)
        np.testing.assert_array_equal(got[0], tops.astype(np.float32))
        np.testing.assert_allclose(got[1], sums, rtol=1e-5)


def test_published_shapes_have_the_published_sizes():
    """The parameter counts of the model cards; tied embeddings count once."""
    counts = {name: param_count(param_specs(config)) for name, config in SHAPES.items()}
    assert counts["qwen2.5-0.5b"] == 494_032_768 and counts["qwen2.5-1.5b"] == 1_543_714_304
    assert counts["qwen2.5-7b"] == 7_615_616_512 and counts["llama-3.1-8b"] == 8_030_261_248
    assert counts["moe-16b"] == 15_706_484_224 and counts["deepseek-v3"] == 671_026_419_200  # 15.7 and 671 billion
    assert counts["smollm2"] == 134_515_008


def test_costs_by_hand():
    model = ModelConfig(
        vocab_size=11, hidden_size=4, intermediate_size=6, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=2
    )
    N = param_count(param_specs(model))
    # A token in both blocks: queries 4x4, keys and values 4x2 each, output 4x4, three products of 4x6.
    block = 2 * 2 * (16 + 16 + 16 + 72)
    one = forward_cost(model, sequences=3, width=5, completion=2)
    # Each pair of query and key: 2 * 2 heads * 2 numbers, for scores and values, in both blocks.
    pairs = 3 * (1 + 2 + 3 + 4 + 5)
    assert one.flops == 3 * 5 * block + 3 * 2 * (2 * 4 * 11) + pairs * 2 * 2 * 2 * 2 * 2
    assert one.bytes == 2 * N
    assert update_cost(model, 3, 5, 2).flops == 3 * one.flops

    entry = 2 * 2 * 1 * 2 * 2  # keys and values, blocks, heads, numbers, bytes
    rollout = rollout_cost(model, np.array([1, 3]), group=2, prompt=5)
    own = 1 + (1 + 2 + 3)
    assert training_bytes(model, 2, copies=1, cached=7) == 2 * 5 * N + 7 * entry
    assert logits_bytes(model, 3) == 2 * 4 * 3 * 11
    assert rollout.bytes == 2 * N + 3 * 2 * N + (own + 3 * 5) * entry
    prefill = forward_cost(model, 1, 5, 0).flops
    assert rollout.flops == prefill + 4 * (block + 88) + (own + 4 * 5) * 2 * 2 * 2 * 2 * 2


@pytest.mark.parametrize(("query_rank", "queries"), [(0, 4 * 2 * 5), (6, 4 * 6 + 6 * 2 * 5)])
def test_costs_of_latent_attention_by_hand(query_rank, queries):
    """Two heads of 3 + 2 numbers and values of 4, from vectors of 7; the cache has 7 + 2 numbers for both heads."""
    latent = Latent(kv_rank=7, nope_dim=3, rope_dim=2, value_dim=4, query_rank=query_rank)
    options = {"vocab_size": 11, "hidden_size": 4, "intermediate_size": 6, "num_layers": 2}
    model = ModelConfig(**options, num_heads=2, num_kv_heads=2, head_dim=5, latent=latent)
    block = 2 * 2 * (queries + 4 * 9 + 7 * 2 * (3 + 4) + 2 * 4 * 4 + 72)
    one = forward_cost(model, sequences=3, width=5, completion=0)
    assert one.flops == 3 * 5 * block + 3 * 15 * 2 * 2 * 2 * (5 + 4)
    rollout = rollout_cost(model, np.array([1, 3]), group=2, prompt=5)
    own = 1 + (1 + 2 + 3)
    # Absorbed, the products with kv_up cost the same, and a pair of query and key costs 9 numbers and 7.
    assert rollout.flops == one.flops / 3 + 4 * (block + 88) + (own + 4 * 5) * 2 * 2 * 2 * (9 + 7)
    assert rollout.bytes == 2 * param_count(param_specs(model)) * 4 + (own + 3 * 5) * 2 * 2 * 9
    assert cache_entry_bytes(SHAPES["deepseek-v3"], 2) == 61 * 2 * (512 + 64)


def test_the_floor_is_the_longer_of_the_two_times():
    assert Cost(10.0, 4.0).seconds(5.0, 1.0) == 4.0
    assert dataclasses.replace(Cost(10.0, 4.0), flops=30.0).seconds(5.0, 1.0) == 6.0
