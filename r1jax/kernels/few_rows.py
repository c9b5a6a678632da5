"""Products of a decoding step, whose kernels depend on the number of rows.

The products of a layer are then four kernels: q/k/v, output, gate and up with SwiGLU, and down. With few rows they take
as long as their matrices take to be read. Output and down have too few columns for all multiprocessors, so their terms
are split into parts, which the residual sum adds in a fixed order.
"""

from __future__ import annotations

from typing import Any

import jax

from r1jax.kernels import few_rows_mosaic, more_rows_mosaic
from r1jax.kernels.decode_attention import kernels_of
from r1jax.kernels.platform import has_extra, on_one_device
from r1jax.models.config import ModelConfig


def fits(rows: int, config: ModelConfig) -> bool:
    """True if the products of a decoding step with this number of rows use the kernels.

    They need decoding kernels, Mosaic, one device, joined matrices, no biases but those of q/k/v, and widths that are
    multiples of 64.
    """
    extra = "few rows" if _of(rows) is few_rows_mosaic else "more rows"
    chosen = has_extra(config.kernels, extra) and kernels_of(config) != "plain"
    if not chosen or not on_one_device() or not config.copies_layers or config.mlp_bias or config.output_bias:
        return False
    heads = config.num_heads * config.head_dim, 2 * config.num_kv_heads * config.head_dim
    return _of(rows).supports(rows, config.hidden_size, config.intermediate_size, *heads)


def product(x: jax.Array, w: jax.Array) -> jax.Array:
    """x [S, K] times w [K, N], with sums in float32: [S, N] in the type of x."""
    return _of(len(x)).product(x, w)


def gated_product(x: jax.Array, w: jax.Array) -> jax.Array:
    """silu(x w_gate) * x w_up for x [S, K] and w [K, 2 F], gate before up: [S, F] in the type of x."""
    return _of(len(x)).gated_product(x, w)


def product_parts(x: jax.Array, w: jax.Array) -> jax.Array:
    """x [S, K] times w [K, N]: [S, N], or parts [P, S, N] float32 whose sum over P it is."""
    return _of(len(x)).product_parts(x, w)


def whole(y: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """y [..., S, D], or the sum of its parts [P, S, D] float32 as a value of ``dtype``."""
    return y.sum(axis=0).astype(dtype) if y.ndim == 3 else y


def _of(rows: int) -> Any:
    """The module of the kernels for this number of rows."""
    return few_rows_mosaic if rows <= few_rows_mosaic.MAX_ROWS else more_rows_mosaic
