"""Products of states with the unembedding on Hopper GPUs, as kernels of Pallas Mosaic GPU.

The logits of a tile are in registers. One kernel stores maxima and sums of blocks of them, one the gradient of the
logits, and one the logits themselves with maxima and sums. One program per multiprocessor computes one tile after
another: two of its warpgroups multiply, and a third one copies the operands of the next steps into shared memory. The
first of the two is a few steps ahead of the second, so that one multiplies while the other one computes exponentials.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from r1jax.kernels.platform import mosaic, multiprocessors, operand_layout

BLOCK = 128  # columns of a tile
ROWS = 128  # of the part of a tile of each of the two warpgroups
TILE = 2 * ROWS
DEPTH = 64  # terms of the sum per step
STAGES = 4  # steps whose operands are in shared memory
PENDING = 0  # steps whose products may be unfinished when a warpgroup starts the next one
AHEAD = 3  # steps by which the first warpgroup starts earlier
TOGETHER = 16 * 2**20  # bytes of rows that are multiplied with all columns before the next rows
# Bytes of a row of the pieces in which a warpgroup stores its part of a tile, and pieces in shared memory.
GRADIENT_BYTES, GRADIENT_SLOTS = 128, 2
LOGITS_BYTES, LOGITS_SLOTS = 64, 3
KEPT_BYTES, KEPT_SLOTS = 64, 3
LARGEST = 115.0  # exponent of a weight that is kept, at most
_PIECE = 64  # rows
_LOG2E = math.log2(math.e)
_REGISTERS, _COPY_REGISTERS = 232, 40  # per thread of the warpgroups that multiply, and of the one that copies


def supports(hidden: jax.Array, unembedding: jax.Array) -> bool:
    """True if the kernels support states [..., D] and an unembedding [D, V]: bfloat16, D % 64 = V % 128 = 0."""
    D, V = unembedding.shape
    return hidden.dtype == unembedding.dtype == jnp.bfloat16 and D % DEPTH == 0 and V % BLOCK == 0


def block_moments_kernel(
    hidden: jax.Array,
    matrix: jax.Array,
    transposed: bool,
    scale: float,
    own: jax.Array | None = None,
    interpret: Any = None,
) -> tuple[jax.Array, ...]:
    """Maximum, sum and first moment of blocks of BLOCK logits z = scale * hidden @ matrix, to the base 2.

    With x = z - max z: max z, sum 2^x and sum 2^x x. If ``own`` is given, also 2^(z - own), at most 2^LARGEST.

    Args:
      hidden: [N, D], N a multiple of TILE.
      matrix: [D, V], or [V, D] if ``transposed``.
      transposed: multiply by the transpose of the matrix.
      scale: above 0.
      own: [1, N] float32.
      interpret: parameters of the interpreter on a CPU; None compiles the kernel.

    Returns:
      [3, V / BLOCK, N] float32 and, if ``own`` is given, [N, V] in the type of the states.
    """
    N, V = len(hidden), _vocabulary(matrix, transposed)
    out = [jax.ShapeDtypeStruct((3, V // BLOCK, N), jnp.float32), jax.ShapeDtypeStruct((N, V), hidden.dtype)]
    scratch = [mosaic.SMEM((2, 3, ROWS), jnp.float32), _pieces(hidden.dtype, KEPT_BYTES, KEPT_SLOTS)]

    def moments(z, row, column, out_ref, found):
        top = z.max(axis=1) * scale
        x = z * scale - lax.broadcast_in_dim(top, z.shape, [0])
        weights = jnp.exp2(x)
        values = top, weights.sum(axis=1), (weights * x).sum(axis=1)
        _store_rows(values, found, out_ref, row, column, 0)
        return top, weights

    def body(h_ref, w_ref, out_ref, found, operands):
        def epilogue(z, row, column):
            moments(z, row, column, out_ref, found)

        _each_tile(h_ref, w_ref, transposed, operands, epilogue)

    def keeping(h_ref, w_ref, own_ref, out_ref, kept_ref, found, pieces, operands):
        def epilogue(z, row, column):
            own = _of_rows(own_ref, 0, row)
            top, weights = moments(z, row, column, out_ref, found)
            lift = jnp.exp2(jnp.minimum(top - own, jnp.full(top.shape, LARGEST)))
            kept = weights * lax.broadcast_in_dim(lift, z.shape, [0])
            _store(kept.astype(hidden.dtype), pieces, kept_ref, row, column)

        _each_tile(h_ref, w_ref, transposed, operands, epilogue)

    if own is None:
        run = _kernel(body, out[:1], "head_moments", hidden, matrix, transposed, scratch[:1], interpret)
        return tuple(run(hidden, matrix))
    run = _kernel(keeping, out, "head_kept", hidden, matrix, transposed, scratch, interpret)
    return tuple(run(hidden, matrix, own))


def logits_gradient_kernel(
    hidden: jax.Array, matrix: jax.Array, rows: jax.Array, transposed: bool, scale: float, interpret: Any = None
) -> jax.Array:
    """2^x (a + b x) with x = scale * hidden @ matrix - c, rounded to the type of the states.

    Args:
      hidden: [N, D], N a multiple of TILE.
      matrix: [D, V], or [V, D] if ``transposed``.
      rows: [3, N] float32, with a, b and c of each row.
      transposed: multiply by the transpose of the matrix.
      scale: above 0.
      interpret: parameters of the interpreter on a CPU; None compiles the kernel.

    Returns:
      [N, V].
    """
    out = jax.ShapeDtypeStruct((len(hidden), _vocabulary(matrix, transposed)), hidden.dtype)

    def body(h_ref, w_ref, rows_ref, out_ref, pieces, scratch):
        def epilogue(z, row, column):
            a, b, c = (lax.broadcast_in_dim(_of_rows(rows_ref, i, row), z.shape, [0]) for i in range(3))
            x = z * scale - c
            _store((jnp.exp2(x) * (a + b * x)).astype(out.dtype), pieces, out_ref, row, column)

        _each_tile(h_ref, w_ref, transposed, scratch, epilogue)

    scratch = [_pieces(out.dtype, GRADIENT_BYTES, GRADIENT_SLOTS)]
    return _kernel(body, out, "head_gradient", hidden, matrix, transposed, scratch, interpret)(hidden, matrix, rows)


def logits_kernel(
    hidden: jax.Array, matrix: jax.Array, transposed: bool, scale: float, interpret: Any = None
) -> tuple[jax.Array, jax.Array]:
    """z = scale * hidden @ matrix; max z and sum exp(z - max z) of its blocks of BLOCK entries.

    Args:
      hidden: [N, D], N a multiple of TILE.
      matrix: [D, V], or [V, D] if ``transposed``.
      transposed: multiply by the transpose of the matrix.
      scale: above 0.
      interpret: parameters of the interpreter on a CPU; None compiles the kernel.

    Returns:
      [N, V] and [2, V / BLOCK, N] float32.
    """
    N, V = len(hidden), _vocabulary(matrix, transposed)
    out = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((N, V), (2, V // BLOCK, N))]

    def body(h_ref, w_ref, z_ref, out_ref, pieces, found, scratch):
        def epilogue(z, row, column):
            z *= scale
            top = z.max(axis=1)
            _store(z, pieces, z_ref, row, column)  # first, so that registers become free
            weights = jnp.exp2(z * _LOG2E - lax.broadcast_in_dim(top * _LOG2E, z.shape, [0]))
            _store_rows((top, weights.sum(axis=1)), found, out_ref, row, column, LOGITS_SLOTS)

        _each_tile(h_ref, w_ref, transposed, scratch, epilogue)

    scratch = [_pieces(jnp.float32, LOGITS_BYTES, LOGITS_SLOTS), mosaic.SMEM((2, 2, ROWS), jnp.float32)]
    return tuple(_kernel(body, out, "head_logits", hidden, matrix, transposed, scratch, interpret)(hidden, matrix))


def place_of(tile: Any, rows: int, columns: int, together: int) -> tuple[Any, Any]:
    """Row and column of a tile in the order of work: ``together`` rows at a time, and of these column by column."""
    of_group = min(together, rows) * columns
    group, rest = lax.div(tile, jnp.int32(of_group)), lax.rem(tile, jnp.int32(of_group))
    first = group * min(together, rows)
    size = jnp.minimum(min(together, rows), rows - first)
    return first + lax.rem(rest, size), lax.div(rest, size)


def _of_rows(ref: Any, i: int, row: Any) -> Any:
    """Values [ROWS] of the rows of the part of a tile."""
    layout = mosaic.Layout.WGMMA.reduce(1)
    return mosaic.load(ref.at[i, pl.ds(row, ROWS)], layout=layout, optimized=False)


def _vocabulary(matrix: jax.Array, transposed: bool) -> int:
    return matrix.shape[0 if transposed else 1]


def _kernel(
    body: Any, out: Any, name: str, hidden: Any, matrix: Any, transposed: bool, own: list[Any], interpret: Any
) -> Callable[..., Any]:
    right = (BLOCK, DEPTH) if transposed else (DEPTH, BLOCK)
    layout = operand_layout(DEPTH, hidden.dtype)
    operands = [
        mosaic.SMEM((STAGES, TILE, DEPTH), hidden.dtype, transforms=layout),
        mosaic.SMEM((STAGES, *right), hidden.dtype, transforms=layout),
        mosaic.Barrier(num_arrivals=2, num_barriers=STAGES),
        mosaic.Barrier(num_arrivals=2, num_barriers=STAGES),
        mosaic.Barrier(),
    ]
    return mosaic.kernel(
        body,
        out_type=out,
        scratch_types=[*own, operands],
        grid=(2 if interpret else multiprocessors(),),
        grid_names=("program",),
        num_threads=3,
        thread_name="warpgroup",
        compiler_params=mosaic.CompilerParams(approx_math=True, lowering_semantics=mosaic.LoweringSemantics.Warpgroup),
        kernel_name=name,
        interpret=interpret,
    )


def _each_tile(
    h_ref: Any, w_ref: Any, transposed: bool, scratch: Any, epilogue: Callable[[Any, Any, Any], None]
) -> None:
    """Calls epilogue(products, row, column) for the part [ROWS, BLOCK] of each tile that a warpgroup multiplies.

    row is the first row of the part, and column the number of its block.
    """
    left, right, filled, free, begun = scratch
    (N, D), V = h_ref.shape, w_ref.shape[0 if transposed else 1]
    tiles, steps = (N // TILE) * (V // BLOCK), D // DEPTH
    program, programs = lax.axis_index("program"), lax.axis_size("program")
    warpgroup = lax.axis_index("warpgroup")
    mine = lax.div(tiles - program + (programs - 1), jnp.int32(programs))

    together = max(1, TOGETHER // (TILE * D * h_ref.dtype.itemsize))

    def place(i):
        row, column = place_of(program + i * programs, N // TILE, V // BLOCK, together)
        return row * TILE, column

    @pl.when(warpgroup == 2)
    def _():
        mosaic.set_max_registers(_COPY_REGISTERS, action="decrease")

        @pl.loop(0, mine)
        def _(i):
            row, column = place(i)

            @pl.loop(0, steps)
            def _(k):
                step = i * steps + k
                slot = lax.rem(step, jnp.int32(STAGES))

                @pl.when(step >= STAGES)
                def _():
                    mosaic.barrier_wait(free.at[slot])

                terms, columns = pl.ds(k * DEPTH, DEPTH), pl.ds(column * BLOCK, BLOCK)
                there = w_ref.at[columns, terms] if transposed else w_ref.at[terms, columns]
                mosaic.copy_gmem_to_smem(h_ref.at[pl.ds(row, TILE), terms], left.at[slot], filled.at[slot])
                mosaic.copy_gmem_to_smem(there, right.at[slot], filled.at[slot])

        total = mine * steps

        @pl.loop(jnp.maximum(total - STAGES, 0), total)
        def _(step):
            mosaic.barrier_wait(free.at[lax.rem(step, jnp.int32(STAGES))])

    @pl.when(warpgroup < 2)
    def _():
        mosaic.set_max_registers(_REGISTERS, action="increase")

        @pl.when((warpgroup == 1) & (mine > 0))
        def _():
            mosaic.barrier_wait(begun)

        @pl.loop(0, mine)
        def _(i):
            row, column = place(i)

            def release(step):
                mosaic.barrier_arrive(free.at[lax.rem(step, jnp.int32(STAGES))])

            def product(sums):
                @pl.loop(0, steps)
                def _(k):
                    step = i * steps + k
                    slot = lax.rem(step, jnp.int32(STAGES))
                    mosaic.barrier_wait(filled.at[slot])
                    factor = right.at[slot].transpose((1, 0)) if transposed else right.at[slot]
                    mosaic.wgmma(sums, left.at[slot, pl.ds(warpgroup * ROWS, ROWS)], factor)
                    mosaic.wgmma_wait(PENDING)

                    @pl.when(k >= PENDING)
                    def _():
                        release(step - PENDING)

                    @pl.when((warpgroup == 0) & (step == min(AHEAD, steps) - 1))
                    def _():
                        mosaic.barrier_arrive(begun)

                mosaic.wgmma_wait(0)
                for behind in range(min(PENDING, steps), 0, -1):
                    release((i + 1) * steps - behind)
                epilogue(sums[...], row + warpgroup * ROWS, column)

            pl.run_scoped(product, mosaic.ACC((ROWS, BLOCK), jnp.float32))

        mosaic.wait_smem_to_gmem(0)


def _pieces(dtype: Any, row_bytes: int, slots: int) -> Any:
    width = row_bytes // jnp.dtype(dtype).itemsize
    return mosaic.SMEM((2, slots, _PIECE, width), dtype, transforms=operand_layout(width, dtype))


def _store(values: Any, pieces: Any, out_ref: Any, row: Any, column: Any) -> None:
    """Stores the part of a tile at its place, piece by piece."""
    warpgroup, (_, slots, rows, columns) = lax.axis_index("warpgroup"), pieces.shape
    places = [(i, j) for i in range(0, ROWS, rows) for j in range(0, BLOCK, columns)]
    for number, (i, j) in enumerate(places):
        piece = pieces.at[warpgroup, number % slots]
        mosaic.wait_smem_to_gmem(slots - 1, wait_read_only=True)
        piece[...] = values[i : i + rows, j : j + columns]
        mosaic.commit_smem()
        there = pl.ds(row + i, rows), pl.ds(column * BLOCK + j, columns)
        mosaic.copy_smem_to_gmem(piece, out_ref.at[there])


def _store_rows(values: tuple[Any, ...], found: Any, out_ref: Any, row: Any, column: Any, later: int) -> None:
    """Stores values [ROWS] of the part of a tile at out_ref[:, column, row:].

    later: number of copies that may have started since those of the tile before.
    """
    warpgroup = lax.axis_index("warpgroup")
    mosaic.wait_smem_to_gmem(later, wait_read_only=True)
    for i, value in enumerate(values):
        found[warpgroup, i] = value
    mosaic.commit_smem()
    for i in range(len(values)):
        there = out_ref.at[i, column, pl.ds(row, ROWS)]
        mosaic.copy_smem_to_gmem(found.at[warpgroup, i], there, commit_group=False)
    mosaic.commit_smem_to_gmem_group()
