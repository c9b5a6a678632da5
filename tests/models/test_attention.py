"""Attention of training and prefill on a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models import attention
from r1jax.models.config import ModelConfig
from r1jax.sharding import make_mesh

CONFIG = ModelConfig(hidden_size=64, num_heads=8, num_kv_heads=2, head_dim=8)


@pytest.mark.parametrize(("mesh", "kv_heads"), [("1x4", 8), ("2x4", 8), ("4x2", 2), ("1x1", 2), ("1x3", 2)])
def test_cudnn_gets_heads_that_the_mesh_splits_equally(mesh, kv_heads, monkeypatch):
    """cuDNN refuses queries that are split by head beside keys and values that are not; XLA computes both."""
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (jax.random.normal(key, (4, 6, n, 8)) for key, n in zip(keys, (8, 2, 2), strict=True))
    plain = attention.causal_attention(q, k, v, CONFIG)
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
    assert jnp.isfinite(found).all()
