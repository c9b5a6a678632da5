"""The kernel of the gated product with 129 to 1,024 rows for Hopper GPUs, in Pallas Mosaic GPU.

A program computes a tile of the result. Two of its warpgroups multiply, and a third one copies the operands of the next
steps into shared memory. Two programs are a cluster, which copies what both read once.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from r1jax.kernels.platform import mosaic, multiprocessors, operand_layout

MAX_ROWS = 1024
ALIGNMENT = 8  # rows of a tile of shared memory
DEPTH = 64  # terms of the sum per step
WARPGROUPS = 2  # that multiply, each half of the rows of a tile
PIECE = 64  # rows of the parts in which a warpgroup stores its half
MAX_STAGES = 12  # steps whose operands are in shared memory at the same time
PROGRAM_BYTES = 224 * 1024  # shared memory of a program
REGISTERS, COPY_REGISTERS = 232, 40  # per thread of the warpgroups that multiply, and of the one that copies
# Rows and columns of a tile, with at most 192 sums in a thread; narrower ones take longer to copy than to multiply.
TILES = [(r, c) for r in (256, 128) for c in (80, 96, 112, 128) if r * c <= 256 * 96]
BEGIN, PRODUCTS = 3000, 1500  # clock cycles before and after the products of a program; products per cycle, measured


def supports(rows: int) -> bool:
    """True if the kernel supports products of this number of rows."""
    return rows <= MAX_ROWS and rows % ALIGNMENT == 0


def gated_product(x: jax.Array, w: jax.Array, interpret: Any = None) -> jax.Array:
    """silu(x w_gate^T) * x w_up^T for x [S, K] and w [2 F, K], gate before up, with sums in float32.

    Args:
      x: [S, K]; K is a multiple of DEPTH.
      w: [2 F, K] in the type of x; F is a multiple of 8.
      interpret: parameters of the interpreter on a CPU; None compiles the kernel.

    Returns:
      [S, F] in the type of x.
    """
    return multiply(x, w, tile_of(len(x), x.shape[1], len(w) // 2), interpret=interpret)


def tile_of(rows: int, terms: int, width: int) -> tuple[int, int]:
    """Rows and columns of the tile with the fewest cycles for a product of [rows, terms] with [terms, 2 width].

    A multiprocessor computes one tile at a time. For the 0.5B these are 256 x 80 with 512 rows and 128 x 80 with 256:
    122 programs.
    """

    def cycles(tile: tuple[int, int]) -> float:
        (R, C), (same_columns, same_rows) = tile, _cluster(tile[0], rows)
        programs = 2 * pl.cdiv(rows, R * same_columns) * pl.cdiv(width, C * same_rows)
        return pl.cdiv(programs, multiprocessors()) * (BEGIN + 2 * R * C * terms / PRODUCTS)

    return min(TILES, key=cycles)


def _cluster(R: int, rows: int) -> tuple[int, int]:
    """Programs of a cluster with the same columns, and with the same rows: an odd tile of rows has no other one."""
    return (1, 2) if pl.cdiv(rows, R) % 2 else (2, 1)


# Under jit, so that the kernel is traced, lowered and compiled once for all layers.
@partial(jax.jit, static_argnames=("tile", "interpret"))
def multiply(x: jax.Array, w: jax.Array, tile: tuple[int, int], interpret: Any) -> jax.Array:
    """gated_product with a program for each tile of ``tile`` rows and columns."""
    (S, K), F, (R, C) = x.shape, len(w) // 2, tile
    same_columns, same_rows = _cluster(R, S)
    step_bytes, result_bytes = 2 * DEPTH * (R + 2 * C), 2 * R * C
    stages = min(MAX_STAGES, (PROGRAM_BYTES - result_bytes) // step_bytes, K // DEPTH)
    pieces = WARPGROUPS, R // WARPGROUPS // PIECE, PIECE, C
    run = mosaic.kernel(
        partial(_kernel, same_columns=same_columns > 1),
        out_type=jax.ShapeDtypeStruct((S, F), x.dtype),
        scratch_types={
            "left": mosaic.SMEM((stages, R, DEPTH), x.dtype, transforms=operand_layout(DEPTH, x.dtype)),
            "right": mosaic.SMEM((stages, 2 * C, DEPTH), x.dtype, transforms=operand_layout(DEPTH, x.dtype)),
            "pieces": mosaic.SMEM(pieces, x.dtype, transforms=operand_layout(C, x.dtype)),
            "filled": mosaic.Barrier(num_arrivals=3, num_barriers=stages),  # rows, and columns of gate and of up
            "free": mosaic.ClusterBarrier(collective_axes=("program",), num_arrivals=WARPGROUPS, num_barriers=stages),
        },
        grid=(pl.cdiv(F, C * same_rows), pl.cdiv(S, R * same_columns)),
        grid_names=("column", "row"),
        cluster=(2,),
        cluster_names=("program",),
        num_threads=WARPGROUPS + 1,
        thread_name="warpgroup",
        compiler_params=mosaic.CompilerParams(approx_math=True, lowering_semantics=mosaic.LoweringSemantics.Warpgroup),
        kernel_name="gated_product",
        interpret=interpret,
    )
    return run(x, w)


def _kernel(
    x_ref: Any, w_ref: Any, out_ref: Any, left: Any, right: Any, pieces: Any, filled: Any, free: Any, same_columns: bool
) -> None:
    warpgroup, program = lax.axis_index("warpgroup"), lax.axis_index("program")
    row, column = lax.axis_index("row"), lax.axis_index("column")
    row, column = (2 * row + program, column) if same_columns else (row, 2 * column + program)
    (stages, R, depth), C = left.shape, pieces.shape[3]
    row, column, half, F = row * R, column * C, R // WARPGROUPS, out_ref.shape[1]
    steps = jnp.int32(x_ref.shape[1] // depth)

    def slot_of(step: jax.Array) -> jax.Array:
        return lax.rem(step, jnp.int32(stages))

    def copy() -> None:
        for_rows, for_columns = (None, "program") if same_columns else ("program", None)

        @pl.loop(0, steps)
        def _(step: jax.Array) -> None:
            slot, terms = slot_of(step), pl.ds(step * depth, depth)

            @pl.when(step >= stages)
            def _() -> None:
                mosaic.barrier_wait(free.at[slot])

            for i in range(2):
                there, here = w_ref.at[pl.ds(i * F + column, C), terms], right.at[slot, pl.ds(i * C, C)]
                mosaic.copy_gmem_to_smem(there, here, filled.at[slot], collective_axes=for_columns)
            rows = x_ref.at[pl.ds(row, R), terms]
            mosaic.copy_gmem_to_smem(rows, left.at[slot], filled.at[slot], collective_axes=for_rows)

        # The other program of the cluster arrives at these barriers and writes to this shared memory until then.
        @pl.loop(jnp.maximum(steps - stages, 0), steps)
        def _(step: jax.Array) -> None:
            mosaic.barrier_wait(free.at[slot_of(step)])

    def product(sums: Any) -> None:
        @pl.loop(0, steps)
        def _(step: jax.Array) -> None:
            slot = slot_of(step)
            mosaic.barrier_wait(filled.at[slot])
            rows = left.at[slot, pl.ds(warpgroup * half, half)]
            mosaic.wgmma(sums, rows, right.at[slot].transpose((1, 0)))
            mosaic.wgmma_wait(1)  # the product of the step before has ended

            @pl.when(step > 0)
            def _() -> None:
                mosaic.barrier_arrive(free.at[slot_of(step - 1)])

        mosaic.wgmma_wait(0)
        mosaic.barrier_arrive(free.at[slot_of(steps - 1)])
        gate, up = sums[:, :C], sums[:, C:]
        found = (gate / (1 + jnp.exp(-gate)) * up).astype(pieces.dtype)
        for i in range(half // PIECE):
            pieces[warpgroup, i] = found[i * PIECE : (i + 1) * PIECE]
        mosaic.commit_smem()
        for i in range(half // PIECE):
            there = out_ref.at[pl.ds(row + warpgroup * half + i * PIECE, PIECE), pl.ds(column, C)]
            mosaic.copy_smem_to_gmem(pieces.at[warpgroup, i], there)
        mosaic.wait_smem_to_gmem(0)

    @pl.when(warpgroup == WARPGROUPS)
    def _() -> None:
        mosaic.set_max_registers(COPY_REGISTERS, action="decrease")
        copy()

    @pl.when(warpgroup < WARPGROUPS)
    def _() -> None:
        mosaic.set_max_registers(REGISTERS, action="increase")
        pl.run_scoped(product, mosaic.ACC((half, 2 * C), jnp.float32))
