"""Attention of one new token per slot, over its prompt and the tokens of its sequence so far.

Plain JAX writes the new key and value, scores the whole ring and masks the entries of other sequences. The kernel fuses
rotation, write and attention in one pass, and reads only the tokens of the sequence: its cost grows with live tokens.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from r1jax.kernels.decode_attention_mosaic import HEAD_SIZES, MAX_HEADS, decode_attention_mosaic
from r1jax.kernels.platform import LEAST, Kernels, choose, has_extra, triton
from r1jax.models.config import ModelConfig
from r1jax.models.precision import einsum_f32
from r1jax.models.rotary import rotate

RING_CHUNK = 512  # entries of a long ring that plain JAX processes at a time
BLOCK = 32  # keys that a program of the kernel reads per iteration
WARPS, STAGES = 2, 3  # per program
PROGRAMS = 512  # with fewer (slot, head) pairs, several programs share the keys of one pair
SHARE = 256  # minimum ring entries per program
FEW, FEW_SHARE = 4, 128  # up to this many programs may have only so many entries each
FEW_PAIRS = 256  # of slot and key head, up to which Mosaic's attention is faster than Triton's (docs/performance.md)


@flax.struct.dataclass
class Context:
    """What the new token of each slot attends to: the prefix of its prompt, and the tokens of its sequence."""

    prompt: jax.Array  # [S] int32, index of the prompt
    prefix_length: jax.Array  # [S] int32, tokens of that prompt in the prefix
    age: jax.Array  # [S] int32, tokens of the sequence in the ring, below R


def kernels_of(config: ModelConfig) -> Kernels:
    """The kernels that decode the model on this platform.

    They need a GPU, bfloat16, attention that is not latent, a head size that they support, and not "xla". Attention of
    new tokens may use others (attention_kernels).
    """
    chosen = choose(config.kernels)
    fits = config.dtype == "bfloat16" and config.latent is None and config.attention != "xla"
    return chosen if fits and _supports(chosen, config) else "plain"


def _supports(kernels: Kernels, config: ModelConfig) -> bool:
    sizes = {"triton": (32, 64, 128, 256), "mosaic": HEAD_SIZES, "plain": ()}[kernels]
    return config.head_dim in sizes and (kernels != "mosaic" or config.num_heads // config.num_kv_heads <= MAX_HEADS)


def attention_kernels(config: ModelConfig, pairs: int) -> Kernels:
    """kernels_of the model, or those of Mosaic if they are faster for this number of pairs of slot and key head."""
    chosen = kernels_of(config)
    few = chosen == "triton" and pairs <= FEW_PAIRS and has_extra(config.kernels, "few pairs")
    return "mosaic" if few and _supports("mosaic", config) else chosen


def decode_attention(
    qkv: jax.Array,
    bias: jax.Array | None,
    rotation: tuple[jax.Array, jax.Array],
    prefix: tuple[jax.Array, jax.Array],
    ring: tuple[jax.Array, jax.Array],
    context: Context,
    entry: jax.Array,
    kernels: Kernels,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """softmax(q k^T / sqrt(K)) v over the prefix of the prompt, the tokens of the sequence and the new token.

    Args:
      qkv: [S, G, H/G + 2, K] queries of each group, its new key and its new value, before rotation.
      bias: [G, H/G + 2, K], added to qkv before rotation.
      rotation: cosine and sine [S, K/2] float32 for the position of the new token (rotary.tables).
      prefix: keys and values [P, G, Tp, K] of the prompts, rotated.
      ring: keys and values [S, G, R, K] of new tokens, rotated.
      context: prompt and sequence of each slot. The sequence is the ``age`` entries before ``entry``, modulo R.
      entry: [] int32, the ring entry to which the new token is written.
      kernels: the kernels to use; "plain" is plain JAX.

    Returns:
      [S, G, H/G, K] in the type of qkv, and the ring with the new token in it.
    """
    if kernels == "mosaic":
        return decode_attention_mosaic(qkv, bias, rotation, prefix, ring, context, entry)
    if kernels == "triton":
        return decode_attention_kernel(qkv, bias, rotation, prefix, ring, context, entry)
    if bias is not None:
        qkv = qkv + bias
    v = qkv[:, :, -1]
    cos, sin = rotation
    turned = rotate(qkv[:, :, :-1], cos[:, None], sin[:, None])
    q, k = turned[:, :, :-1], turned[:, :, -1]
    keys = jax.lax.dynamic_update_slice_in_dim(ring[0], k[:, :, None], entry, axis=2)
    values = jax.lax.dynamic_update_slice_in_dim(ring[1], v[:, :, None], entry, axis=2)
    ring = (keys, values)
    return attend_cached(q, prefix, ring, context, entry, q.shape[-1] ** -0.5), ring


def attend_cached(
    q: jax.Array,
    prefix: tuple[jax.Array, ...],
    ring: tuple[jax.Array, ...],
    context: Context,
    entry: jax.Array,
    scale: float,
) -> jax.Array:
    """softmax(scale q k^T) v over the prefix of the prompt and the tokens of the sequence, in plain JAX.

    Args:
      q: [S, G, H/G, K] queries of each group, rotated; [S, H, K] if all heads share keys and values.
      prefix: keys and values [P, G, Tp, K] of the prompts, or [P, Tp, K]; a single array is both.
      ring: keys and values [S, G, R, K] of new tokens, or [S, R, K], with the new token at ``entry``.
      context: prompt and sequence of each slot.
      entry: [] int32, the ring entry of the new token.
      scale: factor on the scores.

    Returns:
      The shape and type of q.
    """
    part = join(_attend_prefix(q, prefix, context, scale), _attend_ring(q, ring, entry, context.age, scale))
    return normalise(part).astype(q.dtype)


def attend_block(
    q: jax.Array, prefix: tuple[jax.Array, ...], cached: tuple[jax.Array, ...], context: Context, scale: float
) -> jax.Array:
    """As attend_cached for m new tokens of each slot in sequence, each of which attends to those up to itself.

    Args:
      q: [S, m, G, H/G, K] or [S, m, H, K].
      prefix: as in attend_cached.
      cached: keys and values [S, G, R, K] of the tokens of a slot, or [S, R, K]: that of its i-th token is entry i. The
        new tokens are at entries age, ..., age + m - 1; later entries are not read. Tokens whose entry would be beyond
        R get meaningless results.
      context: prompt and sequence of each slot.
      scale: factor on the scores.

    Returns:
      The shape and type of q.
    """
    length, chunk, m = cached[0].shape[-2], RING_CHUNK, q.shape[1]
    newest = context.age[:, None] + jnp.arange(m)  # [S, m]
    part = jax.vmap(lambda one: _attend_prefix(one, prefix, context, scale), 1, 1)(q)

    def entries(start: jax.Array | int, part: Partial, size: int) -> Partial:
        read = tuple(jax.lax.dynamic_slice_in_dim(x, start, size, axis=x.ndim - 2) for x in cached)
        valid = start + jnp.arange(size) <= newest[..., None]  # [S, m, size]
        return join(part, jax.vmap(lambda one, valid: _attend(one, read, valid, scale), 1, 1)(q, valid))

    if length <= chunk:
        part = entries(0, part, length)
    else:
        needed = jnp.minimum((context.age.max() + m - 1) // chunk + 1, length // chunk)
        part = jax.lax.fori_loop(0, needed, lambda i, part: entries(i * chunk, part, chunk), part)
    return normalise(part).astype(q.dtype)


# A partial softmax: weighted values, sum of weights, and the maximum that both are relative to. Partial results over
# disjoint keys can be combined exactly, so prefix and ring need not be one array.
Partial = tuple[jax.Array, jax.Array, jax.Array]  # [S, ..., K], [S, ...], [S, ...], float32
_Arrays = tuple[jax.Array, ...]  # keys and values, or one array that is both


def _attend(q: jax.Array, cached: _Arrays, valid: jax.Array, scale: float) -> Partial:
    k, v = cached[0], cached[-1]
    scores = _scores(q, k) * scale
    scores = jnp.where(jnp.expand_dims(valid, range(1, q.ndim - 1)), scores, -jnp.inf)
    top = jnp.maximum(scores.max(axis=-1), LEAST)
    weights = jnp.exp(scores - top[..., None])
    return einsum_f32("...rt,...tk->...rk", weights.astype(v.dtype), v), weights.sum(axis=-1), top


def _scores(q: jax.Array, k: jax.Array) -> jax.Array:
    """q [..., H, K] times k [..., T, K]: [..., H, T] float32."""
    if q.dtype == jnp.float32 and jax.default_backend() == "gpu":
        # XLA would join the products of q with prefix and ring into one, for which it copies the ring at each step.
        return (q[..., :, None, :] * k[..., None, :, :]).sum(axis=-1)
    return einsum_f32("...rk,...tk->...rt", q, k)


def join(a: Partial, b: Partial) -> Partial:
    """The partial softmax over the keys of both."""
    top = jnp.maximum(a[2], b[2])
    scale_a, scale_b = jnp.exp(a[2] - top), jnp.exp(b[2] - top)
    return a[0] * scale_a[..., None] + b[0] * scale_b[..., None], a[1] * scale_a + b[1] * scale_b, top


def normalise(part: Partial) -> jax.Array:
    """The weighted mean of the values."""
    return part[0] / part[1][..., None]


def _attend_prefix(q: jax.Array, prefix: _Arrays, context: Context, scale: float) -> Partial:
    valid = jnp.arange(prefix[0].shape[-2]) < context.prefix_length[:, None]
    return _attend(q, tuple(x[context.prompt] for x in prefix), valid, scale)


def _attend_ring(q: jax.Array, ring: _Arrays, entry: jax.Array, age: jax.Array, scale: float) -> Partial:
    length, chunk = ring[0].shape[-2], RING_CHUNK

    def valid(entries: jax.Array) -> jax.Array:  # the distance from the newest entry is at most the age
        return (entry - entries) % length <= age[:, None]

    if length <= chunk:
        return _attend(q, ring, valid(jnp.arange(length)), scale)

    # Iterate from the newest chunk back to the oldest that any slot needs.
    newest = entry // chunk
    needed = jnp.minimum((age.max() + chunk - 1 - entry % chunk) // chunk + 1, length // chunk)

    def one(i: jax.Array, part: Partial) -> Partial:
        start = ((newest - i) % (length // chunk)) * chunk
        read = tuple(jax.lax.dynamic_slice_in_dim(x, start, chunk, axis=x.ndim - 2) for x in ring)
        return join(part, _attend(q, read, valid(start + jnp.arange(chunk)), scale))

    shape = q.shape[:-1]
    nothing = (jnp.zeros(q.shape, jnp.float32), jnp.zeros(shape), jnp.full(shape, LEAST))
    return jax.lax.fori_loop(0, needed, one, nothing)


def decode_attention_kernel(
    qkv, bias, rotation, prefix, ring, context, entry, interpret=False, partial_result=False
) -> Any:
    """The Triton kernel of decode_attention; ``interpret`` interprets it on a CPU.

    entry: [] int32, or [S]: that of each slot. partial_result: returns a Partial in place of attention.
    """
    S, G, rows, K = qkv.shape
    cos, sin = rotation
    slots = (context.prompt, context.prefix_length, context.age)
    heads = rows - 2
    entries = ring[0].shape[2]
    wanted = max(entries // SHARE, min(FEW, entries // FEW_SHARE))
    splits = max(1 + partial_result, min(PROGRAMS // (S * G), wanted))
    parts = () if splits == 1 else (splits,)  # an axis of size one would cost a copy

    def shape(*sizes: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*parts, S, G, heads, *sizes), dtype)

    out, total, top, *ring = pl.pallas_call(
        partial(_kernel, splits=splits, biased=bias is not None),
        grid=(S, G, splits),
        out_shape=[
            shape(K, dtype=qkv.dtype if splits == 1 else jnp.float32),
            shape(),
            shape(),
            *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in ring),
        ],
        input_output_aliases={9: 3, 10: 4},
        compiler_params=triton.CompilerParams(num_warps=WARPS, num_stages=STAGES),
        interpret=interpret,
        name="decode_attention",
    )(qkv, cos if bias is None else bias, cos, sin, *prefix, *slots, *ring, jnp.broadcast_to(entry, (S,)))
    if splits > 1:
        highest = top.max(axis=0)
        scale = jnp.exp(top - highest)
        out, total = (out * scale[..., None]).sum(axis=0), (total * scale).sum(axis=0)
        if partial_result:
            return (out, total, highest), tuple(ring)
        out = out / total[..., None]
    return out.astype(qkv.dtype), tuple(ring)


def _kernel(
    qkv_ref,
    bias_ref,
    cos_ref,
    sin_ref,
    prefix_keys,
    prefix_values,
    prompt_ref,
    length_ref,
    age_ref,
    _,
    __,
    entry_ref,
    out_ref,
    total_ref,
    top_ref,
    keys,
    values,
    *,
    splits: int,
    biased: bool,
):
    s, g, part = pl.program_id(0), pl.program_id(1), pl.program_id(2)
    heads, K = qkv_ref.shape[2] - 2, qkv_ref.shape[3]
    half, R = K // 2, keys.shape[2]
    rows = jnp.arange(max(16, pl.next_power_of_2(heads)))  # matrix units need at least 16 rows
    real = rows < heads
    column = jnp.arange(K)
    other = (column + half) % K  # the other dimension of each rotated pair
    cos = cos_ref[s, column % half]
    sin = jnp.where(column < half, -sin_ref[s, column % half], sin_ref[s, column % half])
    scale = K**-0.5
    dtype = qkv_ref.dtype

    def load(ref: Any, mask: jax.Array | None = None) -> jax.Array:
        return triton.load(ref, mask=mask, other=None if mask is None else 0.0)

    def projected(row: jax.Array | int, column: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        x = load(qkv_ref.at[s, g, row, column], mask)
        return (x + load(bias_ref.at[g, row, column], mask) if biased else x).astype(dtype)

    def turned(row: jax.Array | int, column: jax.Array, other: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        a, b = projected(row, column, mask).astype(jnp.float32), projected(row, other, mask).astype(jnp.float32)
        return (a * cos + b * sin).astype(dtype)

    q = turned(rows[:, None], column[None], other[None], real[:, None])
    new_key, new_value = turned(heads, column, other), projected(heads + 1, column)
    entry, age = entry_ref[s], age_ref[s]

    own = (q.astype(jnp.float32) * new_key.astype(jnp.float32)).sum(axis=1) * scale
    first = part == 0  # only the first program processes the new token
    top = jnp.where(first, own, LEAST)
    total = jnp.where(first, jnp.ones_like(own), jnp.zeros_like(own))
    out = jnp.broadcast_to(new_value.astype(jnp.float32), (rows.shape[0], K))
    out = jnp.where(first, out, jnp.zeros_like(out))

    def attend(carry, block, at, length, key_ref, value_ref, index):
        top, total, out = carry
        place = block * BLOCK + jnp.arange(BLOCK)
        mask = place < length
        where = index(place)[:, None]
        scores = triton.dot(q, load(key_ref.at[at, g, where, column[None]], mask[:, None]), trans_b=True) * scale
        scores = jnp.where(mask[None], scores, LEAST)
        highest = jnp.maximum(top, scores.max(axis=1))
        weights = jnp.where(mask[None], jnp.exp(scores - highest[:, None]), 0.0)
        fade = jnp.exp(top - highest)
        content = load(value_ref.at[at, g, where, column[None]], mask[:, None])
        out = out * fade[:, None] + triton.dot(weights.astype(dtype), content)
        return highest, total * fade + weights.sum(axis=1), out

    def walk(carry, at, length, key_ref, value_ref, index):
        blocks = (length + BLOCK - 1) // BLOCK
        mine = (blocks - part + splits - 1) // splits  # blocks part, part + splits, ...
        return jax.lax.fori_loop(
            0, mine, lambda i, c: attend(c, part + i * splits, at, length, key_ref, value_ref, index), carry
        )

    carry = (top, total, out)
    length = length_ref[s]
    carry = walk(carry, prompt_ref[s], length, prefix_keys, prefix_values, lambda place: jnp.minimum(place, length - 1))
    top, total, out = walk(carry, s, age, keys, values, lambda place: (entry - age + place + R) % R)

    at = (s, g) if splits == 1 else (part, s, g)
    if splits == 1:
        out = out / total[:, None]
    else:
        triton.store(total_ref.at[(*at, rows)], total, mask=real)
        triton.store(top_ref.at[(*at, rows)], top, mask=real)
    triton.store(out_ref.at[(*at, rows[:, None], column[None])], out.astype(out_ref.dtype), mask=real[:, None])

    @pl.when(first)
    def _write():  # no program reads this entry: the new token comes from qkv
        triton.store(keys.at[s, g, entry, column], new_key)
        triton.store(values.at[s, g, entry, column], new_value)
