"""Products with more rows: their kernels interpreted on a CPU and lowered for a GPU, the choice of tiles, and front."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.kernels import few_rows, more_rows_mosaic
from r1jax.kernels.add_norm import add_norm
from r1jax.kernels.more_rows_mosaic import Tiles, multiply, tiles_of
from r1jax.models import mlp

SIZES = [(512, 896, 4864, 1152), (256, 896, 4864, 1152), (256, 1536, 8960, 2048)]  # Qwen2.5 0.5B and 1.5B

interpreted = pytest.mark.skipif(jax.__version_info__ < (0, 11), reason="the kernels need jax 0.11")


def interpreter():
    from jax.experimental.pallas.mosaic_gpu import InterpretGPUParams

    return InterpretGPUParams()


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.bfloat16)


def difference(got, expected):
    got = np.asarray(got, np.float64)
    assert got.shape == expected.shape
    return np.linalg.norm(got - expected) / np.linalg.norm(expected)


def exact(x, w):
    return np.asarray(x, np.float64) @ np.asarray(w, np.float64)


def gated(y):
    gate, up = np.split(y, 2, axis=1)
    return gate / (1 + np.exp(-gate)) * up


@interpreted
@pytest.mark.parametrize(
    ("tiles", "shape"),
    [
        (Tiles(64, 64, 1, sharing=(2, 1)), (136, 320, 192)),  # the last tile of a cluster has no rows
        (Tiles(128, 128, 2, sharing=(1, 2)), (200, 128, 192)),  # and here half of its columns
        (Tiles(256, 64, 2, sharing=(1, 1), depth=32), (512, 128, 64)),
    ],
)
def test_tiles_of_a_product(tiles, shape, monkeypatch):
    monkeypatch.setattr(more_rows_mosaic, "MAX_STAGES", 2)
    S, K, N = shape
    x, w = normal(0, S, K), normal(1, K, N)
    got = multiply(x, w, tiles, interpret=interpreter())
    assert got.dtype == jnp.bfloat16 and got.shape == (1, S, N)
    assert difference(got[0], exact(x, w)) < 0.003


@interpreted
@pytest.mark.parametrize("transposed", [False, True])
def test_tiles_of_a_gated_product(transposed):
    x, w = normal(0, 264, 128), normal(1, 128, 2 * 160)
    tiles = Tiles(128, 96, 2)  # the columns of up begin within the last tile of gate
    got = multiply(x, w.T if transposed else w, tiles, gated=True, transposed=transposed, interpret=interpreter())
    assert difference(got[0], gated(exact(x, w))) < 0.003


@interpreted
def test_parts_are_of_uneven_shares_of_the_terms():
    x, w = normal(0, 136, 320), normal(1, 320, 64)
    parts = multiply(x, w, Tiles(128, 64, 2, splits=2), dtype=jnp.float32, interpret=interpreter())
    assert parts.dtype == jnp.float32
    for part, terms in zip(parts, (slice(128), slice(128, 320)), strict=True):
        assert difference(part, exact(x[:, terms], w[terms])) < 1e-5


@interpreted
def test_chosen_tiles_give_the_products(monkeypatch):
    """With the number of programs that each product has, and results no less exact than those of plain JAX."""
    monkeypatch.setattr(more_rows_mosaic, "multiprocessors", lambda: 132)
    x, w = normal(0, 136, 256), normal(1, 256, 128)
    plain = difference(x @ w, exact(x, w))
    assert difference(more_rows_mosaic.product(x, w, interpreter()), exact(x, w)) < 1.01 * plain
    halves = gated(exact(x, w))
    plain = difference(mlp.gated(*jnp.split(x @ w, 2, axis=1)), halves)
    assert difference(more_rows_mosaic.gated_product(x, w, interpreter()), halves) < plain
    parts = more_rows_mosaic.product_parts(x, w[:, :64], interpreter())
    assert parts.ndim == 3 and difference(parts.sum(axis=0), exact(x, w[:, :64])) < 1e-5


@pytest.mark.parametrize(("S", "D", "F", "Q"), SIZES)
def test_programs_of_a_product_are_at_most_the_multiprocessors(S, D, F, Q, monkeypatch):
    """And about half of them or more."""
    monkeypatch.setattr(more_rows_mosaic, "multiprocessors", lambda: 132)
    for terms, width, splits, halves in ((D, F, 1, 2), (F, D, 8, 1), (D, Q, 1, 1), (D, D, 8, 1)):
        tiles = tiles_of(S, terms, width, splits, halves == 2)
        programs = -(-S // tiles.rows) * -(-width // tiles.columns) * tiles.splits
        assert 64 < programs <= 132 and tiles.splits <= splits


def test_sums_fit_in_the_registers(monkeypatch):
    """Tiles of 256 x 128 would need one wave of programs instead of two, and 256 registers for sums in a thread."""
    monkeypatch.setattr(more_rows_mosaic, "multiprocessors", lambda: 132)
    tiles = tiles_of(256, 2048, 16384, 1, gated=True)
    assert 2 * tiles.rows * tiles.columns <= 192 * 128 * tiles.warpgroups


@interpreted
@pytest.mark.parametrize(("S", "D", "F", "Q"), SIZES)
@pytest.mark.parametrize("summed", [False, True])
def test_a_layer_lowers_for_hopper(S, D, F, Q, summed, monkeypatch):
    """Lowering checks layouts and shared memory; each product and each sum is a kernel, and equal ones are the same."""
    monkeypatch.setattr(more_rows_mosaic, "SUMMED", summed)

    def layer(x, h, qkv, output, gate_up, down, weight):
        y = few_rows.product(h, qkv)[:, :D]
        x, h = add_norm(x, few_rows.product_parts(y, output), weight, 1e-6, "mosaic")
        y = few_rows.product_parts(few_rows.gated_product(h, gate_up), down)
        assert y.ndim == 2 if summed else y.ndim == 3
        return add_norm(x, y, weight, 1e-6, "mosaic")

    shapes = (S, D), (S, D), (D, Q), (D, D), (D, 2 * F), (F, D), (D,)
    unchecked = [jax.export.DisabledSafetyCheck.custom_call("mosaic_gpu_v2")]
    lower = partial(jax.export.export, platforms=["cuda"], disabled_checks=unchecked)
    module = lower(jax.jit(layer))(*(jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes)).mlir_module()
    assert module.count("custom_call @mosaic_gpu_v2") == (5 if summed else 6)
