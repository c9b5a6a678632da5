"""Tiny decoders with latent attention."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.models.config import Latent, ModelConfig, Yarn
from r1jax.models.transformer import param_specs
from r1jax.sharding import Params, ParamSpec, map_specs

LATENT = ModelConfig(
    architecture="deepseek_v3",
    vocab_size=97,
    hidden_size=32,
    intermediate_size=64,
    num_layers=2,
    num_heads=8,
    num_kv_heads=8,
    head_dim=10,
    context_length=64,
    rope_scaling=Yarn(factor=4.0, original_context=16, beta_fast=4.0, mscale=1.0, mscale_all_dim=0.7),
    tie_embeddings=False,
    latent=Latent(kv_rank=12, nope_dim=6, rope_dim=4, value_dim=5, query_rank=16),
)
"""Two blocks with compressed queries, and sizes of keys, values and compressed vectors that all differ."""

PLAIN_QUERIES = dataclasses.replace(
    LATENT, latent=Latent(kv_rank=12, nope_dim=6, rope_dim=4, value_dim=5), rope_scaling=None
)
"""The same with queries computed from the hidden states, as in DeepSeek-V2-Lite, and without YaRN."""


def sharp_params(config: ModelConfig, seed: int = 0) -> Params:
    """Weights with distributions of tokens and attention far from uniform, and norms that differ from 1."""
    rng = np.random.default_rng(seed)

    def draw(spec: ParamSpec) -> jax.Array:
        noise = rng.normal(size=spec.shape)
        return jnp.asarray(1 + 0.3 * noise if spec.init == "ones" else 8 * spec.scale * noise, jnp.float32)

    return map_specs(draw, param_specs(config))
