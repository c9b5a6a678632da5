"""Products of rows with the matrix of their group on Hopper GPUs, as kernels of Pallas Mosaic GPU.

One program per multiprocessor computes one tile of the result after another. Two of its warpgroups multiply, and a
third one copies the operands of the next steps into shared memory. A tile belongs to one group. Copies start at
multiples of 8 rows, so a tile can contain rows of other groups at both ends: a product computes and does not store
them, and a sum of outer products replaces them by zeros.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from r1jax.kernels.platform import mosaic, operand_layout

_ALIGNMENT = 8  # rows
_PART = 64  # rows and columns of the parts in which a warpgroup stores its part of a tile
_SLOTS = 2  # parts in shared memory
_COPY_REGISTERS = 40  # per thread of the warpgroup that copies


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Sizes of the tile of a program."""

    rows: int
    columns: int
    split: Literal["rows", "columns"]  # of the tile between the two warpgroups that multiply
    depth: int = 64  # terms of the sum per step
    stages: int = 4  # steps whose operands are in shared memory

    @property
    def share(self) -> tuple[int, int]:
        """Rows and columns of a warpgroup."""
        return (self.rows // 2, self.columns) if self.split == "rows" else (self.rows, self.columns // 2)


# Measured on an H200 with 64 groups of matrices 2,048 x 1,408: the fastest of nine sizes, or within 3% of it.
MANY_ROWS = Blocks(128, 256, "rows")
FEW_ROWS = Blocks(64, 256, "columns")
OUTER = Blocks(256, 128, "rows")


def supports(*operands: jax.Array) -> bool:
    """True if the kernels support these rows and matrices: 16-bit floats, and widths that are multiples of 64."""
    shapes = [x.shape[1:] if x.ndim == 3 else x.shape[1:2] for x in operands]
    fits = all(size % _PART == 0 for shape in shapes for size in shape)
    return fits and len({x.dtype for x in operands}) == 1 and operands[0].dtype in (jnp.bfloat16, jnp.float16)


@flax.struct.dataclass
class Tiles:
    """Which rows of which group each tile has."""

    group: jax.Array  # [T] int32; E for rows after the last group
    start: jax.Array  # [T] int32, first row, a multiple of _ALIGNMENT
    low: jax.Array  # [T] int32, first row of the group, counted from ``start``
    high: jax.Array  # [T] int32, the row after its last one, counted from ``start``
    number: jax.Array  # [1] int32, tiles that are used


def tiles(sizes: jax.Array, rows: int, block: int) -> Tiles:
    """Tiles of ``block`` rows for groups of sizes [E] int32 in [rows]; the rest of the rows is a group of its own."""
    sizes = jnp.append(sizes, rows - sizes.sum())
    groups = len(sizes)
    # Sums over a mask instead of cumulative sums and gathers: they compile to a few kernels instead of a dozen.
    before = jnp.arange(groups)[:, None] > jnp.arange(groups)[None]
    begin = jnp.where(before, sizes, 0).sum(axis=1)
    base = begin // _ALIGNMENT * _ALIGNMENT
    number = jnp.where(sizes > 0, pl.cdiv(begin + sizes - base, block), 0)
    first = jnp.where(before, number, 0).sum(axis=1)
    tile = jnp.arange(pl.cdiv(rows + groups * (_ALIGNMENT - 1), block) + groups)[:, None]
    own = (tile >= first) & (tile < first + number)  # [T, E + 1]
    start = base + (tile - first) * block

    def of_tile(values: jax.Array) -> jax.Array:
        return jnp.where(own, values, 0).sum(axis=1, dtype=jnp.int32)

    low, high = (jnp.clip(row - start, 0, block) for row in (begin, begin + sizes))
    used = number.sum(dtype=jnp.int32)[None]
    return Tiles(of_tile(jnp.arange(groups)), of_tile(start), of_tile(low), of_tile(high), used)


def product_kernel(
    x: jax.Array,
    weights: jax.Array,
    sizes: jax.Array,
    transposed: bool = False,
    blocks: Blocks | None = None,
    interpret: Any = None,
) -> jax.Array:
    """Each row of x times the matrix of its group, with sums in float32.

    Args:
      x: [M, K], sorted by group.
      weights: [E, K, N], or [E, N, K] if ``transposed``.
      sizes: [E] int32, rows of each group; their sum is at most M.
      transposed: multiply by the transposes of the matrices.
      blocks: sizes of a tile; None chooses them by the mean number of rows in a group.
      interpret: parameters of the interpreter on a CPU; None compiles the kernel.

    Returns:
      [M, N] in the type of x; zeros after the last group.
    """
    (M, K), E = x.shape, len(weights)
    N = weights.shape[1 if transposed else 2]
    if blocks is None:
        blocks = FEW_ROWS if len(x) <= E * FEW_ROWS.rows else MANY_ROWS
    bm, bn, bk = blocks.rows, blocks.columns, blocks.depth
    wm, wn = blocks.share
    columns = pl.cdiv(N, bn)
    x, table = _aligned(x), tiles(sizes, M, bm)

    def body(group_of, start_of, low_of, high_of, number, x_ref, w_ref, out_ref):
        w_block, w_index = ((bn, bk), lambda k: (0, k)) if transposed else ((bk, bn), lambda k: (k, 0))
        pipeline = partial(
            _pipeline, specs=[_spec((bm, bk), lambda k: (0, k), x), _spec(w_block, w_index, weights)], blocks=blocks
        )

        def each(index, allocations, parts):
            tile, column = lax.div(index[0], jnp.int32(columns)), lax.rem(index[0], jnp.int32(columns))
            group, start = group_of[tile], pl.multiple_of(start_of[tile], _ALIGNMENT)
            low, high = low_of[tile], high_of[tile]
            warpgroup = lax.axis_index("warpgroup")
            row, at = (warpgroup * wm, 0) if blocks.split == "rows" else (0, warpgroup * wn)

            def step(_, x_part, w_part, sums):
                left = x_part.at[pl.ds(row, wm)]
                right = w_part.at[pl.ds(at, wn)].transpose((1, 0)) if transposed else w_part.at[:, pl.ds(at, wn)]
                mosaic.wgmma(sums, left, right)
                mosaic.wgmma_wait(0)
                return sums

            def store(part, i, j):
                first = jnp.clip(low - row - i, 0, _PART)
                rest = jnp.clip(high - row - i, 0, _PART) - first
                # The size of a copy is fixed, so the rows are stored in powers of two.
                size = _PART
                while size:

                    @pl.when((rest & size) != 0)
                    def _(first=first, size=size):
                        there = pl.ds(start + row + i + first, size), pl.ds(column * bn + at + j, _PART)
                        mosaic.copy_smem_to_gmem(part.at[pl.ds(first, size)], out_ref.at[there], commit_group=False)

                    first, size = first + (rest & size), size // 2
                mosaic.commit_smem_to_gmem_group()

            # Without steps the sums are zeros, for the rows after the last group.
            steps = lax.select(group < E, jnp.int32(K // bk), jnp.int32(0))
            run = pipeline(steps, step, partial(_sum_and_store, parts=parts, store=store, blocks=blocks))
            matrix = w_ref.at[jnp.minimum(group, E - 1)]
            at_column = pl.ds(column * bn, bn)
            right = matrix.at[at_column, :] if transposed else matrix.at[:, at_column]
            run(x_ref.at[pl.ds(start, bm), :], right, allocations=allocations)

        operands = x_ref, w_ref.at[0]
        _each_tile((number[0] * columns,), each, pipeline, operands, out_ref)

    out = jax.ShapeDtypeStruct((M, N), x.dtype)
    run = _kernel(body, out, "grouped_product", interpret)
    return run(table.group, table.start, table.low, table.high, table.number, x, weights)


def outer_kernel(
    x: jax.Array, y: jax.Array, sizes: jax.Array, blocks: Blocks = OUTER, interpret: Any = None
) -> jax.Array:
    """The sum of x_m y_m^T over the rows of each group, in float32 and then rounded.

    Args:
      x: [M, K], sorted by group.
      y: [M, N].
      sizes: [E] int32, rows of each group; their sum is at most M.
      blocks: sizes of a tile, split by rows.
      interpret: parameters of the interpreter on a CPU; None compiles the kernel.

    Returns:
      [E, K, N] in the type of x.
    """
    (M, K), N, E = x.shape, y.shape[1], len(sizes)
    bm, bn, bk = blocks.rows, blocks.columns, blocks.depth
    wm, _ = blocks.share
    ends = jnp.cumsum(sizes)
    starts = (ends - sizes) // _ALIGNMENT * _ALIGNMENT
    x, y = _aligned(x), _aligned(y)

    def body(start_of, low_of, high_of, x_ref, y_ref, out_ref):
        specs = [_spec((bk, width), lambda k: (k, 0), operand) for width, operand in ((bm, x), (bn, y))]
        pipeline = partial(_pipeline, specs=specs, blocks=blocks)

        def each(index, allocations, parts):
            group, row, column = index
            start, low, high = pl.multiple_of(start_of[group], _ALIGNMENT), low_of[group], high_of[group]
            own = pl.ds(lax.axis_index("warpgroup") * wm, wm)

            def step(index, x_part, y_part, sums):
                left, first = x_part.at[:, own], index[0] * bk

                @pl.when((first < low) | (first + bk > high))
                def _():
                    place = lax.broadcasted_iota(jnp.int32, (bk, wm), 0)
                    place = mosaic.layout_cast(place, mosaic.Layout.WGMMA) + first
                    values = left[...]
                    left[...] = jnp.where((place >= low) & (place < high), values, jnp.zeros_like(values))
                    mosaic.commit_smem()

                mosaic.wgmma(sums, left.transpose((1, 0)), y_part)
                mosaic.wgmma_wait(0)
                return sums

            def store(part, i, j):
                at_row = row * bm + lax.axis_index("warpgroup") * wm + i
                there = group, pl.ds(at_row, _PART), pl.ds(column * bn + j, _PART)
                mosaic.copy_smem_to_gmem(part, out_ref.at[there])

            steps = lax.select(high > low, lax.div(high + (bk - 1), jnp.int32(bk)), jnp.int32(0))
            run = pipeline(steps, step, partial(_sum_and_store, parts=parts, store=store, blocks=blocks))
            left = x_ref.at[pl.ds(start, M), pl.ds(row * bm, bm)]
            run(left, y_ref.at[pl.ds(start, M), pl.ds(column * bn, bn)], allocations=allocations)

        grid = (E, pl.cdiv(K, bm), pl.cdiv(N, bn))
        _each_tile(grid, each, pipeline, (x_ref, y_ref), out_ref)

    out = jax.ShapeDtypeStruct((E, K, N), x.dtype)
    run = _kernel(body, out, "grouped_outer", interpret)
    return run(starts, ends - sizes - starts, ends - starts, x, y)


def _aligned(x: jax.Array) -> jax.Array:
    """x with zeros after the last row, up to a multiple of the rows at which copies start."""
    return jnp.pad(x, ((0, -len(x) % _ALIGNMENT), (0, 0)))


def _kernel(body: Any, out: Any, name: str, interpret: Any) -> Callable[..., jax.Array]:
    programs = 2 if interpret else getattr(jax.devices()[0], "core_count", 132)
    return mosaic.kernel(
        body,
        out_type=out,
        grid=(programs,),
        grid_names=("program",),
        num_threads=3,
        thread_name="warpgroup",
        compiler_params=mosaic.CompilerParams(lowering_semantics=mosaic.LoweringSemantics.Warpgroup),
        kernel_name=name,
        interpret=interpret,
    )


def _spec(block: tuple[int, int], index: Callable[..., Any], operand: jax.Array) -> Any:
    """The block of an operand for a step, in the layout of shared memory that products read."""
    layout = operand_layout(block[1], operand.dtype)
    return mosaic.BlockSpec(block, index, transforms=layout, memory_space=mosaic.SMEM)


def _pipeline(steps: Any, step: Any, context: Any, *, specs: Any, blocks: Blocks) -> Any:
    return mosaic.emit_pipeline_warp_specialized(
        step,
        grid=(steps,),
        in_specs=specs,
        compute_context=context,
        max_concurrent_steps=blocks.stages,
        memory_registers=_COPY_REGISTERS,
        wg_axis="warpgroup",
        num_compute_wgs=2,
    )


def _each_tile(grid: tuple[Any, ...], each: Any, pipeline: Any, operands: tuple[Any, ...], out: Any) -> None:
    """Calls each(index, allocations, parts) for the tiles of this program, with shared memory for all of them."""
    allocations = pipeline(jnp.int32(1), _nothing, _nothing).get_allocations(*operands)

    def scope(allocations, parts):
        @mosaic.nd_loop(grid, collective_axes="program")
        def _(loop):
            each(loop.index, allocations, parts)

        mosaic.wait_smem_to_gmem(0, wait_read_only=True)

    parts = mosaic.SMEM((2, _SLOTS, _PART, _PART), out.dtype)
    pl.run_scoped(scope, allocations=allocations, parts=parts, collective_axes="warpgroup")


def _nothing(*_: Any) -> None:
    """The body of a pipeline that is only asked for its allocations."""


def _sum_and_store(run: Callable[[Any], Any], *, parts: Any, store: Callable[..., None], blocks: Blocks) -> None:
    """Runs the steps of a warpgroup and calls store(part, row, column) for each part of its sums."""
    rows, columns = blocks.share

    def scope(sums):
        run(sums)
        rounded = sums[...].astype(parts.dtype)
        places = [(i, j) for i in range(0, rows, _PART) for j in range(0, columns, _PART)]
        for number, (i, j) in enumerate(places):
            mosaic.wait_smem_to_gmem(_SLOTS - 1, wait_read_only=True)
            part = lax.axis_index("warpgroup"), number % _SLOTS
            parts[part] = rounded[i : i + _PART, j : j + _PART]
            mosaic.commit_smem()
            store(parts.at[part], i, j)

    pl.run_scoped(scope, mosaic.ACC((rows, columns), jnp.float32))
