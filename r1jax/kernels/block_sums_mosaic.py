"""The kernel of block sums for Hopper GPUs, in Pallas Mosaic GPU."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from r1jax.kernels.platform import LEAST, mosaic, multiprocessors

ROWS = 64  # blocks per step
STAGES = 3  # steps whose logits are copied into shared memory at the same time
SHARED = 2  # programs per multiprocessor
ALIGNMENT = 8  # blocks: copies into the layout below need a multiple of it


def block_sums_mosaic(logits: jax.Array, block: int, interpret: Any = None) -> tuple[jax.Array, jax.Array]:
    """block_sums with the kernel; ``interpret`` are parameters of the interpreter on a CPU."""
    S, V = logits.shape
    rows_of_blocks = logits.reshape(-1, block)
    rows_of_blocks = jnp.pad(rows_of_blocks, ((0, -len(rows_of_blocks) % ALIGNMENT), (0, 0)))
    blocks = len(rows_of_blocks)
    steps = pl.cdiv(blocks, ROWS)
    programs = min(steps, 2 if interpret else SHARED * multiprocessors())
    layout = mosaic.TilingTransform((8, 32)), mosaic.SwizzleTransform(128)

    def body(logits_ref, tops_ref, sums_ref, results):
        first = lax.axis_index("program")

        def step(index, z_ref):
            slot, there = lax.rem(index[0], jnp.int32(2)), pl.ds((first + index[0] * programs) * ROWS, ROWS)
            z = mosaic.load(z_ref, layout=mosaic.Layout.WGMMA)
            top = jnp.maximum(z.max(axis=1), jnp.full((ROWS,), LEAST))
            total = jnp.exp(z - lax.broadcast_in_dim(top, z.shape, [0])).sum(axis=1)
            mosaic.wait_smem_to_gmem(1, wait_read_only=True)  # the slot is free when at most the last step is stored
            results[slot, 0], results[slot, 1] = top, total
            mosaic.commit_smem()
            for i, ref in enumerate((tops_ref, sums_ref)):
                mosaic.copy_smem_to_gmem(results.at[slot, i], ref.at[there], commit_group=False)
            mosaic.commit_smem_to_gmem_group()

        rows = mosaic.BlockSpec(
            (ROWS, block), lambda i: (first + i * programs, 0), transforms=layout, memory_space=mosaic.SMEM
        )
        mine = lax.div(steps - first + (programs - 1), jnp.int32(programs))
        mosaic.emit_pipeline(step, grid=(mine,), in_specs=[rows], max_concurrent_steps=STAGES)(logits_ref)
        mosaic.wait_smem_to_gmem(0)

    run = mosaic.kernel(
        body,
        out_type=[jax.ShapeDtypeStruct((blocks,), jnp.float32)] * 2,
        scratch_types=[mosaic.SMEM((2, 2, ROWS), jnp.float32)],
        grid=(programs,),
        grid_names=("program",),
        compiler_params=mosaic.CompilerParams(lowering_semantics=mosaic.LoweringSemantics.Warpgroup),
        kernel_name="block_sums",
        interpret=interpret,
    )
    tops, sums = (x[: S * V // block].reshape(S, -1) for x in run(rows_of_blocks))
    return tops, sums
