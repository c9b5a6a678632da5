"""Products with few rows: their kernels interpreted on a CPU and lowered for a GPU, and when they are used."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.kernels import few_rows, few_rows_mosaic, gated_product_mosaic, platform
from r1jax.kernels.add_norm import add_norm
from r1jax.kernels.add_norm_mosaic import add_norm_mosaic
from r1jax.kernels.decode_attention import Context
from r1jax.models import attention, mlp
from r1jax.models.cache import init_ring, prefill
from r1jax.models.config import ModelConfig
from r1jax.sampling.decode import decode_step, decoding_layers
from r1jax.sharding import make_mesh

interpreted = pytest.mark.skipif(jax.__version_info__ < (0, 11), reason="the kernels need jax 0.11")


def interpreter():
    from jax.experimental.pallas.mosaic_gpu import InterpretGPUParams

    return InterpretGPUParams()


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.bfloat16)


def check(got, expected, bound):
    got = np.asarray(got, np.float64)
    assert got.shape == expected.shape
    assert np.linalg.norm(got - expected) < bound * np.linalg.norm(expected)


@interpreted
def test_products_equal_float64(monkeypatch):
    """Fewer stages than steps, uneven parts, and rows that do not fill the products of tensor cores."""
    monkeypatch.setattr(few_rows_mosaic, "MAX_STAGES", 2)
    monkeypatch.setattr(few_rows_mosaic, "multiprocessors", lambda: 2)
    x, w = normal(0, 72, 320), normal(1, 320, 64)
    X, W = (np.asarray(a, np.float64) for a in (x, w))
    parts = few_rows_mosaic.product_parts(x[:8], w, interpreter())
    assert parts.dtype == jnp.float32 and len(parts) == 2  # of 2 and 3 steps
    check(parts[0], X[:8, :128] @ W[:128], 1e-5)
    check(parts[1], X[:8, 128:] @ W[128:], 1e-5)
    check(few_rows_mosaic.product(x, w, interpreter()), X @ W, 0.003)
    gate, up = np.split(X[:8] @ W, 2, axis=1)
    check(few_rows_mosaic.gated_product(x[:8], w.T, interpret=interpreter()), gate / (1 + np.exp(-gate)) * up, 0.003)


@interpreted
def test_add_norm_sums_parts():
    x, weight = normal(0, 3, 256), normal(1, 256)
    parts = jnp.asarray(np.random.default_rng(2).normal(size=(4, 3, 256)), jnp.float32)
    got = add_norm_mosaic(x, parts, weight, 1e-2, interpret=interpreter())
    total = np.asarray(x, np.float64) + np.asarray(parts, np.float64).sum(axis=0)
    check(got[0], total, 0.003)
    scale = np.sqrt((total**2).mean(axis=1, keepdims=True) + 1e-2)
    check(got[1], total / scale * np.asarray(weight, np.float64), 0.005)
    plain = add_norm(x, parts, weight, 1e-2, "plain")
    check(plain[0], total, 0.003)


@interpreted
@pytest.mark.parametrize(("S", "D", "F", "Q", "kernels"), [(32, 896, 4864, 1152, 6), (128, 3584, 18944, 4608, 5)])
def test_a_layer_lowers_for_hopper(S, D, F, Q, kernels):
    """Lowering checks layouts and shared memory; the sizes are those of Qwen2.5 0.5B and 7B.

    The two residual sums of the 7B have the same number of parts, so they are one kernel.
    """

    def layer(x, h, qkv, output, gate_up, down, weight):
        y = few_rows_mosaic.product(h, qkv)[:, :D]
        x, h = add_norm(x, few_rows_mosaic.product_parts(y, output), weight, 1e-6, "mosaic")
        y = few_rows_mosaic.product_parts(few_rows_mosaic.gated_product(h, gate_up), down)
        return add_norm(x, y, weight, 1e-6, "mosaic")

    shapes = (S, D), (S, D), (D, Q), (D, D), (2 * F, D), (F, D), (D,)
    unchecked = [jax.export.DisabledSafetyCheck.custom_call("mosaic_gpu_v2")]
    lower = partial(jax.export.export, platforms=["cuda"], disabled_checks=unchecked)
    module = lower(jax.jit(layer))(*(jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes)).mlir_module()
    assert module.count("custom_call @mosaic_gpu_v2") == kernels


@pytest.mark.parametrize("kernel", ["all", "gated", "none"])
def test_decoding_with_kernels_equals_decoding_without(kernel, tiny_config, tiny_params, monkeypatch):
    """A step whose products are those of the kernels, in plain JAX; "none" for a number of rows without kernels."""
    prefix = prefill(tiny_params, jnp.arange(6).reshape(1, 6) % 97, tiny_config, 1)
    context = Context(jnp.zeros(8, jnp.int32), jnp.full(8, 6), jnp.zeros(8, jnp.int32))
    ring, used = init_ring(8, 4, tiny_config), []

    def decode():
        def run(params, tokens, prefix, ring, context):
            layers = decoding_layers(params, tiny_config)
            return decode_step(params, layers, tokens, prefix, ring, context, jnp.int32(0), tiny_config)[0]

        return jax.jit(run)(tiny_params, jnp.arange(8), prefix, ring, context)

    def product(x, w):
        used.append("product")
        return x @ w

    def parts(x, w):
        half = len(w) // 2
        return jnp.stack([product(x[:, :half], w[:half]), x[:, half:] @ w[half:]])

    def gated(x, w):
        used.append("gated")
        assert w.shape == (2 * tiny_config.intermediate_size, tiny_config.hidden_size)
        return mlp.gated(*jnp.split(x @ w.T, 2, axis=1))

    expected = decode()
    monkeypatch.setattr(few_rows, "chosen", lambda config: not used.append("chosen"))
    monkeypatch.setattr(few_rows, "fits", lambda rows, config: kernel == "all")
    monkeypatch.setattr(few_rows, "gated_kernel", lambda rows, config: None if kernel == "none" else gated)
    for module in (attention, mlp):
        monkeypatch.setattr(module, "product_parts", parts)
    monkeypatch.setattr(attention, "product", product)
    jax.clear_caches()
    np.testing.assert_allclose(decode(), expected, atol=1e-5)
    # The layout is chosen for each of two layers, which are one function.
    calls = {"all": ["product"] * 2 + ["gated", "product"], "gated": ["gated"], "none": []}
    assert used == ["chosen"] * 2 + calls[kernel]


def test_when_the_kernels_are_used(monkeypatch):
    config = ModelConfig(hidden_size=192, intermediate_size=256, head_dim=64, dtype="bfloat16", kernels="mosaic")
    assert not few_rows.fits(32, config)  # no GPU
    monkeypatch.setattr(platform, "runs_here", lambda kernels: True)
    monkeypatch.setattr(few_rows, "kernels_of", lambda config: config.kernels)
    assert few_rows.fits(32, config) and few_rows.fits(128, config)
    assert not few_rows.fits(20, config) and not few_rows.fits(136, config)
    few, more = few_rows_mosaic.gated_product, gated_product_mosaic.gated_product
    found = [few_rows.gated_kernel(rows, config) for rows in (20, 32, 128, 136, 140, 1024, 1032)]
    assert found == [None, few, few, more, None, more, None]
    monkeypatch.setattr(few_rows, "kernels_of", lambda config: "triton")
    automatic = dataclasses.replace(config, kernels="auto")
    assert few_rows.fits(128, automatic) and few_rows.gated_kernel(136, automatic) is more
    monkeypatch.setattr(few_rows, "kernels_of", lambda config: config.kernels)
    assert few_rows.chosen(config)
    for change in ({"kernels": "triton"}, {"mlp_bias": True}, {"output_bias": True}, {"hidden_size": 200}):
        assert not few_rows.chosen(dataclasses.replace(config, **change))
    assert not few_rows.chosen(dataclasses.replace(config, decoding_weights="stored"))
    with jax.set_mesh(make_mesh("1x2")):
        assert not few_rows.chosen(config)
