"""Products of a decoding step with few rows, which take as long as their matrices take to be read.

The products of a layer are then four kernels: q/k/v, output, gate and up with SwiGLU, and down. Output and down have
too few columns for all multiprocessors, so their terms are split into parts, which the residual sum adds in a fixed
order.
"""

from __future__ import annotations

import jax

from r1jax.kernels import few_rows_mosaic
from r1jax.kernels.decode_attention import kernels_of
from r1jax.kernels.few_rows_mosaic import Ahead, ahead_of
from r1jax.kernels.platform import has_extra, on_one_device
from r1jax.models.config import ModelConfig
from r1jax.sharding import Params

EARLY_BYTES = 8 * 2**20


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


def read_soon(layers: tuple[Params, ...], rows: int, config: ModelConfig) -> list[tuple[tuple[Ahead, ...], ...]]:
    """What the first and the second residual sum of each of ``decoding_layers`` ask for in the L2 cache.

    The second one asks for q/k/v and output of the next layer, and for the first EARLY_BYTES of gate and up, which are
    read while attention leaves the memory idle. The first one asks for more of gate and up.
    """
    if not fits(rows, config):
        return [((), ())] * len(layers)

    def gate_up(layer: Params, *place: int) -> tuple[Ahead, ...]:
        return (ahead_of(layer["mlp"]["gate_up"], *place),) if "gate_up" in layer["mlp"] else ()  # none with experts

    def second(layer: Params) -> tuple[Ahead, ...]:
        output = layer["attention"]["output"].reshape(-1, config.hidden_size)
        return (ahead_of(layer["attention"]["qkv"]), ahead_of(output), *gate_up(layer, 0, EARLY_BYTES))

    firsts = [gate_up(layers[0]), *(gate_up(layer, EARLY_BYTES) for layer in layers[1:])]
    return list(zip(firsts, [*map(second, layers[1:]), ()], strict=True))


def whole(y: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """y [..., S, D], or the sum of its parts [P, S, D] float32 as a value of ``dtype``."""
    return y.sum(axis=0).astype(dtype) if y.ndim == 3 else y
