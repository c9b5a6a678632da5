"""The kernels of products with 129 to 1,024 rows for Hopper GPUs, in Pallas Mosaic GPU.

A program computes a tile of the result, or of a part of it with a share of the terms. One or two of its warpgroups
multiply, and a last one copies the operands of the next steps into shared memory. Programs of a cluster copy what they
share once: those of the same columns their blocks of the matrix, and those of the same rows their rows.
"""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from r1jax.kernels.platform import mosaic, multiprocessors

MAX_ROWS = 1024
ALIGNMENT = 8  # rows of a tile of shared memory
WIDTH = 64  # numbers of a row and of a column of a matrix must be a multiple
DEPTH = 64  # terms of the sum per step
MAX_STAGES = 12  # steps whose operands are in shared memory at the same time
MAX_SPLITS = 8  # parts of a product
PROGRAM_BYTES = 224 * 1024  # shared memory of a program
PIECE = 64  # rows of the parts in which a warpgroup stores its part of a tile
REGISTERS, COPY_REGISTERS = 232, 40  # per thread of two warpgroups that multiply, and of the one that copies
SUMS = 192  # registers for sums per thread, at most
SUMMED = False  # whether programs of a cluster add the parts, which saves writing and reading them; not measured yet
LARGEST_CLUSTER = 8  # programs, whose number is a power of two
CLUSTER = ("column_of_cluster", "row_of_cluster", "part_of_cluster")

