"""Maxima and sums of exponentials of blocks of logits, in one pass over memory."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from r1jax.kernels.block_sums_mosaic import block_sums_mosaic
from r1jax.kernels.platform import LEAST, Kernels, triton

BLOCK = 128  # entries per block
_TOGETHER = 32  # blocks per program of the kernel


def block_sums(logits: jax.Array, kernels: Kernels) -> tuple[jax.Array, jax.Array]:
    """max z and sum exp(z - max) of each block of BLOCK entries of logits [S, V] float32, V a multiple of BLOCK.

    Both are [S, V / BLOCK]; a block of -inf has the lowest finite number and 0.
    """
    if kernels == "triton":
        return block_sums_kernel(logits)
    if kernels == "mosaic":
        return block_sums_mosaic(logits, BLOCK)
    blocks = logits.reshape(logits.shape[0], -1, BLOCK)
    tops = jnp.maximum(blocks.max(axis=-1), LEAST)
    return tops, jnp.exp(blocks - tops[..., None]).sum(axis=-1)


def block_sums_kernel(logits, interpret=False):
    """The Triton kernel of block_sums; ``interpret`` interprets it on a CPU."""
    S, V = logits.shape
    blocks = V // BLOCK
    shape = jax.ShapeDtypeStruct((S, blocks), jnp.float32)
    return pl.pallas_call(
        _kernel,
        grid=(pl.cdiv(blocks, _TOGETHER), S),
        out_shape=[shape, shape],
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
        name="block_sums",
    )(logits)


def _kernel(logits_ref, tops_ref, sums_ref):
    row, blocks = pl.program_id(1), tops_ref.shape[1]
    block = pl.program_id(0) * _TOGETHER + jnp.arange(_TOGETHER)
    real = block < blocks
    entries = block[:, None] * BLOCK + jnp.arange(BLOCK)[None]
    z = triton.load(logits_ref.at[row, entries], mask=real[:, None], other=LEAST)
    top = jnp.maximum(z.max(axis=1), LEAST)
    triton.store(tops_ref.at[row, block], top, mask=real)
    triton.store(sums_ref.at[row, block], jnp.exp(z - top[:, None]).sum(axis=1), mask=real)
