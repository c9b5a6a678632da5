"""Products of a decoding step with few rows, which take as long as their matrices take to be read.

The products of a layer are then four kernels: q/k/v, output, gate and up with SwiGLU, and down. Output and down have
too few columns for all multiprocessors, so their terms are split into parts, which the residual sum adds in a fixed
order.
"""

from __future__ import annotations

import jax

from r1jax.kernels import few_rows_mosaic
from r1jax.kernels.decode_attention import kernels_of
from r1jax.kernels.platform import has_extra, on_one_device
from r1jax.models.config import ModelConfig


def fits(rows: int, config: ModelConfig) -> bool:
    """True if the products of a decoding step with this number of rows use the kernels.

    They need decoding kernels, Mosaic, one device, joined matrices, no biases but those of q/k/v, and widths that are
    multiples of 64.
    """
    chosen = has_extra(config.kernels, "few rows") and kernels_of(config) != "plain"
    if not chosen or not on_one_device() or not config.copies_layers or config.mlp_bias or config.output_bias:
        return False
    heads = config.num_heads * config.head_dim, 2 * config.num_kv_heads * config.head_dim
    return few_rows_mosaic.supports(rows, config.hidden_size, config.intermediate_size, *heads)


def whole(y: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """y [..., S, D], or the sum of its parts [P, S, D] float32 as a value of ``dtype``."""
    return y.sum(axis=0).astype(dtype) if y.ndim == 3 else y
