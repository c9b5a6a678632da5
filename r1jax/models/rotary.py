"""Rotary position embeddings that rotate the two halves of a head, as in Hugging Face checkpoints."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.models.config import ModelConfig


def frequencies(config: ModelConfig) -> np.ndarray:
    """Angular frequency of each pair, theta^(-2i/K), with the rope_scaling of the config: [K/2] float32.

    Wavelengths longer than original_context / low_freq_factor are divided by factor, those shorter than
    original_context / high_freq_factor are kept, and those between are interpolated linearly (arXiv 2407.21783).
    """
    half = config.rotary_dim // 2
    freq = config.rope_theta ** (-np.arange(half, dtype=np.float64) / half)
    if (scaling := config.rope_scaling) is not None:
        turns = scaling.original_context * freq / (2 * math.pi)  # rotations over the original context
        span = scaling.high_freq_factor - scaling.low_freq_factor
        keep = np.clip((turns - scaling.low_freq_factor) / span, 0.0, 1.0)
        freq = freq * (keep + (1 - keep) / scaling.factor)
    return freq.astype(np.float32)


def tables(positions: jax.Array, config: ModelConfig) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of the angles of positions [...]: [..., K/2] float32 each."""
    angles = positions[..., None].astype(jnp.float32) * frequencies(config)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates the pairs (x_i, x_{i+K/2}) of each head [..., heads, K] by tables [..., K/2], in float32."""
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos[..., None, :], sin[..., None, :]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)
