"""The kernel of decode attention for Hopper GPUs, in Pallas Mosaic GPU.

A program is one warpgroup. It attends with all queries of a (slot, group) pair to blocks of keys, whose copies into
shared memory are several blocks ahead of the products. The cached rows of all slots are one array of rows: a block
starts at a multiple of 8 rows, which copies into the layout of tensor cores need, and rows of others are masked.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from r1jax.kernels.platform import LEAST, mosaic

if TYPE_CHECKING:
    from r1jax.kernels.decode_attention import Context

HEAD_SIZES = (64, 128)
MAX_HEADS = 62  # queries of a group, which share a product with its key and value
BLOCK = 64  # keys per step
ROWS = 64  # rows of a product of tensor cores; the rows after the queries are not used
ALIGNMENT = 8  # rows
STAGE_BYTES = 48 * 1024  # shared memory of a program for keys and values: three programs per multiprocessor
PROGRAMS = 264  # with fewer (slot, group) pairs, several programs share the keys of one pair
SHARE = 128  # minimum ring entries per program


def splits_of(pairs: int, entries: int) -> int:
    """Programs that share the keys of one of ``pairs`` (slot, group) pairs with rings of ``entries``."""
    return max(1, min(-(-PROGRAMS // pairs), entries // SHARE))


def decode_attention_mosaic(
    qkv: jax.Array,
    bias: jax.Array | None,
    rotation: tuple[jax.Array, jax.Array],
    prefix: tuple[jax.Array, jax.Array],
    ring: tuple[jax.Array, jax.Array],
    context: Context,
    entry: jax.Array,
    interpret: Any = None,
    partial_result: bool = False,
) -> tuple[Any, tuple[jax.Array, jax.Array]]:
    """decode_attention with the kernel; ``interpret`` are parameters of the interpreter on a CPU.

    entry: [] int32, or [S]: that of each slot. partial_result: returns a Partial in place of attention.
    """
    S, G, _, K = qkv.shape
    splits, stages = splits_of(S * G, ring[0].shape[2]), max(2, STAGE_BYTES // (2 * 2 * BLOCK * K))
    sizes = {"splits": max(1 + partial_result, splits), "stages": stages, "partial_result": partial_result}
    entry = jnp.broadcast_to(entry, (S,))
    return _call(qkv, bias, rotation, prefix, ring, context, entry, **sizes, interpret=interpret)


# Under jit, so that the kernel is traced, lowered and compiled once for all layers.
@partial(jax.jit, static_argnames=("splits", "stages", "interpret", "partial_result"))
def _call(
    qkv: jax.Array,
    bias: jax.Array | None,
    rotation: tuple[jax.Array, jax.Array],
    prefix: tuple[jax.Array, jax.Array],
    ring: tuple[jax.Array, jax.Array],
    context: Context,
    entry: jax.Array,
    splits: int,
    stages: int,
    interpret: Any,
    partial_result: bool,
) -> tuple[Any, tuple[jax.Array, jax.Array]]:
    S, G, rows, K = qkv.shape
    heads, entries = rows - 2, ring[0].shape[2]
    biased, single = bias is not None, splits == 1
    dtype, wide = qkv.dtype, jnp.float32
    types = [jax.ShapeDtypeStruct((splits, S, G, heads, K), dtype if single else wide)]
    if not single:
        # Copies to global memory are multiples of 16 bytes, so statistics are padded to 8 rows.
        types += [jax.ShapeDtypeStruct((splits, S, G, -(-heads // 8) * 8), wide)] * 2
    swizzled = mosaic.TilingTransform((8, 64)), mosaic.SwizzleTransform(128)
    block = mosaic.SMEM((stages, BLOCK, K), dtype, transforms=swizzled)
    scratch = {
        "blocks": (block, block),
        "given": mosaic.SMEM((ROWS, K), dtype),
        "added": mosaic.SMEM((ROWS, K) if biased else (1, K), dtype),
        "value": mosaic.SMEM((1, K), dtype),
        "tables": mosaic.SMEM((2, K // 2), wide),
        "parts": None if single else (mosaic.SMEM((ROWS, K), wide), mosaic.SMEM((2, ROWS), wide)),
        # The interpreter does not multiply by values in registers.
        "operands": None if interpret is None else tuple(mosaic.SMEM((ROWS, size), dtype) for size in (K, BLOCK)),
        "arrived": (mosaic.Barrier(num_barriers=stages), mosaic.Barrier(num_barriers=stages)),
        "ready": mosaic.Barrier(num_arrivals=4 if biased else 3),
    }
    sizes = {"heads": heads, "splits": splits, "stages": stages, "entries": entries, "width": prefix[0].shape[2]}
    body = partial(_kernel, biased=biased, **sizes)
    run: Any = pl.kernel(
        lambda *refs: pl.run_scoped(partial(body, *refs), **scratch),
        out_type=types,
        mesh=mosaic.Mesh(grid=(splits, S, G), grid_names=("part", "slot", "group")),
        compiler_params=mosaic.CompilerParams(approx_math=True, lowering_semantics=mosaic.LoweringSemantics.Warpgroup),
        interpret=interpret or False,
        name="decode_attention",
    )
    cached = [jax.new_ref(x.reshape(-1, K)) for x in ring]
    given = (qkv, qkv if bias is None else bias, *rotation, *(_aligned(x.reshape(-1, K)) for x in prefix))
    scalars = (context.prompt, context.prefix_length, context.age, entry)
    out, *statistics = run(*given, *scalars, *cached)
    keys, values = (jax.freeze(x).reshape(ring[0].shape) for x in cached)
    if single:
        return out[0], (keys, values)
    total, top = (x[..., :heads] for x in statistics)
    highest = top.max(axis=0)
    scale = jnp.exp2(top - highest)
    out, total = (out * scale[..., None]).sum(axis=0), (total * scale).sum(axis=0)
    if partial_result:
        return (out, total, highest * math.log(2)), (keys, values)
    return (out / total[..., None]).astype(dtype), (keys, values)


def _aligned(rows: jax.Array) -> jax.Array:
    """The rows, with zeros after them up to a multiple of ALIGNMENT."""
    return jnp.pad(rows, ((0, -len(rows) % ALIGNMENT), (0, 0)))


def _store(ref: Any, values: jax.Array) -> None:
    """Writes values to rows of shared memory that lie one after another, which jax 0.12 wants to be told is slow."""
    values = values.astype(ref.dtype)
    if hasattr(mosaic, "store"):
        mosaic.store(ref, values, optimized=False)
    else:
        ref[...] = values


def _kernel(
    qkv_ref: Any,
    bias_ref: Any,
    cos_ref: Any,
    sin_ref: Any,
    prefix_keys: Any,
    prefix_values: Any,
    prompt_ref: Any,
    length_ref: Any,
    age_ref: Any,
    entry_ref: Any,
    keys: Any,
    values: Any,
    out_ref: Any,
    *statistics_refs: Any,
    blocks: Any,
    given: Any,
    added: Any,
    value: Any,
    tables: Any,
    parts: Any,
    operands: Any,
    arrived: Any,
    ready: Any,
    heads: int,
    splits: int,
    stages: int,
    biased: bool,
    entries: int,
    width: int,
) -> None:
    part, s, g = (lax.axis_index(name) for name in ("part", "slot", "group"))
    K, half, wide = given.shape[1], given.shape[1] // 2, jnp.float32
    layout = mosaic.Layout.WGMMA
    real = pl.ds(0, heads + 2)
    mosaic.copy_gmem_to_smem(qkv_ref.at[s, g], given.at[real], ready)
    mosaic.copy_gmem_to_smem(cos_ref.at[s], tables.at[0], ready)
    mosaic.copy_gmem_to_smem(sin_ref.at[s], tables.at[1], ready)
    if biased:
        mosaic.copy_gmem_to_smem(bias_ref.at[g], added.at[real], ready)

    # Rows of the prefix, and of the ring before and after its end wraps.
    age, entry, length, groups = age_ref[s], entry_ref[s], length_ref[s], jnp.int32(qkv_ref.shape[1])
    prompt_row, slot_row = (prompt_ref[s] * groups + g) * width, (s * groups + g) * entries
    begins = (prompt_row, slot_row + entries - jnp.maximum(age - entry, 0), slot_row + jnp.maximum(entry - age, 0))
    ends = (prompt_row + length, slot_row + entries, slot_row + entry)
    bases = tuple(lax.div(begin, jnp.int32(ALIGNMENT)) * ALIGNMENT for begin in begins)
    counts = tuple(
        jnp.where(end > begin, lax.div(end - base + (BLOCK - 1), jnp.int32(BLOCK)), 0)
        for begin, end, base in zip(begins, ends, bases, strict=True)
    )
    first, second = counts[0], counts[0] + counts[1]
    mine = lax.div(second + counts[2] - part + (splits - 1), jnp.int32(splits))  # blocks part, part + splits, ...

    def place(step: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Whether the block of a step is of the prefix, its start, and the rows that count."""
        index = part + step * splits

        def choose(options: tuple[jax.Array, ...]) -> jax.Array:
            return jnp.where(index < first, options[0], jnp.where(index < second, options[1], options[2]))

        start = choose(bases) + (index - choose((jnp.int32(0), first, second))) * BLOCK
        return index < first, pl.multiple_of(start, ALIGNMENT), choose(begins), choose(ends)

    def fetch(step: jax.Array, stage: jax.Array) -> None:
        of_prefix, start = place(step)[:2]
        for cached, condition in (
            ((prefix_keys, prefix_values), of_prefix),
            ((keys, values), jnp.logical_not(of_prefix)),
        ):

            @pl.when(condition)
            def _(cached=cached):
                for ref, into, barrier in zip(cached, blocks, arrived, strict=True):
                    mosaic.copy_gmem_to_smem(ref.at[pl.ds(start, BLOCK)], into.at[stage], barrier.at[stage])

    for stage in range(stages):

        @pl.when(stage < mine)
        def _(stage=stage):
            fetch(jnp.int32(stage), jnp.int32(stage))

    mosaic.barrier_wait(ready)

    def projected(index: Any, layout: Any) -> jax.Array:
        x = mosaic.load(given.at[index], layout=layout, optimized=False).astype(wide)
        if biased:
            x += mosaic.load(added.at[index], layout=layout, optimized=False).astype(wide)
            x = x.astype(given.dtype).astype(wide)
        return x

    def along(x: jax.Array, size: int) -> jax.Array:
        return lax.broadcast_in_dim(x, (ROWS, size), [1])

    def across(x: jax.Array, size: int) -> jax.Array:
        return lax.broadcast_in_dim(x, (ROWS, size), [0])

    cos, sin = (along(mosaic.load(tables.at[i], layout=layout.reduce(0), optimized=False), half) for i in range(2))
    row = mosaic.broadcasted_iota(jnp.int32, (ROWS, half), 0, layout=layout)
    a, b = (
        jnp.where(row <= heads, projected((slice(None), pl.ds(at, half)), layout), jnp.zeros((ROWS, half), wide))
        for at in (0, half)
    )
    new_value = projected(heads + 1, layout.reduce(0))
    # All reads of the queries before their rotation come before this write.
    _store(given.at[:, pl.ds(0, half)], a * cos - b * sin)
    _store(given.at[:, pl.ds(half, half)], b * cos + a * sin)
    _store(value.at[0], new_value)
    mosaic.commit_smem()
    q = mosaic.load(given, layout=layout, optimized=False)
    new_key = mosaic.load(given.at[heads], layout=layout.reduce(0), optimized=False)

    leads = part == 0  # only the first program processes the new token

    @pl.when(leads)
    def _():  # other programs may copy this entry, which they mask: the new token comes from qkv
        there = pl.ds(slot_row + entry, 1)
        mosaic.copy_smem_to_gmem(given.at[pl.ds(heads, 1)], keys.at[there])
        mosaic.copy_smem_to_gmem(value, values.at[there])

    # Scores are in units of log 2, for exp2.
    scale = K**-0.5 * math.log2(math.e)
    own = (q.astype(wide) * along(new_key.astype(wide), K)).sum(axis=1) * scale
    share = jnp.where(leads, 1.0, 0.0).astype(wide)
    top = own * share + LEAST * (1 - share)
    total = jnp.zeros_like(own) + share
    sums = along(new_value, K) * share

    def product(x: jax.Array, y: Any, size: int) -> jax.Array:
        left: Any = x
        if operands is not None:
            left = operands[0 if x.shape[1] == K else 1]
            left[...] = x

        def scope(sums: Any) -> jax.Array:
            mosaic.wgmma(sums, left, y)
            return sums[...]

        return pl.run_scoped(scope, mosaic.ACC((ROWS, size), wide))

    def attend(step: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array]) -> Any:
        top, total, sums = carry
        stage = lax.rem(step, jnp.int32(stages))
        start, begin, end = place(step)[1:]
        mosaic.barrier_wait(arrived[0].at[stage])

        scores = product(q, blocks[0].at[stage].transpose((1, 0)), BLOCK) * scale
        column = mosaic.broadcasted_iota(jnp.int32, (ROWS, BLOCK), 1, layout=layout) + start
        scores = jnp.where((column >= begin) & (column < end), scores, jnp.full_like(scores, LEAST))
        highest = jnp.maximum(top, scores.max(axis=1))
        weights, fade = jnp.exp2(scores - across(highest, BLOCK)), jnp.exp2(top - highest)
        total = total * fade + weights.sum(axis=1)
        weights = weights.astype(given.dtype)
        mosaic.barrier_wait(arrived[1].at[stage])
        sums = sums * across(fade, K) + product(weights, blocks[1].at[stage], K)

        @pl.when(step + stages < mine)
        def _():
            fetch(step + stages, stage)

        return highest, total, sums

    top, total, sums = lax.fori_loop(0, mine, attend, (top, total, sums))
    mosaic.wait_smem_to_gmem(0, wait_read_only=True)  # the key is read from the memory of the result
    if parts is None:
        _store(given, sums / across(total, K))
        result = given
        mosaic.commit_smem()
    else:
        result, statistics = parts
        _store(result, sums)
        _store(statistics.at[0], total)
        _store(statistics.at[1], top)
        mosaic.commit_smem()
        for i, ref in enumerate(statistics_refs):
            mosaic.copy_smem_to_gmem(statistics.at[i, pl.ds(0, ref.shape[-1])], ref.at[part, s, g])
    mosaic.copy_smem_to_gmem(result.at[pl.ds(0, heads)], out_ref.at[part, s, g])
    mosaic.wait_smem_to_gmem(0)
