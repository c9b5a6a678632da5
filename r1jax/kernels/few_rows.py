"""Products of a decoding step with few rows, which take as long as their matrices take to be read.

The products of a layer are then four kernels: q/k/v, output, gate and up with SwiGLU, and down. Output and down have
too few columns for all multiprocessors, so their terms are split into parts, which the residual sum adds in a fixed
order. With more rows, that of gate and up alone is a kernel. Both kernels of it read the same transposed matrix.
"""

from __future__ import annotations

from collections.abc import Callable

import jax

from r1jax.kernels import few_rows_mosaic, gated_product_mosaic
from r1jax.kernels.decode_attention import kernels_of
from r1jax.kernels.platform import has_extra, on_one_device
from r1jax.models.config import ModelConfig


def chosen(config: ModelConfig) -> bool:
    """True if decoding steps use the kernels if these support their number of rows.

    They need decoding kernels, Mosaic, one device, joined matrices, no biases but those of q/k/v, and widths that are
    multiples of 64.
    """
    selected = has_extra(config.kernels, "few rows") and kernels_of(config) != "plain"
    if not selected or not on_one_device() or not config.copies_layers or config.mlp_bias or config.output_bias:
        return False
    heads = config.num_heads * config.head_dim, 2 * config.num_kv_heads * config.head_dim
    widths = config.hidden_size, config.intermediate_size, *heads
    return all(width % few_rows_mosaic.WIDTH == 0 for width in widths)


def fits(rows: int, config: ModelConfig) -> bool:
    """True if the products of a decoding step with this number of rows use the kernels."""
    return chosen(config) and few_rows_mosaic.supports(rows)


def gated_kernel(rows: int, config: ModelConfig) -> Callable[[jax.Array, jax.Array], jax.Array] | None:
    """The kernel of silu(x w_gate^T) * x w_up^T for x [rows, K] and w [2 F, K], gate before up, or None."""
    if fits(rows, config):
        return few_rows_mosaic.gated_product
    more = chosen(config) and has_extra(config.kernels, "gated product") and gated_product_mosaic.supports(rows)
    return gated_product_mosaic.gated_product if more else None


def whole(y: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """y [..., S, D], or the sum of its parts [P, S, D] float32 as a value of ``dtype``."""
    return y.sum(axis=0).astype(dtype) if y.ndim == 3 else y
