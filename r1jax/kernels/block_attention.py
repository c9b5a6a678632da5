"""Attention of several new tokens per slot with the kernels of decode attention."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from r1jax.kernels.decode_attention import Context, decode_attention_kernel, join, normalise
from r1jax.kernels.decode_attention_mosaic import MAX_HEADS, decode_attention_mosaic
from r1jax.kernels.platform import LEAST, Kernels


def fits(queries: int) -> bool:
    """True if the kernels process so many queries of a slot and group, those of all its new tokens, together."""
    return queries <= MAX_HEADS


def block_attention(
    q: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    prefix: tuple[jax.Array, ...],
    cached: tuple[jax.Array, ...],
    context: Context,
    kernels: Kernels,
    interpret: Any = None,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """decode_attention.attend_block, whose new tokens after the first are not in the cache yet.

    All tokens attend to the same earlier ones and to the first new one: the kernel treats their queries as those of one
    token, so it reads the cache once. Attention to the other new tokens is added in plain JAX.

    Args:
      q: [S, m, G, H/G, K], rotated; m is at least 2.
      keys: [S, m, G, K] of the new tokens, rotated.
      values: [S, m, G, K].
      prefix: keys and values [P, G, Tp, K] of the prompts.
      cached: keys and values [S, G, R, K] of the tokens of a slot: that of its i-th token is entry i.
      context: prompt and sequence of each slot.
      kernels: "triton" or "mosaic".
      interpret: as the kernel takes it, on a CPU.

    Returns:
      The shape and type of q, and the cache with the first new token.
    """
    S, m, G, heads, K = q.shape
    scale = K**-0.5
    first = (keys[:, 0, :, None], values[:, 0, :, None])
    joined = jnp.concatenate([jnp.moveaxis(q, 1, 2).reshape(S, G, m * heads, K), *first], axis=2)
    unturned = jnp.ones((S, K // 2), jnp.float32), jnp.zeros((S, K // 2), jnp.float32)
    kernel: Any = decode_attention_mosaic if kernels == "mosaic" else decode_attention_kernel
    options = {} if interpret is None else {"interpret": interpret}
    arguments = (joined, None, unturned, prefix, cached, context, context.age)
    found, cached = kernel(*arguments, partial_result=True, **options)
    sums, total, highest = (jnp.moveaxis(x.reshape(S, G, m, heads, *x.shape[3:]), 2, 1) for x in found)

    # Few products, which are fused with what follows.
    others = [jnp.moveaxis(x[:, 1:], 1, 2)[:, None, :, None].astype(jnp.float32) for x in (keys, values)]
    scores = (q[..., None, :].astype(jnp.float32) * others[0]).sum(axis=-1) * scale  # [S, m, G, H/G, m - 1]
    earlier = (jnp.arange(1, m) <= jnp.arange(m)[:, None])[:, None, None]
    top = jnp.where(earlier, scores, LEAST).max(axis=-1)
    weights = jnp.where(earlier, jnp.exp(scores - top[..., None]), 0.0)
    own = (weights[..., None] * others[1]).sum(axis=-2), weights.sum(axis=-1), top
    return normalise(join((sums, total, highest), own)).astype(q.dtype), cached
