"""Kernels of grouped products: their tiles, results interpreted on a CPU, and compilation for a GPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.kernels.grouped_mosaic import Blocks, outer_kernel, product_kernel, supports, tiles
from r1jax.models import grouped_products
from r1jax.models.grouped_products import form, grouped_product

CASES = [
    ([70, 0, 133, 60], 300, 128),  # rows after the last group
    ([0, 0, 0], 40, 64),
    ([59] * 64, 59 * 64, 64),  # groups that need a tile more for the rows before them
    ([58] * 64 + [1] * 7, 58 * 64 + 7, 64),
    ([1] * 90, 90, 64),
    ([0, 256, 0], 256, 128),
]


@pytest.mark.parametrize(("sizes", "rows", "block"), CASES)
def test_tiles_cover_each_row_once_with_its_group(sizes, rows, block):
    found = jax.tree.map(np.asarray, jax.jit(tiles, static_argnums=(1, 2))(jnp.array(sizes, jnp.int32), rows, block))
    (used,) = found.number
    assert used <= len(found.group)
    assert (found.start % 8 == 0).all() and (found.high <= block).all() and (found.low < 8).all()
    group = np.full(rows, -1)
    for t in range(used):
        own = group[found.start[t] + found.low[t] : found.start[t] + found.high[t]]
        assert (own == -1).all() and len(own)
        own[:] = found.group[t]
    rest = rows - sum(sizes)
    np.testing.assert_array_equal(group, np.repeat(np.arange(len(sizes) + 1), [*sizes, rest]))


@pytest.mark.skipif(jax.__version_info__ < (0, 11), reason="the interpreter does not read beyond the end of an array")
def test_kernels_equal_a_product_per_row():
    """With an empty group, groups that start within a tile, rows after the last group, and 4 rows modulo 8.

    The tiles are small: the interpreter compiles for seconds, which grow with their size.
    """
    from jax.experimental.pallas.mosaic_gpu import InterpretGPUParams

    few, outer = Blocks(64, 128, "columns", stages=2), Blocks(128, 64, "rows", stages=2)
    M, K, N, sizes = 252, 64, 128, np.array([70, 0, 113, 60])
    rng, group = np.random.default_rng(0), np.repeat(np.arange(4), sizes)
    x, y, w = (jnp.asarray(rng.normal(size=s), jnp.bfloat16) for s in ((M, K), (M, N), (4, K, N)))
    X, Y, W = (np.asarray(a, np.float64) for a in (x, y, w))
    n, interpret = len(group), InterpretGPUParams()

    def check(got, expected):
        got = np.asarray(got, np.float64)
        assert np.linalg.norm(got - expected) < 0.003 * np.linalg.norm(expected)  # bfloat16 keeps 8 bits

    ends = jnp.asarray(sizes, jnp.int32)
    product = np.zeros((M, N))
    product[:n] = np.einsum("mk,mkn->mn", X[:n], W[group])
    check(product_kernel(x, w, ends, blocks=few, interpret=interpret), product)
    back = np.zeros((M, K))
    back[:n] = np.einsum("mn,mkn->mk", Y[:n], W[group])
    check(product_kernel(y, w, ends, transposed=True, blocks=few, interpret=interpret), back)
    sums = np.zeros((4, K, N))
    np.add.at(sums, group, X[:n, :, None] * Y[:n, None])
    check(outer_kernel(x, y, ends, outer, interpret), sums)


def test_products_and_gradients_compile_to_kernels_for_hopper(monkeypatch):
    """Lowering checks layouts and shared memory. The widths are those of moe-16b, in training and in decoding."""
    monkeypatch.setattr(grouped_products, "runs_here", lambda kernels: True)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    weights, sizes = jax.ShapeDtypeStruct((64, 2048, 1408), jnp.bfloat16), jax.ShapeDtypeStruct((64,), jnp.int32)

    def both(x, w, sizes):
        y, back = jax.vjp(lambda x, w: grouped_product(x, w, sizes), x, w)
        return back(y)

    for run, rows, kernels in ((both, 98_304, 3), (grouped_product, 385, 1)):
        operands = jax.ShapeDtypeStruct((rows, 2048), jnp.bfloat16), weights, sizes
        unchecked = [jax.export.DisabledSafetyCheck.custom_call("mosaic_gpu_v2")]
        program = jax.export.export(jax.jit(run), platforms=["cuda"], disabled_checks=unchecked)(*operands)
        module = program.mlir_module()
        assert module.count("custom_call @mosaic_gpu_v2") == kernels and "ragged_dot" not in module


def test_which_operands_the_kernels_support(monkeypatch):
    def rows(width, dtype="bfloat16"):
        return jax.ShapeDtypeStruct((10, width), dtype)

    def matrices(*shape, dtype="bfloat16"):
        return jax.ShapeDtypeStruct((3, *shape), dtype)

    assert supports(rows(128), matrices(128, 64)) and supports(rows(64), rows(128))
    assert not supports(rows(96), matrices(96, 64)) and not supports(rows(64), rows(8))
    assert not supports(rows(64), matrices(64, 64, dtype="float32"))
    assert not supports(rows(64, "float32"), matrices(64, 64, dtype="float32"))
    assert form(rows(64), matrices(64, 64)) == "loop"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert form(rows(64), matrices(64, 64)) == "ragged_dot"  # the devices of this process are not Hopper GPUs
    monkeypatch.setattr(grouped_products, "runs_here", lambda kernels: True)
    assert form(rows(64), matrices(64, 64)) == "mosaic" and form(rows(32), matrices(32, 64)) == "ragged_dot"
