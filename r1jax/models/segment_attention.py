"""Attention of rows that hold several texts, in blocks of queries and keys: no array has all pairs of positions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from r1jax.kernels.platform import LEAST
from r1jax.models.precision import einsum_f32

BLOCK = 512  # queries, and keys


def blockwise_attention(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array, scale: float) -> jax.Array:
    """softmax(scale q k^T) v over positions up to that of the query in its segment: [B, T, H, K].

    A block of queries reads only the blocks from the one in which the segment of its first query begins. The backward
    pass computes the scores again.

    Args:
      q: [B, T, H, K].
      k, v: [B, T, G, K].
      segments: [B, T] int32; equal numbers must be next to each other.
      scale: of the scores.
    """
    T = q.shape[1]
    q, k, v, segments = (jnp.pad(x, [(0, 0), (0, -T % BLOCK)] + [(0, 0)] * (x.ndim - 2)) for x in (q, k, v, segments))
    found: Any = _attend(q, k, v, segments, scale)
    return found[:, :T]


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array, scale: float) -> jax.Array:
    return _forward(q, k, v, segments, scale)[0]


def spans(segments: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The first position and the length of the segment of each position: [B, T] int32 each."""
    T = segments.shape[1]
    at, differs = jnp.arange(T), segments[:, 1:] != segments[:, :-1]
    begin = jax.lax.cummax(jnp.where(jnp.pad(differs, ((0, 0), (1, 0))), at, 0), axis=1)
    last = jnp.pad(differs, ((0, 0), (0, 1)), constant_values=True)
    end = jax.lax.cummin(jnp.where(last, at + 1, T), axis=1, reverse=True)
    return begin, end - begin


def _blocks(x: jax.Array) -> jax.Array:
    """[B, T, ...] as [T / BLOCK, B, BLOCK, ...]."""
    return jnp.moveaxis(x.reshape(x.shape[0], -1, BLOCK, *x.shape[2:]), 1, 0)


def _rows(x: jax.Array) -> jax.Array:
    """The inverse of _blocks."""
    return jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:])


def _grouped(x: jax.Array, heads: int) -> jax.Array:
    """[B, T, H, K] as blocks [n, B, BLOCK, G, H / G, K]."""
    return _blocks(x.reshape(*x.shape[:2], heads, -1, x.shape[-1]))


def _numbered(segments: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of each block of queries: its number, that of the first block that it reads, [n] int32, and the segments."""
    first = spans(segments)[0][:, ::BLOCK].min(axis=0) // BLOCK
    return jnp.arange(len(first)), first, _blocks(segments)


def _scores(k: jax.Array, segments: jax.Array, scale: float, q: jax.Array, of_queries: jax.Array, i: Any) -> Callable:
    """A function of a block of keys: its keys [B, BLOCK, G, K], scores [B, G, H / G, BLOCK, BLOCK], and which count."""

    def scores(j: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        keys, of_keys = (_block(x, j) for x in (k, segments))
        at = jnp.arange(BLOCK)
        seen = (of_queries[:, :, None] == of_keys[:, None]) & (i * BLOCK + at[:, None] >= j * BLOCK + at)
        return keys, scale * einsum_f32("bqgrk,bsgk->bgrqs", q, keys), seen[:, None, None]

    return scores


def _block(x: jax.Array, j: Any) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(x, j * BLOCK, BLOCK, axis=1)


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array, scale: float
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    (B, _, H, K), G = q.shape, k.shape[2]

    def one(block: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        i, first, of_queries, queries = block
        scores = _scores(k, segments, scale, queries, of_queries, i)

        def add(j: Any, found: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            top, total, y = found
            _, s, seen = scores(j)
            higher = jnp.maximum(top, jnp.where(seen, s, LEAST).max(axis=-1))
            weights, kept = jnp.where(seen, jnp.exp(s - higher[..., None]), 0.0), jnp.exp(top - higher)
            more = einsum_f32("bgrqs,bsgk->bgrqk", weights.astype(v.dtype), _block(v, j))
            return higher, kept * total + weights.sum(axis=-1), kept[..., None] * y + more

        rows = (B, G, H // G, BLOCK)
        start = jnp.full(rows, LEAST), jnp.zeros(rows), jnp.zeros((*rows, K))
        top, total, y = jax.lax.fori_loop(first, i + 1, add, start)
        return jnp.moveaxis(y / total[..., None], 3, 1).astype(q.dtype), top + jnp.log(total)

    y, normaliser = jax.lax.map(one, (*_numbered(segments), _grouped(q, G)))
    y = _rows(y).reshape(q.shape)
    return y, (q, k, v, segments, y, normaliser)


def _backward(
    scale: float, saved: tuple[jax.Array, ...], gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    q, k, v, segments, y, normaliser = saved
    G = k.shape[2]
    # sum_s p_s dp_s, of each query: the gradient of the softmax subtracts it from dp.
    mean = einsum_f32("bthk,bthk->bth", gradient, y)

    def one(sums: tuple[jax.Array, jax.Array], block: tuple[jax.Array, ...]) -> tuple[Any, jax.Array]:
        i, first, of_queries, queries, normaliser, dy, mean = block
        scores, mean = _scores(k, segments, scale, queries, of_queries, i), jnp.moveaxis(mean[..., 0], 1, 3)

        def add(j: Any, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            dq, dk, dv = sums
            keys, s, seen = scores(j)
            p = jnp.where(seen, jnp.exp(s - normaliser[..., None]), 0.0)
            ds = scale * p * (einsum_f32("bqgrk,bsgk->bgrqs", dy, _block(v, j)) - mean[..., None])
            p, ds = p.astype(v.dtype), ds.astype(q.dtype)
            dk = _added(dk, einsum_f32("bgrqs,bqgrk->bsgk", ds, queries), j)
            dv = _added(dv, einsum_f32("bgrqs,bqgrk->bsgk", p, dy), j)
            return dq + einsum_f32("bgrqs,bsgk->bqgrk", ds, keys), dk, dv

        dq, *sums_after = jax.lax.fori_loop(first, i + 1, add, (jnp.zeros(queries.shape), *sums))
        return tuple(sums_after), dq.astype(q.dtype)

    parts = (*_numbered(segments), _grouped(q, G), normaliser, _grouped(gradient, G), _grouped(mean[..., None], G))
    (dk, dv), dq = jax.lax.scan(one, (jnp.zeros(k.shape), jnp.zeros(v.shape)), parts)
    return _rows(dq).reshape(q.shape), dk.astype(k.dtype), dv.astype(v.dtype), None


def _added(x: jax.Array, block: jax.Array, j: Any) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(x, _block(x, j) + block, j * BLOCK, axis=1)


_attend.defvjp(_forward, _backward)
