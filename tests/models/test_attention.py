"""Attention of training and prefill on a mesh."""

from functools import partial

import jax
import numpy as np
import pytest

from r1jax.kernels.decode_attention import Context
from r1jax.models import attention, rotary
from r1jax.models.config import ModelConfig
from r1jax.sharding import ParamSpec, make_mesh, map_specs

CONFIG = ModelConfig(hidden_size=64, num_heads=8, num_kv_heads=2, head_dim=8)


plain_attention = jax.jit(lambda *x: attention.causal_attention(*x, CONFIG))


@pytest.mark.parametrize(("mesh", "kv_heads"), [("1x4", 8), ("2x4", 8), ("4x2", 2), ("1x1", 2), ("1x3", 2)])
def test_cudnn_gets_heads_that_the_mesh_splits_equally(mesh, kv_heads, monkeypatch):
    """cuDNN refuses queries that are split by head beside keys and values that are not; XLA computes both."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(4, 6, n, 8)).astype(np.float32) for n in (8, 2, 2))
    plain = plain_attention(q, k, v)
    shapes = []
    kernel = jax.nn.dot_product_attention

    def cudnn(q, k, v, *, implementation, **options):
        assert implementation == "cudnn"
        shapes.append((q.shape[2], k.shape[2], v.shape[2]))
        return kernel(q, k, v, **options)

    monkeypatch.setattr(attention, "implementation", lambda _: "cudnn")
    monkeypatch.setattr(jax.nn, "dot_product_attention", cudnn)
    with jax.set_mesh(make_mesh(mesh)):
        found = jax.jit(lambda *x: attention.causal_attention(*x, CONFIG))(q, k, v)
    assert shapes == [(8, kv_heads, kv_heads)]
    np.testing.assert_allclose(found, plain, atol=1e-6)
    assert np.isfinite(found).all()


def test_joint_norms_of_queries_and_keys_in_training_and_decoding():
    """One norm over all heads of a token, against numpy; decoding of the last token equals training."""
    config = ModelConfig(hidden_size=12, num_heads=4, num_kv_heads=2, head_dim=6, qk_norm=True, qk_norm_joint=True)
    rng = np.random.default_rng(0)

    def draw(spec: ParamSpec) -> np.ndarray:
        return rng.normal(size=spec.shape).astype(np.float32)

    weights = map_specs(draw, attention.specs(config))
    h = rng.normal(size=(1, 5, 12)).astype(np.float32)
    at = jax.jit(rotary.tables, static_argnums=1)
    tables = at(np.arange(5), config)
    y, (k, v) = jax.jit(partial(attention.GROUPED.attend, config=config, segments=None))(h, weights, tables)
    x = np.einsum("btd,dgk->btgk", h, weights["key"])
    expected = x / np.sqrt((x * x).mean((-2, -1), keepdims=True) + config.norm_eps) * weights["key_norm"]
    np.testing.assert_allclose(k, jax.jit(rotary.rotate)(expected, *tables), atol=1e-5)

    prefix = tuple(np.swapaxes(np.asarray(x)[:, :4], 1, 2) for x in (k, v))
    ring = tuple(np.zeros((1, 2, 2, 6), np.float32) for _ in range(2))
    context = Context(np.array([0]), np.array([4]), np.array([0]))
    decode = jax.jit(partial(attention.GROUPED.decode, config=config))
    last = at(np.array([4]), config)
    found, _ = decode(h[:, 4], attention.GROUPED.decoding_weights(weights, config), last, prefix, ring, context, 0)
    np.testing.assert_allclose(found, np.asarray(y)[:, 4], atol=1e-5)
