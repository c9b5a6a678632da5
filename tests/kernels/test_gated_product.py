"""The gated product with many rows: its kernel interpreted on a CPU and lowered for a GPU, and the choice of tiles."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.kernels import few_rows_mosaic, gated_product_mosaic
from r1jax.kernels.gated_product_mosaic import gated_product, multiply, tile_of
from tests.kernels.test_few_rows import check, interpreted, interpreter, normal


def gated(x, w):
    """In float64."""
    gate, up = np.split(np.asarray(x, np.float64) @ np.asarray(w, np.float64).T, 2, axis=1)
    return gate / (1 + np.exp(-gate)) * up


@interpreted
@pytest.mark.parametrize(
    ("rows", "width", "tile"),
    [
        (264, 160, (128, 96)),  # the columns of up begin within the last tile of gate
        (264, 160, (256, 80)),  # the last tile has 8 rows
        (136, 240, (256, 80)),  # a tile of half of the rows, and three of columns in clusters of two
    ],
)
def test_tiles_give_the_product(rows, width, tile, monkeypatch):
    """With fewer stages than steps."""
    monkeypatch.setattr(gated_product_mosaic, "MAX_STAGES", 2)
    x, w = normal(0, rows, 192), normal(1, 2 * width, 192)
    check(multiply(x, w, tile, interpret=interpreter()), gated(x, w), 0.003)


@interpreted
@pytest.mark.parametrize("rows", [32, 128, 136])
def test_few_and_many_rows_read_the_same_matrix(rows):
    """With results no less exact than those of plain JAX."""
    x, w = normal(0, rows, 256), normal(1, 2 * 64, 256)
    kernel = few_rows_mosaic.gated_product if few_rows_mosaic.supports(rows) else gated_product
    got = kernel(x, w, interpret=interpreter())
    assert got.dtype == jnp.bfloat16
    gate, up = jnp.split(x @ w.T, 2, axis=1)
    expected = gated(x, w)
    plain = np.linalg.norm(np.asarray(jax.nn.silu(gate) * up, np.float64) - expected) / np.linalg.norm(expected)
    check(got, expected, plain)


def test_the_chosen_tiles(monkeypatch):
    """For Qwen2.5 0.5B and 1.5B, and with so many columns that a wave less would need 256 sums in a thread."""
    monkeypatch.setattr(gated_product_mosaic, "multiprocessors", lambda: 132)
    assert tile_of(512, 896, 4864) == (256, 80)  # 122 programs
    assert tile_of(256, 896, 4864) == (128, 80)
    assert tile_of(256, 1536, 8960) == (256, 80)  # 112 programs
    assert tile_of(512, 1536, 8960) == (128, 96)  # 376 programs
    rows, columns = tile_of(256, 2048, 16384)
    assert rows * columns <= 256 * 96
    assert tile_of(384, 896, 4864) == (128, 112)  # 132 programs, with clusters of two tiles of the same rows


@interpreted
@pytest.mark.parametrize(("S", "D", "F"), [(512, 896, 4864), (256, 896, 4864), (256, 1536, 8960), (136, 896, 4864)])
def test_it_lowers_for_hopper(S, D, F):
    """Lowering checks layouts and shared memory."""
    unchecked = [jax.export.DisabledSafetyCheck.custom_call("mosaic_gpu_v2")]
    lower = partial(jax.export.export, platforms=["cuda"], disabled_checks=unchecked)
    shapes = (jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((S, D), (2 * F, D)))
    assert lower(jax.jit(gated_product))(*shapes).mlir_module().count("custom_call @mosaic_gpu_v2") == 1