# What one multiprocessor does in a clock cycle, for the choice of tiles: products, bytes that it gets from the L2 cache
# if all of them read at the same time (7 TB/s), and its share of the bytes of parts that are written and read again.
PRODUCTS, BYTES, PART_BYTES = 2048, 32, 16
BEGIN = 3000  # cycles until the first products of a program, and for its result


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Sizes of the tile of a program.

    columns: of the result; a gated product multiplies by as many columns of gate and of up.
    warpgroups: number that multiply, each a share of the rows.
    splits: parts of the sum.
    sharing: programs of a cluster with the same columns, and with the same rows.
    summed: the programs of the parts are a cluster, too, and add the parts in their order.
    depth: terms of the sum per step.
    """

    rows: int
    columns: int
    warpgroups: int
    splits: int = 1
    sharing: tuple[int, int] = (2, 1)
    summed: bool = False
    depth: int = DEPTH


def supports(rows: int, *widths: int) -> bool:
    """True if the kernels support products of this number of rows with matrices of these widths."""
    return rows <= MAX_ROWS and rows % ALIGNMENT == 0 and all(width % WIDTH == 0 for width in widths)


def product(x: jax.Array, w: jax.Array, interpret: Any = None) -> jax.Array:
    """x [S, K] times w [K, N], with sums in float32: [S, N] in the type of x.

    interpret: parameters of the interpreter on a CPU; None compiles the kernel.
    """
    tiles = tiles_of(len(x), *w.shape, splits=MAX_SPLITS if SUMMED else 1)
    return multiply(x, w, tiles, interpret=interpret)[0]


def gated_product(x: jax.Array, w: jax.Array, interpret: Any = None) -> jax.Array:
    """silu(x w_gate) * x w_up for x [S, K] and w [K, 2 F], gate before up: [S, F] in the type of x; as product."""
    tiles = tiles_of(len(x), len(w), w.shape[1] // 2, splits=1, gated=True)
    return multiply(x, w, tiles, gated=True, interpret=interpret)[0]


def product_parts(x: jax.Array, w: jax.Array, interpret: Any = None) -> jax.Array:
    """[P, S, N] float32, whose sum over P is x [S, K] times w [K, N], or product(x, w) if there is one part."""
    tiles = tiles_of(len(x), *w.shape, splits=MAX_SPLITS)
    if tiles.splits == 1 or tiles.summed:
        return multiply(x, w, tiles, interpret=interpret)[0]
    return multiply(x, w, tiles, dtype=jnp.float32, interpret=interpret)


def tiles_of(rows: int, terms: int, width: int, splits: int, gated: bool = False) -> Tiles:
    """The tiles with the fewest cycles for a product of [rows, terms] with a result of this width.

    splits: parts of the sum, at most.
    """
    found = [
        Tiles(size, columns, 1 if size == PIECE else 2, parts, summed=SUMMED and parts > 1)
        for size in (64, 128, 256)
        for columns in (64, 96, 128)
        for parts in range(1, min(splits, terms // DEPTH) + 1)
        if size * columns * (1 + gated) <= 128 * SUMS * (1 if size == PIECE else 2)
    ]
    return min(filter(_fits, found), key=lambda tiles: cycles(tiles, rows, terms, width, gated))


def _fits(tiles: Tiles) -> bool:
    """True if a cluster can sum the parts of these tiles, or does not."""
    programs = tiles.splits * tiles.sharing[0] * tiles.sharing[1]
    return not tiles.summed or (LARGEST_CLUSTER % programs == 0 and tiles.columns % (ALIGNMENT * tiles.splits) == 0)


def cycles(tiles: Tiles, rows: int, terms: int, width: int, gated: bool) -> float:
    """Clock cycles of a product: in each wave of programs, a step takes as long as its products or its copies."""
    columns = tiles.columns * (1 + gated)
    programs = pl.cdiv(rows, tiles.rows) * pl.cdiv(width, tiles.columns) * tiles.splits
    waves = pl.cdiv(programs, multiprocessors())
    copied = 2 * DEPTH * (tiles.rows / tiles.sharing[1] + columns / tiles.sharing[0])
    step = max(DEPTH * tiles.rows * columns / PRODUCTS, copied / BYTES)
    total = waves * (BEGIN + pl.cdiv(terms // DEPTH, tiles.splits) * step)
    if tiles.summed:
        return total + waves * 4 * tiles.rows * columns / BYTES
    parts = 8 * tiles.splits * rows * width if tiles.splits > 1 else 0
    return total + parts / multiprocessors() / PART_BYTES


def multiply(
    x: jax.Array,
    w: jax.Array,
    tiles: Tiles,
    gated: bool = False,
    transposed: bool = False,
    dtype: Any = None,
    interpret: Any = None,
) -> jax.Array:
    """The parts of x [S, K] times w [K, N], with sums in float32.

    Args:
      x: [S, K].
      w: [K, N], or [N, K] if ``transposed``.
      tiles: sizes of a tile.
      gated: silu(x w_gate) * x w_up for a matrix of two halves, gate before up, whose N are the columns of both.
      transposed: multiply by the transpose of w.
      dtype: of the parts; None is that of x.
      interpret: parameters of the interpreter on a CPU; None compiles the kernel.

    Returns:
      [P, S, N], or [P, S, N / 2] if ``gated``, for P parts; one if they are summed.
    """
    return _call(x, w, tiles, gated, transposed, jnp.dtype(dtype or x.dtype), interpret)


# Under jit, so that the kernel is traced, lowered and compiled once for all layers.
@partial(jax.jit, static_argnames=("tiles", "gated", "transposed", "dtype", "interpret"))
def _call(
    x: jax.Array, w: jax.Array, tiles: Tiles, gated: bool, transposed: bool, dtype: Any, interpret: Any
) -> jax.Array:
    (S, K), operands, t = x.shape, 2 if gated else 1, tiles
    width = w.shape[0 if transposed else 1] // operands
    same_columns, same_rows = t.sharing
    tiled = pl.cdiv(width, t.columns * same_rows), pl.cdiv(S, t.rows * same_columns)
    grid = {"part": 1 if t.summed else t.splits, "column": tiled[0], "row": tiled[1]}
    cluster = {CLUSTER[0]: same_rows, CLUSTER[1]: same_columns, CLUSTER[2]: t.splits if t.summed else 1}
    stored = t.columns // t.splits if t.summed else t.columns  # columns of the result of a program
    scratch = {
        "pieces": mosaic.SMEM(
            (t.warpgroups, t.rows // t.warpgroups // PIECE, PIECE, stored), dtype, transforms=_layout(stored, dtype)
        )
    }
    result_bytes = t.rows * stored * dtype.itemsize
    if t.summed:
        shape = t.warpgroups, t.splits, t.rows // t.warpgroups, stored
        scratch["parts"] = mosaic.SMEM(shape, jnp.float32, transforms=_layout(stored, jnp.float32))
        scratch["complete"] = mosaic.Barrier(num_arrivals=t.splits, num_barriers=t.warpgroups)
        result_bytes += 4 * t.rows * t.columns
    step_bytes = 2 * t.depth * (t.rows + operands * t.columns)
    stages = min(MAX_STAGES, (PROGRAM_BYTES - result_bytes) // step_bytes, pl.cdiv(K // t.depth, t.splits))
    block = (operands * t.columns, t.depth) if transposed else (operands, t.depth, t.columns)
    # Both operands of a product of tensor cores have the same swizzle.
    layout = _layout(t.depth if transposed else math.gcd(t.columns, t.depth), x.dtype)
    scratch |= {
        "left": mosaic.SMEM((stages, t.rows, t.depth), x.dtype, transforms=layout),
        "right": mosaic.SMEM((stages, *block), w.dtype, transforms=layout),
        "filled": mosaic.Barrier(num_arrivals=1 + operands, num_barriers=stages),
        "free": mosaic.ClusterBarrier(collective_axes=CLUSTER[:2], num_arrivals=t.warpgroups, num_barriers=stages),
    }
    run = mosaic.kernel(
        partial(_kernel, gated=gated, transposed=transposed, tiles=tiles),
        out_type=jax.ShapeDtypeStruct((grid["part"], S, width), dtype),
        scratch_types=scratch,
        grid=tuple(grid.values()),
        grid_names=tuple(grid),
        cluster=tuple(cluster.values()),
        cluster_names=tuple(cluster),
        num_threads=t.warpgroups + 1,
        thread_name="warpgroup",
        compiler_params=mosaic.CompilerParams(approx_math=True, lowering_semantics=mosaic.LoweringSemantics.Warpgroup),
        kernel_name="more_rows_gated" if gated else "more_rows",
        interpret=interpret,
    )
    return run(x, w)


def _layout(width: int, dtype: Any) -> tuple[Any, ...]:
    """The layout in shared memory of blocks whose columns are a multiple of this number."""
    size = jnp.dtype(dtype).itemsize
    swizzle = mosaic.find_swizzle(width * size * 8)
    if swizzle == 16:  # rows are contiguous
        return ()
    return mosaic.TilingTransform((8, swizzle // size)), mosaic.SwizzleTransform(swizzle)


def _kernel(
    x_ref: Any,
    w_ref: Any,
    out_ref: Any,
    left: Any,
    right: Any,
    pieces: Any,
    filled: Any,
    free: Any,
    *,
    gated: bool,
    transposed: bool,
    tiles: Tiles,
    parts: Any = None,
    complete: Any = None,
) -> None:
    warpgroup, summed = lax.axis_index("warpgroup"), tiles.summed
    part = lax.axis_index(CLUSTER[2] if summed else "part")
    row = (lax.axis_index("row") * tiles.sharing[0] + lax.axis_index(CLUSTER[1])) * tiles.rows
    column = (lax.axis_index("column") * tiles.sharing[1] + lax.axis_index(CLUSTER[0])) * tiles.columns
    (stages, _, depth), width, K = left.shape, out_ref.shape[2], x_ref.shape[1]
    operands, steps = 2 if gated else 1, jnp.int32(K // depth)
    first = lax.div(part * steps, jnp.int32(tiles.splits))
    mine = lax.div((part + 1) * steps, jnp.int32(tiles.splits)) - first

    def slot_of(step: jax.Array) -> jax.Array:
        return lax.rem(step, jnp.int32(stages))

    def copy() -> None:
        def fetch(step: jax.Array) -> None:
            slot, terms = slot_of(step), pl.ds((first + step) * depth, depth)

            @pl.when(step >= stages)
            def _() -> None:
                mosaic.barrier_wait(free.at[slot])

            for i in range(operands):
                columns = pl.ds(i * width + column, tiles.columns)
                there = w_ref.at[columns, terms] if transposed else w_ref.at[terms, columns]
                block = right.at[slot, pl.ds(i * tiles.columns, tiles.columns) if transposed else i]
                shared = CLUSTER[1] if tiles.sharing[0] > 1 else None
                mosaic.copy_gmem_to_smem(there, block, filled.at[slot], collective_axes=shared)
            shared = CLUSTER[0] if tiles.sharing[1] > 1 else None
            rows = x_ref.at[pl.ds(row, tiles.rows), terms]
            mosaic.copy_gmem_to_smem(rows, left.at[slot], filled.at[slot], collective_axes=shared)

        pl.loop(0, mine)(fetch)

        # Other programs of the cluster arrive at these barriers and write to this shared memory until then.
        @pl.loop(jnp.maximum(mine - stages, 0), mine)
        def _(step: jax.Array) -> None:
            mosaic.barrier_wait(free.at[slot_of(step)])

    share = tiles.rows // tiles.warpgroups

    def product(*sums: Any) -> None:
        @pl.loop(0, mine)
        def _(step: jax.Array) -> None:
            slot = slot_of(step)
            mosaic.barrier_wait(filled.at[slot])
            for i, total in enumerate(sums):
                factor = right.at[slot].transpose((1, 0)) if transposed else right.at[slot, i]
                mosaic.wgmma(total, left.at[slot, pl.ds(warpgroup * share, share)], factor)
            mosaic.wgmma_wait(len(sums))  # the products of the step before have ended

            @pl.when(step > 0)
            def _() -> None:
                mosaic.barrier_arrive(free.at[slot_of(step - 1)])

        mosaic.wgmma_wait(0)
        mosaic.barrier_arrive(free.at[slot_of(mine - 1)])
        values = [total[...] for total in sums]
        if gated:
            if transposed:
                values = [values[0][:, : tiles.columns], values[0][:, tiles.columns :]]
            values = [values[0] / (1 + jnp.exp(-values[0])) * values[1]]
        found, stored = values[0], pieces.shape[-1]
        if summed:
            for i in range(tiles.splits):
                mosaic.async_store_smem(
                    found[:, i * stored : (i + 1) * stored],
                    parts.at[warpgroup, part],
                    complete.at[warpgroup],
                    cluster_idx=jnp.int32(i),
                    cluster_dim=CLUSTER[2],
                )
            mosaic.barrier_wait(complete.at[warpgroup])
            found = parts[warpgroup, 0]
            for i in range(1, tiles.splits):
                found += parts[warpgroup, i]
        found = found.astype(pieces.dtype)
        for i in range(share // PIECE):
            pieces[warpgroup, i] = found[i * PIECE : (i + 1) * PIECE]
        mosaic.commit_smem()
        first_column, of_parts = (column + part * stored, 0) if summed else (column, part)
        for i in range(share // PIECE):
            there = pl.ds(row + warpgroup * share + i * PIECE, PIECE), pl.ds(first_column, stored)
            mosaic.copy_smem_to_gmem(pieces.at[warpgroup, i], out_ref.at[(of_parts, *there)])
        mosaic.wait_smem_to_gmem(0)

    @pl.when(warpgroup == tiles.warpgroups)
    def _() -> None:
        if tiles.warpgroups > 1:
            mosaic.set_max_registers(COPY_REGISTERS, action="decrease")
        copy()

    @pl.when(warpgroup < tiles.warpgroups)
    def _() -> None:
        if tiles.warpgroups > 1:
            mosaic.set_max_registers(REGISTERS, action="increase")
        if transposed:
            pl.run_scoped(product, mosaic.ACC((share, operands * tiles.columns), jnp.float32))
        else:
            pl.run_scoped(product, *[mosaic.ACC((share, tiles.columns), jnp.float32)] * operands)
