"""Attention in blocks against attention with a mask of all pairs, and what it reads and stores."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models import attention, segment_attention
from r1jax.models.attention import causal_attention
from r1jax.models.config import ModelConfig
from r1jax.models.segment_attention import blockwise_attention, spans
from r1jax.sharding import make_mesh

LENGTHS = ([3, 1, 13, 8, 7], [30], [1, 1, 1, 20])  # of the segments of a row of 32; the rest is padding


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(segment_attention, "BLOCK", 8)


def numbered(lengths, width=32):
    rows = np.zeros((len(lengths), width), np.int32)
    for row, of_row in zip(rows, lengths, strict=True):
        row[: sum(of_row)] = np.repeat(np.arange(1, len(of_row) + 1), of_row)
    return rows


def arrays(B, T, heads=4, kv_heads=2, size=6, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(B, T, n, size)).astype(np.float32) for n in (heads, kv_heads, kv_heads, heads)]


def dense(q, k, v, segments, scale):
    """Attention of float64 in numpy, with all pairs of positions."""
    q, k, v = (np.float64(x) for x in (q, k, v))
    k, v = (np.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    seen = (segments[:, :, None] == segments[:, None]) & np.tri(q.shape[1], dtype=bool)
    s = np.where(seen[:, None], scale * np.einsum("bqhk,bshk->bhqs", q, k), -np.inf)
    p = np.exp(s - s.max(axis=-1, keepdims=True))
    return np.einsum("bhqs,bshk->bqhk", p / p.sum(axis=-1, keepdims=True), v)


@pytest.mark.parametrize("T", [32, 29])  # with whole blocks, and with a part of one
def test_blocks_give_the_attention_of_all_pairs(T):
    q, k, v, _ = arrays(3, T)
    segments = numbered(LENGTHS)[:, :T]
    found = jax.jit(blockwise_attention, static_argnums=4)(q, k, v, segments, 0.7)
    np.testing.assert_allclose(found, dense(q, k, v, segments, 0.7), atol=2e-6)


@pytest.mark.parametrize("T", [32, 29])
def test_gradients_are_those_of_all_pairs(T):
    """Of queries, keys and values, against the gradients of jax's attention with a mask."""
    q, k, v, g = arrays(3, T)
    segments = numbered(LENGTHS)[:, :T]

    def loss(q, k, v):
        return (g * blockwise_attention(q, k, v, segments, 0.7)).sum()

    def want(q, k, v):
        mask = segments[:, None, :, None] == segments[:, None, None]
        return (g * jax.nn.dot_product_attention(q, k, v, mask=mask, scale=0.7, is_causal=True)).sum()

    for x, y in zip(*(jax.jit(jax.grad(f, (0, 1, 2)))(q, k, v) for f in (loss, want)), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)
        assert np.abs(y).max() > 0.1


def test_sums_are_in_float32_for_bfloat16():
    """Errors of values and gradients are those of one rounding each, not of a sum in bfloat16."""
    q, k, v, g = (np.asarray(jnp.asarray(x, jnp.bfloat16), np.float32) for x in arrays(1, 256, size=8))
    segments = np.zeros((1, 256), np.int32)

    @partial(jax.jit, static_argnums=4)
    def both(q, k, v, g, dtype):
        y, back = jax.vjp(lambda *x: blockwise_attention(*x, segments, 0.3), *(x.astype(dtype) for x in (q, k, v)))
        return y, back(g.astype(dtype))

    for x, y in zip(*(jax.tree.leaves(both(q, k, v, g, kind)) for kind in ("bfloat16", "float32")), strict=True):
        assert x.dtype == jnp.bfloat16
        assert np.abs(np.float32(x) - y).max() < 0.01 * np.abs(y).max()


def test_a_block_of_queries_reads_no_block_before_the_segment_of_its_first_query():
    """Otherwise its result would be nan, since 0 * nan is."""
    q, k, v, _ = arrays(2, 32)
    segments = numbered([[16, 16], [12, 4, 16]])
    k[:, :16], v[:, :16] = np.nan, np.nan
    found = jax.jit(blockwise_attention, static_argnums=4)(q, k, v, segments, 0.7)
    assert np.isfinite(found[:, 16:]).all() and np.isnan(found[:, :16]).all()


def test_spans_against_a_loop():
    rng = np.random.default_rng(1)
    for segments in (numbered(LENGTHS), np.sort(rng.integers(0, 9, (4, 32)), axis=1), np.zeros((1, 5), int)):
        begin, length = jax.jit(spans)(segments)
        rows = segments.tolist()
        assert begin.tolist() == [[row.index(number) for number in row] for row in rows]
        assert length.tolist() == [[row.count(number) for number in row] for row in rows]


def test_long_rows_are_computed_in_blocks_without_an_array_of_all_pairs(monkeypatch):
    """Up to the length that is given for the kernel, with a mask."""
    monkeypatch.setattr(segment_attention, "BLOCK", 512)
    longest, config = attention.LONGEST["xla"], ModelConfig(attention="xla")

    def needed(T):
        rows = [jax.ShapeDtypeStruct((1, T, n, 8), jnp.float32) for n in (2, 1, 1)]
        segments = jax.ShapeDtypeStruct((1, T), jnp.int32)

        def loss(q, k, v, segments):
            return causal_attention(q, k, v, config, segments).sum()

        return jax.jit(jax.grad(loss, (0, 1, 2))).lower(*rows, segments).compile().memory_analysis().temp_size_in_bytes

    assert needed(longest) > longest**2
    assert needed(2 * longest) < longest**2


def test_rows_and_heads_may_be_split_over_devices(monkeypatch):
    """Values and gradients on a mesh are those of one device."""
    monkeypatch.setitem(attention.LONGEST, "xla", 31)
    q, k, v, g = arrays(4, 32)
    segments = numbered((*LENGTHS, [5, 27]))

    def both(mesh):
        with jax.set_mesh(make_mesh(mesh)):
            y, back = jax.vjp(lambda *x: causal_attention(*x, ModelConfig(attention="xla"), segments), q, k, v)
            return jax.device_get((y, back(g)))

    for x, y in zip(*(jax.tree.leaves(both(mesh)) for mesh in ("1x1", "2x2")), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


def test_both_forms_agree_where_one_follows_the_other(monkeypatch):
    q, k, v, _ = arrays(3, 32)
    segments, config = numbered(LENGTHS), ModelConfig(attention="xla")
    found = []
    for longest in (32, 31):
        monkeypatch.setitem(attention.LONGEST, "xla", longest)
        found.append(jax.jit(lambda *x: causal_attention(*x[:3], config, x[3]))(q, k, v, segments))
    np.testing.assert_allclose(*found, atol=2e-6)
    assert not np.array_equal(*found)
