"""The kernel of decode attention for Hopper GPUs, in Pallas Mosaic GPU.

A program attends with all queries of a (slot, group) pair. Its warpgroups share the keys and join their partial softmax
at the end. Queries are the columns of both products, since tensor cores compute at least 64 rows but as few as 8
columns. The cached rows of all slots are one array of rows: a block starts at a multiple of 8 rows, which copies into
the layout of tensor cores need, and rows of others are masked.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from r1jax.kernels.platform import LEAST, mosaic, multiprocessors

if TYPE_CHECKING:
    from r1jax.kernels.decode_attention import Context

HEAD_SIZES = (64, 128)
MAX_HEADS = 62  # queries of a group
BLOCK = 64  # keys per step
TAIL = 32
ALIGNMENT = 8  # rows of cached keys and values, and columns of a product
RESIDENT = 8  # warpgroups per multiprocessor
WARPGROUPS = 4  # of a program at most
STAGES = 4  # blocks in flight per warpgroup at most
MEMORY = 228 * 1024  # bytes of shared memory per multiprocessor
SHARE = 2048  # minimum ring entries per program where several programs share the keys of one pair


class Shape(NamedTuple):
    """How a kernel divides its work."""

    splits: int  # programs that share the keys of a (slot, group) pair
    warpgroups: int  # of a program, which share its keys
    stages: int  # blocks in flight for each warpgroup
    block: int = BLOCK  # keys of a block, a multiple of 64
    tail: int = TAIL  # keys that are copied of a last block with at most so many, a multiple of 8


def shape_of(pairs: int, heads: int, size: int, entries: int) -> Shape:
    """The shape for (slot, group) pairs of so many queries and numbers of a head, and rings of so many entries."""
    splits = max(1, min(multiprocessors() // pairs, entries // SHARE))
    columns = _columns(heads)
    shared = 2 * size * (5 * columns + 2 * ALIGNMENT) + 3072  # bytes of a program, with those of the system
    stage, own = 2 * 2 * BLOCK * size, 2 * columns * BLOCK + 4 * _room(columns)  # bytes of a warpgroup
    joined = 4 * columns * (size + 2)  # bytes more if there are several
    programs = min(RESIDENT, -(-pairs * splits // multiprocessors()), MEMORY // (shared + own + stage))
    free = MEMORY // programs - shared
    most = WARPGROUPS if columns <= 32 else 2  # registers of more columns
    warpgroups = max(1, min(most, RESIDENT // programs, free // (own + joined + stage)))
    stages = (free // warpgroups - own - joined * (warpgroups > 1)) // stage
    return Shape(splits, warpgroups, max(1, min(STAGES, stages)))


def _room(columns: int) -> int:
    """Numbers that a reduction over rows exchanges between warps at a time: two columns of each thread."""
    return 256 * min(columns // ALIGNMENT, 4)


def _columns(heads: int) -> int:
    """Columns of the products for so many queries."""
    return -(-heads // ALIGNMENT) * ALIGNMENT


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
    S, G, rows, K = qkv.shape
    shape = shape_of(S * G, rows - 2, K, ring[0].shape[2])
    entry = jnp.broadcast_to(entry, (S,))
    return _call(qkv, bias, rotation, prefix, ring, context, entry, shape, interpret, partial_result)


# Under jit, so that the kernel is traced, lowered and compiled once for all layers.
@partial(jax.jit, static_argnames=("shape", "interpret", "partial_result"))
def _call(
    qkv: jax.Array,
    bias: jax.Array | None,
    rotation: tuple[jax.Array, jax.Array],
    prefix: tuple[jax.Array, jax.Array],
    ring: tuple[jax.Array, jax.Array],
    context: Context,
    entry: jax.Array,
    shape: Shape,
    interpret: Any,
    partial_result: bool,
) -> tuple[Any, tuple[jax.Array, jax.Array]]:
    S, G, rows, K = qkv.shape
    splits, warpgroups, stages, block, tail = shape
    heads, entries, columns = rows - 2, ring[0].shape[2], _columns(rows - 2)
    biased, whole = bias is not None, splits == 1 and not partial_result
    dtype, wide = qkv.dtype, jnp.float32
    if whole:
        types = [jax.ShapeDtypeStruct((S, G, heads, K), dtype)]
    else:
        types = [jax.ShapeDtypeStruct((splits, S, G, *x, columns), wide) for x in ((K,), (), ())]
    swizzled = mosaic.TilingTransform((8, 64)), mosaic.SwizzleTransform(128)
    blocks = mosaic.SMEM((warpgroups, stages, block, K), dtype, transforms=swizzled)
    parts = mosaic.SMEM((warpgroups, K, columns), wide), mosaic.SMEM((warpgroups, 2, columns), wide)
    scratch = {
        "blocks": (blocks, blocks),
        "weights": mosaic.SMEM((warpgroups, columns, block), dtype, transforms=swizzled),
        "queries": mosaic.SMEM((columns, K), dtype, transforms=swizzled),
        "given": mosaic.SMEM((columns + ALIGNMENT, K), dtype),
        "added": mosaic.SMEM((columns + ALIGNMENT, K), dtype) if biased else None,
        "numbers": mosaic.SMEM((3, max(K // 2, columns)), wide),
        "room": mosaic.SMEM((warpgroups, _room(columns)), wide),
        "parts": None if warpgroups == 1 else parts,
        "result": mosaic.SMEM((columns, K), dtype) if whole else mosaic.SMEM((K, columns), wide),
        "statistics": None if whole else mosaic.SMEM((2, columns), wide),
        "arrived": (mosaic.Barrier(num_barriers=warpgroups * stages), mosaic.Barrier(num_barriers=warpgroups * stages)),
        "ready": mosaic.Barrier(num_arrivals=4 if biased else 3),
        "turned": mosaic.Barrier(),
        "joined": mosaic.Barrier(num_arrivals=warpgroups),
    }
    sizes = {"heads": heads, "splits": splits, "tail": tail, "entries": entries, "width": prefix[0].shape[2]}
    body = partial(_kernel, interpreted=interpret is not None, **sizes)
    run: Any = pl.kernel(
        lambda *refs: pl.run_scoped(partial(body, *refs), collective_axes="warpgroup", **scratch),
        out_type=types,
        mesh=mosaic.Mesh(
            grid=(splits, S, G), grid_names=("part", "slot", "group"), num_threads=warpgroups, thread_name="warpgroup"
        ),
        # Barriers within a warpgroup are in the kernel: one before and after each copy would stall it.
        compiler_params=mosaic.CompilerParams(
            approx_math=True,
            unsafe_no_auto_barriers=True,
            reduction_scratch_bytes=0,
            lowering_semantics=mosaic.LoweringSemantics.Warpgroup,
        ),
        interpret=interpret or False,
        name="decode_attention",
    )
    cached = [jax.new_ref(x.reshape(-1, K)) for x in ring]
    given = (qkv, qkv if bias is None else bias, *rotation, *(_aligned(x.reshape(-1, K)) for x in prefix))
    scalars = (context.prompt, context.prefix_length, context.age, entry)
    out, *statistics = run(*given, *scalars, *cached)
    keys, values = (jax.freeze(x).reshape(ring[0].shape) for x in cached)
    if whole:
        return out, (keys, values)
    out, total, top = (x[..., :heads] for x in (out, *statistics))
    highest = top.max(axis=0)
    scale = jnp.exp2(top - highest)
    out, total = (out * scale[..., None, :]).sum(axis=0).swapaxes(-1, -2), (total * scale).sum(axis=0)
    if partial_result:
        return (out, total, highest * math.log(2)), (keys, values)
    return (out / total[..., None]).astype(dtype), (keys, values)


def _aligned(rows: jax.Array) -> jax.Array:
    """The rows, with zeros after them up to a multiple of ALIGNMENT."""
    return jnp.pad(rows, ((0, -len(rows) % ALIGNMENT), (0, 0)))


def _store(ref: Any, values: jax.Array) -> None:
    """Writes values to shared memory in an order that jax 0.12 wants to be told is slow."""
    values = values.astype(ref.dtype)
    if hasattr(mosaic, "store"):
        mosaic.store(ref, values, optimized=False)
    else:
        ref[...] = values


def _over_rows(operation: str, x: jax.Array, room: Any) -> jax.Array:
    """The maximum ("max") or sum ("add") of each column, whose warps exchange numbers in ``room``.

    Reductions of Pallas use the same memory for all warpgroups.
    """
    whole = mosaic.Layout.WGMMA

    @mosaic.inline_mgpu(
        arg_types=(whole, mosaic.RefType()),
        return_type=mosaic.ShapeDtypeStruct((x.shape[1],), x.dtype, layout=whole.reduce(0)),
    )
    def reduce(_: Any, x: Any, room: Any) -> Any:
        return x.reduce(operation, 0, room)

    return reduce(x, room)


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
    weights: Any,
    queries: Any,
    given: Any,
    added: Any,
    numbers: Any,
    room: Any,
    parts: Any,
    result: Any,
    statistics: Any,
    arrived: Any,
    ready: Any,
    turned: Any,
    joined: Any,
    heads: int,
    splits: int,
    tail: int,
    entries: int,
    width: int,
    interpreted: bool,
) -> None:
    split, s, g, own = (lax.axis_index(name) for name in ("part", "slot", "group", "warpgroup"))
    warpgroups, stages, block, K = blocks[0].shape
    columns, half, wide = queries.shape[0], K // 2, jnp.float32
    layout = mosaic.Layout.WGMMA
    real = pl.ds(0, heads + 2)
    tables, owns = [numbers.at[i, pl.ds(0, half)] for i in range(2)], numbers.at[2, pl.ds(0, columns)]

    @pl.when(own == 0)
    def _():
        mosaic.copy_gmem_to_smem(qkv_ref.at[s, g], given.at[real], ready)
        mosaic.copy_gmem_to_smem(cos_ref.at[s], tables[0], ready)
        mosaic.copy_gmem_to_smem(sin_ref.at[s], tables[1], ready)
        if added is not None:
            mosaic.copy_gmem_to_smem(bias_ref.at[g], added.at[real], ready)

    # Rows of the prefix, and of the ring before and after its end wraps.
    age, entry, length, groups = age_ref[s], entry_ref[s], length_ref[s], jnp.int32(qkv_ref.shape[1])
    prompt_row, slot_row = (prompt_ref[s] * groups + g) * width, (s * groups + g) * entries
    begins = (prompt_row, slot_row + entries - jnp.maximum(age - entry, 0), slot_row + jnp.maximum(entry - age, 0))
    ends = (prompt_row + length, slot_row + entries, slot_row + entry)
    bases = tuple(lax.div(begin, jnp.int32(ALIGNMENT)) * ALIGNMENT for begin in begins)
    counts = tuple(
        jnp.where(end > begin, lax.div(end - base + (block - 1), jnp.int32(block)), 0)
        for begin, end, base in zip(begins, ends, bases, strict=True)
    )
    first, second = counts[0], counts[0] + counts[1]
    part, sharing = split * warpgroups + own, splits * warpgroups
    mine = lax.div(second + counts[2] - part + (sharing - 1), jnp.int32(sharing))  # blocks part, part + sharing, ...

    def place(step: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Whether the block of a step is of the prefix, its start, and the rows that count."""
        index = part + step * sharing

        def choose(options: tuple[jax.Array, ...]) -> jax.Array:
            return jnp.where(index < first, options[0], jnp.where(index < second, options[1], options[2]))

        start = choose(bases) + (index - choose((jnp.int32(0), first, second))) * block
        return index < first, pl.multiple_of(start, ALIGNMENT), choose(begins), choose(ends)

    def fetch(step: jax.Array, stage: jax.Array, kind: int) -> None:
        """Starts the copy of the keys (kind 0) or values (1) of a step."""
        of_prefix, start, end = (place(step)[i] for i in (0, 1, 3))
        into, barrier = blocks[kind].at[own, stage], arrived[kind].at[own * stages + stage]
        short = end - start <= tail
        for ref, chosen in (
            ((prefix_keys, prefix_values)[kind], of_prefix),
            ((keys, values)[kind], jnp.logical_not(of_prefix)),
        ):
            for size, fits in ((block, jnp.logical_not(short)), (tail, short)):

                @pl.when(chosen & fits)
                def _(ref=ref, size=size):
                    mosaic.copy_gmem_to_smem(ref.at[pl.ds(start, size)], into.at[pl.ds(0, size)], barrier)

    for stage in range(stages):

        @pl.when(stage < mine)
        def _(stage=stage):
            fetch(jnp.int32(stage), jnp.int32(stage), 0)
            fetch(jnp.int32(stage), jnp.int32(stage), 1)

    def along(x: jax.Array, rows: int) -> jax.Array:
        return lax.broadcast_in_dim(x, (rows, *x.shape), [1])

    # A warp has one row of a tile, and a lane one column, or two that follow one another.
    narrow, broad = (
        mosaic.Layout.TILED(mosaic.Tiling(((4, 32 * size), (size,))), warp_dims=(-3,), lane_dims=(-2,), vector_dim=-1)
        for size in (1, 2)
    )
    slot_entry = pl.ds(slot_row + entry, 1)
    leads = split == 0  # only the first program processes the new token

    @pl.when(own == 0)
    def _():
        mosaic.barrier_wait(ready)
        shape = (given.shape[0], half)

        def projected(at: int) -> jax.Array:
            x = mosaic.load(given.at[:, pl.ds(at, half)], layout=narrow, optimized=False).astype(wide)
            if added is not None:
                x += mosaic.load(added.at[:, pl.ds(at, half)], layout=narrow, optimized=False).astype(wide)
                x = x.astype(given.dtype).astype(wide)
            return x

        a, b = projected(0), projected(half)
        cos, sin = (
            along(mosaic.load(table, layout=narrow.reduce((0,)), optimized=False), shape[0]) for table in tables
        )
        turns = mosaic.broadcasted_iota(jnp.int32, shape, 0, layout=narrow) <= heads  # all but the new value
        _store(given.at[:, pl.ds(0, half)], jnp.where(turns, a * cos - b * sin, a))
        _store(given.at[:, pl.ds(half, half)], jnp.where(turns, b * cos + a * sin, b))
        mosaic.commit_smem()

        @pl.when(leads)
        def _():  # other programs may copy this entry, which they mask: the new token comes from qkv
            mosaic.copy_smem_to_gmem(given.at[pl.ds(heads, 1)], keys.at[slot_entry])
            mosaic.copy_smem_to_gmem(given.at[pl.ds(heads + 1, 1)], values.at[slot_entry])

        q = mosaic.load(given.at[pl.ds(0, columns)], layout=broad, optimized=False)
        new_key = mosaic.load(given.at[heads], layout=broad.reduce((0,)), optimized=False)
        _store(queries, q)
        _store(owns, (q.astype(wide) * along(new_key.astype(wide), columns)).sum(axis=1))
        mosaic.commit_smem()
        mosaic.barrier_arrive(turned)

    mosaic.barrier_wait(turned)

    # Scores are in units of log 2, for exp2.
    scale = K**-0.5 * math.log2(math.e)
    new_value = mosaic.load(given.at[heads + 1], layout=layout.reduce(1), optimized=False).astype(wide)
    share = jnp.where(part == 0, 1.0, 0.0).astype(wide)
    top = mosaic.load(owns, layout=layout.reduce(0), optimized=False) * scale * share + LEAST * (1 - share)
    row = mosaic.broadcasted_iota(jnp.int32, (block, columns), 0, layout=layout)
    total = jnp.where(row == 0, share, 0.0)  # to be summed over its rows
    sums = lax.broadcast_in_dim(new_value, (K, columns), [0]) * share

    def product(x: Any, y: Any) -> jax.Array:
        def scope(sums: Any) -> jax.Array:
            mosaic.wgmma(sums, x, y)
            return sums[...]

        return pl.run_scoped(scope, mosaic.ACC((x.shape[0], y.shape[1]), wide))

    def over_rows(operation: str, x: jax.Array) -> jax.Array:
        if interpreted:
            return x.max(axis=0) if operation == "max" else x.sum(axis=0)
        return _over_rows(operation, x, room.at[own])

    def attend(step: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array]) -> Any:
        top, total, sums = carry
        stage = lax.rem(step, jnp.int32(stages))
        start, begin, end = place(step)[1:]
        refetch = step + stages < mine
        their_keys, their_values = (x.at[own, stage] for x in blocks)
        mosaic.barrier_wait(arrived[0].at[own * stages + stage])
        scores = product(their_keys, queries.transpose((1, 0))) * scale
        valid = (row >= begin - start) & (row < end - start)
        scores = jnp.where(valid, scores, jnp.full_like(scores, LEAST))
        highest = jnp.maximum(top, over_rows("max", scores))  # after it, no warp reads the keys

        @pl.when(refetch)
        def _():
            fetch(step + stages, stage, 0)

        share, fade = jnp.exp2(scores - along(highest, block)), jnp.exp2(top - highest)
        total = total * along(fade, block) + share
        weights.at[own].transpose((1, 0))[...] = share.astype(weights.dtype)
        mosaic.barrier_wait(arrived[1].at[own * stages + stage])

        @pl.when((start < begin) | (start + block > end))
        def _():  # a weight of zero would not hide values that are not finite
            rows = mosaic.broadcasted_iota(jnp.int32, (block, 64), 0, layout=layout)
            for at in range(0, K, 64):
                some = their_values.at[:, pl.ds(at, 64)]
                x = mosaic.load(some, layout=layout)
                some[...] = jnp.where((rows >= begin - start) & (rows < end - start), x, jnp.zeros_like(x))

        mosaic.commit_smem()
        sums = sums * along(fade, K) + product(their_values.transpose((1, 0)), weights.at[own].transpose((1, 0)))
        mosaic.commit_smem()  # no warp reads the values and weights any more

        @pl.when(refetch)
        def _():
            fetch(step + stages, stage, 1)

        return highest, total, sums

    top, total, sums = lax.fori_loop(0, mine, attend, (top, total, sums))
    total = over_rows("add", total)

    def join(found: tuple[jax.Array, jax.Array, jax.Array], other: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        top, total, sums = found
        their_sums = mosaic.load(parts[0].at[other], layout=layout, optimized=False)
        their_total, their_top = (
            mosaic.load(parts[1].at[other, i], layout=layout.reduce(0), optimized=False) for i in range(2)
        )
        highest = jnp.maximum(top, their_top)
        fade, their_fade = jnp.exp2(top - highest), jnp.exp2(their_top - highest)
        return (
            highest,
            total * fade + their_total * their_fade,
            sums * along(fade, K) + their_sums * along(their_fade, K),
        )

    def finish(top: jax.Array, total: jax.Array, sums: jax.Array) -> None:
        if statistics is None:
            _store(result.transpose((1, 0)), sums / along(total, K))
            mosaic.commit_smem()
            mosaic.copy_smem_to_gmem(result.at[pl.ds(0, heads)], out_ref.at[s, g])
        else:
            _store(result, sums)
            _store(statistics.at[0], total)
            _store(statistics.at[1], top)
            mosaic.commit_smem()
            mosaic.copy_smem_to_gmem(result, out_ref.at[split, s, g])
            for i, ref in enumerate(statistics_refs):
                mosaic.copy_smem_to_gmem(statistics.at[i], ref.at[split, s, g])
        mosaic.wait_smem_to_gmem(0)

    if parts is not None:
        _store(parts[0].at[own], sums)
        _store(parts[1].at[own, 0], total)
        _store(parts[1].at[own, 1], top)
        mosaic.commit_smem()
        mosaic.barrier_arrive(joined)

    @pl.when(own == 0)
    def _():
        found = top, total, sums
        if parts is not None:
            mosaic.barrier_wait(joined)
            for other in range(1, warpgroups):
                found = join(found, other)
        finish(*found)
