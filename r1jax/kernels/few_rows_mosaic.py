"""The kernels of products with few rows for Hopper GPUs, in Pallas Mosaic GPU.

A product with few rows takes as long as its matrix takes to be read. A program is one warpgroup. It multiplies all rows
by a part of the matrix, whose blocks are copied into shared memory several steps ahead of the products.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from r1jax.kernels.platform import mosaic, multiprocessors, operand_layout

MAX_ROWS = 128
ALIGNMENT = 8  # rows of a tile of shared memory
TENSOR_ROWS = 64  # rows of a product of tensor cores; those after the last row are not used
WIDTH = 64  # numbers of a row and of a column of a matrix must be a multiple
DEPTHS = (128, 64)  # terms of the sum per step, the first of these that divides their number and leaves MIN_STAGES
COLUMNS = (64, 32)  # of a program, the first of these that gives each multiprocessor a program
# Shared memory of a program: two programs per multiprocessor, or one if there are fewer than multiprocessors.
PROGRAM_BYTES = (112 * 1024, 224 * 1024)
MIN_STAGES, MAX_STAGES = 3, 12  # steps whose operands are in shared memory at the same time


def supports(rows: int) -> bool:
    """True if the kernels support products of this number of rows."""
    return rows <= MAX_ROWS and rows % ALIGNMENT == 0


def product(x: jax.Array, w: jax.Array, interpret: Any = None) -> jax.Array:
    """x [S, K] times w [K, N], with sums in float32: [S, N] in the type of x.

    interpret: parameters of the interpreter on a CPU; None compiles the kernel.
    """
    columns = columns_of(w.shape[1])
    return _call(x, w, kind="product", columns=columns, splits=1, interpret=interpret)


def gated_product(x: jax.Array, w: jax.Array, interpret: Any = None) -> jax.Array:
    """silu(x w_gate^T) * x w_up^T for x [S, K] and w [2 F, K], gate before up: [S, F] in the type of x; as product."""
    columns = columns_of(len(w) // 2)
    return _call(x, w, kind="gated", columns=columns, splits=1, interpret=interpret)


def product_parts(x: jax.Array, w: jax.Array, interpret: Any = None) -> jax.Array:
    """[P, S, N] float32, whose sum over P is x [S, K] times w [K, N]; each part has a share of the K terms."""
    columns = COLUMNS[0]
    splits = max(1, min(pl.cdiv(multiprocessors(), w.shape[1] // columns), x.shape[1] // DEPTHS[0]))
    return _call(x, w, kind="parts", columns=columns, splits=splits, interpret=interpret)


def columns_of(width: int) -> int:
    """Columns of a program for a result of this width."""
    return next((c for c in COLUMNS if width // c >= multiprocessors()), COLUMNS[-1])


# Under jit, so that the kernel is traced, lowered and compiled once for all layers.
@partial(jax.jit, static_argnames=("kind", "columns", "splits", "interpret"))
def _call(x: jax.Array, w: jax.Array, *, kind: str, columns: int, splits: int, interpret: Any) -> jax.Array:
    (S, K), gated = x.shape, kind == "gated"
    width, operands = (len(w) // 2, 2) if gated else (w.shape[1], 1)
    rows = pl.cdiv(S, TENSOR_ROWS) * TENSOR_ROWS
    dtype = jnp.dtype(jnp.float32 if kind == "parts" else x.dtype)
    grid = width // columns, splits
    budget = PROGRAM_BYTES[grid[0] * grid[1] <= multiprocessors()]
    free, step_bytes = budget - rows * columns * dtype.itemsize, 2 * (rows + operands * columns)
    depth = next(d for d in DEPTHS if K % d == 0 and (free // (d * step_bytes) >= MIN_STAGES or d == DEPTHS[-1]))
    stages = min(MAX_STAGES, free // (depth * step_bytes), pl.cdiv(K // depth, splits))
    out = jax.ShapeDtypeStruct((splits, S, width), dtype)
    block = (2 * columns, depth) if gated else (depth, columns)
    layout = operand_layout(depth if gated else columns, x.dtype)  # both operands of tensor cores have the same swizzle
    scratch = {
        "blocks": mosaic.SMEM((stages, *block), w.dtype, transforms=layout),
        "tiles": mosaic.SMEM((stages, rows, depth), x.dtype, transforms=layout),
        "result": mosaic.SMEM((rows, columns), dtype, transforms=operand_layout(columns, dtype)),
        "arrived": (mosaic.Barrier(num_arrivals=operands, num_barriers=stages), mosaic.Barrier(num_barriers=stages)),
    }
    body = partial(_kernel, gated=gated, splits=splits)
    run = mosaic.kernel(
        body,
        out_type=out,
        scratch_types=scratch,
        grid=grid,
        grid_names=("column", "part"),
        compiler_params=mosaic.CompilerParams(approx_math=True, lowering_semantics=mosaic.LoweringSemantics.Warpgroup),
        kernel_name=f"few_rows_{kind}",
        interpret=interpret,
    )
    found = run(x, w)
    return found if kind == "parts" else found[0]


def _kernel(
    x_ref: Any, w_ref: Any, out_ref: Any, blocks: Any, tiles: Any, result: Any, arrived: Any, gated: bool, splits: int
) -> None:
    column, part = lax.axis_index("column"), lax.axis_index("part")
    (stages, padded, depth), columns = tiles.shape, result.shape[1]
    (S, K), (_, _, width) = x_ref.shape, out_ref.shape
    steps = jnp.int32(K // depth)
    first = lax.div(part * steps, jnp.int32(splits))
    mine = lax.div((part + 1) * steps, jnp.int32(splits)) - first
    rows = pl.ds(0, S)

    def terms(step: jax.Array) -> Any:
        return pl.ds((first + step) * depth, depth)

    def fetch_blocks(step: jax.Array, stage: jax.Array) -> None:
        if not gated:
            there = w_ref.at[terms(step), pl.ds(column * columns, columns)]
            return mosaic.copy_gmem_to_smem(there, blocks.at[stage], arrived[0].at[stage])
        for i in range(2):
            there = w_ref.at[pl.ds(i * width + column * columns, columns), terms(step)]
            mosaic.copy_gmem_to_smem(there, blocks.at[stage, pl.ds(i * columns, columns)], arrived[0].at[stage])

    def fetch_tile(step: jax.Array, stage: jax.Array) -> None:
        mosaic.copy_gmem_to_smem(x_ref.at[:, terms(step)], tiles.at[stage, rows], arrived[1].at[stage])

    def begin(fetch: Callable[[jax.Array, jax.Array], None]) -> None:
        for stage in range(stages):
            pl.when(stage < mine)(partial(fetch, jnp.int32(stage), jnp.int32(stage)))

    begin(fetch_blocks)
    begin(fetch_tile)

    def multiply(sums: Any) -> None:
        def each(step: jax.Array, _: None) -> None:
            stage = lax.rem(step, jnp.int32(stages))
            for barrier in arrived:
                mosaic.barrier_wait(barrier.at[stage])
            block = blocks.at[stage].transpose((1, 0)) if gated else blocks.at[stage]
            mosaic.wgmma(sums, tiles.at[stage], block)
            mosaic.wgmma_wait(1)  # the product of the step before has ended
            following = step - 1 + stages

            @pl.when((step > 0) & (following < mine))
            def _():
                free = lax.rem(following, jnp.int32(stages))
                fetch_blocks(following, free)
                fetch_tile(following, free)

        lax.fori_loop(0, mine, each, None)
        found = sums[...]
        if gated:
            gate, up = found[:, :columns], found[:, columns:]
            found = gate / (1 + jnp.exp(-gate)) * up
        result[...] = found.astype(result.dtype)

    pl.run_scoped(multiply, mosaic.ACC((padded, (2 if gated else 1) * columns), jnp.float32))
    mosaic.commit_smem()
    mosaic.copy_smem_to_gmem(result.at[rows], out_ref.at[part, :, pl.ds(column * columns, columns)])
    mosaic.wait_smem_to_gmem(0)
